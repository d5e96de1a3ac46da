//! Where the device scopes of a DMAR lead on this machine: looked at once, for all who need to know.

use acpi_dmar::pci_types::ConfigRegionAccess;
use acpi_dmar::resolve::{self, ResolveError, Resolved};
use acpi_dmar::{DeviceScope, Dmar, ScopeKind};

use super::devices::Devices;
use crate::arena::{Arena, OutOfMemory};

/// What a scope means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The devices. A function that is absent is meant all the same: it may come.
    pub devices: Devices,
    /// Whether the function, or the bridge, answered.
    pub present: bool,
    /// The scope says a bridge, and the function is none.
    pub is_endpoint_for_bridge: bool,
}

/// A scope of a structure that could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolvedScope {
    /// Where its structure begins, in bytes from the table's start.
    pub structure: u32,
    /// Where it begins itself, in bytes from the table's start.
    pub offset: u32,
    /// What kind of device it says it names.
    pub kind: ScopeKind,
    /// What it means, or why it leads nowhere.
    pub place: Result<Place, ResolveError>,
}

impl ResolvedScope {
    /// Whether it may yet lead somewhere: a bridge on its way, or the one that it names, is absent or not set
    /// up.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.place.is_err_and(|error| error.is_absence())
    }
}

/// Every readable scope of a table, in the table's order.
#[derive(Clone, Copy, Debug)]
pub struct ResolvedScopes<'m> {
    all: &'m [ResolvedScope],
}

impl<'m> ResolvedScopes<'m> {
    /// Follows each scope of `dmar` by config reads. Takes a few words of `arena` a scope.
    ///
    /// # Errors
    /// [`OutOfMemory`] of `arena`.
    pub fn read(
        dmar: &Dmar<'_>,
        pci: &impl ConfigRegionAccess,
        arena: &mut Arena<'m>,
    ) -> Result<Self, OutOfMemory> {
        let structures = dmar.structures().filter_map(Result::ok);
        let scopes = structures.flat_map(|structure| {
            let segment = structure.segment().unwrap_or(0);
            let readable = structure.scopes().filter_map(Result::ok);
            readable.map(move |scope| (structure.offset(), segment, scope))
        });
        // Made without looking at the buses, so that each scope is followed once.
        let all = arena.collect(scopes.clone().map(|(structure, _, scope)| ResolvedScope {
            structure,
            offset: scope.offset(),
            kind: scope.kind(),
            place: Err(ResolveError::NoPath),
        }))?;
        for (resolved, (_, segment, scope)) in all.iter_mut().zip(scopes) {
            resolved.place = place(segment, &scope, dmar, pci);
        }
        Ok(Self { all })
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &'m ResolvedScope> + Clone + use<'m> {
        self.all.iter()
    }

    /// Those of the structure that begins so many bytes after the table's start.
    #[must_use]
    pub fn of(&self, structure: u32) -> &'m [ResolvedScope] {
        let first = self.all.partition_point(|scope| scope.structure < structure);
        let rest = self.all.get(first..).unwrap_or_default();
        let end = rest.partition_point(|scope| scope.structure == structure);
        rest.get(..end).unwrap_or_default()
    }
}

/// What a scope of a structure with `segment` means now.
pub(crate) fn place(
    segment: u16,
    scope: &DeviceScope<'_>,
    dmar: &Dmar<'_>,
    pci: &impl ConfigRegionAccess,
) -> Result<Place, ResolveError> {
    let function = |address: acpi_dmar::pci_types::PciAddress, present| Place {
        devices: Devices::Function(address.into()),
        present,
        is_endpoint_for_bridge: false,
    };
    Ok(match resolve::resolve(segment, scope, dmar, pci)? {
        Resolved::Endpoint { address, present } => function(address, present),
        Resolved::NotABridge(address) => Place { is_endpoint_for_bridge: true, ..function(address, true) },
        Resolved::Bridge { address, buses } => Place {
            devices: Devices::Below {
                bridge: address.into(),
                first_bus: buses.secondary,
                last_bus: buses.subordinate,
            },
            present: true,
            is_endpoint_for_bridge: false,
        },
        Resolved::IoApic { address, .. } | Resolved::Hpet { address, .. } => {
            function(address, resolve::present(address, pci))
        }
        Resolved::Namespace { address, present, .. } => {
            function(address.ok_or(ResolveError::NoPath)?, present)
        }
    })
}
