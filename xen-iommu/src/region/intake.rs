//! From what firmware, the administrator and the hypervisor state to registered regions: what of it is
//! accepted, and why not the rest. A bad entry costs one entry (docs/design.md, rule 1).

use acpi_dmar::pci_types::ConfigRegionAccess;
use acpi_dmar::resolve::{self, ResolveError};
use acpi_dmar::{Dmar, Rmrr, ScopeError, ScopeKind, Structure, StructureError, StructureKind};

use super::devices::Devices;
use super::forbidden::{self, Windows};
use super::memory::{MemoryMap, ReserveFrames, reserve};
use super::record::{Origin, Record, Region};
use super::registry::{RegistryBuilder, devices};
use super::resolved::ResolvedScopes;
use super::rmrr_option::{self, OptionError};
use super::verdict::{Rejection, Repairs, Verdict, bounds, is_beyond};
use crate::arena::{Arena, OutOfMemory};
use crate::platform::Sbdf;

/// What was made of one thing that was read. They come in the order of the table or the option.
#[derive(Clone, Copy, Debug)]
pub enum Finding<'m> {
    /// A structure that holds no region was read without error.
    Structure {
        /// Its offset in the table, in bytes.
        offset: u32,
        /// Its kind.
        kind: StructureKind,
    },
    /// A structure could not be read.
    BadStructure(StructureError),
    /// A device scope could not be read; the others of its structure count.
    BadScope {
        /// The structure's offset in the table, in bytes.
        structure: u32,
        /// What is wrong.
        error: ScopeError,
    },
    /// A device scope of an RMRR leads nowhere; the others of its structure count. Where a bridge is absent
    /// it is kept until one comes ([`Policy::resolve_scopes`](crate::Policy::resolve_scopes)).
    Unresolved {
        /// The structure's offset in the table, in bytes.
        structure: u32,
        /// The scope's.
        scope: u32,
        /// What kind of device it says it names.
        kind: ScopeKind,
        /// Where it ends, and why.
        error: ResolveError,
    },
    /// A region was registered, with this verdict.
    Region(&'m Region<'m>),
    /// A region of the option could not be read; the others count.
    BadOption(OptionError),
}

/// What a region is judged by on this machine.
pub struct Host<'h, A, M: ?Sized, F: ?Sized> {
    /// PCI configuration space.
    pub pci: &'h A,
    /// The memory map.
    pub memory: &'h M,
    /// The hypervisor's frame allocator, asked to give up frames of regions that lie in RAM.
    pub frames: &'h mut F,
    /// Bits of a host physical address; the DMAR says how many DMA can use.
    pub address_width: u8,
    /// What decodes as something else than memory: the units' registers, configuration space, and BARs.
    pub windows: &'h dyn Windows,
    /// The bits of address that the remapping units of some devices translate, by their MGAW and levels: of
    /// several units the least. `None` where that is not known.
    pub unit_width: &'h dyn Fn(Devices) -> Option<u8>,
}

impl<A, M: MemoryMap + ?Sized, F: ReserveFrames + ?Sized> Host<'_, A, M, F> {
    /// Judges a region without looking at the buses, so that it is never dormant: its bounds first, then
    /// whether it has devices, what it is over, what the units of its devices can express. When all that is
    /// well, its frames are taken out of RAM.
    pub fn judge(&mut self, record: &Record<'_>) -> Verdict {
        self.judged(record, false, Repairs::empty())
    }

    /// As [`judge`](Self::judge). Devices may come that are not known so far (`is_awaited`), and reading it
    /// needed `repairs`.
    fn judged(&mut self, record: &Record<'_>, is_awaited: bool, repairs: Repairs) -> Verdict {
        match self.checked(record, is_awaited) {
            Err(rejection) => Verdict::Rejected(rejection),
            Ok((pages, more)) => match repairs.union(more) {
                none if none.is_empty() => Verdict::Accepted(pages),
                repairs => Verdict::Repaired(pages, repairs),
            },
        }
    }

    fn checked(
        &mut self,
        record: &Record<'_>,
        is_awaited: bool,
    ) -> Result<(p2m::MfnRange, Repairs), Rejection> {
        let (pages, repairs) = bounds(record.base, record.limit, self.address_width)?;
        if record.devices.is_empty() && !is_awaited {
            return Err(Rejection::NoScope);
        }
        let devices = record.devices.iter().copied();
        if let Some(forbidden) = forbidden::check(self.windows, pages, devices.clone()) {
            return Err(forbidden.into());
        }
        let widths = devices.filter_map(self.unit_width);
        if let Some(width) = widths.min().filter(|width| is_beyond(record.limit, *width)) {
            return Err(Rejection::BeyondUnit { limit: record.limit, width });
        }
        // Last, as frames once taken are not given back.
        Ok((pages, repairs.union(reserve(pages, self.memory, self.frames)?)))
    }
}

