//! Regions that neither the table nor the option states.

use std::mem::MaybeUninit;

use xen_iommu::region::devices::Devices;
use xen_iommu::region::memory::KeepRam;
use xen_iommu::region::record::{Origin, Record};
use xen_iommu::region::registry::RegistryBuilder;
use xen_iommu::{Arena, Sbdf};

use crate::kit::{BELOW, bus, frames, host};

#[test]
fn other_readers_and_the_hypervisor_submit_records() {
    let mut memory = vec![MaybeUninit::uninit(); 1 << 14];
    let mut arena = Arena::new(&mut memory);
    let mut builder = RegistryBuilder::default();
    let mut keep = KeepRam;
    let bus = bus();
    let mut host = host(&bus, &mut keep);
    let range = |first, last| {
        [Devices::Requesters { first: Sbdf::new(0, first, 0, 0), last: Sbdf::new(0, last, 0, 7) }]
    };
    for (base, devices, verdict) in [
        (0x3000_0000, range(3, 4), "accepted"),
        (0x3000_1000, range(9, 9), "dormant: no device of it is present"),
        (
            0x7000_0000,
            range(3, 3),
            "rejected: it is over the memory-mapped configuration space at 0x70000000",
        ),
    ] {
        let record = Record::identity(base, base + 0xfff, Origin::Hypervisor, &devices);
        let region = host.add_record(&record, &mut builder, &mut arena).unwrap();
        assert_eq!(region.verdict().to_string(), verdict);
        assert_eq!((region.name(), region.access()), (record.name(), p2m::Access::READ_WRITE));
    }
    let registry = builder.freeze(&mut arena).unwrap();
    assert_eq!(registry.regions_of(BELOW).count(), 2);
    for (device, expected) in [
        (BELOW, vec![(0x30000, 1)]),
        (Sbdf::new(0, 4, 0, 7), vec![(0x30000, 1)]),
        (Sbdf::new(0, 4, 1, 0), vec![]),
        (Sbdf::new(1, 3, 0, 0), vec![]),
    ] {
        assert_eq!(frames(&registry, device), expected, "{device}");
    }
}
