//! The layout of a boot: which devices it has and where they sit, its memory, and what its firmware reserves.
//! Everything else derives from here.

use std::fmt;

/// Guest RAM in MiB.
pub const RAM_MIB: u32 = 256;
/// Register base of the emulated IOMMU; QEMU has one, always here.
pub const UNIT_BASE: u64 = 0xfed9_0000;
/// Bits of a host address that the IOMMU translates (`aw-bits`), and the host address width of the DMAR.
pub const ADDRESS_WIDTH: u8 = 39;
/// I/O port of isa-debug-exit, through which the image ends QEMU.
pub const EXIT_PORT: u16 = 0xf4;

/// A slot and function on some bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// Device, 0 to 31.
    pub device: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl Slot {
    /// A slot; device 0 to 31, function 0 to 7.
    pub const fn new(device: u8, function: u8) -> Self {
        Self { device, function }
    }

    /// Whether a PCI bus has such a slot.
    pub const fn exists(self) -> bool {
        self.device < 32 && self.function < 8
    }
}

/// As a PCI address ends: `1d.0`.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{:x}", self.device, self.function)
    }
}

/// A QEMU `-device`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// QEMU's name of the model.
    pub model: &'static str,
    /// Where it sits on its bus; none for what is on no PCI bus.
    pub slot: Option<Slot>,
    /// The id of the bus it is on; none is the root bus.
    pub bus: Option<String>,
    /// Its own id, where another device needs it.
    pub id: Option<String>,
    /// Other properties, `name=value`.
    pub properties: Vec<String>,
}

impl Device {
    /// A device on the root bus.
    pub fn at(model: &'static str, slot: Slot) -> Self {
        Self { model, slot: Some(slot), bus: None, id: None, properties: Vec::new() }
    }

    /// A device on no PCI bus.
    pub fn of(model: &'static str) -> Self {
        Self { model, slot: None, bus: None, id: None, properties: Vec::new() }
    }

    /// The same on this bus.
    pub fn on(mut self, bus: &str) -> Self {
        self.bus = Some(bus.to_owned());
        self
    }

    /// The same with an id.
    pub fn named(mut self, id: &str) -> Self {
        self.id = Some(id.to_owned());
        self
    }

    /// The same with one more property.
    pub fn with(mut self, property: impl Into<String>) -> Self {
        self.properties.push(property.into());
        self
    }

    /// The value of QEMU's `-device`.
    pub fn argument(&self) -> String {
        let mut argument = self.model.to_owned();
        if let Some(id) = &self.id {
            argument += &format!(",id={id}");
        }
        if let Some(bus) = &self.bus {
            argument += &format!(",bus={bus}");
        }
        if let Some(slot) = self.slot {
            argument += &format!(",addr={:x}.{:x}", slot.device, slot.function);
        }
        for property in &self.properties {
            argument += &format!(",{property}");
        }
        argument
    }
}

/// A device that does DMA when told: QEMU's `edu`. Its DMA engine reaches 28 bits unless told otherwise.
pub fn edu(slot: Slot) -> Device {
    Device::at("edu", slot).with("dma_mask=0xffffffffffffffff")
}

/// The IOMMU for addresses of so many bits (39 or 48), which must come before the endpoints on QEMU's command
/// line.
pub fn iommu(width: u8) -> Device {
    Device::of("intel-iommu").with(format!("aw-bits={width}"))
}

/// Has a region of its own.
pub const OWN: Slot = Slot::new(3, 0);
/// Shares one region with [`SHARED_B`].
pub const SHARED_A: Slot = Slot::new(4, 0);
/// Shares one region with [`SHARED_A`].
pub const SHARED_B: Slot = Slot::new(5, 0);
/// The PCIe-to-PCI bridge.
pub const BRIDGE: Slot = Slot::new(6, 0);
/// Behind the bridge, with a region. Its DMA carries the bridge's requester id, so it cannot be told from
/// [`BEHIND_B`].
pub const BEHIND_A: Slot = Slot::new(1, 0);
/// Behind the bridge, with no region.
pub const BEHIND_B: Slot = Slot::new(2, 0);
/// The nvme controller, whose region the kernel command line gives.
pub const NVME: Slot = Slot::new(7, 0);
/// The UHCI controller, which the firmware leaves running for its keyboard.
pub const UHCI: Slot = Slot::new(0x1d, 0);

