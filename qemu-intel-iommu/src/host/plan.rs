//! Where a domain's RAM lies: laid out around the machine's reserved regions, so that any device may come to
//! the domain, and nobody populates over a region.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use p2m::{Access, Entry, Gfn, GfnRange, Mfn, P2mType, PopulateError, populate};
use rdm_layout::xen::{HostRegion, Strategy, regions};
use rdm_layout::{
    Backing, BarPlan, E820Entry, Fixed, Machine, ModulePlan, Policy, Region, RegionPlan, Storage, plan,
};

use super::Space;
use crate::check::text;
use crate::memory::Shared;

/// Bits of a domain's addresses: three levels of VT-d's tables.
const WIDTH: u32 = 39;

/// A domain's memory as planned.
pub struct DomainMemory {
    ram: Vec<GfnRange>,
    reserved: Vec<GfnRange>,
}

impl DomainMemory {
    /// Lays out `pages` of RAM from guest address `from` on, around all of these regions of the machine.
    ///
    /// # Errors
    /// There is no layout: the planner's sentence.
    pub fn new(told: impl Iterator<Item = GfnRange>, from: u64, pages: u64) -> Result<Self, String> {
        let host: Vec<_> = told.map(|frames| HostRegion { frames, devices: &[] }).collect();
        let mut wanted = vec![Region { frames: GfnRange::default(), policy: Policy::Strict }; host.len()];
        regions(Strategy::Host, Policy::Strict, &host, &mut wanted);
        let filled = [Fixed {
            name: "what the domain does not use",
            start: Gfn::new(0),
            frames: from >> p2m::PAGE_SHIFT,
            backing: Backing::Device,
            e820: None,
            yields: true,
        }];
        let machine =
            Machine { large_pages: false, filled: &filled, regions: &wanted, ..Machine::new(pages, WIDTH) };
        let needs = machine.needs();
        let mut storage = Storage {
            taken: &mut vec![GfnRange::default(); needs.taken],
            regions: &mut vec![RegionPlan::default(); needs.regions],
            bars: &mut vec![BarPlan::default(); needs.bars],
            modules: &mut vec![ModulePlan::default(); needs.modules],
            ram: &mut vec![GfnRange::default(); needs.ram],
            e820: &mut vec![E820Entry::default(); needs.e820],
            unallocated: &mut vec![GfnRange::default(); needs.unallocated],
        };
        let plan = plan(&machine, &mut storage).map_err(text)?;
        let honoured = plan.regions.iter().filter(|region| region.verdict.is_honoured());
        let reserved = honoured.map(|region| region.frames).collect();
        Ok(Self { ram: plan.ram.to_vec(), reserved })
    }

    /// The ranges of RAM, lowest first.
    pub fn ram(&self) -> &[GfnRange] {
        &self.ram
    }

    /// Puts the pieces of `ram`, which has as many pages as were planned, where they are to lie.
    ///
    /// # Errors
    /// Something is there.
    pub fn fill(&self, space: &mut Space, ram: &Shared) -> Result<(), String> {
        let mut next = Mfn::containing(ram.start());
        for gfns in &self.ram {
            self.populate(space, *gfns, next).map_err(text)?;
            next = next.checked_add(gfns.len()).ok_or("beyond all memory")?;
        }
        Ok(())
    }

    /// Puts `first` and the frames behind it at `gfns`: where there is nothing, and no region's place.
    ///
    /// # Errors
    /// [`PopulateError`], naming the region or what is there.
    pub fn populate(&self, space: &mut Space, gfns: GfnRange, first: Mfn) -> Result<(), PopulateError> {
        let entry = Entry { p2m_type: P2mType::RamRw, mfn: Some(first), access: Access::READ_WRITE };
        populate(space, gfns, entry, &self.reserved)
    }
}
