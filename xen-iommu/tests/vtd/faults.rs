//! Faults: read in full, told in words, and not too many of them.

use xen_iommu::vtd::{Fault, Operation, Pass, RateLimit};

use super::*;

#[test]
fn all_fault_registers_are_read_oldest_first_and_freed() {
    // Three fault registers.
    let rig = Rig::new(CAP | 2 << 40, MODEL_ECAP, true);
    for source in [1u16, 2] {
        rig.model.dma(source, 0x1000 * u64::from(source), true).unwrap_err();
    }
    let (texts, summary) = rig.faults();
    assert_eq!((texts.len(), summary), (2, FaultSummary { faults: 2, overflow: false }));
    // The next ones wrap, and there is one too many.
    for source in [3u16, 4, 5, 6] {
        rig.model.dma(source, 0x1000 * u64::from(source), true).unwrap_err();
    }
    let mut sources = Vec::new();
    let summary = rig.vtd.read_faults(&mut |fault| sources.push((fault.source.source_id(), fault.address)));
    assert_eq!(sources, [(3, 0x3000), (4, 0x4000), (5, 0x5000)]);
    assert_eq!(summary, FaultSummary { faults: 3, overflow: true });
    // And room again.
    rig.model.dma(7, 0x7000, true).unwrap_err();
    assert_eq!(rig.faults().1, FaultSummary { faults: 1, overflow: false });
}

#[test]
fn fault_event_goes_where_it_is_sent() {
    let rig = Rig::new(CAP, MODEL_ECAP, true);
    rig.vtd.set_fault_event(Some((0x1_fee0_1000, 0x41)));
    assert_eq!(rig.model.fault_event(), [0, 0x41, 0xfee0_1000, 1]);
    rig.vtd.set_fault_event(None);
    assert_eq!(rig.model.fault_event()[0], 1 << 31);
}

#[test]
fn a_rate_limit_counts_what_it_holds_back() {
    let mut limit = RateLimit::new(2, 100);
    assert_eq!(limit.pass(5), Pass::Report { held_back: 0 });
    assert_eq!(limit.pass(6), Pass::Report { held_back: 0 });
    assert_eq!(limit.pass(7), Pass::HoldBack);
    assert_eq!(limit.pass(50), Pass::HoldBack);
    assert_eq!(limit.pass(106), Pass::Report { held_back: 2 });
    assert_eq!(limit.pass(107), Pass::Report { held_back: 0 });
    assert_eq!(limit.pass(108), Pass::HoldBack);
    // A clock set back.
    assert_eq!(limit.pass(3), Pass::Report { held_back: 1 });
}

/// The words of fault registers (§11.4.7.6), and what they say.
#[test]
fn records_are_read_as_the_specification_has_them() {
    let rig = Rig::new(CAP | 4 << 40, MODEL_ECAP, true);
    let records = [
        (0x1_2000, 0x8000_0005_0000_0342),
        (0xffff_ffff_ffff_f000, 0xc000_0006_0000_0342),
        // T2 is bit 28, T1 bit 62.
        (0x3000, 0x8000_0006_1000_0342),
        (0x4000, 0xc000_0006_1000_0342),
        // The interrupt's index is in the upper 16 bits.
        (0x0123_0000_0000_0000, 0x8000_0022_0000_ff0f),
    ];
    for (low, high) in records {
        rig.model.fault(low, high);
    }
    let mut faults = Vec::new();
    rig.vtd.read_faults(&mut |fault| faults.push(*fault));
    let fault = |source, operation, address, reason| Fault {
        unit: BASE,
        source,
        operation,
        address,
        reason: Reason(reason),
    };
    let source = Sbdf::new(0, 3, 8, 2);
    let expected = [
        fault(source, Operation::Write, 0x1_2000, 5),
        fault(source, Operation::Read, 0xffff_ffff_ffff_f000, 6),
        fault(source, Operation::PageRequest, 0x3000, 6),
        fault(source, Operation::Atomic, 0x4000, 6),
        fault(Sbdf::new(0, 0xff, 1, 7), Operation::Write, 0x123, 0x22),
    ];
    assert_eq!(faults, expected);
    let write = "the page is not mapped for writing (fault reason 0x5)";
    let read = "the page is not mapped for reading (fault reason 0x6)";
    let texts = [
        ("a write by 0000:03:08.2 at 0x12000", write),
        ("a read by 0000:03:08.2 at 0xfffffffffffff000", read),
        ("a page request by 0000:03:08.2 at 0x3000", read),
        ("an atomic operation by 0000:03:08.2 at 0x4000", read),
        ("interrupt 291 of 0000:ff:01.7", "the interrupt's entry is not present (fault reason 0x22)"),
    ];
    for (fault, (what, why)) in faults.iter().zip(texts) {
        assert_eq!(fault.to_string(), format!("{what} was blocked: {why}"));
    }
}

/// The codes of §7.1.3 that legacy mode and interrupt remapping have.
#[test]
fn each_reason_has_words_of_its_own() {
    let known: Vec<u8> = (0..=255).filter(|code| Reason(*code).text().is_some()).collect();
    assert_eq!(known, [&(0x1..=0xd).collect::<Vec<_>>()[..], &(0x20..=0x26).collect::<Vec<_>>()].concat());
    let words: std::collections::BTreeSet<_> = known.iter().filter_map(|code| Reason(*code).text()).collect();
    assert_eq!(words.len(), known.len());
    assert_eq!(format!("{:?}", Reason(0x4)), "the address is wider than its table (fault reason 0x4)");
    assert_eq!(Reason(0x7e).to_string(), "fault reason 0x7e");
    assert_eq!([0x1f, 0x20, 0x2f, 0x30].map(|code| Reason(code).is_interrupt()), [false, true, true, false]);
}
