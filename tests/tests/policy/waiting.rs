//! A member that waits in quarantine does no DMA into what a guest holds.

use testkit::world::check::Rules;
use testkit::world::devices::{A, B, C, D, E, F, J, OF_B, OF_D, OF_F, function, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, Machine, Reserved, World, with_world};
use xen_iommu::abi::Errno;
use xen_iommu::pci::{Function, RequesterIds};
use xen_iommu::region::forbidden::Bar;
use xen_iommu::{AssignError, DomId, HardwareError, Mode, NotQuiesced, Note, Owner, Sbdf};

fn off(world: &World<'_>) -> Vec<Sbdf> {
    world.controlled().off.iter().copied().collect()
}

fn stubborn(world: &World<'_>, devices: &[Sbdf]) {
    world.controlled().stubborn = devices.iter().copied().collect();
}

#[test]
fn they_are_off_before_a_guest_gets_what_they_reach_and_until_they_move() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        assert_eq!(off(world), [], "nobody has anything of theirs yet");
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[B], GUEST, Mode::Strict, hear));
        done.unwrap();
        assert_eq!(off(world), [C, D]);
        assert!(notes.contains(&Note::Quiesced(C)) && notes.contains(&Note::Quiesced(D)), "{notes:?}");
        assert!(world.policy.is_quiesced(C) && !world.policy.is_quiesced(B));
        world.check(Rules::STRICT);
        world.assign(&[C], GUEST, Mode::Strict).unwrap();
        assert_eq!(off(world), [D], "its owner may switch it on");
        // It stays off when the guest gives all back; home it is on again.
        world.deassign(&[B, C], GUEST).unwrap();
        assert_eq!(off(world), [D]);
        world.deassign(&[D], DomId::IO).unwrap();
        assert_eq!(off(world), []);
        world.check(Rules::STRICT);
    });
}

#[test]
fn they_are_off_before_the_memory_is_mapped() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        // The first thing that the hardware is asked for fails: by then they are off, and on again when the
        // move has failed.
        let before = world.snapshot();
        for calls in 0..3 {
            world.fail_after(calls);
            let done = world.assign(&[B], GUEST, Mode::Strict);
            if world.recover() || done.is_ok() {
                break;
            }
            assert_eq!(world.snapshot(), before, "after {calls} calls");
        }
        world.deassign(&[B], GUEST).unwrap();
    });
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        let before = world.snapshot();
        world.frames.limit(0);
        world.assign(&[B], GUEST, Mode::Strict).unwrap_err();
        world.frames.limit(None);
        assert_eq!(world.snapshot(), before);
        // One of them is stubborn: the other is on again.
        stubborn(world, &[D]);
        let refused = world.assign(&[B], GUEST, Mode::Strict);
        assert_eq!(
            refused,
            Err(AssignError::NotQuiesced { waiting: D, domain: GUEST, why: NotQuiesced::StaysOn })
        );
        assert_eq!(Errno::from(&refused.unwrap_err()), Errno::EBUSY);
        assert_eq!(world.snapshot(), before);
        world.check(Rules::STRICT);
    });
}

#[test]
fn relaxed_goes_on_and_the_unit_blocks_what_cannot_be_switched_off() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        stubborn(world, &[D]);
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[B], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        let blocked = Note::NotQuiesced { device: D, why: NotQuiesced::StaysOn, blocked: true };
        assert!(notes.contains(&blocked), "{notes:?}");
        assert_eq!((off(world), world.told().root(D)), (vec![C], None));
        world.check(Rules::RELAXED);
        // Blocked until it moves.
        world.deassign(&[B], GUEST).unwrap();
        assert_eq!(world.told().root(D), None);
        world.deassign(&[D], DomId::IO).unwrap();
        assert_eq!(world.dma(D, OF_D.0), Some(OF_D.0));
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_is_blocked_already_holds_nobody_up() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        stubborn(world, &[D]);
        world.assign(&[B], GUEST, Mode::Relaxed).unwrap();
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[C], GUEST, Mode::Strict, hear));
        done.unwrap();
        assert_eq!(notes, []);
        world.check(Rules::RELAXED);
    });
}

