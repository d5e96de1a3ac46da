//! Who walks a table that was made here, and what is reported of it: a processor that runs a guest of a few instructions, or an IOMMU.
#![allow(unsafe_code)]

pub mod code;
mod deepen;
pub mod svm;
pub mod vmx;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use code::Touch;
use p2m::{Access, DeviceRoot, Flush, Format, Gfn, Mfn, PageSize};

use crate::machine::Machine;
use crate::memory::FRAME;

/// Where in every table a walker has its [home](Walker::home).
pub const HOME: Gfn = Gfn::new(0x7_0000);

/// Hardware that walks tables, with something that touches memory through them.
pub trait Walker: Sized {
    /// What it is called.
    const NAME: &'static str;
    /// The format of the tables.
    type Format: Format;
    /// Whether it is an IOMMU, with a device that touches memory. Such a device fetches no instructions; a touch of two pages is one of each; of
    /// a fault only the page is told; and neither use nor writes are marked.
    const DEVICE: bool;
    /// The bit of a leaf that decides whether instructions may be fetched. Bits 0 and 1, for reads and writes, are the same everywhere.
    const EXECUTE: u64;
    /// Whether [`formats`](Self::formats) gives any.
    const FORMATS: bool;
    /// Whether it walks five levels, perhaps not on every machine.
    const FIVE_LEVELS: bool;

    /// Turns it on.
    ///
    /// # Errors
    /// The machine has no such thing, or the firmware locked it.
    fn start(machine: &'static Machine) -> Result<Self, String>;

    /// The format as this hardware reads it.
    fn format(&self) -> Self::Format;

    /// The format with other choices, which this hardware takes as well.
    fn formats(&self) -> Vec<Self::Format>;

    /// How many levels it walks.
    fn levels(&self) -> u8;

    /// Goes over to tables of five levels, if the processor can.
    ///
    /// # Errors
    /// It cannot.
    fn deepen(&mut self) -> Result<(), String> {
        Err("it walks tables of four levels only".into())
    }

    /// The largest page that it walks.
    fn largest_page(&self) -> PageSize;

    /// Bits of the addresses that it takes.
    fn address_bits(&self) -> u32;

    /// Frames of its own that it needs in every table at [`HOME`]: the first one and how many.
    fn home(&self) -> (Mfn, u64);

    /// What has to be in memory where it is to fetch instructions that tell `value`.
    fn code(value: u32) -> [u8; code::STUB];

    /// What the hardware grants of what a table of this format allows: not every one can say everything.
    fn granted(format: &Self::Format, allowed: Access) -> Access;

    /// Goes over to the table below `root`, and knows nothing of one that may have been there before.
    ///
    /// # Errors
    /// The hardware's.
    fn enter(&mut self, root: DeviceRoot) -> Result<(), String>;

    /// Lets go of the table that it walked.
    ///
    /// # Errors
    /// The hardware's.
    fn leave(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Forgets these translations, at least, before the next [`touch`](Self::touch).
    ///
    /// # Errors
    /// The hardware's.
    fn flush(&mut self, root: DeviceRoot, flush: &Flush) -> Result<(), String>;

    /// Touches `address` through the table below `root`. `value` is to be written; what was read comes back.
    ///
    /// # Errors
    /// It could not be tried.
    fn touch(
        &mut self,
        root: DeviceRoot,
        touch: Touch,
        address: u64,
        value: u32,
    ) -> Result<(Exit, u32), String>;
}

/// Bits of the physical addresses that the processor takes.
fn processor_address_bits() -> u32 {
    x86::cpuid::CpuId::new()
        .get_processor_capacity_feature_info()
        .map_or(32, |capacity| u32::from(capacity.physical_address_bits()))
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
