//! Moves with everything watched at each step: all that hardware may have kept, and all that it may read
//! anew; and with a failure at each command.

use testkit::vtd::Trouble;
use xen_iommu::vtd::registers::FaultStatus;

use super::*;

const MOVES: u16 = 0x08;
const STAYS: u16 = 0x10;
const ARRIVES_AT: u16 = 0x18;
const RMRR: u64 = 0x50;
const OWN: u64 = 0x99;

/// A unit whose every register write is watched.
#[derive(Clone, Copy)]
struct Watched {
    model: Hardware,
    wrong: &'static std::sync::Mutex<Vec<String>>,
}

impl Watched {
    fn look(&self) {
        let mut wrong = self.wrong.lock().unwrap();
        self.model.observe(&[MOVES, STAYS, ARRIVES_AT], &[RMRR, OWN], &mut |source, page, way| {
            let Some(way) = way else {
                wrong.push(format!("{source:#x} is blocked at {page:#x}"));
                return;
            };
            for mfn in way.targets() {
                let allowed: &[u64] = match (page, source) {
                    (RMRR, _) => &[RMRR],
                    (_, MOVES) => &[1, 2],
                    (_, STAYS) => &[1],
                    _ => &[2],
                };
                if !allowed.contains(&mfn.raw()) {
                    wrong.push(format!("{source:#x} reaches {mfn} at {page:#x}"));
                }
            }
        });
    }
}

impl Registers for Watched {
    fn read32(&self, offset: u32) -> u32 {
        self.model.read32(offset)
    }

    fn read64(&self, offset: u32) -> u64 {
        self.model.read64(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.model.write32(offset, value);
        self.look();
    }

    fn write64(&self, offset: u32, value: u64) {
        // What was written to the tables is seen before the unit is told of it.
        self.look();
        self.model.write64(offset, value);
        self.look();
    }

    fn relax(&self) {
        self.model.relax();
    }

    fn write_back(&self, words: &[std::sync::atomic::AtomicU64]) {
        self.model.write_back(words);
    }
}

/// Moves a device from space 1 to space 2 in such trouble. What it came to, how many commands that took, and
/// what was wrong.
fn watch(
    cap: u64,
    replacement: Replacement,
    trouble: Trouble,
) -> (Result<(), HardwareError>, u32, Vec<String>) {
    let arena = arena(64);
    let model = model(cap, MODEL_ECAP, arena);
    let wrong: &'static _ = Box::leak(Box::default());
    let Setup { base, window, segment, coverage, domains, device_tlbs, polls, queue, .. } =
        setup(BASE, model, &[Coverage::All { segment: 0 }], true);
    let registers = Watched { model, wrong };
    let unit = Unit::new(Setup {
        base,
        window,
        registers,
        segment,
        coverage,
        domains,
        device_tlbs,
        polls,
        queue,
        replacement,
    });
    let vtd = Vtd::new(Vec::leak(vec![unit]), arena);
    vtd.start(&mut |_, error| panic!("{error}"));
    vtd.enable().unwrap();
    let [old, new] = [1, 2].map(|own| {
        let table = arena.table_of(4);
        for (gfn, mfn) in [(RMRR, RMRR), (OWN, own)] {
            arena.map(table, gfn, mfn, PageSize::Size4K, Access::READ_WRITE);
        }
        table
    });
    for (source, space, table) in [(MOVES, 1, old), (STAYS, 1, old), (ARRIVES_AT, 2, new)] {
        vtd.attach(device(0, source as u8).into(), SpaceId(space), table).unwrap();
    }
    registers.look();
    wrong.lock().unwrap().clear();
    model.trouble(trouble);
    let result = vtd.attach(device(0, MOVES as u8).into(), SpaceId(2), new);
    registers.look();
    let commands = model.commands();
    model.trouble(Trouble::default());
    if result.is_ok() {
        // Nothing of the old space is left.
        model.ways(&[MOVES], &[OWN], &mut |_, _, way| {
            assert!(way.iter().all(|way| way.targets().all(|mfn| mfn.raw() == 2)));
        });
    }
    model.check_tables();
    assert_eq!(model.violations(), [] as [&str; 0]);
    (result, commands, wrong.lock().unwrap().clone())
}

#[test]
fn nobody_reaches_anything_else_at_any_moment_whatever_fails() {
    for replacement in [Replacement::AtOnce, Replacement::ByWords] {
        for cap in [CAP, CAP | 1 << 7] {
            let (result, commands, wrong) = watch(cap, replacement, Trouble::default());
            assert_eq!((result, wrong), (Ok(()), Vec::new()));
            assert!(commands >= 2, "context cache and IOTLB: {commands}");
            for number in 0..commands {
                let error = Some((number, FaultStatus::QUEUE_ERROR));
                let (result, _, wrong) =
                    watch(cap, replacement, Trouble { error_at: error, ..Trouble::default() });
                assert!(matches!(result, Err(HardwareError::QueueError { .. })));
                assert_eq!(wrong, [] as [&str; 0], "error at {number}");
                for end in [number + 1, u32::MAX] {
                    let stalls = Some((number, end));
                    let (result, _, wrong) =
                        watch(cap, replacement, Trouble { stalls, ..Trouble::default() });
                    assert!(matches!(result, Err(HardwareError::TimedOut { .. })));
                    assert_eq!(wrong, [] as [&str; 0], "stalls from {number} to {end}");
                }
            }
        }
    }
}
