//! Any bytes as arguments of every call, with memory that fails or changes at any access: no panic, nothing
//! written but what the call returns, nothing read twice, error numbers of the table alone.

use proptest::prelude::*;
use testkit::hypercall::trial::{Trial, run_all};

fn memory() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_as_any_call(trials in prop::collection::vec((any::<[u8; 12]>(), memory()), 1..24)) {
        let trials = trials.iter().map(|(choices, memory)| Trial::of(choices, memory));
        run_all(trials);
    }
}
