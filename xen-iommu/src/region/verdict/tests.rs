use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::platform::Sbdf;
use crate::region::devices::Devices;
use crate::region::forbidden::{Bar, Window, Windows, check};
use crate::region::intake::Host;
use crate::region::memory::{FramesInUse, KeepRam, MemoryKind, MemoryMap, MemoryRegion, ReserveFrames};
use crate::region::record::{Origin, Record};

const RAM: MemoryKind = MemoryKind::Ram;
const RESERVED: MemoryKind = MemoryKind::Reserved;

fn region(start: u64, end: u64, kind: MemoryKind) -> MemoryRegion {
    MemoryRegion { start, end, kind }
}

/// A hypervisor that writes down what it is asked.
#[derive(Default)]
struct Frames {
    in_use: bool,
    taken: Vec<MfnRange>,
    unknown: Vec<MfnRange>,
}

impl ReserveFrames for Frames {
    fn take_out_of_ram(&mut self, pages: MfnRange) -> Result<(), FramesInUse> {
        self.taken.push(pages);
        if self.in_use { Err(FramesInUse) } else { Ok(()) }
    }

    fn take_as_reserved(&mut self, pages: MfnRange) {
        self.unknown.push(pages);
    }
}

fn pages(start: u64, end: u64) -> MfnRange {
    MfnRange::new(p2m::Mfn::new(start), p2m::Mfn::new(end)).unwrap()
}

const DEVICE: Sbdf = Sbdf::new(0, 0, 2, 0);

/// Judges a region of one device where nothing else is in the way.
fn judge(
    base: u64,
    limit: u64,
    address_width: u8,
    map: &(impl MemoryMap + ?Sized),
    frames: &mut (impl ReserveFrames + ?Sized),
) -> Verdict {
    judge_with(&[Devices::Function(DEVICE)], (base, limit), address_width, map, frames, &[], &|_| None)
}

fn judge_with(
    devices: &[Devices],
    (base, limit): (u64, u64),
    address_width: u8,
    memory: &(impl MemoryMap + ?Sized),
    frames: &mut (impl ReserveFrames + ?Sized),
    windows: &[Window; 0],
    unit_width: &dyn Fn(Devices) -> Option<u8>,
) -> Verdict {
    let mut host = Host { pci: &(), memory, frames, address_width, windows, unit_width };
    host.judge(&Record::identity(base, limit, Origin::Hypervisor, devices))
}

#[test]
fn whole_reserved_pages_are_accepted() {
    let map = [region(0x8000_0000, 0x9000_0000, RESERVED)];
    let verdict = judge(0x8000_0000, 0x8000_0fff, 39, &map, &mut KeepRam);
    assert_eq!(verdict, Verdict::Accepted(pages(0x80000, 0x80001)));
    let borrowed = map.as_slice();
    assert_eq!(judge(0x8000_0000, 0x8000_0fff, 39, &borrowed, &mut KeepRam), verdict);
    assert_eq!(verdict.dormant(), Verdict::Dormant(pages(0x80000, 0x80001), Repairs::empty()));
    assert_eq!(verdict.dormant().awake(), verdict);
    assert_eq!(verdict.dormant().pages(), verdict.pages());
}

#[test]
fn memory_of_other_kinds_is_accepted_too() {
    let map = [region(0x1000, 0x2000, MemoryKind::Other), region(0x2000, 0x3000, RESERVED)];
    assert_eq!(judge(0x1000, 0x2fff, 39, &map, &mut KeepRam), Verdict::Accepted(pages(1, 3)));
}

