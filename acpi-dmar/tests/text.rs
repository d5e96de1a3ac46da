//! Tables as text, and what a builder makes at the ends of what fields can say.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use acpi_dmar::builder::{BuildError, ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::{Dmar, DrhdFlags, ScopeKind};

fn drhd() -> StructureBuilder {
    StructureBuilder::drhd(DrhdFlags::empty(), 0, 0xfed9_0000)
}

#[test]
fn debugging_shows_header_and_structures() {
    let bytes = TableBuilder::new().structure(drhd()).trailing(&[9, 9]).build();
    let text = format!("{:?}", Dmar::parse(&bytes).unwrap());
    for part in
        ["Dmar { header: DMAR revision 1,", "host_address_width: ", "flags: ", "structures: [Ok(Drhd", "Err("]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

#[test]
fn a_scope_shows_its_enumeration_id_where_that_says_something() {
    let shown = |scope: ScopeBuilder| {
        let bytes = TableBuilder::new().structure(drhd().scope(scope)).build();
        let text = Dmar::parse(&bytes).unwrap().to_string();
        text.lines().last().unwrap().trim().to_owned()
    };
    let endpoint = |id| ScopeBuilder::new(ScopeKind::PciEndpoint, id, 0, &[(2, 0)]);
    assert_eq!(shown(endpoint(0)), "[040h] endpoint 00:02.0");
    assert_eq!(shown(endpoint(5)), "[040h] endpoint 5 00:02.0");
    assert_eq!(shown(ScopeBuilder::io_apic(0, 0xf0, &[(0x1f, 0)])), "[040h] ioapic 0 f0:1f.0");
}

#[test]
fn bytes_after_the_last_structure_are_in_the_table() {
    let plain = TableBuilder::new().structure(drhd()).build();
    let bytes = TableBuilder::new().structure(drhd()).trailing(&[7, 8]).build();
    assert_eq!((bytes.len(), &bytes[plain.len()..]), (plain.len() + 2, &[7, 8][..]));
    assert_eq!(bytes[4..8], u32::try_from(bytes.len()).unwrap().to_le_bytes());
}

#[test]
fn a_structure_is_as_long_as_its_length_field_can_say() {
    // A DRHD is 16 bytes; the rest lies after its last scope.
    let of =
        |length: usize| TableBuilder::new().structure(drhd().trailing(&vec![0; length - 16])).try_build();
    let bytes = of(0xffff).unwrap();
    assert_eq!(bytes[50..52], [0xff, 0xff]);
    assert_eq!(of(0x1_0000), Err(BuildError::StructureTooLong { structure: 0, length: 0x1_0000 }));
}
