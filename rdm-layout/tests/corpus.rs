//! Real tables: every device that has a region, planned into guests of all sizes, beside libxl's rules.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{GIB, MIB, bar32, bar64, planned};
use p2m::GfnRange;
use rdm_layout::xen::{DIRECT, HVMLOADER, OVMF, SEABIOS, libxl};
use rdm_layout::{Error, Firmware, Machine, Mode, Policy, Region, Thing, Verdict};

const SIZES: [u64; 9] = [512 * MIB, GIB, 2 * GIB, 3 * GIB, 4 * GIB, 8 * GIB, 16 * GIB, 32 * GIB, 64 * GIB];

#[derive(Default)]
struct Count {
    /// Plans that were found, of those that were asked for.
    plans: (usize, usize),
    /// Machines for which all were found.
    machines: usize,
    /// The same for guests of one size.
    by_size: [usize; SIZES.len()],
}

#[test]
fn every_device_of_every_table() {
    let tables = common::corpus(&[]);
    if tables.is_empty() {
        return;
    }
    let ways: [(&str, Mode, Firmware<'static>); 4] = [
        ("ranges, OVMF", Mode::Ranges, OVMF),
        ("ranges, SeaBIOS", Mode::Ranges, SEABIOS),
        ("ranges, direct boot", Mode::Ranges, DIRECT),
        ("two ranges, hvmloader", Mode::TwoRange, HVMLOADER),
    ];
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    let (mut machines, mut devices) = (0, 0);
    for (name, bytes) in &tables {
        let rmrrs = common::rmrrs(bytes);
        let all: BTreeSet<&String> = rmrrs.iter().flat_map(|rmrr| &rmrr.1).collect();
        if all.is_empty() {
            continue;
        }
        machines += 1;
        devices += all.len();
        // One guest for each device, and one for all of the host's regions.
        let own = |device: &&String| -> Vec<GfnRange> {
            rmrrs.iter().filter(|rmrr| rmrr.1.contains(device)).map(|rmrr| rmrr.0).collect()
        };
        let mut guests: Vec<Vec<GfnRange>> = all.iter().map(own).collect();
        guests.push(rmrrs.iter().map(|rmrr| rmrr.0).collect());
        for (way, mode, firmware) in ways {
            let solved =
                guests.iter().flat_map(|guest| SIZES.map(|memory| (guest, memory))).map(|(guest, memory)| {
                    let strict: Vec<_> =
                        guest.iter().map(|&frames| Region { frames, policy: Policy::Strict }).collect();
                    let bars = [bar64(256 << 20), bar32(16 << 20), bar64(16 << 10)];
                    let machine =
                        Machine { mode, firmware, regions: &strict, bars: &bars, ..Machine::new(memory, 39) };
                    let found = planned(&machine);
                    // Relaxed always has a plan, and gives up nothing where strict has one.
                    let relaxed: Vec<_> =
                        guest.iter().map(|&frames| Region { frames, policy: Policy::Relaxed }).collect();
                    let plan = planned(&Machine { regions: &relaxed, ..machine }).unwrap();
                    let given_up =
                        plan.regions.iter().any(|region| matches!(region.verdict, Verdict::GivenUp(_)));
                    assert_eq!(given_up, found.is_err(), "{name}");
                    // A private region has to be had where a strict one has, and nothing else lies elsewhere.
                    let private: Vec<_> =
                        guest.iter().map(|&frames| Region { frames, policy: Policy::Private }).collect();
                    let own = planned(&Machine { regions: &private, ..machine });
                    let ram = |found: &Result<common::Owned, Error>| {
                        found.as_ref().map(|plan| plan.ram.clone()).ok()
                    };
                    assert_eq!(ram(&own), ram(&found), "{name}");
                    if let Err(Error::NoLayout(failure)) = found {
                        assert!(matches!(failure.first, Thing::Region(_)), "{name}: {failure}");
                        assert!(
                            failure.frames.unwrap().start().raw() < 0x100 || mode == Mode::TwoRange,
                            "{name}: {failure}"
                        );
                    }
                    found.is_ok()
                });
            let solved: Vec<_> = solved.collect();
            count(&mut counts, way, &solved);
        }
        let solved =
            guests.iter().flat_map(|guest| SIZES.map(|memory| (guest, memory))).map(|(guest, memory)| {
                let strict: Vec<_> =
                    guest.iter().map(|&frames| Region { frames, policy: Policy::Strict }).collect();
                let ends = libxl::Ends::new(memory, libxl::HOLE, libxl::BOUNDARY, &strict);
                strict.iter().all(|region| ends.is_free(&region.frames))
            });
        let solved: Vec<_> = solved.collect();
        count(&mut counts, "libxl's rules", &solved);
    }
    println!(
        "{machines} machines, {devices} devices with regions; for each and for all together {} sizes",
        SIZES.len()
    );
    for (way, count) in &counts {
        let (found, asked) = count.plans;
        println!(
            "{way}: {found} of {asked} plans, {} machines in full; by size {:?}",
            count.machines, count.by_size
        );
    }
    assert!(counts["two ranges, hvmloader"].plans.0 > counts["libxl's rules"].plans.0);
    assert_eq!(counts["ranges, direct boot"].machines, machines, "all of it can be had");
}

fn count<'a>(counts: &mut BTreeMap<&'a str, Count>, way: &'a str, solved: &[bool]) {
    let count = counts.entry(way).or_default();
    count.plans.0 += solved.iter().filter(|solved| **solved).count();
    count.plans.1 += solved.len();
    count.machines += usize::from(solved.iter().all(|solved| *solved));
    // The sizes take turns.
    for (size, machines) in count.by_size.iter_mut().enumerate() {
        *machines += usize::from(solved.iter().skip(size).step_by(SIZES.len()).all(|solved| *solved));
    }
}