#[test]
fn both_ends_are_widened_to_whole_pages() {
    let map = [region(0, 0x10_0000, RESERVED)];
    let judged = |base, limit| judge(base, limit, 39, &map, &mut KeepRam);
    assert_eq!(judged(0x1001, 0x1fff), Verdict::Repaired(pages(1, 2), Repairs::BASE_WIDENED));
    assert_eq!(judged(0x1000, 0x2000), Verdict::Repaired(pages(1, 3), Repairs::LIMIT_WIDENED));
    assert_eq!(judged(0x1000, 0x1ffe), Verdict::Repaired(pages(1, 2), Repairs::LIMIT_WIDENED));
    let both = Repairs::BASE_WIDENED | Repairs::LIMIT_WIDENED;
    assert_eq!(judged(0x1fff, 0x2000), Verdict::Repaired(pages(1, 3), both));
    assert_eq!(judged(0x1800, 0x1800), Verdict::Repaired(pages(1, 2), both));
    assert_eq!(judged(0x1800, 0x1800).dormant().awake(), Verdict::Repaired(pages(1, 2), both));
}

#[test]
fn bounds_are_checked_to_the_last_byte() {
    let map: [MemoryRegion; 0] = [];
    let judged = |base, limit, width| judge(base, limit, width, &map, &mut Frames::default());
    assert_eq!(
        judged(0x2000, 0x1fff, 39),
        Verdict::Rejected(Rejection::BaseAboveLimit { base: 0x2000, limit: 0x1fff })
    );
    assert!(judged(0x7f_ffff_f000, 0x7f_ffff_ffff, 39).pages().is_some());
    assert_eq!(
        judged(0x7f_ffff_f000, 0x80_0000_0000, 39),
        Verdict::Rejected(Rejection::BeyondAddressWidth { limit: 0x80_0000_0000, width: 39 })
    );
    let top = judged(u64::MAX - 0xfff, u64::MAX, 64);
    assert_eq!(top.pages(), Some(pages((1 << 52) - 1, 1 << 52)));
    assert!(judged(0xfef0_0000, u64::MAX, 255).pages().is_some());
    for base in [0, 0xfff] {
        let overflow = Rejection::Overflow { base, limit: u64::MAX };
        assert_eq!(judged(base, u64::MAX, 64), Verdict::Rejected(overflow));
    }
    // A page less, of which only the interrupts' range is wrong.
    assert_eq!(bounds(0x1000, u64::MAX, 64), Ok((pages(1, 1 << 52), Repairs::empty())));
}

#[test]
fn ram_is_asked_for_once_and_as_a_whole() {
    let map = [region(0x1000, 0x1800, RAM), region(0x2000, 0x3000, RESERVED), region(0x3000, 0x4000, RAM)];
    let mut frames = Frames::default();
    let verdict = judge(0x1000, 0x3fff, 39, &map, &mut frames);
    assert_eq!(verdict, Verdict::Repaired(pages(1, 4), Repairs::TAKEN_OUT_OF_RAM));
    assert_eq!(frames.taken, vec![pages(1, 4)]);

    let mut frames = Frames { in_use: true, ..Frames::default() };
    let verdict = judge(0x2000, 0x4fff, 39, &map, &mut frames);
    assert_eq!(verdict, Verdict::Rejected(Rejection::InRam { ram: pages(3, 4) }));
    assert_eq!(frames.unknown, vec![], "nothing is taken of a rejected region");
}

#[test]
fn a_page_with_any_ram_is_ram() {
    let map = [region(0, 0x9fc00, RAM), region(0x9fc00, 0xa0000, RESERVED)];
    let verdict = judge(0x9f000, 0x9ffff, 39, &map, &mut KeepRam);
    assert_eq!(verdict, Verdict::Rejected(Rejection::InRam { ram: pages(0x9f, 0xa0) }));
    assert_eq!(
        judge(0xa0000, 0xa0fff, 39, &map, &mut Frames::default()).repairs(),
        Repairs::UNKNOWN_TAKEN_AS_RESERVED
    );
}

#[test]
fn unknown_memory_is_found_in_an_unsorted_map() {
    let map = [
        region(0x5000, 0x6000, RESERVED),
        region(0x2000, 0x3000, RESERVED),
        region(0x2000, 0x2000, RESERVED),
        region(0x9000, 0x8000, RAM),
        region(0x2800, 0x4000, MemoryKind::Other),
    ];
    let mut frames = Frames::default();
    let verdict = judge(0x1000, 0x7fff, 39, &map, &mut frames);
    assert_eq!(verdict, Verdict::Repaired(pages(1, 8), Repairs::UNKNOWN_TAKEN_AS_RESERVED));
    assert_eq!(frames.unknown, vec![pages(1, 2), pages(4, 5), pages(6, 8)]);
    assert_eq!(frames.taken, vec![]);
}

