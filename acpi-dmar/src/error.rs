//! What can be wrong with a table, each error with the value, the place and the rule.

use crate::{ScopeKind, StructureKind};

/// Why bytes are not a DMAR table at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// Fewer bytes than a DMAR header (48).
    #[error("{available} bytes are too few for a DMAR header of 48")]
    TooShort {
        /// How many there are.
        available: usize,
    },
    /// The signature is another table's.
    #[error("the signature is \"{}\" and not \"DMAR\"", .found.escape_ascii())]
    Signature {
        /// The four bytes found.
        found: [u8; 4],
    },
    /// The header's length field leaves no room for the header.
    #[error("the header gives a length of {length}, less than a DMAR header's 48")]
    LengthBelowHeader {
        /// The length field.
        length: u32,
    },
    /// The header's length field points past the bytes there are.
    #[error("the header gives a length of {length}, but there are only {available} bytes")]
    Truncated {
        /// The length field.
        length: u32,
        /// How many bytes there are.
        available: usize,
    },
    /// The bytes of the table do not sum to zero modulo 256 (ACPI 6.5, 5.2.6).
    #[error("the bytes sum to {sum:#04x} modulo 256 and not to 0: the checksum is wrong")]
    Checksum {
        /// The sum found.
        sum: u8,
    },
}

/// What is wrong with one remapping structure. [`StructureError::ends_walk`] says whether the ones after it
/// can still be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at offset {offset:#x}: {kind}")]
pub struct StructureError {
    /// Where the structure begins, in bytes from the table's start.
    pub offset: u32,
    /// What is wrong.
    pub kind: StructureErrorKind,
}

impl StructureError {
    /// True if no further structure can be found after this one.
    #[must_use]
    pub const fn ends_walk(&self) -> bool {
        !matches!(self.kind, StructureErrorKind::TooShort { .. })
    }
}

/// The rule that a structure breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StructureErrorKind {
    /// One to three bytes are left, too few for a type and a length. Ends the walk.
    #[error("{count} bytes are left at the end of the table, too few for a structure")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The length does not even cover the type and length fields (4 bytes), so the next structure cannot be
    /// found. Ends the walk.
    #[error("{structure} has a length of {length}, less than its type and length fields' 4")]
    LengthBelowHeader {
        /// The structure's type.
        structure: StructureKind,
        /// The length field.
        length: u16,
    },
    /// The structure ends after the table's end. Ends the walk.
    #[error("{structure} has a length of {length}, but the table has only {available} bytes left")]
    PastEnd {
        /// The structure's type.
        structure: StructureKind,
        /// The length field.
        length: u16,
        /// Bytes from the structure's start to the table's end.
        available: usize,
    },
    /// The length does not cover the fields of the type. Costs this structure only.
    #[error("{structure} has a length of {length}, less than its fields' {minimum}")]
    TooShort {
        /// The structure's type.
        structure: StructureKind,
        /// The length field.
        length: u16,
        /// What the fields of this type take.
        minimum: u16,
    },
}

/// What is wrong with one device scope. [`ScopeError::ends_walk`] says whether the ones after it can still
/// be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at offset {offset:#x}: {kind}")]
pub struct ScopeError {
    /// Where the scope begins, in bytes from the table's start.
    pub offset: u32,
    /// What is wrong.
    pub kind: ScopeErrorKind,
}

impl ScopeError {
    /// True if no further scope of the structure can be found after this one.
    #[must_use]
    pub const fn ends_walk(&self) -> bool {
        !matches!(self.kind, ScopeErrorKind::OddPath { .. })
    }
}

/// The rule that a device scope breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScopeErrorKind {
    /// Fewer bytes are left in the structure than a scope's fields take (6). Ends the scopes.
    #[error("{count} bytes are left at the end of the structure, too few for a device scope")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The length does not cover a scope's own fields (6 bytes). Ends the scopes.
    #[error("{scope} scope has a length of {length}, less than its fields' 6")]
    LengthBelowHeader {
        /// The scope's type.
        scope: ScopeKind,
        /// The length field.
        length: u8,
    },
    /// The scope ends after its structure's end. Ends the scopes.
    #[error("{scope} scope has a length of {length}, but its structure has only {available} bytes left")]
    PastEnd {
        /// The scope's type.
        scope: ScopeKind,
        /// The length field.
        length: u8,
        /// Bytes from the scope's start to the structure's end.
        available: usize,
    },
    /// The path is not a whole number of hops of two bytes. Costs this scope only.
    #[error("{scope} scope has a length of {length}, which leaves half a hop at the end of its path")]
    OddPath {
        /// The scope's type.
        scope: ScopeKind,
        /// The length field.
        length: u8,
    },
}
