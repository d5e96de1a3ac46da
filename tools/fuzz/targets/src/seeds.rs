//! What fuzzing starts from: tables of the shapes that real machines have and of the errors that real tables
//! have, with machines for them.

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::{AtsrFlags, DmarFlags, DrhdFlags, SatcFlags, ScopeFlags};

/// A seed: its target, its name, and the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The target's name.
    pub target: &'static str,
    /// The file's name.
    pub name: String,
    /// What the target is given.
    pub bytes: Vec<u8>,
}

/// All seeds, the same each time.
#[must_use]
pub fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, table) in shapes().into_iter().chain(errors()) {
        let bytes = table.build();
        let name = String::from(name);
        let on_machine = [&bytes[..], &machine()].concat();
        seeds.push(Seed { target: "resolve", name: name.clone(), bytes: on_machine.clone() });
        seeds.push(Seed { target: "inspect", name: name.clone(), bytes: on_machine.clone() });
        seeds.push(Seed { target: "registry", name: name.clone(), bytes: on_machine });
        seeds.push(Seed { target: "parse", name, bytes });
    }
    for (name, text) in OPTIONS {
        seeds.push(Seed { target: "option", name: name.into(), bytes: text.into() });
    }
    for (target, count, length) in
        [("builder", 8, 200), ("table", 32, 60), ("policy", 8, 80), ("hypercall", 8, 400)]
    {
        for number in 1..=count {
            let bytes = random(number, length * usize::try_from(number).unwrap());
            seeds.push(Seed { target, name: format!("random-{number}"), bytes });
        }
    }
    seeds
}

fn unit(register_base: u64) -> StructureBuilder {
    StructureBuilder::drhd(DrhdFlags::empty(), 0, register_base)
}

/// The unit for all devices that no other names, with the scopes that it has on most machines.
fn last_unit(register_base: u64) -> StructureBuilder {
    StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, 0, register_base)
        .scope(ScopeBuilder::io_apic(2, 0xf0, &[(0x1f, 0)]))
        .scope(ScopeBuilder::hpet(0, 0, &[(0x1f, 0)]))
}

fn usb() -> StructureBuilder {
    StructureBuilder::rmrr(0, 0xe_8000, 0xe_ffff)
        .scope(ScopeBuilder::endpoint(0, &[(0x1d, 0)]))
        .scope(ScopeBuilder::endpoint(0, &[(0x1a, 0)]))
        .scope(ScopeBuilder::endpoint(0, &[(0x14, 0)]))
}

fn graphics() -> StructureBuilder {
    StructureBuilder::rmrr(0, 0x7b80_0000, 0x7fff_ffff).scope(ScopeBuilder::endpoint(0, &[(2, 0)]))
}

fn client() -> TableBuilder {
    TableBuilder::new()
        .host_address_width(39)
        .flags(DmarFlags::INTR_REMAP | DmarFlags::X2APIC_OPT_OUT)
        .structure(unit(0xfed9_0000).scope(ScopeBuilder::endpoint(0, &[(2, 0)])))
        .structure(last_unit(0xfed9_1000))
}

