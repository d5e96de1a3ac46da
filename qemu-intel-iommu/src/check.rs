//! Checks whose failure is a sentence.

use alloc::string::String;

/// Returns a formatted text as the error unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// The text of an error, for `map_err`.
pub fn text(error: impl core::fmt::Display) -> String {
    alloc::format!("{error}")
}

/// A number of things, in words: `1 region`, `2 regions`.
pub fn counted(count: usize, thing: &str) -> String {
    alloc::format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}
