//! Functions known to carry ids that nothing in their config space tells of.
//!
//! What each does is a fact of the part. The facts were collected by Linux, in drivers/pci/quirks.c (6.16),
//! from the reports that are named.

use acpi_dmar::pci_types::ConfigRegionAccess;

use crate::pci::config::Space;

/// What such a function carries, on its own bus, beside its own id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// The id of this function of its device, present or not.
    Function(u8),
    /// The ids of these devices and functions.
    Devices(&'static [(u8, u8)]),
    /// Any id of its bus.
    AnyOfItsBus,
    /// It is a bridge from PCI Express to PCI without the capability that says so, and takes over what is
    /// below it as those do.
    Bridge,
}

struct Quirk {
    vendor: u16,
    device: u16,
    /// The subsystem's vendor and id, where only some of them do it.
    subsystem: Option<(u16, &'static [u16])>,
    carries: Carries,
}

const fn part(vendor: u16, device: u16, carries: Carries) -> Quirk {
    Quirk { vendor, device, subsystem: None, carries }
}

const RICOH: u16 = 0x1180;
const GLENFLY: u16 = 0x6766;
const MARVELL: u16 = 0x1b4b;
const HIGHPOINT: u16 = 0x1103;
const ADAPTEC: u16 = 0x9005;
const INTEL: u16 = 0x8086;
const ITE: u16 = 0x1283;

const FUNCTION_0: Carries = Carries::Function(0);
const FUNCTION_1: Carries = Carries::Function(1);
const DEVICE_1: Carries = Carries::Devices(&[(1, 0)]);
/// Entries of the table by which the bridge in a Xeon Phi x200 translates ids.
const PHI: Carries = Carries::Devices(&[(0x10, 0), (0x11, 0), (0x12, 3)]);

#[rustfmt::skip]
static QUIRKS: [Quirk; 37] = [
    // Card reader and FireWire of one chip request as function 0: Red Hat bug 605888.
    part(RICOH, 0xe476, FUNCTION_0),
    part(RICOH, 0xe832, FUNCTION_0),
    // The display's sound function requests as function 0: Linux commit "PCI: Add function 0 DMA alias quirk
    // for Glenfly Arise chip".
    part(GLENFLY, 0x3d40, FUNCTION_0),
    part(GLENFLY, 0x3d41, FUNCTION_0),
    // SATA controllers of Marvell's 88SE91xx and 92xx request as function 1, an IDE controller that many
    // boards hide: kernel.org bug 42679.
    part(MARVELL, 0x9120, FUNCTION_1),
    part(MARVELL, 0x9123, FUNCTION_1),
    part(MARVELL, 0x9125, FUNCTION_1), // comment 136
    part(MARVELL, 0x9128, FUNCTION_1),
    part(MARVELL, 0x9130, FUNCTION_1), // comment 14
    part(MARVELL, 0x9170, FUNCTION_1),
    part(MARVELL, 0x9172, FUNCTION_1), // comments 47 and 57
    part(MARVELL, 0x917a, FUNCTION_1), // comment 59
    part(MARVELL, 0x9182, FUNCTION_1), // comment 78
    part(MARVELL, 0x9183, FUNCTION_1), // comment 134
    part(MARVELL, 0x91a0, FUNCTION_1), // comment 46
    part(MARVELL, 0x9215, FUNCTION_1), // comment 135
    part(MARVELL, 0x9220, FUNCTION_1), // comment 127
    part(MARVELL, 0x9230, FUNCTION_1), // comment 49
    part(MARVELL, 0x9235, FUNCTION_1), // the same chip family
    // The same chips under the names of HighPoint (RocketRAID 642L, 644L: same bug) and of Lite-On (Plextor
    // M6e: comment 117).
    part(HIGHPOINT, 0x0642, FUNCTION_1),
    part(HIGHPOINT, 0x0645, FUNCTION_1),
    part(0x1c28, 0x0122, FUNCTION_1),
    // JMicron JMB388 card reader: Gentoo bug 497630.
    part(0x197b, 0x2392, FUNCTION_1),
    // Adaptec 3405 and 3805: the processor's DMA engine is a device at 01.0 of its bus that config space does
    // not show; Linux fixed_dma_alias_tbl.
    Quirk { subsystem: Some((ADAPTEC, &[0x02bb, 0x02bc])), ..part(ADAPTEC, 0x0285, DEVICE_1) },
    // Xeon Phi x200's bridge passes its processor's requests on: Linux quirk_mic_x200_dma_alias.
    part(INTEL, 0x2260, PHI),
    part(INTEL, 0x2264, PHI),
    // Intel Visual Compute Accelerator: its processors request as any device of its bus; Linux
    // quirk_pex_vca_alias.
    part(INTEL, 0x2954, Carries::AnyOfItsBus),
    part(INTEL, 0x2955, Carries::AnyOfItsBus),
    part(INTEL, 0x2956, Carries::AnyOfItsBus),
    part(INTEL, 0x2958, Carries::AnyOfItsBus),
    part(INTEL, 0x2959, Carries::AnyOfItsBus),
    part(INTEL, 0x295a, Carries::AnyOfItsBus),
    // Bridges from PCI Express to PCI that say nothing of it. ASMedia ASM1083 and 1085: kernel.org bug 44881,
    // comment 46.
    part(0x1b21, 0x1080, Carries::Bridge),
    // Tundra Tsi381: the same bug, comment 43.
    part(0x10e3, 0x8113, Carries::Bridge),
    // ITE 8892: kernel.org bug 73551; 8893 is alike.
    part(ITE, 0x8892, Carries::Bridge),
    part(ITE, 0x8893, Carries::Bridge),
    // Intel 82801 where it is not the root complex's own: kernel.org bug 44881, comment 49.
    part(INTEL, 0x244e, Carries::Bridge),
];

/// What is known of the function, by its vendor, device and subsystem.
pub(crate) fn quirk<A: ConfigRegionAccess>(space: &Space<'_, A>) -> Option<Carries> {
    let id = space.id();
    let quirk = QUIRKS.iter().find(|quirk| {
        (quirk.vendor, quirk.device) == id
            && quirk.subsystem.is_none_or(|(vendor, devices)| {
                let subsystem = space.read(0x2c);
                subsystem as u16 == vendor && devices.contains(&((subsystem >> 16) as u16))
            })
    })?;
    Some(quirk.carries)
}
