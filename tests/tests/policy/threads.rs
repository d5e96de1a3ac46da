//! Callers on several processors at once: nobody waits for ever, owners are never torn, and reading waits for
//! nobody.
//!
//! The policy is built with `lock-order` here: a lock taken out of its order ends the test.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use testkit::frames::Frames;
use testkit::world::calls::{Call, make, put_back};
use testkit::world::check::Rules;
use testkit::world::devices::{A, ALL, B, C, D, E, F, G, H, J, P, PF, VF1, machine};
use testkit::world::{GUEST, HARDWARE_DOMAIN, OTHER, World};
use xen_iommu::abi::Layout;
use xen_iommu::hypercall::{Caller, GuestFault, GuestMemory, reserved_device_memory_map};
use xen_iommu::{DomId, Mode, Note, Owner, Sbdf};

/// Longer than any machine takes; what waits so long waits for ever.
const PATIENCE: Duration = Duration::from_secs(300);
const CALLERS: u64 = 4;
const CALLS: u64 = if cfg!(debug_assertions) { 400 } else { 20_000 };

/// A sequence of numbers that is the same every time (Marsaglia's xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or(0) % end
    }
}

fn call(numbers: &mut Numbers) -> Call {
    let sets: [&[Sbdf]; 10] = [&[A], &[B, C, D], &[E, F, J], &[B], &[G], &[H, E], &[P], &[PF], &[VF1], &[J]];
    let set = sets[numbers.below(sets.len())].to_vec();
    let domain = [HARDWARE_DOMAIN, GUEST, OTHER, DomId::IO][numbers.below(4)];
    match numbers.below(16) {
        0..7 => Call::Assign(set, domain, Mode::Strict, false),
        7..11 => Call::Deassign(set, domain),
        11 => Call::Create(domain),
        12 => Call::Destroy(domain),
        13 => Call::Flush(domain),
        14 => Call::Add(numbers.below(ALL.len())),
        _ => Call::Remove(numbers.below(ALL.len())),
    }
}

/// Between moves no group has two owners; the hardware domain's members go to quarantine one by one. (A
/// reader that does not keep movers out may see a move half done.)
fn check_groups(world: &World<'_>) {
    let mut owners = Vec::new();
    let mut look = || world.policy.for_each_device(|device, owner| owners.push((device, owner)));
    world.policy.with_control(|_| look());
    for group in [&[B, C, D][..], &[E, F]] {
        let of_group = owners.iter().filter(|(device, _)| group.contains(device));
        let of_group: BTreeSet<_> = of_group
            .filter_map(|(_, owner)| if let Owner::Domain(id) = owner { Some(*id) } else { None })
            .collect();
        assert!(of_group.len() <= 1, "a group was seen with {of_group:?}");
    }
}

/// A guest whose memory is one array.
struct Memory([u8; 4096]);

