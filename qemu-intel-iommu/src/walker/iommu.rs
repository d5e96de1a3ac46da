//! Tables walked by the remapping unit for an edu device, which touches memory by DMA.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::marker::PhantomData;

use p2m::{Access, DeviceRoot, Ept, Flush, Format, MemoryType, Mfn, PageSize, SecondLevel, Table};
use xen_iommu::vtd::{Fault, Operation, Reason};
use xen_iommu::{RemappingHardware, Sbdf, SpaceId};

use super::hardware::{HOME, Walker};
use super::touch::{Exit, STUB, Touch, Violation};
use crate::check::{ensure, text};
use crate::devices::edu::{Direction, Edu};
use crate::devices::uhci::Uhci;
use crate::host::{Remapping, TableFrames, UHCI, remapping};
use crate::inventory::Inventory;
use crate::memory::{FRAME, Shared};

/// The device.
const PROBER: Sbdf = Sbdf::new(0, 0, 3, 0);
/// Where a word that the device is to write lies in its home, and where it puts what it read.
const GIVEN: u64 = 0;
const FOUND: u64 = 8;

/// A kind of table that the unit is to walk.
pub trait Kind {
    /// What it is called.
    const NAME: &'static str;
    /// Its format.
    type Format: Format + 'static;
    /// Its levels.
    const LEVELS: u8;
    /// The format as it is used.
    const FORMAT: Self::Format;
    /// Other choices that the unit has to take as well.
    const FORMATS: &'static [Self::Format];
}

/// VT-d's own tables, 39 bits.
pub struct ThreeLevels;
/// VT-d's own tables, 48 bits.
pub struct FourLevels;
/// A processor's EPT, which the unit is given as it stands.
pub struct SharedEpt;

impl Kind for ThreeLevels {
    const NAME: &'static str = "VT-d with 3 levels";
    type Format = SecondLevel;
    const LEVELS: u8 = 3;
    // Here the unit has no snoop control; for four levels it has.
    const FORMAT: SecondLevel = SecondLevel { snoop: false };
    const FORMATS: &'static [SecondLevel] = &[];
}

impl Kind for FourLevels {
    const NAME: &'static str = "VT-d with 4 levels";
    type Format = SecondLevel;
    const LEVELS: u8 = 4;
    const FORMAT: SecondLevel = ThreeLevels::FORMAT;
    const FORMATS: &'static [SecondLevel] = &[SecondLevel { snoop: true }];
}

impl Kind for SharedEpt {
    const NAME: &'static str = "VT-d with EPT's tables";
    type Format = Ept;
    const LEVELS: u8 = 4;
    // Its default.
    const FORMAT: Ept = Ept {
        ram: MemoryType::WriteBack,
        direct: MemoryType::Uncacheable,
        suppress_ve: false,
        execute_only: false,
        snoop: false,
    };
    const FORMATS: &'static [Ept] = &[
        Ept { execute_only: true, ..Self::FORMAT },
        Ept { suppress_ve: true, ..Self::FORMAT },
        Ept { snoop: true, ..Self::FORMAT },
        Ept { ram: MemoryType::WriteThrough, direct: MemoryType::WriteCombining, ..Self::FORMAT },
        Ept { ram: MemoryType::WriteProtected, direct: MemoryType::WriteBack, ..Self::FORMAT },
    ];
}

/// The unit and the device.
pub struct Iommu<K> {
    vtd: Remapping,
    edu: Edu,
    /// A frame that the device reaches in every table, for what it carries.
    home: Shared,
    /// What the driver calls the table; each has its own.
    space: SpaceId,
    kind: PhantomData<K>,
}

impl<K: Kind> Walker for Iommu<K> {
    const NAME: &'static str = K::NAME;
    type Format = K::Format;
    const DEVICE: bool = true;
    const EXECUTE: u64 = 0;
    const FORMATS: bool = !K::FORMATS.is_empty();
    const FIVE_LEVELS: bool = false;

    fn start(inventory: &'static Inventory) -> Result<Self, String> {
        // No other device's fault is to be in the way of the prober's. And a USB controller that the firmware
        // left running makes the emulator wake up a hundred times in each transfer.
        if let Ok(uhci) = Uhci::open(&inventory.pci, UHCI.into()) {
            uhci.stop().map_err(text)?;
        }
        for function in inventory.pci.functions() {
            inventory.pci.set_bus_master(function.address, false);
        }
        let edu = Edu::open(&inventory.pci, PROBER.into()).map_err(text)?;
        let home = Shared::alloc(1).ok_or("no frame is left for the device")?;
        let vtd = remapping(inventory)?;
        ensure!(
            vtd.unit_of(PROBER.into()).is_some_and(|unit| unit.is_started()),
            "no unit is there for {PROBER}"
        );
        ensure!(vtd.walks(K::LEVELS), "the unit walks no tables of {} levels", K::LEVELS);
        ensure!(
            vtd.has_snoop_control() == Self::FORMATS,
            "the unit does not know the leaves' snoop bit, or knows it where that was not to be"
        );
        // The unit takes frames for the tables above, which it keeps.
        let table = Table::new(K::FORMAT, TableFrames, K::LEVELS, PageSize::Size4K).map_err(text)?;
        let space = SpaceId(0);
        vtd.attach(PROBER.into(), space, table.root()).map_err(text)?;
        vtd.enable().map_err(text)?;
        let mut this = Self { vtd, edu, home, space, kind: PhantomData };
        this.leave()?;
        Ok(this)
    }

