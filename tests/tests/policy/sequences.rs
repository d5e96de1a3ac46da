//! Random calls, with random failures, checked after each, and beside a model of the rule of ownership.

use proptest::prelude::*;
use testkit::world::calls::{Call, Failure, run};
use testkit::world::devices::{A, ALL, B, C, D, E, F, G, H, J, P, PF, VF1, VF2, X, Y};
use xen_iommu::{DomId, Isolation, Mode, Sbdf};

fn devices() -> impl Strategy<Value = Vec<Sbdf>> {
    prop_oneof![
        2 => prop::sample::subsequence(ALL.to_vec(), 1..=3),
        3 => prop::sample::subsequence(ALL.to_vec(), 1..=1),
        // Whole groups, so that many calls go through.
        3 => prop::sample::select(vec![
            vec![A], vec![B, C, D], vec![E, F, J], vec![E, F], vec![G], vec![H], vec![P], vec![PF], vec![VF1, VF2],
            vec![X, Y],
        ]),
    ]
}

fn domain() -> impl Strategy<Value = DomId> {
    prop_oneof![
        2 => Just(DomId::IO),
        1 => Just(DomId(0)),
        4 => (1_u16..3).prop_map(DomId),
        1 => Just(DomId(3)),
    ]
}

fn call(relaxed: bool) -> impl Strategy<Value = Call> {
    let mode = prop_oneof![3 => Just(Mode::Strict), 2 => Just(Mode::Relaxed)];
    let assign =
        (devices(), domain(), mode, any::<bool>()).prop_map(move |(devices, domain, mode, whole)| {
            // What goes to quarantine goes relaxed, as toolstacks do it.
            let mode = if relaxed || domain == DomId::IO { mode } else { Mode::Strict };
            Call::Assign(devices, domain, mode, whole)
        });
    prop_oneof![
        10 => assign,
        5 => (devices(), domain()).prop_map(|(devices, domain)| Call::Deassign(devices, domain)),
        1 => (1_u16..4).prop_map(|id| Call::Create(DomId(id))),
        1 => (1_u16..4).prop_map(|id| Call::Destroy(DomId(id))),
        2 => (0..ALL.len()).prop_map(Call::Add),
        2 => (0..ALL.len()).prop_map(Call::Remove),
        1 => (0_u16..4).prop_map(|id| Call::Flush(DomId(id))),
        1 => (any::<u16>(), any::<u16>()).prop_map(|(some, others)| Call::Stubborn(some & others)),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    prop_oneof![
        4 => Just(Failure::None),
        1 => (0_u64..12).prop_map(Failure::Frames),
        1 => (0_u64..12).prop_map(Failure::Hardware),
    ]
}

fn calls(relaxed: bool) -> impl Strategy<Value = Vec<(Call, Failure)>> {
    prop::collection::vec((call(relaxed), failure()), 1..40)
}

fn config() -> ProptestConfig {
    let cases = std::env::var("POLICY_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(96);
    // Shrinking goes on as long as there is something to leave out, which is long where each try is slow.
    ProptestConfig { failure_persistence: None, max_shrink_iters: 300, ..ProptestConfig::with_cases(cases) }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn strict_calls(calls in calls(false)) {
        run(Isolation::Report, &calls);
    }

    #[test]
    fn strict_calls_where_isolation_is_required(calls in calls(false)) {
        run(Isolation::Require, &calls);
    }

    #[test]
    fn relaxed_calls(calls in calls(true)) {
        run(Isolation::Report, &calls);
    }

    #[test]
    fn relaxed_calls_where_isolation_is_required(calls in calls(true)) {
        run(Isolation::Require, &calls);
    }
}