#[test]
fn a_relaxed_move_that_fails_blocks_nobody() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        stubborn(world, &[D]);
        let before = world.snapshot();
        world.frames.limit(0);
        world.assign(&[B], GUEST, Mode::Relaxed).unwrap_err();
        world.frames.limit(None);
        assert_eq!(world.snapshot(), before);
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_comes_back_while_others_keep_its_memory_is_off_or_blocked_and_never_refused() {
    with_world(machine(), |world| {
        world.assign(&[B, C, D], GUEST, Mode::Strict).unwrap();
        world.deassign(&[B], GUEST).unwrap();
        assert_eq!(off(world), [B]);
        stubborn(world, &[C]);
        let ((), notes) = world.noted(|world, hear| world.policy.deassign(&[C], GUEST, hear).unwrap());
        let blocked = Note::NotQuiesced { device: C, why: NotQuiesced::StaysOn, blocked: true };
        assert!(notes.contains(&blocked), "{notes:?}");
        assert_eq!(world.told().root(C), None);
        world.check(Rules::STRICT);
        // The last has nobody to disturb.
        world.deassign(&[D], GUEST).unwrap();
        assert_eq!(off(world), [B]);
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_switch_that_fails_on_the_way_back_leaves_it_on_and_unblocked() {
    with_world(machine(), |world| {
        world.assign(&[B, C, D], GUEST, Mode::Strict).unwrap();
        for hard in [&[][..], &[B]] {
            stubborn(world, hard);
            let before = world.snapshot();
            world.fail_after(0);
            let refused = world.deassign(&[B], GUEST);
            assert!(matches!(refused, Err(AssignError::Hardware { device: B, .. })), "{refused:?}");
            assert_eq!(world.snapshot(), before);
        }
        // Nothing of the failed try is left: with nobody else in the guest it reaches its region from
        // quarantine.
        stubborn(world, &[]);
        world.deassign(&[C, D], GUEST).unwrap();
        world.deassign(&[B], GUEST).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn all_of_a_requester_reach_what_one_of_them_does() {
    with_world(machine(), |world| {
        world.make_assignable(&[E, F, J]);
        world.assign(&[J], GUEST, Mode::Strict).unwrap();
        assert_eq!(off(world), [E, F], "both go through the tables with the region");
        world.check(Rules::STRICT);
    });
    // So it is for one that comes back later.
    with_world(machine(), |world| {
        world.assign(&[E, F, J], GUEST, Mode::Strict).unwrap();
        world.deassign(&[E, F], GUEST).unwrap();
        assert_eq!(off(world), [E, F]);
        world.check(Rules::STRICT);
    });
}

#[test]
fn what_has_gone_leaves_no_way_to_its_memory_with_those_of_its_requester() {
    with_world(machine(), |world| {
        world.make_assignable(&[E, F, J]);
        world.remove(F).unwrap();
        assert_eq!(world.dma(E, OF_F.0), None, "its tables are for what is there");
        world.assign(&[J], GUEST, Mode::Strict).unwrap();
        world.check(Rules::STRICT);
        assert_eq!(off(world), []);
        world.add(&function(F)).unwrap();
        world.check(Rules::STRICT);
    });
}

#[test]
fn nobody_is_switched_off_for_the_hardware_domain_or_for_nothing() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D, A]);
        world.deassign(&[B], DomId::IO).unwrap();
        world.assign(&[A], GUEST, Mode::Strict).unwrap();
        assert_eq!(off(world), []);
        assert_eq!(world.owner(B), Some(Owner::Domain(HARDWARE_DOMAIN)));
        world.check(Rules::STRICT);
    });
}

#[test]
fn a_block_that_fails_is_told() {
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        stubborn(world, &[D]);
        world.fail_after(0);
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[B], GUEST, Mode::Relaxed, hear));
        world.recover();
        done.unwrap();
        assert!(
            notes.iter().any(|note| matches!(
                note,
                Note::Suspect { source_id: D, error: HardwareError::TimedOut { .. } }
            )),
            "{notes:?}"
        );
        let goes_on = Note::NotQuiesced { device: D, why: NotQuiesced::StaysOn, blocked: false };
        assert!(notes.contains(&goes_on), "{notes:?}");
        assert!(world.policy.is_suspect(D));
    });
}

#[test]
fn nobody_is_switched_off_for_a_region_that_the_guest_does_not_get() {
    // It stays with the hardware domain's device: who waits goes on.
    with_world(machine(), |world| {
        world.make_assignable(&[C]);
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[B], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert!(matches!(notes[..], [Note::LeftWith { domain: HARDWARE_DOMAIN, .. }]), "{notes:?}");
        assert_eq!(off(world), []);
        world.check(Rules::RELAXED);
    });
    // Nor for one that lies over what no guest may reach.
    with_world(machine(), |world| {
        world.make_assignable(&[B, C, D]);
        let base = OF_B.0 << 12;
        world.controlled().bars = vec![Bar { device: A, base, limit: base + 0xfff }];
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[B], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert!(matches!(notes[..], [Note::WithoutForbidden { .. }]), "{notes:?}");
        assert_eq!(off(world), []);
        world.check(Rules::RELAXED);
    });
}

#[test]
fn who_waits_with_a_mate_at_home_is_not_said_to_be_blocked() {
    let (one, other, shared) = (Sbdf::new(0, 9, 0, 0), Sbdf::new(0, 9, 1, 0), Sbdf::new(0, 9, 2, 0));
    let with = |sbdf| {
        let mut ids = RequesterIds::one(sbdf);
        assert!(ids.add(shared));
        Function { ids, ..Function::endpoint(sbdf) }
    };
    // One waits, and shares a region with A; the other is at home, and with it both.
    let devices = vec![Function::endpoint(A), with(one), with(other)];
    with_world(Machine::new(devices, vec![Reserved::of(0x1000, 0x1001, &[A, one])]), |world| {
        world.make_assignable(&[one]);
        stubborn(world, &[one]);
        let (done, notes) = world.noted(|world, hear| world.policy.assign(&[A], GUEST, Mode::Relaxed, hear));
        done.unwrap();
        assert!(matches!(notes[..], [Note::LeftWith { domain: HARDWARE_DOMAIN, .. }]), "{notes:?}");
        assert!(world.told().root(one).is_some());
        world.check(Rules::RELAXED);
    });
}
