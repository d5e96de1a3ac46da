//! What the tests here share.

use std::mem::MaybeUninit;

use testkit::bus::Bus;
use xen_iommu::pci::{BusRange, Function, Topology};
use xen_iommu::{Arena, Sbdf};

/// All buses of segment 0.
pub(crate) const ALL: BusRange = BusRange { segment: 0, first: 0, last: 255 };

pub(crate) fn at(bus: u8, device: u8, function: u8) -> Sbdf {
    Sbdf::new(0, bus, device, function)
}

/// Runs `test` with the topology of `bus`, in no more memory than is asked for.
pub(crate) fn with_topology<R>(
    bus: &Bus,
    ranges: &[BusRange],
    test: impl FnOnce(&mut Topology<'_>) -> R,
) -> R {
    let mut memory = vec![MaybeUninit::uninit(); Topology::memory(ranges)];
    let mut arena = Arena::new(&mut memory);
    let mut topology = Topology::read(bus, ranges, &mut arena).expect("as much memory as was asked for");
    test(&mut topology)
}

/// Every function of segment 0, in the order of the visit; each is as it is when asked for alone.
pub(crate) fn functions(bus: &Bus) -> Vec<Function> {
    with_topology(bus, &[ALL], |topology| visited(topology, bus))
}

pub(crate) fn visited(topology: &Topology<'_>, bus: &Bus) -> Vec<Function> {
    let mut all = Vec::new();
    topology.functions(bus, &mut |function| all.push(function));
    for function in &all {
        assert_eq!(topology.function(function.sbdf, bus).as_ref(), Some(function));
    }
    all
}

/// The one function at `sbdf`.
pub(crate) fn function(bus: &Bus, sbdf: Sbdf) -> Function {
    let all = functions(bus);
    *all.iter().find(|function| function.sbdf == sbdf).expect("a function there")
}

/// The ids that the DMA of `sbdf` may carry, its own first.
pub(crate) fn ids(bus: &Bus, sbdf: Sbdf) -> Vec<Sbdf> {
    function(bus, sbdf).ids.iter().collect()
}

/// The sets of functions that are together, each lowest first.
pub(crate) fn groups(bus: &Bus) -> Vec<Vec<Sbdf>> {
    let mut groups = std::collections::BTreeMap::<Sbdf, Vec<Sbdf>>::new();
    for function in functions(bus) {
        groups.entry(function.isolation).or_default().push(function.sbdf);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.iter_mut().for_each(|group| group.sort_unstable());
    groups.sort_unstable();
    groups
}
