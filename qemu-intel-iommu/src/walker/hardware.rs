//! Hardware that walks tables, as the steps use it.

use alloc::string::String;
use alloc::vec::Vec;

use p2m::{Access, DeviceRoot, Flush, Format, Gfn, Mfn, PageSize};

use super::touch::{Exit, STUB, Touch};
use crate::inventory::Inventory;

/// Where in every table a walker has its [home](Walker::home).
pub const HOME: Gfn = Gfn::new(0x7_0000);

/// Hardware that walks tables, with something that touches memory through them.
pub trait Walker: Sized {
    /// What it is called.
    const NAME: &'static str;
    /// The format of the tables.
    type Format: Format;
    /// Whether it is an IOMMU, with a device that touches memory. Such a device fetches no instructions; a
    /// touch of two pages is one of each; a fault names only the page; and neither use nor writes are
    /// marked.
    const DEVICE: bool;
    /// The bit of a leaf that decides whether instructions may be fetched. Bits 0 and 1, for reads and
    /// writes, are the same everywhere.
    const EXECUTE: u64;
    /// Whether [`formats`](Self::formats) gives any.
    const FORMATS: bool;
    /// Whether it walks five levels, perhaps not on every machine.
    const FIVE_LEVELS: bool;

    /// Turns it on.
    ///
    /// # Errors
    /// The machine has no such thing, or the firmware locked it.
    fn start(inventory: &'static Inventory) -> Result<Self, String>;

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
    fn code(value: u32) -> [u8; STUB];

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