fn shapes() -> Vec<(&'static str, TableBuilder)> {
    let desktop = client().structure(usb()).structure(graphics());
    let laptop = client()
        .structure(usb())
        .structure(unit(0xfed9_2000).scope(ScopeBuilder::namespace(1, 0, &[(0x15, 0)])))
        .structure(StructureBuilder::andd(1, r"\_SB.PCI0.I2C0"))
        .structure(StructureBuilder::andd(2, r"\_SB.PCI0.UA00"))
        .structure(unit(0xfed9_3000).scope(ScopeBuilder::namespace(2, 0, &[])));
    let mut server = TableBuilder::new().host_address_width(46).flags(DmarFlags::INTR_REMAP);
    for index in 0..4_u8 {
        let bus = index * 0x40;
        let base = 0xc0ff_c000 + u64::from(index) * 0x1000;
        let ports = [0, 1, 2, 3].map(|device| ScopeBuilder::bridge(bus, &[(device, 0)]));
        let of = |built: StructureBuilder| ports.iter().cloned().fold(built, StructureBuilder::scope);
        let apic = ScopeBuilder::io_apic(8 + index, bus, &[(5, 4)]);
        server = server
            .structure(of(unit(base)).scope(apic))
            .structure(of(StructureBuilder::atsr(AtsrFlags::empty(), 0)))
            .structure(StructureBuilder::rhsa(base, u32::from(index) / 2));
    }
    let management = StructureBuilder::rmrr(0, 0x6a2b_1000, 0x6a2b_3fff)
        .scope(ScopeBuilder::endpoint(0, &[(0x1c, 0), (0, 0), (0, 0), (1, 0)]))
        .scope(ScopeBuilder::bridge(0, &[(0x1c, 0), (0, 0)]))
        .scope(ScopeBuilder::endpoint(0x40, &[(2, 0), (0, 0)]));
    let soc_scope = ScopeBuilder::endpoint(0, &[(0xd, 0)]);
    let soc = client()
        .structure(graphics())
        .structure(StructureBuilder::satc(SatcFlags::ATC_REQUIRED, 0).scope(soc_scope.clone()))
        .structure(StructureBuilder::sidp(0).scope(soc_scope.flags(ScopeFlags::ATC_REQUIRED)));
    let segments = (0..4).fold(TableBuilder::new(), |table, segment| {
        let device = || ScopeBuilder::endpoint(0x80, &[(2, 0)]);
        let base = u64::from(segment) << 28;
        table
            .structure(StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, segment, 0xfed0_0000 + base))
            .structure(
                StructureBuilder::rmrr(segment, 0x1000_0000 + base, 0x1000_0fff + base).scope(device()),
            )
    });
    let long_path = ScopeBuilder::endpoint(0, &[(1, 0); 124]);
    vec![
        ("desktop", desktop),
        ("laptop", laptop),
        ("server", server.structure(management)),
        ("soc", soc),
        ("segments", segments),
        ("empty", TableBuilder::new()),
        ("longest-scope", client().structure(usb().scope(long_path))),
        ("unknown-structure", client().structure(StructureBuilder::raw(0x1234, &[1, 2, 3])).structure(usb())),
        ("unknown-scope", client().structure(usb().scope(ScopeBuilder::new(9.into(), 1, 2, &[(3, 4)])))),
    ]
}

fn errors() -> Vec<(&'static str, TableBuilder)> {
    let bad = |structure: StructureBuilder| client().structure(structure).structure(graphics());
    let bad_scope = |scope: ScopeBuilder| bad(usb().scope(scope).scope(ScopeBuilder::endpoint(0, &[(4, 0)])));
    let scope = || ScopeBuilder::endpoint(0, &[(3, 0)]);
    let region = |base, limit| StructureBuilder::rmrr(0, base, limit).scope(scope());
    let whole = client().structure(usb()).build().len() as u32;
    vec![
        ("structure-length-0", bad(usb().override_length(0))),
        ("structure-length-3", bad(usb().override_length(3))),
        ("structure-length-odd", bad(usb().override_length(25))),
        ("structure-without-fields", bad(usb().override_length(4))),
        ("structure-past-end", bad(usb().override_length(0xffff))),
        ("structure-fits-exactly", client().structure(usb().override_length(24 + 3 * 8))),
        ("structure-with-trailing", bad(usb().trailing(&[1, 8, 0, 0, 0]))),
        ("scope-length-0", bad_scope(scope().override_length(0))),
        ("scope-length-5", bad_scope(scope().override_length(5))),
        ("scope-without-path", bad_scope(scope().override_length(6))),
        ("scope-length-odd", bad_scope(scope().raw_path(&[3, 0, 1]))),
        ("scope-past-end", bad_scope(scope().override_length(0xff))),
        ("scope-bad-hop", bad_scope(ScopeBuilder::endpoint(0, &[(0x20, 8)]))),
        ("scope-of-no-andd", bad_scope(ScopeBuilder::namespace(77, 0, &[(3, 0)]))),
        ("table-trailing-1", client().structure(usb()).trailing(&[1])),
        ("table-trailing-3", client().structure(usb()).trailing(&[1, 0, 24])),
        ("table-length-0", client().structure(usb()).override_length(0)),
        ("table-length-short", client().structure(usb()).override_length(whole - 1)),
        ("table-length-long", client().structure(usb()).override_length(whole + 9)),
        ("table-length-huge", client().structure(usb()).override_length(u32::MAX)),
        ("table-checksum", client().structure(usb()).override_checksum(0x5a)),
        ("table-signature", client().structure(usb()).override_signature(*b"APIC")),
        ("region-reversed", bad(region(0x7000_0000, 0x6fff_ffff))),
        ("region-beyond-width", bad(region(0x80_0000_0000, 0x80_0000_0fff))),
        ("region-all", bad(region(0, u64::MAX)).host_address_width(255)),
        ("region-not-on-pages", bad(region(0xe_8010, 0xe_ffef))),
        ("region-without-scope", bad(StructureBuilder::rmrr(0, 0xe_8000, 0xe_ffff))),
        ("regions-share-a-page", bad(region(0x7fff_f000, 0x8000_0fff))),
        ("bridge-to-itself", bad_scope(ScopeBuilder::bridge(0, &[(0x1c, 0), (1, 0)]))),
        ("bridge-without-buses", bad_scope(ScopeBuilder::bridge(0, &[(0x1c, 0), (0, 0), (0, 0)]))),
        ("regions-overlap", bad(region(0x7f00_0000, 0x8000_0fff)).structure(region(0xe_0000, 0xe_8fff))),
    ]
}

