//! A guest of a few instructions, and what the processor that runs it reports: the walk of its table is the processor's own.
#![allow(unsafe_code)]

pub mod code;
pub mod svm;
pub mod vmx;

use alloc::string::String;

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

    /// Turns it on.
    ///
    /// # Errors
    /// The processor has no such thing, or the firmware locked it.
    fn start() -> Result<Self, String>;

    /// The format as this processor reads it.
    fn format(&self) -> Self::Format;

    /// The largest page that it walks.
    fn largest_page(&self) -> PageSize;

    /// What the hardware grants of what a table allows: not every format can say everything.
    fn granted(&self, allowed: Access) -> Access;

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
