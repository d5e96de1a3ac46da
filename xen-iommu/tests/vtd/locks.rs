//! Who waits for whom.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use testkit::vtd::Trouble;

use super::*;

/// After so long, somebody waits who should not.
const PATIENCE: Duration = Duration::from_secs(10);

/// A unit's registers that count how often they are used; who waits for the unit waits until it is let go.
struct Gate {
    model: Hardware,
    used: AtomicU64,
    waiting: AtomicBool,
    open: AtomicBool,
}

impl Gate {
    fn new(arena: &'static Frames) -> &'static Self {
        Box::leak(Box::new(Self {
            model: model(CAP, MODEL_ECAP, arena),
            used: AtomicU64::new(0),
            waiting: AtomicBool::new(false),
            open: AtomicBool::new(true),
        }))
    }

    fn model(&self) -> Hardware {
        self.used.fetch_add(1, Ordering::Relaxed);
        self.model
    }
}

impl Registers for &Gate {
    fn read32(&self, offset: u32) -> u32 {
        self.model().read32(offset)
    }

    fn read64(&self, offset: u32) -> u64 {
        self.model().read64(offset)
    }

    fn write32(&self, offset: u32, value: u32) {
        self.model().write32(offset, value);
    }

    fn write64(&self, offset: u32, value: u64) {
        self.model().write64(offset, value);
    }

    fn relax(&self) {
        self.waiting.store(true, Ordering::SeqCst);
        while !self.open.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        self.model.relax();
    }