    fn format(&self) -> K::Format {
        K::FORMAT
    }

    fn formats(&self) -> Vec<K::Format> {
        K::FORMATS.to_vec()
    }

    fn levels(&self) -> u8 {
        K::LEVELS
    }

    fn largest_page(&self) -> PageSize {
        self.vtd.largest_page()
    }

    fn address_bits(&self) -> u32 {
        self.vtd.guest_width().into()
    }

    fn home(&self) -> (Mfn, u64) {
        (Mfn::containing(self.home.start()), 1)
    }

    fn code(_: u32) -> [u8; STUB] {
        // It fetches nothing.
        [0; STUB]
    }

    fn granted(_: &K::Format, allowed: Access) -> Access {
        // Fetches are none of its business, and a write has to be readable too.
        if allowed.contains(Access::READ) { allowed & Access::READ_WRITE } else { Access::empty() }
    }

    fn enter(&mut self, root: DeviceRoot) -> Result<(), String> {
        self.space = SpaceId(self.space.0 + 1);
        self.vtd.attach(PROBER.into(), self.space, root).map_err(text)
    }

    fn leave(&mut self) -> Result<(), String> {
        self.vtd.detach(PROBER.into()).map_err(text)
    }

    fn flush(&mut self, _: DeviceRoot, flush: &Flush) -> Result<(), String> {
        self.vtd.flush(self.space, flush).map_err(text)
    }

    fn touch(
        &mut self,
        root: DeviceRoot,
        touch: Touch,
        address: u64,
        value: u32,
    ) -> Result<(Exit, u32), String> {
        let (home, len) = (HOME.raw() * FRAME, touch.len());
        let bits = 12 + 9 * u32::from(root.levels);
        match touch {
            Touch::WriteByte | Touch::Write => {
                self.home.write32(GIVEN, value);
                self.carry(Direction::FromMemory, home + GIVEN, len)?;
                let faults = self.transfer(Direction::ToMemory, address, len)?;
                Ok((exit(&faults, Operation::Write, bits), 0))
            }
            Touch::ReadByte | Touch::Read => {
                self.home.write32(FOUND, 0);
                let faults = self.transfer(Direction::FromMemory, address, len)?;
                self.carry(Direction::ToMemory, home + FOUND, len)?;
                Ok((exit(&faults, Operation::Read, bits), self.home.read32(FOUND)))
            }
            Touch::Execute => Err("a device fetches no instructions".into()),
        }
    }
}

impl<K> Iommu<K> {
    /// One transfer, and the faults that it made.
    fn transfer(&mut self, direction: Direction, bus: u64, len: u64) -> Result<Vec<Fault>, String> {
        self.edu.transfer(direction, bus, len).map_err(text)?;
        let mut faults = Vec::new();
        self.vtd.read_faults(&mut |fault| faults.push(*fault));
        Ok(faults)
    }

    /// One to or from the device's home, where nothing is to be in its way.
    fn carry(&mut self, direction: Direction, bus: u64, len: u64) -> Result<(), String> {
        let faults = self.transfer(direction, bus, len)?;
        let sentences: Vec<String> = faults.iter().map(ToString::to_string).collect();
        ensure!(faults.is_empty(), "the device does not reach its home: {}", sentences.join("; "));
        Ok(())
    }
}

impl<K> Drop for Iommu<K> {
    fn drop(&mut self) {
        if let Err(error) = self.vtd.stop() {
            log::error!("the unit cannot be stopped: {error}");
        }
    }
}

/// What the faults of an operation say of it, on a table for addresses of so many bits.
fn exit(faults: &[Fault], operation: Operation, bits: u32) -> Exit {
    let (denied, tried) = match operation {
        Operation::Write => (Reason::NO_WRITE, Access::WRITE),
        _ => (Reason::NO_READ, Access::READ),
    };
    let reason = |address: u64| if address >> bits == 0 { denied } else { Reason::BEYOND_WIDTH };
    match faults {
        [] => Exit::Call,
        [fault]
            if fault.source == PROBER
                && fault.operation == operation
                && fault.reason == reason(fault.address) =>
        {
            Exit::Violation(Violation {
                address: fault.address,
                tried,
                present: None,
                granted: None,
                in_guest_walk: false,
            })
        }
        [fault, ..] => {
            let code = format!("{fault}, of {}", faults.len());
            log::error!(target: "vtd", "{code}");
            Exit::Other { code: fault.reason.0.into(), info: [fault.address, fault.source.raw().into()] }
        }
    }
}