/// A region of [`DEVICE`] in RAM, over `windows`, with a unit of so many bits; whether any frame was asked
/// for.
fn in_ram(
    devices: &[Devices],
    (base, limit): (u64, u64),
    windows: &[Window],
    unit_width: Option<u8>,
) -> (Option<Rejection>, bool) {
    let memory = [region(0, 1 << 40, RAM)];
    let mut frames = Frames::default();
    // A visitor, as a hypervisor's would be.
    let visit_all = |visit: &mut dyn FnMut(Window)| windows.iter().copied().for_each(visit);
    let mut host = Host {
        pci: &(),
        memory: &memory,
        frames: &mut frames,
        address_width: 39,
        windows: &visit_all,
        unit_width: &|_| unit_width,
    };
    let verdict = host.judge(&Record::identity(base, limit, Origin::Option { position: 0 }, devices));
    let rejection = match verdict {
        Verdict::Rejected(rejection) => Some(rejection),
        _ => None,
    };
    (rejection, !frames.taken.is_empty())
}

#[test]
fn nothing_is_taken_out_of_ram_for_a_region_that_is_rejected() {
    let one = [Devices::Function(DEVICE)];
    assert_eq!(in_ram(&one, (0x1000, 0x1fff), &[], None), (None, true));
    for (devices, range, windows, width) in [
        (&[][..], (0x1000, 0x1fff), None, None),
        (&one, (0x1000, 0xfff), None, None),
        (&one, (0x1000, 1 << 39), None, None),
        (&one, (0xfee0_0000, 0xfee0_0fff), None, None),
        (&one, (0x1000, 0x1fff), Some(Window::UnitRegisters { base: 0x1000, limit: 0x1fff }), None),
        (&one, (0x1000, 0x1fff), Some(Window::ConfigSpace { base: 0, limit: 0xfffff }), None),
        (&one, (1 << 38, (1 << 38) | 0xfff), None, Some(38)),
    ] {
        let (rejection, is_asked) = in_ram(devices, range, windows.as_slice(), width);
        assert!(rejection.is_some() && !is_asked, "{rejection:?}");
    }
}

#[test]
fn no_region_is_over_what_decodes_as_something_else() {
    let one = [Devices::Function(DEVICE)];
    let other = Sbdf::new(0, 0, 3, 0);
    let bar = |device| Window::Bar(Bar { device, base: 0x8_0000, limit: 0x8_3fff });
    let windows = [
        Window::UnitRegisters { base: 0xfed9_0000, limit: 0xfed9_0fff },
        Window::ConfigSpace { base: 0xe000_0000, limit: 0xefff_ffff },
        bar(other),
        // Reversed: none.
        Window::ConfigSpace { base: 0x9000, limit: 0x8fff },
    ];
    let judged = |base, limit| in_ram(&one, (base, limit), &windows, None).0;
    let over = |forbidden: Forbidden| Some(Rejection::Forbidden(forbidden));
    // The interrupts' range is among no machine's windows, and forbidden on all.
    for base in [0xfee0_0000, 0xfee0_5000, 0xfeef_f000] {
        assert_eq!(judged(base, base | 0xfff), over(Forbidden::OverInterrupts));
    }
    assert_eq!(judged(0xfedf_f000, 0xfee0_0000), over(Forbidden::OverInterrupts), "its last page");
    assert_eq!(judged(0xfedf_f000, 0xfedf_ffff), None);
    assert_eq!(judged(0xfef0_0000, 0xfef0_0fff), None);
    assert_eq!(judged(0xfed9_0800, 0xfed9_0900), over(Forbidden::OverUnitRegisters { base: 0xfed9_0000 }));
    assert_eq!(judged(0xfed9_1000, 0xfed9_1fff), None);
    assert_eq!(judged(0xef00_0000, 0xf000_0000), over(Forbidden::OverConfigSpace { base: 0xe000_0000 }));
    assert_eq!(
        judged(0x8_3000, 0x8_4fff),
        over(Forbidden::OverBar(Bar { device: other, base: 0x8_0000, limit: 0x8_3fff }))
    );
    // A region's own devices have what they decode; one of several is enough.
    let both = [Devices::Function(DEVICE), Devices::Below { bridge: other, first_bus: 1, last_bus: 1 }];
    assert_eq!(in_ram(&both, (0x8_3000, 0x8_3fff), &[bar(other)], None).0, None);
    assert_eq!(in_ram(&both, (0x8_3000, 0x8_3fff), &[bar(Sbdf::new(0, 1, 9, 0))], None).0, None);
    let beyond = Sbdf::new(0, 2, 9, 0);
    assert!(in_ram(&both, (0x8_3000, 0x8_3fff), &[bar(beyond)], None).0.is_some());
}

