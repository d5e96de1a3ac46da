//! Devices that come, join requesters and go in any order, with failures.

use proptest::prelude::*;
use testkit::world::check::Rules;
use testkit::world::devices::{A, G, J};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, OTHER, Reserved, with_world};
use xen_iommu::pci::{Function, RequesterIds};
use xen_iommu::{DomId, Mode, Owner, Sbdf};

const NEW: Sbdf = Sbdf::new(0, 12, 0, 0);

fn with_ids(sbdf: Sbdf, more: &[Sbdf]) -> Function {
    let mut ids = RequesterIds::one(sbdf);
    assert!(more.iter().all(|id| ids.add(*id)));
    Function { ids, ..Function::endpoint(sbdf) }
}

/// Devices that share ids in a row, some of them by others alone: what comes and goes joins and parts them.
const ROW: [Sbdf; 6] = [A, G, J, NEW, Sbdf::new(0, 12, 1, 0), Sbdf::new(0, 12, 2, 0)];

fn of_row(place: usize) -> Function {
    let own = ROW[place];
    match place {
        3 => with_ids(own, &[A, G]),
        4 => with_ids(own, &[G, J, Sbdf::new(0, 13, 0, 0)]),
        5 => with_ids(own, &[NEW, Sbdf::new(0, 13, 0, 0)]),
        _ => Function::endpoint(own),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Whatever comes and goes, and fails: nothing is reached that should not be, and what fails changes
    /// nothing.
    #[test]
    fn whatever_joins_is_translated_alike(
        calls in prop::collection::vec((0_usize..6, 0_u8..6, prop::option::of(0_u64..10), 0_u64..12), 1..40)
    ) {
        let regions = vec![
            Reserved::of(0x1000, 0x1010, &[A, ROW[4]]),
            Reserved::of(0x2000, 0x2300, &[J, ROW[5]]),
            Reserved::of(0x2200, 0x2500, &[G]),
        ];
        let machine = Machine::new((0..3).map(of_row).collect(), regions);
        with_world(machine, |world| {
            for (place, call, fails, frames) in calls {
                let (device, before) = (ROW[place], world.snapshot());
                let said = world.said();
                if let Some(after) = fails {
                    world.fail_after(after);
                } else if frames < 6 {
                    world.frames.limit(frames);
                }
                let to = [GUEST, OTHER, DomId::IO, HARDWARE_DOMAIN][usize::from(call) % 4];
                let refused = match call {
                    4 => world.add(&of_row(place)).is_err(),
                    5 => world.remove(device).is_err(),
                    _ => match world.owner(device) {
                        Some(Owner::Domain(id)) if id != HARDWARE_DOMAIN => {
                            world.deassign(&[device], id).is_err()
                        }
                        _ => world.assign(&[device], to, Mode::Strict).is_err(),
                    },
                };
                world.recover();
                world.frames.limit(None);
                if refused {
                    world.unsay(said);
                    assert_eq!(world.snapshot(), before);
                }
                world.check(Rules::RELAXED);
            }
            for device in ROW {
                let _ = world.remove(device);
                world.check(Rules::RELAXED);
            }
            assert!(world.told().attached.is_empty(), "{:?}", world.told().attached);
        });
    }
}