/// The devices, in the order of QEMU's command line.
pub fn devices() -> Vec<Device> {
    vec![
        edu(OWN),
        edu(SHARED_A),
        edu(SHARED_B),
        Device::at("pcie-pci-bridge", BRIDGE).named("pci"),
        edu(BEHIND_A).on("pci"),
        edu(BEHIND_B).on("pci"),
        Device::at("nvme", NVME).with("serial=rdm"),
        Device::at("ich9-usb-uhci1", UHCI).named("uhci"),
        Device::of("usb-kbd").on("uhci.0"),
    ]
}

/// A port with an empty slot, into which a device may come (scenario `hotplug`).
pub fn slot() -> Device {
    Device::at("pcie-root-port", Slot::new(8, 0)).named("empty").with("chassis=1")
}

/// A region that the firmware reserves for devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first byte.
    pub base: u64,
    /// Its last byte.
    pub limit: u64,
    /// The paths from the root bus to the devices.
    pub scopes: &'static [&'static [Slot]],
}

/// What the firmware reserves: each region lies in memory that the memory map reserves, and that nobody but
/// SeaBIOS's own UHCI driver uses (the last two: its queues, and what it keeps below 1 MiB).
///
/// SeaBIOS puts tables that `-acpitable` gives it at the top of RAM, and reserves them. Two of [`PAD_SIZE`]
/// bytes give the interior of the first three regions and of [`OPTION_REGION`] at 256 MiB of RAM: [0xffe4000,
/// 0xffef000) and [0xfff2000, 0xfffe000).
pub const REGIONS: [Region; 5] = [
    Region { base: 0x0ffe_4000, limit: 0x0ffe_5fff, scopes: &[&[OWN]] },
    Region { base: 0x0ffe_8000, limit: 0x0ffe_9fff, scopes: &[&[SHARED_A], &[SHARED_B]] },
    Region { base: 0x0ffe_c000, limit: 0x0ffe_cfff, scopes: &[&[BRIDGE, BEHIND_A]] },
    Region { base: 0x0ffd_8000, limit: 0x0ffe_1fff, scopes: &[&[UHCI]] },
    Region { base: 0x000e_8000, limit: 0x000e_ffff, scopes: &[&[UHCI]] },
];

/// Bytes of a padding table.
pub const PAD_SIZE: usize = 0xf000;
/// How many padding tables there are.
pub const PADS: usize = 2;

/// The region that the kernel command line adds, in Xen's `rmrr=` syntax: page numbers in hex, both
/// inclusive.
pub const OPTION_REGION: &str = "0xfff4-0xfff5=00:07.0";

/// The region of the device that may come into [`slot`]: that of [`OWN`].
pub const SLOT_REGION: &str = "0xffe4-0xffe5=02:00.0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_becomes_one_argument() {
        assert_eq!(edu(OWN).argument(), "edu,addr=3.0,dma_mask=0xffffffffffffffff");
        let bridge = Device::at("pcie-pci-bridge", Slot::new(0x1e, 7)).named("pci");
        assert_eq!(bridge.argument(), "pcie-pci-bridge,id=pci,addr=1e.7");
        assert_eq!(Device::of("usb-kbd").on("uhci.0").argument(), "usb-kbd,bus=uhci.0");
        assert_eq!(iommu(ADDRESS_WIDTH).argument(), "intel-iommu,aw-bits=39");
    }

    #[test]
    fn no_two_devices_share_a_slot() {
        let mut seen = std::collections::BTreeSet::new();
        for device in devices() {
            let Some(slot) = device.slot else { continue };
            assert!(slot.exists(), "{}", device.argument());
            assert!(seen.insert((device.bus.clone(), slot)), "{}", device.argument());
        }
    }

    #[test]
    fn regions_are_whole_pages_apart_from_each_other_and_name_devices() {
        let devices = devices();
        for (index, region) in REGIONS.iter().enumerate() {
            assert_eq!(region.base % 0x1000, 0);
            assert_eq!((region.limit + 1) % 0x1000, 0);
            assert!(region.base < region.limit && region.limit < u64::from(RAM_MIB) << 20);
            for other in &REGIONS[index + 1..] {
                assert!(region.limit < other.base || other.limit < region.base);
            }
            for path in region.scopes {
                let last = path.last().copied();
                let bus = (path.len() > 1).then(|| "pci".to_owned());
                assert!(devices.iter().any(|device| device.slot == last && device.bus == bus));
            }
        }
    }
}
