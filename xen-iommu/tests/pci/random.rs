//! Random trees of bridges and devices, beside a plain model of them.
//!
//! The model knows the tree, not the config space. It joins functions by the three sentences of VFIO's
//! definition, pair by pair, and sends requests up the bridges, each of which does to a requester id what its
//! kind may do.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use testkit::bus::{Bus, Function, port};
use xen_iommu::Sbdf;
use xen_iommu::pci::{BusRange, Role};

use crate::kit::{visited, with_topology};

/// What a function is.
#[derive(Clone, Debug)]
struct Plan {
    /// Its PCI Express port type.
    port: Option<u8>,
    pci_x: bool,
    /// Offered and set ACS controls.
    acs: Option<(u16, u16)>,
    id: Id,
    phantoms: bool,
    /// Virtual functions that are enabled, from function 64 of its bus on.
    virtuals: u16,
    /// What is below a bridge: devices, and the functions of each.
    below: Option<Vec<Vec<Plan>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Id {
    Unknown,
    /// Carries the id of function 1.
    Marvell,
    /// Isolates without ACS.
    I350,
    /// Integrated ones isolate.
    Intel,
    /// A bridge to PCI that hides its capability.
    Asmedia,
}

fn acs() -> impl Strategy<Value = Option<(u16, u16)>> {
    let some = (select(vec![0x1d_u16, 0x1d, 0x1f, 0x0c]), select(vec![0x1d_u16, 0x1d, 0x1d, 0x1c, 0]));
    prop_oneof![2 => Just(None), 3 => some.prop_map(Some)]
}

fn device() -> impl Strategy<Value = Plan> {
    let port = select(vec![None, Some(port::ENDPOINT), Some(port::ENDPOINT), Some(port::INTEGRATED)]);
    let id = select(vec![Id::Unknown, Id::Unknown, Id::Unknown, Id::Marvell, Id::I350, Id::Intel]);
    (port, acs(), id, any::<bool>(), prop_oneof![4 => Just(0_u16), 1 => 1..3_u16]).prop_map(
        |(port, acs, id, phantoms, virtuals)| Plan {
            port,
            pci_x: false,
            acs: acs.filter(|_| port.is_some()),
            id,
            phantoms: phantoms && port.is_some(),
            virtuals: if port.is_some() { virtuals } else { 0 },
            below: None,
        },
    )
}

fn bridge(below: impl Strategy<Value = Plan> + Clone) -> impl Strategy<Value = Plan> {
    use port::{DOWNSTREAM, FROM_PCI, ROOT, TO_PCI, UPSTREAM};
    let ports = [
        None,
        Some(ROOT),
        Some(ROOT),
        Some(ROOT),
        Some(UPSTREAM),
        Some(DOWNSTREAM),
        Some(TO_PCI),
        Some(FROM_PCI),
    ];
    let id = select(vec![Id::Unknown, Id::Unknown, Id::Asmedia]);
    let below = vec(vec(below, 1..3), 0..3);
    (select(ports.to_vec()), any::<bool>(), acs(), id, below).prop_map(|(port, pci_x, acs, id, below)| Plan {
        port,
        pci_x: pci_x && port.is_none(),
        acs: acs.filter(|_| port.is_some()),
        id,
        phantoms: false,
        virtuals: 0,
        below: Some(below),
    })
}

fn tree() -> impl Strategy<Value = Vec<Vec<Plan>>> {
    let plan = device().boxed().prop_recursive(4, 24, 4, |inner| prop_oneof![device(), bridge(inner)]);
    vec(vec(plan, 1..4), 1..5)
}

/// A function of the model, in its place.
#[derive(Debug)]
struct Node {
    sbdf: Sbdf,
    plan: Plan,
    multifunction: bool,
    secondary: u8,
    /// The bridges above, nearest first.
    above: Vec<usize>,
}

/// Numbers the buses as firmware does, and says which is the next one free.
fn place(devices: &[Vec<Plan>], bus: u8, above: &[usize], next: u8, nodes: &mut Vec<Node>, made: &Bus) -> u8 {
    let mut free = next;
    for (device, functions) in (0..).zip(devices) {
        for (number, plan) in (0..).zip(functions) {
            let sbdf = Sbdf::new(0, bus, device, number);
            let secondary = free;
            let multifunction = functions.len() > 1;
            let index = nodes.len();
            nodes.push(Node { sbdf, plan: plan.clone(), multifunction, secondary, above: above.to_vec() });
            if let Some(below) = &plan.below {
                let way = [&[index], above].concat();
                free = place(below, secondary, &way, secondary + 1, nodes, made);
            }
            made.put(sbdf, config(plan, multifunction, secondary, free.wrapping_sub(1)));
        }
    }
    free
}

fn config(plan: &Plan, multifunction: bool, secondary: u8, subordinate: u8) -> Function {
    let mut function = match plan.below {
        Some(_) => Function::bridge(secondary, subordinate),
        None => Function::endpoint(),
    };
    function = match plan.id {
        Id::Unknown => function,
        Id::Marvell => function.id(0x1b4b, 0x9230),
        Id::I350 => function.id(0x8086, 0x1521),
        Id::Intel => function.id(0x8086, 0xffff),
        Id::Asmedia => function.id(0x1b21, 0x1080),
    };
    if multifunction {
        function = function.multifunction();
    }
    if let Some(port) = plan.port {
        function = function.express(port);
    }
    if plan.pci_x {
        function = function.pci_x();
    }
    if plan.phantoms {
        function = function.phantom(1);
    }
    if let Some((offered, on)) = plan.acs {
        function = function.acs(offered, on);
    }
    if plan.virtuals > 0 {
        function = function.sr_iov(4, plan.virtuals, 64, 8);
    }
    function
}

impl Node {
    /// What ACS, or the part's name, says of it.
    fn isolates(&self) -> bool {
        let on = self.plan.acs.is_some_and(|(offered, on)| on & offered & 0x1d == offered & 0x1d);
        match (self.plan.id, self.plan.port) {
            (Id::I350, _) => true,
            (Id::Intel, Some(port::INTEGRATED)) => true,
            (_, None | Some(port::TO_PCI | port::FROM_PCI)) => false,
            (_, Some(port::ROOT | port::DOWNSTREAM)) => on,
            _ => !self.multifunction || on,
        }
    }