impl<A: ConfigRegionAccess, M: MemoryMap + ?Sized, F: ReserveFrames + ?Sized> Host<'_, A, M, F> {
    /// Judges and registers a region: for readers of other tables, and for the hypervisor's own. A rejected
    /// one is registered too, as its devices are refused for it.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`; the region is not registered then.
    pub fn add_record<'m>(
        &mut self,
        record: &Record<'_>,
        builder: &mut RegistryBuilder<'m>,
        arena: &mut Arena<'m>,
    ) -> Result<&'m Region<'m>, OutOfMemory> {
        let devices = devices(record.devices.iter().copied(), arena)?;
        self.add(Record { devices, ..*record }, builder, arena)
    }

    fn add<'m>(
        &mut self,
        record: Record<'m>,
        builder: &mut RegistryBuilder<'m>,
        arena: &mut Arena<'m>,
    ) -> Result<&'m Region<'m>, OutOfMemory> {
        let mut verdict = self.judge(&record);
        if !record.devices.iter().any(|devices| any_present(*devices, self.pci)) {
            verdict = verdict.dormant();
        }
        builder.register(arena, record, verdict)
    }

    /// Registers the regions of a DMAR, whose scopes are `scopes`, and reports what was made of each of its
    /// structures.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`; regions registered before stay so.
    pub fn read_dmar<'m>(
        &mut self,
        dmar: &Dmar<'_>,
        scopes: &ResolvedScopes<'_>,
        builder: &mut RegistryBuilder<'m>,
        arena: &mut Arena<'m>,
        report: &mut dyn FnMut(Finding<'m>),
    ) -> Result<(), OutOfMemory> {
        for structure in dmar.structures() {
            match structure {
                Err(error) => report(Finding::BadStructure(error)),
                Ok(structure) => {
                    for error in structure.scopes().filter_map(Result::err) {
                        report(Finding::BadScope { structure: structure.offset(), error });
                    }
                    if let Structure::Rmrr(rmrr) = structure {
                        let region = self.read_rmrr(&rmrr, scopes, builder, arena, report)?;
                        report(Finding::Region(region));
                    } else {
                        report(Finding::Structure { offset: structure.offset(), kind: structure.kind() });
                    }
                }
            }
        }
        Ok(())
    }

    fn read_rmrr<'m>(
        &mut self,
        rmrr: &Rmrr<'_>,
        scopes: &ResolvedScopes<'_>,
        builder: &mut RegistryBuilder<'m>,
        arena: &mut Arena<'m>,
        report: &mut dyn FnMut(Finding<'m>),
    ) -> Result<&'m Region<'m>, OutOfMemory> {
        let structure = rmrr.offset();
        let scopes = scopes.of(structure);
        for scope in scopes {
            if let Err(error) = scope.place {
                report(Finding::Unresolved { structure, scope: scope.offset, kind: scope.kind, error });
            }
        }
        let places = scopes.iter().filter_map(|scope| scope.place.ok());
        let awaited = scopes.iter().filter(|scope| scope.is_awaited());
        let origin = Origin::Dmar { offset: structure };
        let devices = devices(places.clone().map(|place| place.devices), arena)?;
        let record = Record::identity(rmrr.base(), rmrr.limit(), origin, devices);
        let mut repairs = Repairs::empty();
        repairs.set(Repairs::BRIDGE_IS_ENDPOINT, places.clone().any(|place| place.is_endpoint_for_bridge));
        let mut verdict = self.judged(&record, awaited.clone().next().is_some(), repairs);
        if !places.clone().any(|place| place.present) {
            verdict = verdict.dormant();
        }
        let region = builder.register(arena, record, verdict)?;
        for scope in awaited {
            builder.add_unresolved(arena, region, scope.offset)?;
        }
        Ok(region)
    }

    /// Registers the regions of one `rmrr=` option's value, and reports what was made of each.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`; regions registered before stay so.
    pub fn read_option<'m>(
        &mut self,
        value: &str,
        builder: &mut RegistryBuilder<'m>,
        arena: &mut Arena<'m>,
        report: &mut dyn FnMut(Finding<'m>),
    ) -> Result<(), OutOfMemory> {
        for region in rmrr_option::regions(value) {
            let region = match region {
                Ok(region) => region,
                Err(error) => {
                    report(Finding::BadOption(error));
                    continue;
                }
            };
            let base = region.range.start().address().unwrap_or(u64::MAX);
            // The end's address may be 2^64; the limit below it always fits.
            let limit = region.range.end().raw().wrapping_shl(p2m::PAGE_SHIFT).wrapping_sub(1);
            let origin = Origin::Option { position: region.position };
            let devices = devices(region.devices().map(Devices::Function), arena)?;
            let record = Record::identity(base, limit, origin, devices);
            report(Finding::Region(self.add(record, builder, arena)?));
        }
        Ok(())
    }
}

/// Whether any of the devices answers; of those below a bridge the bridge. A range takes a config read for
/// each of its ids up to the first that does.
fn any_present(devices: Devices, pci: &impl ConfigRegionAccess) -> bool {
    let is_present = |sbdf: Sbdf| resolve::present(sbdf.into(), pci);
    match devices {
        Devices::Function(function) => is_present(function),
        Devices::Below { bridge, .. } => is_present(bridge),
        Devices::Requesters { first, last } => {
            let last = last.min(Sbdf::new(first.segment(), 0xff, 0x1f, 7));
            (first.raw()..=last.raw()).any(|raw| is_present(Sbdf::from_raw(raw)))
        }
    }
}
