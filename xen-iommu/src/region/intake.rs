//! From the firmware's table and the `rmrr=` option to registered regions: what of them is accepted, and why not the rest. A bad entry costs one
//! entry (DESIGN: what must hold, 1).

use acpi_dmar::pci_types::ConfigRegionAccess;
use acpi_dmar::resolve::{self, ResolveError, Resolved};
use acpi_dmar::verdict::{self, MemoryMap, Rejection, ReserveFrames, Verdict};
use acpi_dmar::{DeviceScope, Dmar, Rmrr, ScopeError, Structure, StructureError, StructureKind};

use crate::arena::{Arena, OutOfMemory};
use crate::platform::Sbdf;
use crate::region::registry::{Origin, Region, RegionInfo, RegistryBuilder, Scope};
use crate::region::rmrr_option::{self, OptionError};

/// What was made of one thing that was read. They come in the order of the table or the option.
#[derive(Debug)]
pub enum Finding<'a, 'm> {
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
    /// A device scope of an RMRR leads nowhere; the others of its structure count. Where a bridge is absent it is kept until one comes
    /// ([`Policy::resolve_scopes`](crate::Policy::resolve_scopes)).
    Unresolved {
        /// The structure's offset in the table, in bytes.
        structure: u32,
        /// The scope.
        scope: DeviceScope<'a>,
        /// Where it ends, and why.
        error: ResolveError,
    },
    /// A region was registered, with this verdict.
    Region(&'m Region<'m>),
    /// A region of the option could not be read; the others count.
    BadOption(OptionError),
}

/// What is needed to judge a region on this machine.
pub struct Host<'h, A, M, F> {
    /// PCI configuration space.
    pub pci: &'h A,
    /// The memory map.
    pub memory: &'h M,
    /// The hypervisor's frame allocator, asked to give up frames of regions that lie in RAM.
    pub frames: &'h mut F,
    /// Bits of a host physical address; the DMAR says how many DMA can use.
    pub address_width: u8,
}

impl<A: ConfigRegionAccess, M: MemoryMap, F: ReserveFrames> Host<'_, A, M, F> {
    /// Registers the regions of a DMAR, and reports what was made of each of its structures.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`; regions registered before stay so.
    pub fn read_dmar<'a, 'm>(
        &mut self,
        dmar: &Dmar<'a>,
        builder: &mut RegistryBuilder<'m>,
        arena: &mut Arena<'m>,
        report: &mut dyn FnMut(Finding<'a, 'm>),
    ) -> Result<(), OutOfMemory> {
        for structure in dmar.structures() {
            match structure {
                Err(error) => report(Finding::BadStructure(error)),
                Ok(structure) => {
                    for error in structure.scopes().filter_map(Result::err) {
                        report(Finding::BadScope { structure: structure.offset(), error });
                    }
                    if let Structure::Rmrr(rmrr) = structure {
                        let region = self.read_rmrr(dmar, &rmrr, builder, arena, report)?;
                        report(Finding::Region(region));
                    } else {
                        report(Finding::Structure { offset: structure.offset(), kind: structure.kind() });
                    }
                }
            }
        }
        Ok(())
    }

    fn read_rmrr<'a, 'm>(
        &mut self,
        dmar: &Dmar<'a>,
        rmrr: &Rmrr<'a>,
        builder: &mut RegistryBuilder<'m>,
        arena: &mut Arena<'m>,
        report: &mut dyn FnMut(Finding<'a, 'm>),
    ) -> Result<&'m Region<'m>, OutOfMemory> {
        let pci = self.pci;
        let segment = rmrr.segment();
        let mut absent = 0_usize;
        for scope in rmrr.scopes().filter_map(Result::ok) {
            if let Err(error) = place(segment, &scope, dmar, pci) {
                absent = absent.saturating_add(usize::from(error.is_absence()));
                report(Finding::Unresolved { structure: rmrr.offset(), scope, error });
            }
        }
        let placed =
            rmrr.scopes().filter_map(Result::ok).filter_map(|scope| place(segment, &scope, dmar, pci).ok());
        let (base, limit) = (rmrr.base(), rmrr.limit());
        let mut verdict = verdict::judge_rmrr(rmrr, self.address_width, self.memory, self.frames);
        if verdict.pages().is_some() && placed.clone().next().is_none() && absent == 0 {
            verdict = Verdict::Rejected(Rejection::NoScope);
        }
        if !placed.clone().any(|scope| is_present(scope, pci)) {
            verdict = verdict.dormant();
        }
        let origin = Origin::Dmar { offset: rmrr.offset() };
        let region = builder.add(arena, RegionInfo { base, limit, origin, verdict }, placed)?;
        for scope in rmrr.scopes().filter_map(Result::ok) {
            if place(segment, &scope, dmar, pci).is_err_and(|error| error.is_absence()) {
                builder.add_late(arena, region, scope.offset())?;
            }
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
        report: &mut dyn FnMut(Finding<'_, 'm>),
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
            let mut verdict = verdict::judge(base, limit, self.address_width, self.memory, self.frames);
            let scopes = region.devices().map(Scope::Function);
            if !scopes.clone().any(|scope| is_present(scope, self.pci)) {
                verdict = verdict.dormant();
            }
            let origin = Origin::Option { position: region.position };
            let region = builder.add(arena, RegionInfo { base, limit, origin, verdict }, scopes)?;
            report(Finding::Region(region));
        }
        Ok(())
    }
}

/// Which devices a scope of an RMRR means. An endpoint that is absent is meant all the same: it may come.
pub(crate) fn place(
    segment: u16,
    scope: &DeviceScope<'_>,
    dmar: &Dmar<'_>,
    pci: &impl ConfigRegionAccess,
) -> Result<Scope, ResolveError> {
    match resolve::resolve(segment, scope, dmar, pci) {
        Ok(Resolved::Bridge { address, buses }) => Ok(Scope::Below {
            bridge: address.into(),
            first_bus: buses.secondary,
            last_bus: buses.subordinate,
        }),
        Ok(resolved) => {
            resolved.address().map(|address| Scope::Function(address.into())).ok_or(ResolveError::NoPath)
        }
        Err(ResolveError::NotPresent(address))
            if scope.kind() == acpi_dmar::ScopeKind::PciEndpoint
                && resolve::address(segment, scope, pci) == Ok(address) =>
        {
            Ok(Scope::Function(address.into()))
        }
        Err(error) => Err(error),
    }
}

fn is_present(scope: Scope, pci: &impl ConfigRegionAccess) -> bool {
    let (Scope::Function(sbdf) | Scope::Below { bridge: sbdf, .. }) = scope;
    sbdf_is_present(sbdf, pci)
}

/// Whether a function answers at `sbdf`: its vendor id is not all ones (PCI Local Bus Specification 3.0, 6.1).
fn sbdf_is_present(sbdf: Sbdf, pci: &impl ConfigRegionAccess) -> bool {
    let (vendor, _) = acpi_dmar::pci_types::PciHeader::new(sbdf.into()).id(pci);
    vendor != 0xffff
}
