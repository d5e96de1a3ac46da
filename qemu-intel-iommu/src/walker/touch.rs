//! A touch: how memory is tried through a table, and what became of that.

use core::fmt;

use p2m::Access;

use crate::memory::FRAME;

/// Bytes of the code that has to be where instructions are fetched.
pub const STUB: usize = 8;

/// A way to touch memory at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Reads a byte.
    ReadByte,
    /// Reads four bytes.
    Read,
    /// Writes a byte.
    WriteByte,
    /// Writes four bytes.
    Write,
    /// Jumps there, where code has to be that calls with a value.
    Execute,
}

impl Touch {
    /// How many bytes are touched.
    pub fn len(self) -> u64 {
        match self {
            Self::ReadByte | Self::WriteByte => 1,
            Self::Read | Self::Write => 4,
            Self::Execute => STUB as u64,
        }
    }
}

/// What became of a touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It went through: the guest called, or the device saw no fault.
    Call,
    /// The table did not let it.
    Violation(Violation),
    /// Something else, with the processor's code and what it says beside it.
    Other {
        /// The exit code or reason.
        code: u64,
        /// The exit information or qualification.
        info: [u64; 2],
    },
}

/// A nested page fault, an EPT violation or a fault of an IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The guest-physical address, of an IOMMU that of the page.
    pub address: u64,
    /// What was tried.
    pub tried: Access,
    /// Whether there is anything, where the hardware says so.
    pub present: Option<bool>,
    /// What would have been granted, where the hardware says so.
    pub granted: Option<Access>,
    /// Whether the guest's own page tables were being read, and not what they lead to.
    pub in_guest_walk: bool,
}

/// What an access was that hardware calls a fetch, a write, or neither.
pub(super) fn tried(is_fetch: bool, is_write: bool) -> Access {
    match (is_fetch, is_write) {
        (true, _) => Access::EXECUTE,
        (_, true) => Access::WRITE,
        _ => Access::READ,
    }
}

impl Exit {
    /// The page where it was stopped.
    pub fn page(&self) -> Option<u64> {
        match self {
            Self::Violation(violation) => Some(violation.address / FRAME * FRAME),
            _ => None,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Call => f.write_str("the access went through"),
            Self::Violation(violation) => write!(f, "{violation}"),
            Self::Other { code, info: [first, second] } => {
                write!(f, "exit {code:#x}, which says {first:#x} and {second:#x}")
            }
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let there = match self.present {
            Some(true) => ", where something is mapped",
            Some(false) => ", where nothing is mapped",
            None => "",
        };
        let tried = match self.tried {
            Access::EXECUTE => "a fetch",
            Access::WRITE => "a write",
            _ => "a read",
        };
        write!(f, "{tried} at {:#x} was stopped{there}", self.address)?;
        if let Some(granted) = self.granted {
            write!(f, " with {granted}")?;
        }
        if self.in_guest_walk { f.write_str(", in a walk of the guest's page tables") } else { Ok(()) }
    }
}
