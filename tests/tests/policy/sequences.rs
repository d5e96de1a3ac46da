//! Random calls, with random failures, checked after each.

use proptest::prelude::*;
use xen_iommu::{GroupPolicy, Mode, Sbdf};

use crate::calls::{Call, Failure, run};
use crate::world::DEVICES;

fn devices() -> impl Strategy<Value = Vec<Sbdf>> {
    let all: Vec<Sbdf> = DEVICES.iter().map(|(device, _)| *device).collect();
    prop_oneof![
        prop::sample::subsequence(all.clone(), 1..=3),
        // Whole groups, so that many calls go through.
        prop::sample::select(vec![
            vec![all[0]],
            vec![all[1], all[2], all[3]],
            vec![all[4], all[5]],
            vec![all[6]],
            vec![all[7]],
        ]),
    ]
}

fn call(relaxed: bool) -> impl Strategy<Value = Call> {
    let mode = if relaxed {
        prop_oneof![Just(Mode::Strict), Just(Mode::Relaxed)].boxed()
    } else {
        Just(Mode::Strict).boxed()
    };
    prop_oneof![
        5 => (devices(), 0_u16..3, mode).prop_map(|(devices, domain, mode)| Call::Assign(devices, domain, mode)),
        3 => (devices(), 0_u16..3).prop_map(|(devices, domain)| Call::Deassign(devices, domain)),
        1 => (0_u16..3).prop_map(Call::Create),
        1 => (0_u16..3).prop_map(Call::Destroy),
        1 => (0..DEVICES.len()).prop_map(Call::Add),
        1 => (0..DEVICES.len()).prop_map(Call::Remove),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![
        3 => Just(Failure::None),
        1 => (0_u64..12).prop_map(Failure::Frames),
        1 => (0_u64..8).prop_map(Failure::Hardware),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn strict_calls(calls in prop::collection::vec((call(false), failure()), 1..40)) {
        run(GroupPolicy::Refuse, true, &calls);
    }

    #[test]
    fn strict_calls_that_move_whole_groups(calls in prop::collection::vec((call(false), failure()), 1..40)) {
        run(GroupPolicy::MoveWhole, true, &calls);
    }

    #[test]
    fn relaxed_calls(calls in prop::collection::vec((call(true), failure()), 1..40)) {
        run(GroupPolicy::Refuse, false, &calls);
    }
}