/// The records of a machine that has what the shapes name, and some bridges that lead wrong.
fn machine() -> Vec<u8> {
    const ENDPOINT: u8 = 0;
    const BRIDGE: u8 = 1;
    let function = |kind, bus, device, function, secondary, subordinate| {
        [kind, 0, bus, device, function, secondary, subordinate, 0]
    };
    let memory = |kind: u8, start: u32, pages: u32| {
        let ([a, b, c, _], [d, e, f, _]) = (start.to_le_bytes(), pages.to_le_bytes());
        [5, kind, a, b, c, d, e, f]
    };
    let (ram, reserved, other) = (0, 2, 3);
    [
        function(ENDPOINT, 0, 2, 0, 0, 0),
        function(ENDPOINT, 0, 3, 0, 0, 0),
        function(ENDPOINT, 0, 0x14, 0, 0, 0),
        function(ENDPOINT, 0, 0x15, 0, 0, 0),
        function(ENDPOINT, 0, 0x1d, 0, 0, 0),
        function(BRIDGE, 0, 1, 0, 1, 0x3f),
        function(BRIDGE, 1, 1, 0, 2, 0x3f),
        function(BRIDGE, 2, 1, 0, 1, 0x3f),
        function(BRIDGE, 0, 0x1c, 0, 3, 6),
        function(BRIDGE, 3, 0, 0, 4, 6),
        function(BRIDGE, 3, 1, 0, 3, 6),
        function(BRIDGE, 4, 0, 0, 6, 5),
        function(BRIDGE, 0x40, 2, 0, 0x41, 0x4f),
        function(ENDPOINT, 0x41, 0, 0, 0, 0),
        function(2, 0, 0xd, 0, 0, 0),
        function(4, 0, 0x1a, 0, 0, 0),
        // One with a capability list that goes round: a PCIe-to-PCI bridge's, and one without a meaning.
        function(BRIDGE, 0, 6, 0, 7, 8),
        [15, 0x06, 0x10, 0, 0, 0, 0, 0],
        [15, 0x34, 0x40, 0, 0, 0, 0, 0],
        [15, 0x40, 0x10, 0x50, 0x72, 0, 0, 0],
        [15, 0x50, 0x09, 0x40, 0, 0, 0, 0],
        function(ENDPOINT, 7, 1, 0, 0, 0),
        function(ENDPOINT, 7, 2, 0, 0, 0),
        memory(ram, 0, 0xa0),
        memory(reserved, 0xe0, 0x20),
        memory(ram, 0x100, 0x7_0000),
        memory(other, 0x7_0100, 0x100),
        memory(reserved, 0x7_b800, 0x4800),
        memory(ram, 0x10_0000, 0x1000),
    ]
    .concat()
}

const OPTIONS: [(&str, &str); 10] = [
    ("one", "0xd5d45-0xd5d46=0:1d.0"),
    ("page", "7bd00=0:2.0"),
    ("several", "a-b=3:0:2.0,1:1f.7;c=0:2.0,0:0.0"),
    ("empty", ""),
    ("separators", ";;1=0:2.0;"),
    ("reversed", "5-4=0:2.0;1=0:2.0"),
    ("too-many", "0-40000=0:2.0"),
    ("too-large", "10000000000000=0:2.0;1=10000:100:20.8"),
    ("segments", "1=1:0:2.0,2:0:2.0"),
    ("half", "1=0:2.,0x;0x=;é=0:2.0"),
];

/// Bytes without a meaning, by George Marsaglia's xorshift.
fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(|_| next()).collect()
}
