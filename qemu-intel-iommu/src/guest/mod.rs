//! A guest of a few instructions, and what the processor that runs it reports: the walk of its table is the processor's own.
#![allow(unsafe_code)]

pub mod code;
mod deepen;
pub mod svm;
pub mod vmx;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use p2m::{Access, DeviceRoot, Format, PageSize};

/// A processor's way to run a guest in a nested table.
pub trait Walker: Sized {
    /// What the processor calls it.
    const NAME: &'static str;
    /// The format of the tables.
    type Format: Format;
    /// The instruction with which a guest calls its hypervisor.
    const CALL: [u8; 3];
    /// The bit of a leaf that decides whether instructions may be fetched. Bits 0 and 1, for reads and writes, are the same everywhere.
    const EXECUTE: u64;
    /// Whether there are processors that walk five levels among those that the steps run on.
    const FIVE_LEVELS: bool;

    /// Turns it on.
    ///
    /// # Errors
    /// The processor has no such thing, or the firmware locked it.
    fn start() -> Result<Self, String>;

    /// The format as this processor reads it.
    fn format(&self) -> Self::Format;

    /// The format with other choices, which this processor takes as well.
    fn formats(&self) -> Vec<Self::Format>;

    /// How many levels it walks.
    fn levels(&self) -> u8;

    /// Goes over to tables of five levels, if the processor can.
    ///
    /// # Errors
    /// It cannot.
    fn deepen(&mut self) -> Result<(), String> {
        Err("the processor walks tables of four levels only".into())
    }

    /// The largest page that it walks.
    fn largest_page(&self) -> PageSize;

    /// What the hardware grants of what a table of this format allows: not every one can say everything.
    fn granted(format: &Self::Format, allowed: Access) -> Access;

    /// Forgets every translation before the next [`run`](Self::run).
    fn flush(&mut self, root: DeviceRoot);

    /// Runs the guest on the table below `root` until it exits.
    fn run(&mut self, root: DeviceRoot, state: &mut State) -> Exit;
}

/// What of the guest's state changes from run to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// The next instruction.
    pub rip: u64,
    /// The guest's own page tables.
    pub cr3: u64,
    /// What to write, and what was read.
    pub rax: u64,
    /// The address to touch.
    pub rdi: u64,
}

/// Why the guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It called.
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

/// A nested page fault or EPT violation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The guest-physical address.
    pub address: u64,
    /// What was tried.
    pub tried: Access,
    /// Whether there is anything.
    pub present: bool,
    /// What would have been granted, where the processor says so.
    pub granted: Option<Access>,
    /// Whether the guest's own page tables were being read, and not what they lead to.
    pub in_guest_walk: bool,
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
        let there = if self.present { "something is mapped" } else { "nothing is mapped" };
        let tried = match self.tried {
            Access::EXECUTE => "a fetch",
            Access::WRITE => "a write",
            _ => "a read",
        };
        write!(f, "{tried} at {:#x} was stopped, where {there}", self.address)?;
        if let Some(granted) = self.granted {
            write!(f, " with {granted}")?;
        }
        if self.in_guest_walk { f.write_str(", in a walk of the guest's page tables") } else { Ok(()) }
    }
}
