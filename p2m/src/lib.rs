//! Guest-physical to machine page tables, with 1:1 mappings of reserved memory as transactions.
//!
//! - [`Table`]: one table in one [`Format`] (VT-d second level, EPT, long mode), of frames from a
//!   [`FrameSource`]. [`P2m`] is what is done to it: map, unmap, change type, each all or nothing, with the
//!   largest pages that fit.
//! - [`AddressSpace`]: what the reserved-memory policy needs. [`AddressSpace::map_identity`] looks at the
//!   whole range, reserves each table frame, then writes; [`AddressSpace::unmap_identity`] removes just what
//!   that installed.
//! - [`Domain`]: the CPU's and the remapping hardware's tables, one and the same or two updated as one.
//! - [`populate()`], [`fill_holes`]: putting memory where there is nothing; [`holes()`]: where there is
//!   nothing; [`map_directly`]: the hypervisor's own map of the machine.
//!
//! Updates take `&mut`; hardware and [`Reader`]s may walk meanwhile. What they may still hold of the past is
//! owed a [`Flush`] until that is confirmed: then the frames that had left a table are free again.
#![no_std]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

#[cfg(test)]
extern crate std;

// Its example is tested.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

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
pub use holes::{HoleRules, Holes, holes};
pub use p2m::P2m;
pub use populate::{FillCause, FillError, PopulateError, fill_holes, populate};
pub use space::{AddressSpace, DeviceRoot, Flush, Identity, IdentityError, OnConflict, Seen};
pub use table::{MapError, Reader, Runs, Table, TableError, Translation};