#[test]
fn windows_are_kept_as_the_hypervisor_likes() {
    let array = [
        Window::UnitRegisters { base: 0xfed9_0000, limit: 0xfed9_0fff },
        Window::ConfigSpace { base: 0xe000_0000, limit: 0xefff_ffff },
    ];
    let slice = &array[..];
    let visitor = |visit: &mut dyn FnMut(Window)| array.into_iter().for_each(visit);
    let kept: [&dyn Windows; 3] = [&array, &slice, &visitor];
    for windows in kept {
        let over = |start, end| check(windows, pages(start, end), [Devices::Function(DEVICE)].into_iter());
        assert_eq!(over(0xef000, 0xf0001), Some(Forbidden::OverConfigSpace { base: 0xe000_0000 }));
        let both = over(0xe0000, 0xfed91);
        assert_eq!(both, Some(Forbidden::OverUnitRegisters { base: 0xfed9_0000 }), "the first");
        assert_eq!(over(0xf0000, 0xfed90), None);
    }
}

#[test]
fn a_region_that_a_unit_cannot_express_is_rejected() {
    let devices = [Devices::Function(DEVICE), Devices::Function(Sbdf::new(0, 0, 3, 0))];
    let judged = |limit, width: &dyn Fn(Devices) -> Option<u8>| {
        let map = [region(0, 1 << 48, RESERVED)];
        judge_with(&devices, (1 << 37, limit), 48, &map, &mut KeepRam, &[], width)
    };
    assert!(judged(u64::MAX >> 16, &|_| None).pages().is_some(), "not known");
    assert!(judged((1 << 39) - 1, &|_| Some(39)).pages().is_some());
    let limit = 1 << 39;
    let beyond = Verdict::Rejected(Rejection::BeyondUnit { limit, width: 39 });
    assert_eq!(judged(limit, &|_| Some(39)), beyond);
    // The least of several counts, and one that is not known does not.
    let least = |one: Devices| Some(if one.covers(DEVICE) { 48 } else { 39 });
    assert_eq!(judged(limit, &least), beyond);
    assert_eq!(judged(limit, &|one| (!one.covers(DEVICE)).then_some(39)), beyond);
}