impl GuestMemory for Memory {
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), GuestFault> {
        let from = usize::try_from(address).map_err(|_| GuestFault)?;
        bytes.copy_from_slice(self.0.get(from..from + bytes.len()).ok_or(GuestFault)?);
        Ok(())
    }

    fn is_guest_address(&self, address: u64) -> bool {
        address < 4096
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), GuestFault> {
        let from = usize::try_from(address).map_err(|_| GuestFault)?;
        self.0.get_mut(from..from + bytes.len()).ok_or(GuestFault)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// What [`query`] is to find: two of the six regions overlap, and are answered as one.
const ANSWERED: u32 = 5;

/// Asks for all regions, by Xen's hypercall; how many there are.
fn query(world: &World<'_>) -> u32 {
    ask(world, 1, Sbdf::from_raw(0))
}

/// Asks for a device's.
fn query_of(world: &World<'_>, device: Sbdf) -> u32 {
    ask(world, 0, device)
}

fn ask(world: &World<'_>, flags: u8, device: Sbdf) -> u32 {
    let mut memory = Memory([0; 4096]);
    memory.0[..24].copy_from_slice(&[
        flags,
        0,
        0,
        0,
        64,
        0,
        0,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        device.bus(),
        device.devfn(),
        0,
        0,
        0,
        0,
    ]);
    let registry = world.policy.registry();
    let (caller, others) = (Caller::Privileged, |device| world.policy.inseparable(device));
    reserved_device_memory_map(registry, &mut memory, caller, Layout::Native, 0, 0, others).unwrap();
    u32::from_le_bytes(*memory.0[4..].first_chunk().unwrap())
}

#[test]
fn callers_at_once_tear_nothing_and_wait_not_for_ever() {
    let frames = Frames::new(1024);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    let world = World::new(&frames, &mut memory, machine());
    let free = frames.free_count();
    world.create(GUEST);
    world.create(OTHER);
    let (done, finished) = mpsc::channel();
    let over = AtomicBool::new(false);
    let granted = AtomicUsize::new(0);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (world, done, granted) = (&world, done.clone(), &granted);
            scope.spawn(move || {
                let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ caller << 32);
                for _ in 0..CALLS {
                    if make(world, &call(&mut numbers)).is_none() {
                        granted.fetch_add(1, Ordering::Relaxed);
                    }
                    check_groups(world);
                }
                done.send(()).unwrap();
            });
        }
        let (world, over) = (&world, &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(query(world), ANSWERED);
                for region in world.policy.registry().regions() {
                    assert!(region.owner().is_none_or(|id| id.0 < 3));
                }
            }
        });
        for _ in 0..CALLERS {
            if finished.recv_timeout(PATIENCE).is_err() {
                over.store(true, Ordering::Relaxed);
                panic!("a caller has not come to its end, or failed");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(
        granted.into_inner() > usize::try_from(CALLERS * CALLS / 10).unwrap(),
        "hardly any call was granted"
    );
    world.check(Rules::STRICT);
    put_back(&world, free);
}

/// The query, for all and for a device, and what else only looks, while the ownership lock is held, and while
/// a domain's table lock is.
#[test]
fn reading_waits_for_nobody() {
    let frames = Frames::new(256);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    let world = World::new(&frames, &mut memory, machine());
    // On this very thread: a lock that is needed and held would never come.
    let read = || {
        let owner = world.policy.registry().regions().next().unwrap().owner();
        (query(&world), query_of(&world, E), owner, world.policy.owner(B), world.policy.is_quiesced(B))
    };
    let home = HARDWARE_DOMAIN;
    let all = (ANSWERED, 2, Some(home), Some(Owner::Domain(home)), false);
    assert_eq!(world.policy.with_control(|_| read()), all);
    assert_eq!(world.policy.with_space(home, |_| read()), Some(all));
    // And while it is moved: its devices are being switched off, under every lock but a unit's.
    world.make_assignable(&[B, C, D]);
    let seen = Cell::new(0);
    let hear = |note: Note| {
        if let Note::Quiesced(_) = note {
            seen.set(seen.get() + query_of(&world, E) + query(&world));
        }
    };
    world.policy.assign(&[B], HARDWARE_DOMAIN, Mode::Strict, &mut { &hear }).unwrap();
    world.create(GUEST);
    world.make_assignable(&[B]);
    world.policy.assign(&[B], GUEST, Mode::Strict, &mut { &hear }).unwrap();
    assert_eq!(seen.into_inner(), 2 * (2 + ANSWERED), "two were switched off");
}

/// The check itself: calling the policy from under a table lock is a breach, and is told as one.
#[test]
#[should_panic(expected = "lock order: Ownership taken while 0b100 are held")]
fn a_broken_lock_order_is_found() {
    let frames = Frames::new(256);
    let mut memory = vec![MaybeUninit::uninit(); 1 << 17];
    let world = World::new(&frames, &mut memory, machine());
    let _ = world.policy.with_space(DomId(0), |_| world.assign(&[B], DomId::IO, Mode::Relaxed));
}
