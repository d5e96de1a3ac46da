//! A table on a machine: where its scopes end up, and what becomes of its regions.

use acpi_dmar::{Dmar, Rmrr, Structure};
use p2m::{Mfn, MfnRange};
use xen_iommu::Sbdf;
use xen_iommu::region::devices::Devices;
use xen_iommu::region::forbidden::{Forbidden, Window};
use xen_iommu::region::intake::Host;
use xen_iommu::region::record::{Origin, Record};
use xen_iommu::region::verdict::{Rejection, Repairs, Verdict};

use crate::bus::check_resolution;
use crate::machine::{Machine, split};

/// Takes the bytes for a table and a machine.
pub fn resolve(data: &[u8]) {
    let mut data = data.to_vec();
    let Some((table, mut machine)) = split(&mut data) else { return };
    let Some(dmar) = Dmar::parse_lenient(table, |_| {}) else { return };
    // A long list of long paths takes long.
    let mut scopes = 0;
    for structure in dmar.structures().flatten() {
        for scope in structure.scopes().flatten() {
            scopes += 1;
            if scopes > 4096 {
                break;
            }
            check_resolution(structure.segment().unwrap(), &scope, &dmar, &machine.bus);
        }
        if let Structure::Rmrr(rmrr) = structure {
            check_verdict(&rmrr, dmar.host_address_width(), &mut machine);
        }
    }
}

/// Judges a region, and once more by the rules' words.
fn check_verdict(rmrr: &Rmrr<'_>, width: u8, machine: &mut Machine) {
    let (base, limit) = (rmrr.base(), rmrr.limit());
    let mut allocator = std::mem::take(&mut machine.allocator);
    (allocator.taken, allocator.reserved) = (Vec::new(), Vec::new());
    let mut host = Host {
        pci: &(),
        memory: &machine.memory[..],
        frames: &mut allocator,
        address_width: width,
        windows: &[] as &[Window; 0],
        unit_width: &|_| None,
    };
    let origin = Origin::Dmar { offset: rmrr.offset() };
    // A region that nobody uses costs no frames.
    let nobodys = host.judge(&Record::identity(base, limit, origin, &[]));
    assert!(nobodys.pages().is_none());
    assert!(host.frames.taken.is_empty() && host.frames.reserved.is_empty());
    let devices = [Devices::Function(Sbdf::new(rmrr.segment(), 0, 2, 0))];
    let verdict = host.judge(&Record::identity(base, limit, origin, &devices));

    let awake = verdict.dormant().awake();
    assert_eq!(awake, verdict);
    assert_eq!((awake.pages(), awake.repairs()), (verdict.pages(), verdict.repairs()));
    let _ = verdict.to_string();

    if base > limit {
        assert_eq!(verdict, Verdict::Rejected(Rejection::BaseAboveLimit { base, limit }));
    } else if width < 64 && limit >> width != 0 {
        assert_eq!(verdict, Verdict::Rejected(Rejection::BeyondAddressWidth { limit, width }));
    } else if (base >> 12, limit >> 12) == (0, u64::MAX >> 12) {
        // With whole pages it is all there is.
        assert_eq!(verdict, Verdict::Rejected(Rejection::Overflow { base, limit }));
    } else if base >> 12 <= 0xfeeff && limit >> 12 >= 0xfee00 {
        assert_eq!(verdict, Verdict::Rejected(Rejection::Forbidden(Forbidden::OverInterrupts)));
        assert!(allocator.taken.is_empty() && allocator.reserved.is_empty());
    } else {
        let pages = MfnRange::new(Mfn::new(base >> 12), Mfn::new((limit >> 12) + 1)).unwrap();
        let runs = machine.runs(pages);
        let ram: Vec<_> = joined(runs.iter().filter(|(_, ram, _)| *ram));
        let unknown: Vec<_> = joined(runs.iter().filter(|(_, _, known)| !known));
        assert_eq!(allocator.taken, if ram.is_empty() { vec![] } else { vec![pages] });
        if let (Some(ram), true) = (ram.first(), allocator.refuses) {
            assert_eq!(verdict, Verdict::Rejected(Rejection::InRam { ram: *ram }));
            assert!(allocator.reserved.is_empty());
        } else {
            let mut repairs = Repairs::empty();
            repairs.set(Repairs::BASE_WIDENED, base & 0xfff != 0);
            repairs.set(Repairs::LIMIT_WIDENED, limit & 0xfff != 0xfff);
            repairs.set(Repairs::TAKEN_OUT_OF_RAM, !ram.is_empty());
            repairs.set(Repairs::UNKNOWN_TAKEN_AS_RESERVED, !unknown.is_empty());
            let expected =
                if repairs.is_empty() { Verdict::Accepted(pages) } else { Verdict::Repaired(pages, repairs) };
            assert_eq!(verdict, expected);
            assert_eq!(allocator.reserved, unknown);
        }
    }
    machine.allocator = allocator;
}

/// Puts runs together that meet.
fn joined<'a>(runs: impl Iterator<Item = &'a (MfnRange, bool, bool)>) -> Vec<MfnRange> {
    let mut all: Vec<MfnRange> = Vec::new();
    for (run, _, _) in runs {
        match all.last_mut() {
            Some(last) if last.end() == run.start() => *last = last.hull(run),
            _ => all.push(*run),
        }
    }
    all
}
