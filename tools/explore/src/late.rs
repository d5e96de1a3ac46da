//! A bridge that appears after boot, and the table with a scope that leads through it.

use std::sync::OnceLock;

use acpi_dmar::Dmar;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};

use crate::machine::{Board, Kind};

/// The buses: with the bridge 00:01.0 to bus 1, or without it.
pub(crate) struct Buses {
    /// Whether it is there.
    pub(crate) has_bridge: bool,
}

impl ConfigRegionAccess for Buses {
    // SAFETY: any address and offset will do: what answers is made up.
    #[allow(unsafe_code, reason = "the trait has it so; nothing is touched")]
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        let place = (address.bus(), address.device(), address.function());
        if place != (0, 1, 0) || !self.has_bridge {
            return u32::MAX;
        }
        match offset {
            0x00 => 0x1234_8086,
            0x08 => 0x0604_0000,
            0x0c => 0x0001_0000,
            0x18 => 0x0001_0100,
            _ => 0,
        }
    }

    // SAFETY: any address and offset will do: what answers is made up.
    #[allow(unsafe_code, reason = "the trait has it so; nothing is touched")]
    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

/// The table with the machine's late regions. Each is that of a device behind the bridge.
#[must_use]
pub(crate) fn dmar(board: &'static Board) -> Dmar<'static> {
    // One machine has late regions.
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let late = board.regions.iter().filter(|region| region.kind == Kind::Late);
        let structures = late.map(|region| {
            let rmrr = StructureBuilder::rmrr(0, region.start << 12, (region.end << 12) - 1);
            region.users.iter().fold(rmrr, |rmrr, user| {
                let device = board.devices[*user].sbdf;
                rmrr.scope(ScopeBuilder::endpoint(0, &[(1, 0), (device.device(), device.function())]))
            })
        });
        structures.fold(TableBuilder::new().host_address_width(39), TableBuilder::structure).build()
    });
    Dmar::parse(bytes).expect("a table that was built")
}