    /// What it may carry as it leaves its bus.
    fn own_ids(&self) -> BTreeSet<Sbdf> {
        let at = |number| Sbdf::new(0, self.sbdf.bus(), self.sbdf.device(), number);
        let mut ids = BTreeSet::from([self.sbdf]);
        if self.plan.phantoms {
            ids.insert(at(self.sbdf.function() + 4));
        }
        if self.plan.id == Id::Marvell {
            ids.insert(at(1));
        }
        ids
    }

    /// Whether ids stay what they are as requests pass.
    fn passes(&self) -> bool {
        matches!(self.plan.port, Some(port::ROOT | port::UPSTREAM | port::DOWNSTREAM))
    }

    /// What it may make of the id of a request from below.
    fn send_up(&self, id: Sbdf, parent: Option<&Node>) -> Vec<Sbdf> {
        let taken_over = Sbdf::new(0, self.secondary, 0, 0);
        let hides = || {
            self.plan.id == Id::Asmedia
                && parent.is_some_and(|one| one.plan.port.is_some_and(|port| port != port::TO_PCI))
        };
        match self.plan.port {
            _ if self.passes() => vec![id],
            Some(port::TO_PCI) => vec![taken_over, self.sbdf],
            None if self.plan.pci_x => vec![taken_over, self.sbdf, id],
            None if hides() => vec![taken_over, self.sbdf],
            _ => vec![self.sbdf],
        }
    }
}

/// Sets of functions, joined two by two.
#[derive(Default)]
struct Sets(BTreeMap<Sbdf, Sbdf>);

impl Sets {
    fn of(&self, one: Sbdf) -> Sbdf {
        self.0.get(&one).map_or(one, |up| self.of(*up))
    }

