//! Random calls with random trouble, against what they should come to.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use testkit::vtd::Trouble;
use xen_iommu::vtd::registers::FaultStatus;

const DEVICES: [u16; 4] = [0x0008, 0x0010, 0x0708, 0xff00];
const SPACES: usize = 3;
const PAGES: u64 = 4;

#[derive(Clone, Debug)]
enum Call {
    Attach(usize, usize),
    Detach(usize),
    Map(usize, u64, u64),
    Unmap(usize, u64),
    Dma(usize, u64),
}

fn call() -> impl Strategy<Value = (Call, Option<(u32, u8)>)> {
    let call = prop_oneof![
        3 => (0..DEVICES.len(), 0..SPACES).prop_map(|(device, space)| Call::Attach(device, space)),
        1 => (0..DEVICES.len()).prop_map(Call::Detach),
        2 => (0..SPACES, 0..PAGES, 1..9u64).prop_map(|(space, gfn, mfn)| Call::Map(space, gfn, mfn)),
        2 => (0..SPACES, 0..PAGES).prop_map(|(space, gfn)| Call::Unmap(space, gfn)),
        3 => (0..DEVICES.len(), 0..PAGES).prop_map(|(device, gfn)| Call::Dma(device, gfn)),
    ];
    // An error at one of the next descriptors, now and then.
    (call, prop::option::weighted(0.2, (0..12u32, 4..7u8)))
}

proptest! {
    #[test]
    fn devices_reach_what_they_are_attached_to_and_nothing_else(
        calls in prop::collection::vec(call(), 1..40),
        queue: bool,
        at_once: bool,
        caching_mode: bool,
    ) {
        let cap = CAP | u64::from(caching_mode) << 7;
        let rig = Rig::of(cap, MODEL_ECAP, queue, at_once);
        let tables: Vec<DeviceRoot> = (0..SPACES).map(|_| rig.table(4, &[])).collect();
        let mut pages: Vec<BTreeMap<u64, u64>> = vec![BTreeMap::new(); SPACES];
        let mut attached: BTreeMap<usize, usize> = BTreeMap::new();
        for (call, trouble) in calls {
            let queue_error = trouble.map(|(after, bit)| (after, FaultStatus::from_bits_retain(1 << bit)));
            rig.model.trouble(Trouble { queue_error, ..Trouble::default() });
            match call {
                Call::Attach(index, space) => {
                    let source = Sbdf::from_raw(u32::from(DEVICES[index]));
                    match rig.vtd.attach(source.into(), SpaceId(space as u32), tables[space]) {
                        Ok(()) => drop(attached.insert(index, space)),
                        Err(error) => prop_assert!(matches!(error, HardwareError::QueueError { .. }), "{}", error),
                    }
                }
                Call::Detach(index) => {
                    let source = Sbdf::from_raw(u32::from(DEVICES[index]));
                    match rig.vtd.detach(source.into()) {
                        Ok(()) => drop(attached.remove(&index)),
                        Err(error) => prop_assert!(matches!(error, HardwareError::QueueError { .. }), "{}", error),
                    }
                }
                Call::Map(space, gfn, mfn) => {
                    // A present page that changes is unmapped first, as the policy does.
                    let only_added = pages[space].insert(gfn, mfn).is_none();
                    rig.arena.map(tables[space], gfn, mfn, PageSize::Size4K, Access::READ_WRITE);
                    let flush = Flush::new(flush_of(gfn, gfn + 1).gfns(), only_added, 0);
                    while rig.vtd.flush(SpaceId(space as u32), &flush).is_err() {}
                }
                Call::Unmap(space, gfn) => {
                    pages[space].remove(&gfn);
                    rig.arena.map(tables[space], gfn, 0, PageSize::Size4K, Access::empty());
                    while rig.vtd.flush(SpaceId(space as u32), &flush_of(gfn, gfn + 1)).is_err() {}
                }
                Call::Dma(index, gfn) => {
                    let expected = attached.get(&index).and_then(|&space| pages[space].get(&gfn));
                    let got = rig.model.dma(DEVICES[index], gfn << 12, true);
                    prop_assert_eq!(got.ok(), expected.map(|mfn| mfn << 12));
                }
            }
            rig.model.trouble(Trouble::default());
        }
        for (index, source) in DEVICES.iter().enumerate() {
            for gfn in 0..PAGES {
                let expected = attached.get(&index).and_then(|&space| pages[space].get(&gfn));
                prop_assert_eq!(rig.model.dma(*source, gfn << 12, true).ok(), expected.map(|mfn| mfn << 12));
            }
        }
        // Each space has its id as long as a device is there, and no longer.
        for (index, source) in DEVICES.iter().enumerate() {
            for space in 0..SPACES {
                let is_there = attached.values().any(|&its| its == space);
                prop_assert_eq!(rig.vtd.units()[0].has_space(SpaceId(space as u32)), is_there);
            }
            rig.vtd.detach(Sbdf::from_raw(u32::from(*source)).into()).unwrap();
            attached.remove(&index);
        }
        rig.model.check_tables();
        prop_assert_eq!(rig.model.violations(), [] as [&str; 0]);
        // Leaked memory is the price of `'static`; frames are not.
        rig.vtd.stop().unwrap();
    }
}
