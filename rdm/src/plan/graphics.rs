//! A guest's Intel graphics: where its stolen memory and OpRegion lie, and what the guest reads of that.

use acpi_dmar::pci_types::PciAddress;
use p2m::GfnRange;
use rdm_layout::graphics::{ASLS, Generation, Graphics, GuestRegister, OpRegion, Place};
use rdm_layout::{Module, ModulePlan, RegionPlan};

use super::{addresses, size};
use crate::machine::Machine;

/// A guest's graphics.
#[derive(Debug)]
pub struct Outcome {
    /// Which device, and which generation that is.
    pub device: String,
    /// What becomes of each of its ranges.
    pub ranges: Vec<String>,
    /// What the guest reads in its registers.
    pub registers: [GuestRegister; 3],
    /// What RVDA has to be in the guest's copy of the OpRegion, where its VBT lies outside.
    pub rvda: Option<u64>,
}

/// A device of the guest's that is Intel graphics.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) address: PciAddress,
    graphics: Graphics,
    /// Whether regions of the guest's cover its stolen memory, and its OpRegion.
    covered: [bool; 2],
}

impl Device {
    /// Reads it; `None` where it is something else, or config space is not shown as far as that.
    pub(super) fn read(machine: &Machine, address: PciAddress, regions: &[GfnRange]) -> Option<Self> {
        let config = machine.pci.config(address)?;
        let bytes = |at: u16| config.get(usize::from(at)..);
        let word = |at: u16| Some(u16::from_le_bytes(*bytes(at)?.first_chunk()?));
        let long = |at: u16| Some(u32::from_le_bytes(*bytes(at)?.first_chunk()?));
        // Intel's, and a display controller.
        if word(0)? != 0x8086 || *config.get(0x0b)? != 3 {
            return None;
        }
        let generation = Generation::of(word(2)?)?;
        let high = if generation.is_bdsm_64bit { long(generation.bdsm + 4)? } else { 0 };
        let bdsm = u64::from(high) << 32 | u64::from(long(generation.bdsm)?);
        let asls = long(ASLS)?;
        let shown = machine.op_region.as_deref().and_then(|bytes| OpRegion::read(asls, bytes).ok());
        let op_region = shown.filter(|_| asls != 0).or_else(|| OpRegion::unread(asls));
        let graphics = Graphics { generation, ggc: word(generation.ggc)?, bdsm, op_region };
        let covers = |frames: &GfnRange| {
            regions.iter().any(|region| region.start() <= frames.start() && frames.end() <= region.end())
        };
        let of_region = |region: OpRegion| [Some(region.frames()), region.vbt_frames()];
        let stolen = graphics.stolen().is_some_and(|frames| covers(&frames));
        let region = op_region.is_some_and(|region| of_region(region).iter().flatten().all(covers));
        Some(Self { address, graphics, covered: [stolen, region] })
    }

    /// The modules that the guest needs for it: stolen memory's, then the OpRegion's.
    pub(super) fn modules(&self) -> impl Iterator<Item = Module> {
        let [stolen, region] = self.covered;
        let stolen = self.graphics.stolen_module().filter(|_| !stolen);
        stolen.into_iter().chain(self.graphics.op_region_module().filter(|_| !region))
    }

    /// What becomes of it: by the records of its modules, and the regions'.
    pub(super) fn outcome(&self, modules: &[ModulePlan], regions: &[RegionPlan]) -> Outcome {
        let mut modules = modules.iter().map(|module| module.place);
        let mut place = |exists: bool, covered: bool, all: &[GfnRange]| match (exists, covered) {
            (false, _) => (Place::Nowhere, None),
            (true, true) => {
                let lost = regions.iter().filter(|region| !region.verdict.is_honoured());
                let is_lost = lost.clone().any(|lost| all.iter().any(|frames| lost.frames.overlaps(frames)));
                (if is_lost { Place::Nowhere } else { Place::Host }, None)
            }
            (true, false) => match modules.next().flatten() {
                Some(frames) => (Place::Guest(frames.start()), Some(frames)),
                None => (Place::Nowhere, None),
            },
        };
        let ranges: Vec<_> = self.graphics.host_ranges().collect();
        let (stolen, others): (Vec<_>, Vec<_>) =
            ranges.iter().partition(|(name, _)| *name == "stolen memory");
        let frames = |all: &[(&str, GfnRange)]| all.iter().map(|one| one.1).collect::<Vec<_>>();
        let [stolen_covered, region_covered] = self.covered;
        let stolen_place = place(!stolen.is_empty(), stolen_covered, &frames(&stolen));
        let region_place = place(!others.is_empty(), region_covered, &frames(&others));
        let words = |(place, own): (Place, Option<GfnRange>)| match (place, own) {
            (Place::Host, _) => "at the host's addresses, in a region".to_string(),
            (_, Some(own)) => format!("the guest has memory of its own at {}", addresses(&own)),
            _ => "the guest has none".into(),
        };
        let line = |(name, frames): &(&str, GfnRange)| {
            let of = if *name == "stolen memory" { stolen_place } else { region_place };
            format!("{name} {}, {}: {}", addresses(frames), size(frames), words(of))
        };
        Outcome {
            device: format!("{}, {}", self.address, self.graphics.generation.name),
            ranges: ranges.iter().map(line).collect(),
            registers: self.graphics.guest_registers(stolen_place.0, region_place.0),
            rvda: match region_place.0 {
                Place::Guest(start) => self.graphics.guest_rvda(start),
                _ => None,
            },
        }
    }
}

impl Outcome {
    /// What the guest reads, in words.
    #[must_use]
    pub fn reads(&self) -> String {
        let registers = self.registers.iter().map(|one| format!("{} {:#x}", one.name, one.value));
        let registers: Vec<_> = registers.collect();
        let rvda = self.rvda.map(|rvda| format!("; RVDA in its OpRegion is {rvda:#x}")).unwrap_or_default();
        format!("the guest reads {}, and its writes there are dropped{rvda}", registers.join(", "))
    }
}
