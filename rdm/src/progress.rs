//! How far a long run has come, on the terminal's last line and beside nothing else.

use indicatif::{ProgressBar, ProgressStyle};

/// Fewer files are done before one could read a line about them.
const WORTH_SHOWING: usize = 20;

/// A line on standard error where that is a terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    pub(crate) fn new(files: usize) -> Self {
        if files < WORTH_SHOWING {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(files as u64);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos} of {len} files, {eta} left, {wide_msg}")
        {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// Goes on to the next file.
    pub(crate) fn at(&self, file: &str) {
        self.0.set_message(file.to_owned());
    }

    pub(crate) fn done(&self) {
        self.0.inc(1);
    }

    /// Takes the line off the terminal while `write` writes.
    pub(crate) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