    fn join(&mut self, one: Sbdf, other: Sbdf) {
        let (one, other) = (self.of(one), self.of(other));
        if one != other {
            self.0.insert(one, other);
        }
    }
}

fn vfio_groups(nodes: &[Node], virtuals: &[(Sbdf, usize)]) -> Sets {
    let mut sets = Sets::default();
    let open = |bridge: &Node| !bridge.passes() || !bridge.isolates();
    // Below a bridge that takes requests over, or does not send all of them up, one is together with it.
    for node in nodes {
        for bridge in node.above.iter().map(|index| &nodes[*index]).filter(|bridge| open(bridge)) {
            sets.join(node.sbdf, bridge.sbdf);
        }
    }
    for &(id, physical) in virtuals {
        for bridge in nodes[physical].above.iter().map(|index| &nodes[*index]).filter(|bridge| open(bridge)) {
            sets.join(id, bridge.sbdf);
        }
    }
    for one in nodes {
        for other in nodes.iter().filter(|other| other.sbdf.bus() == one.sbdf.bus() && other.sbdf != one.sbdf)
        {
            let same_device = one.sbdf.device() == other.sbdf.device();
            let both_open = !one.isolates() && !other.isolates() && one.multifunction;
            if same_device && both_open || !one.own_ids().is_disjoint(&other.own_ids()) {
                sets.join(one.sbdf, other.sbdf);
            }
        }
    }
    sets
}

/// A bus, a device and a function.
fn at() -> impl Strategy<Value = (u8, u8, u8)> {
    (0_u8..4, 0_u8..3, 0_u8..3)
}

/// A register of the header or of a capability, and what is in it.
fn register() -> impl Strategy<Value = (u16, u32)> {
    let header = [0_u16, 4, 8, 0xc, 0x10, 0x18, 0x34];
    let capabilities = [0x40, 0x44, 0x48, 0x68, 0x100, 0x104, 0x108, 0x10c, 0x110, 0x114];
    (select([&header[..], &capabilities].concat()), any::<u32>())
}

proptest! {
    #[test]
    fn the_walk_agrees_with_the_model(tree in tree()) {
        let bus = Bus::new();
        let mut nodes = Vec::new();
        let free = place(&tree, 0, &[], 1, &mut nodes, &bus);
        let virtuals: Vec<_> = nodes.iter().enumerate().flat_map(|(index, node)| {
            (0..node.plan.virtuals).map(move |number| {
                let id = node.sbdf.source_id() + 64 + 8 * number;
                (Sbdf::from_raw(id.into()), index)
            })
        }).collect();
        let range = BusRange { segment: 0, first: 0, last: free };
        let all = with_topology(&bus, &[range], |topology| {
            for node in &nodes {
                let above = topology.upstream(node.sbdf).map(|bridge| bridge.sbdf);
                assert!(above.eq(node.above.iter().map(|index| nodes[*index].sbdf)));
            }
            visited(topology, &bus)
        });
        // Two functions of a device may claim the same ids; the lower one has them.
        let mut claims = BTreeMap::new();
        for &(id, physical) in &virtuals {
            claims.entry(id).or_insert(physical);
        }
        let virtuals: Vec<_> = claims.into_iter().collect();
        prop_assert_eq!(all.len(), nodes.len() + virtuals.len());
        let groups = vfio_groups(&nodes, &virtuals);
        for one in &all {
            for other in &all {
                prop_assert_eq!(
                    one.isolation == other.isolation,
                    groups.of(one.sbdf) == groups.of(other.sbdf),
                    "{} {}", one.sbdf, other.sbdf
                );
            }
        }
        for function in &all {
            let of = |sbdf| nodes.iter().find(|node| node.sbdf == sbdf).expect("a node");
            let (node, mut seen) = match function.role {
                Role::Virtual { physical } => (of(physical), BTreeSet::from([function.sbdf])),
                _ => (of(function.sbdf), of(function.sbdf).own_ids()),
            };
            for (place, bridge) in node.above.iter().map(|index| &nodes[*index]).enumerate() {
                let parent = node.above.get(place + 1).map(|index| &nodes[*index]);
                seen = seen.into_iter().flat_map(|id| bridge.send_up(id, parent)).collect();
            }
            prop_assert!(function.ids.is_complete());
            let all_known = seen.iter().all(|id| function.ids.contains(*id));
            prop_assert!(all_known, "{:?} beyond {:?}", seen, function);
        }
    }

    /// Whatever config space holds, the walk ends, visits nobody twice, and each is as it is when asked for
    /// alone.
    #[test]
    fn any_config_space_is_walked(functions in vec((at(), vec(register(), 0..8), 0..6_usize), 0..12)) {
        let bus = Bus::new();
        for ((number, device, function), registers, kind) in functions {
            let start = match kind {
                0 => Function::endpoint(),
                1 => Function::bridge(number + 1, 4).express(port::ROOT).ari_forwarding(),
                2 => Function::bridge(number + 1, 9).express(port::DOWNSTREAM).acs(0x1d, 0x1d),
                3 => Function::endpoint().express(port::ENDPOINT).sr_iov(8, 8, 3, 5).multifunction(),
                4 => Function::bridge(number + 2, 3).express(port::TO_PCI).multifunction(),
                _ => Function::endpoint().express(port::ENDPOINT).multifunction().phantom(1),
            };
            let made = registers.into_iter().fold(start, |made, (offset, value)| made.set(offset, value));
            bus.put(Sbdf::new(0, number, device, function), made);
        }
        let range = BusRange { segment: 0, first: 0, last: 5 };
        with_topology(&bus, &[range], |topology| {
            let all = visited(topology, &bus);
            let once: BTreeSet<_> = all.iter().map(|function| function.sbdf).collect();
            assert_eq!(once.len(), all.len());
            for function in &all {
                let mut last = function.sbdf.bus();
                for bridge in topology.upstream(function.sbdf) {
                    assert!(bridge.sbdf.bus() < last.max(1) && bridge.secondary <= last);
                    last = bridge.sbdf.bus();
                }
            }
            // Nothing changed, and so nothing changes.
            let before = format!("{topology:?}");
            all.iter().for_each(|function| topology.update(function.sbdf, &bus));
            assert_eq!(format!("{topology:?}"), before);
        });
    }
}
