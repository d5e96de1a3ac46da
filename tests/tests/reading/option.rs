//! Regions of the `rmrr=` option.

use crate::kit::{BRIDGE, IGD, USB, frames, read, rmrr, table};

#[test]
fn an_error_in_the_option_costs_its_region() {
    read(&table([]), "30000=0:2.0;zz=0:2.0;30002-30003=0:14.0", |registry, found| {
        assert!(found[1].contains("character 13"), "{found:?}");
        assert_eq!(frames(registry, IGD), [(0x30000, 1)]);
        assert_eq!(frames(registry, USB), [(0x30002, 2)]);
    });
}

#[test]
fn regions_of_the_option_that_overlap_are_both_kept() {
    let first = rmrr(0x3000_0000, 0x3000_1fff, 2);
    read(&table([first]), "30001-30002=0:14.0;30002=0:1c.0", |registry, found| {
        assert!(found.iter().all(|found| found.ends_with("accepted")), "{found:?}");
        assert_eq!(frames(registry, IGD), [(0x30000, 2)]);
        assert_eq!(frames(registry, USB), [(0x30001, 2)]);
        assert_eq!(registry.told([BRIDGE].into_iter()).map(|range| range.len()).collect::<Vec<_>>(), [3]);
    });
}

#[test]
fn no_slip_maps_what_is_no_memory() {
    // The interrupt controller, the unit's registers, configuration space, another's window; its own is a
    // device's.
    let option = "fee00=0:2.0;1fed9=0:2.0;7abcd-7abce=0:2.0;60001=0:2.0;60001=0:14.0;60000=0:2.0,0:14.0";
    read(&table([]), option, |registry, found| {
        for (found, why) in found.iter().zip([
            "rejected: it is over the interrupts' range, 0xfee00000 to 0xfeefffff",
            "rejected: it is over the registers of the remapping unit at 0x1fed9000",
            "rejected: it is over the memory-mapped configuration space at 0x70000000",
            "rejected: it is over a window of 0000:00:14.0, 0x60000000 to 0x6000ffff",
            "accepted",
            "accepted",
        ]) {
            assert!(found.ends_with(why), "{found} is not {why}");
        }
        assert_eq!(frames(registry, IGD), [(0x60000, 1)]);
        assert_eq!(registry.regions_of(IGD).count(), 5, "those that were rejected are its own, too");
    });
    let in_table = rmrr(0xfee0_0000, 0xfee0_0fff, 2);
    read(&table([in_table]), "", |registry, found| {
        assert!(found[0].contains("interrupts"), "{found:?}");
        assert_eq!(frames(registry, IGD), []);
    });
}
