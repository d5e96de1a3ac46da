//! Guest-physical to machine page tables, with 1:1 mappings of reserved memory as transactions.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

mod entry;
mod format;
mod frame;
mod identity;
mod p2m;
mod space;
mod table;

pub use entry::{Access, Entry, P2mType, Run};
pub use format::{Ept, Format, LongMode, MemoryType, SecondLevel};
pub use frame::{
    Frame, FrameRange, FrameSource, Gfn, GfnRange, Mfn, MfnRange, PAGE_SHIFT, PageSize, TableFrame,
};
pub use p2m::P2m;
pub use space::{AddressSpace, DeviceRoot, Flush, Identity, IdentityError, OnConflict, Seen};
pub use table::{MapError, Reader, Runs, Table, TableError, Translation};
