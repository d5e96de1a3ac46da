//! Guest-physical to machine page tables, with 1:1 mappings of reserved memory as transactions.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

mod direct_map;
mod domain;
mod entry;
mod format;
mod frame;
mod holes;
mod identity;
mod p2m;
mod populate;
mod space;
mod table;

pub use direct_map::{DirectMapCause, DirectMapError, map_directly};
pub use domain::{Domain, NotEmpty};
pub use entry::{Access, Entry, P2mType, Run};
pub use format::{Ept, Format, LongMode, MemoryType, SecondLevel};
pub use frame::{
    Frame, FrameRange, FrameSource, Gfn, GfnRange, Mfn, MfnRange, PAGE_SHIFT, PageSize, TableFrame,
};
pub use holes::{HoleRules, Holes, holes, largest_hole};
pub use p2m::P2m;
pub use populate::{FillCause, FillError, PopulateError, fill_holes, populate};
pub use space::{AddressSpace, DeviceRoot, Flush, Identity, IdentityError, OnConflict, Seen};
pub use table::{MapError, Reader, Runs, Table, TableError, Translation};
