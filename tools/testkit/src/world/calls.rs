//! Calls of the policy, each with something failing or nothing, and what must hold after each.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;

use xen_iommu::abi::Errno;
use xen_iommu::{DomId, Isolation, Mode, Owner, Sbdf};

use super::check::Rules;
use super::devices::{ALL, BRIDGE, function, isolating, machine};
use super::model::Model;
use super::{GUEST, HARDWARE_DOMAIN, OTHER, World, space};
use crate::frames::Frames;

/// A call. Devices to add or remove are places in [`ALL`].
#[derive(Clone, Debug)]
pub enum Call {
    /// Devices to a domain; the last says whether with their groups, if it is one device.
    Assign(Vec<Sbdf>, DomId, Mode, bool),
    /// Devices from a domain.
    Deassign(Vec<Sbdf>, DomId),
    /// A new domain.
    Create(DomId),
    /// The end of one.
    Destroy(DomId),
    /// A device appears.
    Add(usize),
    /// A device goes.
    Remove(usize),
    /// What is owed is flushed.
    Flush(DomId),
    /// These cannot be switched off from now on, by their places; the others can.
    Stubborn(u16),
}

/// What fails during a call.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// Nothing.
    None,
    /// Allocations, after so many.
    Frames(u64),
    /// One call of the hardware, after so many.
    Hardware(u64),
}

/// Makes a call; its error, if it was refused.
pub fn make(world: &World<'_>, call: &Call) -> Option<Errno> {
    let mut hear = |note| world.hear(note);
    let policy = &world.policy;
    match call {
        Call::Assign(devices, domain, mode, whole) => match (&devices[..], whole) {
            ([device], true) => policy.assign_group(*device, *domain, *mode, &mut hear),
            _ => policy.assign(devices, *domain, *mode, &mut hear),
        }
        .map_err(|error| Errno::from(&error))
        .err(),
        Call::Deassign(devices, domain) => {
            world.deassign(devices, *domain).map_err(|error| Errno::from(&error)).err()
        }
        Call::Create(domain) => match space(world.frames) {
            Some(space) => policy.create_domain(*domain, space).map_err(|error| Errno::from(&error)).err(),
            None => Some(Errno::ENOMEM),
        },
        Call::Destroy(domain) => {
            // Some devices may be in quarantine already when a later one fails, so a refusal may have changed
            // something.
            let _ = world.destroy(*domain);
            None
        }
        Call::Add(place) => world.add(&function(ALL[*place])).map_err(|error| Errno::from(&error)).err(),
        Call::Remove(place) => world.remove(ALL[*place]).map_err(|error| Errno::from(&error)).err(),
        Call::Flush(domain) => {
            let _ = policy.flush_domain(*domain);
            None
        }
        Call::Stubborn(places) => {
            let chosen = |(place, _): &(usize, Sbdf)| places >> place & 1 == 1;
            let stubborn: BTreeSet<Sbdf> =
                ALL.into_iter().enumerate().filter(chosen).map(|(_, device)| device).collect();
            world.controlled().stubborn = stubborn;
            None
        }
    }
}

/// Calls, each with its failure, on a new machine, with all checked after each; at last everything goes back
/// to where it began. An assignment where nothing fails must end as [`Model`] says.
///
/// # Panics
/// Where something does not hold.
pub fn run(isolation: Isolation, calls: &[(Call, Failure)]) {
    let frames = Frames::new(512);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    let machine = if isolation == Isolation::Require { isolating() } else { machine() };
    let world = World::new(&frames, &mut memory, machine);
    let free = frames.free_count();
    world.create(GUEST);
    world.create(OTHER);
    let mut strict = true;
    for (call, failure) in calls {
        if let Call::Assign(_, domain, Mode::Relaxed, _) = call {
            strict &= *domain == DomId::IO;
        }
        step(&world, call, *failure, if strict { Rules::STRICT } else { Rules::RELAXED });
    }
    put_back(&world, free);
}

fn step(world: &World<'_>, call: &Call, failure: Failure, rules: Rules) {
    let (before, said) = (world.snapshot(), world.said());
    let model = Model::new(world);
    let torn = model.torn();
    match failure {
        Failure::None => {}
        Failure::Frames(left) => world.frames.limit(left),
        Failure::Hardware(left) => world.fail_after(left),
    }
    let refused = make(world, call);
    world.frames.limit(None);
    world.recover();
    let doing = || format!("{call:?} under {failure:?}: {refused:?}");
    if let (Call::Assign(devices, domain, mode, false), Failure::None) = (call, failure) {
        let expected = model.assign(devices, *domain, *mode);
        match refused {
            // Memory and hardware are no matter of the model.
            Some(error) => assert!(expected.contains(&error), "{}, not {expected:?}", doing()),
            None => assert!(expected.is_empty(), "{}, not {expected:?}", doing()),
        }
    }
    if refused.is_some() {
        world.unsay(said);
        assert_eq!(world.snapshot(), before, "{}", doing());
    }
    if rules.strict && !matches!(call, Call::Add(_)) {
        let now = Model::new(world).torn();
        assert!(now.is_subset(&torn), "{} tore {:?}", doing(), now.difference(&torn));
    }
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check(rules)));
    if let Err(panic) = checked {
        eprintln!("after {}", doing());
        std::panic::resume_unwind(panic);
    }
}

/// All is given back, one by one, and nothing is lost by it.
///
/// # Panics
/// Where something cannot be given back, or is lost.
pub fn put_back(world: &World<'_>, free: usize) {
    world.controlled().stubborn.clear();
    let owned: Vec<(Sbdf, Owner)> = world.snapshot().owners.into_iter().collect();
    for (device, owner) in owned {
        if let Owner::Domain(id) = owner
            && id != HARDWARE_DOMAIN
        {
            world.deassign(&[device], id).unwrap();
            world.check(Rules::RELAXED);
        }
    }
    for id in (1..4).map(DomId) {
        let known = world.policy.with_space(id, |_| ()).is_some();
        assert_eq!(world.destroy(id).is_ok(), known);
    }
    for device in world.present() {
        world.remove(device.sbdf).unwrap();
        world.check(Rules::RELAXED);
    }
    assert_eq!(world.snapshot().owners.len(), 0);
    assert!(world.told().attached.is_empty(), "{:?} are attached still", world.told().attached);
    for device in ALL {
        world.add(&function(device)).unwrap();
    }
    world.check(Rules::STRICT);
    let end = world.snapshot();
    assert!(end.owners.values().all(|owner| *owner == Owner::Domain(HARDWARE_DOMAIN)));
    assert!(end.owners.contains_key(&BRIDGE));
    assert_eq!(world.frames.free_count(), free, "frames were lost");
}
