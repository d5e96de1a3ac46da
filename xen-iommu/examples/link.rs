//! What a hypervisor writes to use the policy: page frames, PCI configuration space and the memory map go in;
//! decisions, tables and answers come out.
//!
//! Runs on a host with a made-up machine: `cargo run -p xen-iommu --example link`. Two devices share a
//! region; the hardware only prints what it is told.
#![allow(unsafe_code, reason = "the frame source promises that its frames are real")]

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicU64;

use acpi_dmar::Dmar;
use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::pci_types::{ConfigRegionAccess, PciAddress};
use p2m::{DeviceRoot, Flush, FrameSource, Mfn, PageSize, SecondLevel, Table, TableFrame};
use xen_iommu::region::forbidden::Bar;
use xen_iommu::region::forbidden::Window;
use xen_iommu::region::intake::Host;
use xen_iommu::region::memory::{KeepRam, MemoryKind, MemoryRegion};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::region::resolved::ResolvedScopes;
use xen_iommu::{
    Arena, Capacity, DeviceControl, DomId, HardwareError, Isolation, Mode, NotQuiesced, Policy,
    RemappingHardware, RequesterId, Sbdf, Setup, SpaceId,
};

/// Page-table frames: here a vector, in a hypervisor its frame allocator.
struct Frames {
    frames: Vec<TableFrame>,
    free: RefCell<Vec<u64>>,
}

// SAFETY: each number stands for a frame of the vector, is handed out once until it is freed, and is zeroed
// then.
unsafe impl FrameSource for Frames {
    fn allocate(&self) -> Option<Mfn> {
        let frame = Mfn::new(self.free.borrow_mut().pop()?);
        self.table(frame)?.0.iter().for_each(|entry| entry.store(0, std::sync::atomic::Ordering::Relaxed));
        Some(frame)
    }

    fn free(&self, frame: Mfn) {
        self.free.borrow_mut().push(frame.raw());
    }

    fn table(&self, frame: Mfn) -> Option<&TableFrame> {
        self.frames.get(usize::try_from(frame.raw()).ok()?)
    }
}

/// Configuration space in which 00:04.0 and 00:05.0 are there: in a hypervisor ECAM or ports.
struct Pci;

impl ConfigRegionAccess for Pci {
    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn read(&self, address: PciAddress, offset: u16) -> u32 {
        match (address.bus(), address.device(), address.function(), offset) {
            (0, 4 | 5, 0, 0) => 0x11e8_1234,
            (0, 4 | 5, 0, _) => 0,
            _ => u32::MAX,
        }
    }

    // SAFETY: any address and offset will do: what answers is made up.
    unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
}

/// Remapping hardware that says what it is told: in a hypervisor `xen_iommu::vtd::Vtd`, or a driver of its
/// own.
struct Hardware;

impl RemappingHardware for Hardware {
    fn attach(&self, requester: RequesterId, space: SpaceId, root: DeviceRoot) -> Result<(), HardwareError> {
        println!(
            "  hardware: {requester} goes through the table at frame {} (space {:#x})",
            root.root, space.0
        );
        Ok(())
    }

    fn detach(&self, requester: RequesterId) -> Result<(), HardwareError> {
        println!("  hardware: {requester} is blocked");
        Ok(())
    }

    fn flush(&self, space: SpaceId, flush: &Flush) -> Result<(), HardwareError> {
        println!("  hardware: space {:#x} forgets guest frames {}", space.0, flush.gfns());
        Ok(())
    }

    fn check_translating(&self, _: RequesterId) -> Result<(), HardwareError> {
        Ok(())
    }

    fn address_width(&self, _: RequesterId) -> Option<u8> {
        Some(39)
    }
}

/// Devices that do as told: in a hypervisor a reset, or the bus master enable bit.
struct Control;

impl DeviceControl for Control {
    fn quiesce(&mut self, device: Sbdf) -> Result<(), NotQuiesced> {
        println!("  control: the DMA of {device} is off");
        Ok(())
    }

    fn resume(&mut self, device: Sbdf) {
        println!("  control: {device} may do DMA again");
    }

    fn for_each_bar(&self, _: &mut dyn FnMut(Bar)) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Firmware's table: in a hypervisor the DMAR's bytes.
    let devices = [Sbdf::new(0, 0, 4, 0), Sbdf::new(0, 0, 5, 0)];
    let scopes = [ScopeBuilder::endpoint(0, &[(4, 0)]), ScopeBuilder::endpoint(0, &[(5, 0)])];
    let rmrr =
        scopes.into_iter().fold(StructureBuilder::rmrr(0, 0x7bd0_0000, 0x7bdf_ffff), StructureBuilder::scope);
    let table = TableBuilder::new().host_address_width(39).structure(rmrr).build();
    let dmar = Dmar::parse(&table)?;

    // 1. Regions: read, judged, registered, frozen.
    let memory_map = [MemoryRegion { start: 0x7bd0_0000, end: 0x7be0_0000, kind: MemoryKind::Reserved }];
    let mut memory = vec![MaybeUninit::uninit(); 64 << 10];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut host = Host {
        pci: &Pci,
        memory: &memory_map,
        frames: &mut KeepRam,
        address_width: dmar.host_address_width(),
        // No region may be over these.
        windows: &[
            Window::UnitRegisters { base: 0xfed9_0000, limit: 0xfed9_0fff },
            Window::ConfigSpace { base: 0xe000_0000, limit: 0xefff_ffff },
        ],
        unit_width: &|_| Some(39),
    };
    let scopes = ResolvedScopes::read(&dmar, &Pci, &mut arena)?;
    host.read_dmar(&dmar, &scopes, &mut builder, &mut arena, &mut |finding| println!("{finding:?}"))?;
    let registry = builder.freeze(&mut arena)?;

    // 2. The policy, with the hardware domain's address space.
    let frames = Frames {
        frames: (0..64).map(|_| TableFrame([const { AtomicU64::new(0) }; 512])).collect(),
        free: RefCell::new((1..64).collect()),
    };
    let space = || Table::new(SecondLevel::default(), &frames, 3, PageSize::Size1G);
    let setup = Setup {
        registry,
        hardware: Hardware,
        control: Control,
        hardware_domain: (DomId(0), space()?),
        isolation: Isolation::Report,
        capacity: Capacity { devices: 16, requester_ids: 16, domains: 4 },
    };
    let policy = Policy::new(setup, &mut arena)?;

    // 3. Devices, as a walk of PCI finds them (`pci::Topology`).
    let mut say = |note| println!("  note: {note}");
    for device in devices {
        let owner = policy.add_device(&device.into(), || space().ok(), &mut say)?;
        println!("{device} belongs to {owner}");
    }

    // 4. A domain, and devices for it: alone the one is refused, as the other is still the hardware domain's.
    //    In quarantine it is in nobody's way, and together they go.
    policy.create_domain(DomId(1), space()?)?;
    let [one, other] = devices;
    let mut assign = |wanted: &[Sbdf], domain, mode| match policy.assign(wanted, domain, mode, &mut say) {
        Ok(()) => println!("{wanted:?} assigned to {domain}"),
        Err(error) => println!("{wanted:?} refused: {error}"),
    };
    assign(&[one], DomId(1), Mode::Strict);
    assign(&[other], DomId::IO, Mode::Relaxed);
    assign(&[one], DomId(1), Mode::Strict);
    assign(&[other], DomId(1), Mode::Strict);

    // 5. The domain goes: its devices wait in quarantine.
    drop(policy.destroy_domain(DomId(1), &mut say)?);
    println!("{one} belongs to {}", policy.owner(one).ok_or("it has gone")?);
    Ok(())
}