    fn write_back(&self, _: &[AtomicU64]) {}
}

type GateVtd = Vtd<'static, &'static Gate, &'static Frames>;

fn unit_of_bus(bus: u8, registers: &'static Gate) -> Unit<'static, &'static Gate> {
    Unit::new(Setup {
        base: BASE + 0x1000 * u64::from(bus),
        window: 0x1000,
        registers,
        segment: 0,
        coverage: Vec::leak(vec![Coverage::Buses { segment: 0, first: bus, last: bus }]),
        domains: Vec::leak((0..128).map(|_| DomainSlot::new()).collect()),
        device_tlbs: &mut [],
        polls: POLLS,
        queue: true,
        replacement: Replacement::AtOnce,
    })
}

/// Two units for a bus each, with a device of space 0 and 1, and one of space 2 on both; and a thread that
/// waits for the first unit in a flush.
struct Slow {
    arena: &'static Frames,
    gates: [&'static Gate; 2],
    vtd: &'static GateVtd,
    flush: thread::JoinHandle<Result<(), HardwareError>>,
}

impl Slow {
    fn new() -> Self {
        let arena = arena(64);
        let gates = [Gate::new(arena), Gate::new(arena)];
        let units = gates.iter().enumerate().map(|(bus, gate)| unit_of_bus(bus as u8, gate));
        let vtd: &'static GateVtd = Box::leak(Box::new(Vtd::new(Vec::leak(units.collect()), arena)));
        vtd.start(&mut |_, error| panic!("{error}"));
        vtd.enable().unwrap();
        let table = arena.table_of(4);
        for bus in 0..2 {
            vtd.attach(device(bus, 8).into(), SpaceId(bus.into()), table).unwrap();
            vtd.attach(device(bus, 16).into(), SpaceId(2), table).unwrap();
        }
        gates[0].model.trouble(Trouble { queue: true, ..Trouble::default() });
        gates[0].open.store(false, Ordering::SeqCst);
        let flush = thread::spawn(|| vtd.flush(SpaceId(0), &flush_of(0, 8)));
        for _ in 0..PATIENCE.as_millis() {
            if gates[0].waiting.load(Ordering::SeqCst) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        assert!(gates[0].waiting.load(Ordering::SeqCst), "the flush waits for its unit");
        gates[0].used.store(0, Ordering::SeqCst);
        Self { arena, gates, vtd, flush }
    }

    /// What the work comes to, which is not to wait for the first unit.
    fn without_waiting<T: Send + 'static>(
        &self,
        work: impl FnOnce(&'static GateVtd) -> T + Send + 'static,
    ) -> T {
        let (done, result) = mpsc::channel();
        let vtd = self.vtd;
        thread::spawn(move || done.send(work(vtd)).unwrap());
        result.recv_timeout(PATIENCE).expect("waits for a unit that it has nothing to do with")
    }

    fn used(&self) -> u64 {
        self.gates[0].used.load(Ordering::SeqCst)
    }

    fn end(self) {
        self.gates[0].open.store(true, Ordering::SeqCst);
        assert!(matches!(self.flush.join().unwrap(), Err(HardwareError::TimedOut { unit: BASE, .. })));
    }
}

#[test]
fn a_slow_unit_holds_up_nobody_who_has_nothing_there() {
    let slow = Slow::new();
    let table = slow.arena.table_of(4);
    slow.without_waiting(|vtd| {
        for space in [1, 7] {
            vtd.flush(SpaceId(space), &flush_of(0, 8)).unwrap();
        }
    });
    slow.without_waiting(move |vtd| {
        vtd.attach(device(1, 24).into(), SpaceId(3), table).unwrap();
        vtd.detach(device(1, 24).into()).unwrap();
    });
    assert_eq!(slow.used(), 0, "nothing was asked of the slow unit");
    slow.end();
}

#[test]
fn who_has_something_there_waits() {
    let slow = Slow::new();
    let (done, result) = mpsc::channel();
    let vtd = slow.vtd;
    let waits = thread::spawn(move || done.send(vtd.flush(SpaceId(2), &flush_of(0, 8))).unwrap());
    assert!(result.recv_timeout(Duration::from_millis(100)).is_err());
    slow.gates[0].model.trouble(Trouble::default());
    slow.gates[0].open.store(true, Ordering::SeqCst);
    result.recv_timeout(PATIENCE).unwrap().unwrap();
    waits.join().unwrap();
    slow.flush.join().unwrap().unwrap_err();
}

#[test]
fn what_a_slow_unit_is_and_its_faults_can_be_asked() {
    let slow = Slow::new();
    slow.gates[0].model.dma(0x40, 0x1000, true).unwrap_err();
    slow.without_waiting(|vtd| {
        let requester = device(0, 8).into();
        assert_eq!(vtd.check_translating(requester), Ok(()));
        assert_eq!(vtd.address_width(requester), Some(48));
        assert!(vtd.walks(4) && vtd.is_coherent());
        let mut faults = Vec::new();
        let summary = vtd.try_read_faults(&mut |fault| faults.push(fault.source));
        assert_eq!(summary, Some(FaultSummary { faults: 1, overflow: false }));
        assert_eq!(faults, [device(0, 0x40)]);
        assert_eq!(vtd.read_faults(&mut |_| ()), FaultSummary::default());
        vtd.set_fault_event(None);
    });
    slow.end();
}

/// As a fault event's interrupt that comes while faults are read.
#[test]
fn faults_that_somebody_reads_are_left_to_them() {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    rig.model.dma(0x40, 0x1000, true).unwrap_err();
    let mut inner = Vec::new();
    let summary = rig.vtd.read_faults(&mut |_| inner.push(rig.vtd.try_read_faults(&mut |_| panic!("twice"))));
    assert_eq!(summary, FaultSummary { faults: 1, overflow: false });
    assert_eq!(inner, [None]);
    assert_eq!(rig.vtd.try_read_faults(&mut |_| panic!("again")), Some(FaultSummary::default()));
}

#[test]
fn at_a_crash_nobody_waits() {
    let slow = Slow::new();
    let left = slow.without_waiting(|vtd| {
        let mut left = Vec::new();
        vtd.disable_at_crash(&mut |base| left.push(base));
        left
    });
    assert_eq!(left, [BASE], "somebody has it");
    assert_eq!(slow.used(), 0);
    assert_eq!(slow.gates[1].model.dma(0x0140, 0x5000, true), Ok(0x5000), "off");
    assert!(slow.gates[0].model.dma(0x0040, 0x5000, true).is_err(), "goes on");
    slow.end();

    // Nor for a unit that does not do as told; and nothing else of its state is touched.
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    rig.model.trouble(Trouble { global: true, ..Trouble::default() });
    rig.vtd.disable_at_crash(&mut |base| panic!("{base:#x}"));
    assert_eq!(rig.model.polls(), 0);
    rig.model.trouble(Trouble::default());
    rig.vtd.disable_at_crash(&mut |base| panic!("{base:#x}"));
    rig.vtd.detach(device(0, 8).into()).unwrap();
    assert_eq!(
        rig.vtd.check_translating(device(0, 8).into()),
        Err(HardwareError::NotTranslating { unit: BASE })
    );
    rig.check();
}

/// Processors that attach, flush and detach beside one another, with the locks' order checked.
#[test]
fn many_at_once() {
    let arena = arena(64);
    let gates = [Gate::new(arena), Gate::new(arena)];
    let units = gates.iter().enumerate().map(|(bus, gate)| unit_of_bus(bus as u8, gate));
    let vtd: &GateVtd = Box::leak(Box::new(Vtd::new(Vec::leak(units.collect()), arena)));
    vtd.start(&mut |_, error| panic!("{error}"));
    vtd.enable().unwrap();
    let tables = [1, 2, 3].map(|mfn| {
        let table = arena.table_of(4);
        arena.map(table, 1, mfn, PageSize::Size4K, Access::READ_WRITE);
        table
    });
    thread::scope(|scope| {
        for number in 0..4_u16 {
            scope.spawn(move || {
                let (bus, devfn) = ((number % 2) as u8, (number << 3) as u8);
                let model = gates[usize::from(bus)].model;
                let id = device(bus, devfn);
                for round in 0..rounds(2000) as u16 {
                    let space = usize::from(number + round) % 3;
                    vtd.attach(id.into(), SpaceId(space as u32), tables[space]).unwrap();
                    vtd.flush(SpaceId(u32::from(round % 3)), &flush_of(1, 2)).unwrap();
                    assert_eq!(model.dma(id.source_id(), 0x1000, true), Ok((space as u64 + 1) << 12));
                    if round % 5 == 0 {
                        vtd.detach(id.into()).unwrap();
                        assert!(model.dma(id.source_id(), 0x1000, true).is_err());
                        vtd.try_read_faults(&mut |_| ());
                    }
                }
                vtd.detach(id.into()).unwrap();
            });
        }
    });
    for unit in vtd.units() {
        assert!((0..3).all(|space| !unit.has_space(SpaceId(space))));
    }
    for gate in gates {
        gate.model.check_tables();
        assert_eq!(gate.model.violations(), [] as [&str; 0]);
    }
}