#[test]
fn verdicts_read_as_sentences() {
    use std::string::ToString;
    let page = pages(1, 2);
    for (verdict, sentence) in [
        (Verdict::Accepted(page), "accepted"),
        (
            Verdict::Repaired(page, Repairs::BASE_WIDENED | Repairs::TAKEN_OUT_OF_RAM),
            "repaired: base widened to its page's start, frames taken out of RAM",
        ),
        (
            Verdict::Repaired(page, Repairs::all()),
            "repaired: base widened to its page's start, limit widened to its page's end, \
             memory that the map does not know taken as reserved, frames taken out of RAM, \
             bridge scope taken as the endpoint it names",
        ),
        (Verdict::Dormant(page, Repairs::empty()), "dormant: no device of it is present"),
        (
            Verdict::Dormant(page, Repairs::LIMIT_WIDENED),
            "dormant: no device of it is present; repaired: limit widened to its page's end",
        ),
        (
            Verdict::Rejected(Rejection::InRam { ram: pages(0x10, 0x20) }),
            "rejected: frames 0x10 to 0x1f are RAM in use",
        ),
    ] {
        assert_eq!(verdict.to_string(), sentence);
    }
    let bar = Bar { device: DEVICE, base: 0x8_0000, limit: 0x8_3fff };
    for (rejection, sentence) in [
        (
            Rejection::BaseAboveLimit { base: 0x2000, limit: 0x1fff },
            "its base 0x2000 is above its limit 0x1fff",
        ),
        (
            Rejection::BeyondAddressWidth { limit: 0x80_0000_0000, width: 39 },
            "its limit 0x8000000000 is beyond the host address width of 39 bits",
        ),
        (
            Rejection::Overflow { base: 0, limit: u64::MAX },
            "0x0 to 0xffffffffffffffff is more than 2^64 - 1 bytes long",
        ),
        (Rejection::NoScope, "no device scope names a device for it"),
        (Forbidden::OverInterrupts.into(), "it is over the interrupts' range, 0xfee00000 to 0xfeefffff"),
        (
            Forbidden::OverUnitRegisters { base: 0xfed9_0000 }.into(),
            "it is over the registers of the remapping unit at 0xfed90000",
        ),
        (
            Forbidden::OverConfigSpace { base: 0xe000_0000 }.into(),
            "it is over the memory-mapped configuration space at 0xe0000000",
        ),
        (Forbidden::OverBar(bar).into(), "it is over a window of 0000:00:02.0, 0x80000 to 0x83fff"),
        (
            Rejection::BeyondUnit { limit: 0x80_0000_0000, width: 39 },
            "its limit 0x8000000000 is beyond the 39 bits that the remapping unit of its devices translates",
        ),
    ] {
        assert_eq!(rejection.to_string(), sentence);
    }
}

proptest! {
    /// The runs are those of a page-by-page look at the map.
    #[test]
    fn runs_agree_with_a_look_at_each_page(
        entries in prop::collection::vec((0u64..0x2_0000, 0u64..0x8000, 0..3usize), 0..8),
        base in 0u64..0x2_0000,
        length in 1u64..0x2_0000,
    ) {
        let kinds = [RAM, RESERVED, MemoryKind::Other];
        let map: Vec<_> = entries.iter().map(|&(start, length, kind)| region(start, start + length, kinds[kind])).collect();
        let touches = |entry: &MemoryRegion, page: u64| {
            entry.start < entry.end && entry.start < (page + 1) << 12 && page << 12 < entry.end
        };
        let limit = base + length - 1;
        let all: Vec<u64> = (base >> 12..=limit >> 12).collect();
        let ram = all.iter().any(|&page| map.iter().any(|entry| entry.kind == RAM && touches(entry, page)));
        let unknown: Vec<u64> =
            all.iter().copied().filter(|&page| !map.iter().any(|entry| touches(entry, page))).collect();

        let mut frames = Frames::default();
        let verdict = judge(base, limit, 48, map.as_slice(), &mut frames);
        prop_assert_eq!(verdict.pages(), Some(pages(all[0], all[all.len() - 1] + 1)));
        prop_assert_eq!(!frames.taken.is_empty(), ram);
        prop_assert_eq!(verdict.repairs().contains(Repairs::TAKEN_OUT_OF_RAM), ram);
        let told: Vec<u64> = frames.unknown.iter().flat_map(|pages| pages.start().raw()..pages.end().raw()).collect();
        prop_assert_eq!(told, unknown);
    }

    #[test]
    fn no_bounds_panic(base: u64, limit: u64, width: u8, start: u64, end: u64) {
        let map = [region(start, end, RAM)];
        let verdict = judge(base, limit, width, &map, &mut Frames::default());
        prop_assert!(verdict.pages().is_none_or(|pages| !pages.is_empty()));
    }
}
