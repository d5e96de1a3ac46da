use std::format;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use crate::{Dmar, ScopeFlags, ScopeKind, StructureError, Structures};

/// The structures of a table whose bytes after the header are `body`.
fn walk(body: &[u8]) -> Vec<Result<Structure<'_>, StructureError>> {
    Structures::new(body).collect()
}

#[test]
fn drhd() {
    let body = [0, 0, 16, 0, 1, 0x23, 0x34, 0x12, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0x80];
    let [Ok(Structure::Drhd(drhd))] = walk(&body)[..] else { panic!() };
    assert_eq!((drhd.offset(), drhd.length(), drhd.segment()), (48, 16, 0x1234));
    assert_eq!(
        (drhd.flags(), drhd.size(), drhd.register_bytes()),
        (DrhdFlags::INCLUDE_PCI_ALL, 0x23, 0x8000)
    );
    assert_eq!(drhd.register_base(), 0x8000_0000_fed9_0000);
    assert_eq!(drhd.scopes().count(), 0);
}

#[test]
fn rmrr() {
    let mut body = vec![1, 0, 32, 0, 0, 0, 2, 1];
    body.extend_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
    body.extend_from_slice(&0x99aa_bbcc_ddee_ff00u64.to_le_bytes());
    body.extend_from_slice(&[1, 8, 0, 0, 0, 5, 0x1f, 7]);
    let [Ok(structure @ Structure::Rmrr(rmrr))] = walk(&body)[..] else { panic!() };
    assert_eq!((rmrr.segment(), rmrr.length()), (0x102, 32));
    assert_eq!((rmrr.base(), rmrr.limit()), (0x1122_3344_5566_7788, 0x99aa_bbcc_ddee_ff00));
    let scope = rmrr.scopes().next().unwrap().unwrap();
    assert_eq!((scope.offset(), scope.kind(), scope.start_bus()), (72, ScopeKind::PciEndpoint, 5));
    assert_eq!((structure.kind(), structure.segment()), (StructureKind::Rmrr, Some(0x102)));
    assert_eq!((structure.offset(), structure.length(), structure.scopes().count()), (48, 32, 1));
}

#[test]
fn atsr_and_satc_and_sidp() {
    let body = [
        2, 0, 16, 0, 1, 0, 7, 0, 2, 8, 0, 0, 0, 0, 0x1c, 0, // ATSR, all ports of segment 7
        5, 0, 8, 0, 1, 0, 8, 0, // SATC, needed
        6, 0, 16, 0, 0, 0, 9, 0, 1, 8, 0x1f, 0, 0, 0, 2, 0, // SIDP
    ];
    let [Ok(Structure::Atsr(atsr)), Ok(Structure::Satc(satc)), Ok(Structure::Sidp(sidp))] = walk(&body)[..]
    else {
        panic!()
    };
    assert_eq!((atsr.flags(), atsr.segment(), atsr.scopes().count()), (AtsrFlags::ALL_PORTS, 7, 1));
    assert_eq!((satc.flags(), satc.segment(), satc.offset()), (SatcFlags::ATC_REQUIRED, 8, 64));
    assert_eq!((sidp.segment(), sidp.offset()), (9, 72));
    let scope = sidp.scopes().next().unwrap().unwrap();
    assert_eq!(scope.flags().bits(), 0x1f);
    assert!(scope.flags().contains(ScopeFlags::ATC_HARDENED | ScopeFlags::ATC_REQUIRED));
}

#[test]
fn rhsa() {
    let body = [3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0xd9, 0xfe, 0, 0, 0, 0, 4, 3, 2, 1];
    let [Ok(structure @ Structure::Rhsa(rhsa))] = walk(&body)[..] else { panic!() };
    assert_eq!((rhsa.register_base(), rhsa.proximity_domain()), (0xfed9_0000, 0x0102_0304));
    assert_eq!((structure.segment(), structure.scopes().count()), (None, 0));
}

#[test]
fn andd() {
    let body = *b"\x04\x00\x10\x00\x00\x00\x00\x2a\\_SB.A\0\xff\x04\x00\x0b\x00\x00\x00\x00\x01ABC\x04\x00\x0a\x00\x00\x00\x00\x01\xe9\0";
    let [Ok(Structure::Andd(padded)), Ok(Structure::Andd(open)), Ok(Structure::Andd(latin))] =
        walk(&body)[..]
    else {
        panic!()
    };
    assert_eq!((padded.number(), padded.name(), padded.is_terminated()), (0x2a, Some(r"\_SB.A"), true));
    assert_eq!((open.name(), open.is_terminated()), (Some("ABC"), false));
    assert_eq!((latin.name(), latin.name_bytes()), (None, &b"\xe9"[..]));
}

#[test]
fn unknown_types_pass_through() {
    let body = [7, 0, 6, 0, 0xaa, 0xbb, 0xff, 0xff, 4, 0];
    let [Ok(Structure::Unknown(seven)), Ok(Structure::Unknown(last))] = walk(&body)[..] else { panic!() };
    assert_eq!((seven.raw_type(), seven.offset(), seven.bytes()), (7, 48, &body[..6]));
    assert_eq!((last.raw_type(), last.offset(), last.length(), last.bytes()), (0xffff, 54, 4, &body[6..]));
}

#[test]
fn kinds_keep_their_numbers() {
    for raw in (0..10).chain([u16::MAX]) {
        assert_eq!(StructureKind::from(raw).raw(), raw);
    }
}

#[test]
fn a_table_reads_as_text() {
    let bytes = TableBuilder::new()
        .oem(*b"OEM\0\0\0", *b"BOARD\xff  ", 1)
        .structure(
            StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, 0, 0xfed9_1000)
                .scope(ScopeBuilder::io_apic(2, 0xf0, &[(0x1f, 0)]))
                .scope(ScopeBuilder::namespace(1, 0, &[])),
        )
        .structure(
            StructureBuilder::rmrr(1, 0x9b80_0000, 0x9fff_ffff)
                .scope(ScopeBuilder::bridge(0, &[(0x1c, 0), (0, 0)]))
                .scope(ScopeBuilder::endpoint(0, &[(0x20, 0)]))
                .trailing(&[0; 2]),
        )
        .structure(StructureBuilder::rmrr(0, 2, 0))
        .structure(StructureBuilder::rhsa(0xfed9_0000, 3))
        .structure(StructureBuilder::andd(1, r"\_SB.I2C0"))
        .structure(
            StructureBuilder::sidp(0)
                .scope(ScopeBuilder::endpoint(0, &[(2, 0)]).flags(ScopeFlags::ATC_REQUIRED)),
        )
        .structure(StructureBuilder::raw(9, &[0xab]))
        .structure(StructureBuilder::raw(1, &[0]))
        .build();
    let expected = r#"DMAR revision 1, 210 bytes, OEM "OEM\x00\x00\x00" "BOARD\xff  " revision 0x1, creator "    " revision 0x0
host address width 48 bits, flags 00
[030h] DRHD segment 0000, registers at 0xfed91000 (4 KiB), flags 01 INCLUDE_PCI_ALL
  [040h] ioapic 2 f0:1f.0
  [048h] namespace 1 00:(no path)
[04Eh] RMRR segment 0001, memory 0x9b800000 to 0x9fffffff (72 MiB)
  [066h] bridge 00:1c.0/00.0
  [070h] endpoint 00:20.0 (no bus can have 20.0)
  [078h] error: 2 bytes are left at the end of the structure, too few for a device scope
[07Ah] RMRR segment 0000, memory 0x2 to 0x0 (base above limit)
[092h] RHSA registers at 0xfed90000 in proximity domain 3
[0A6h] ANDD ACPI device 1 is "\_SB.I2C0"
[0B8h] SIDP segment 0000
  [0C0h] endpoint 00:02.0, flags 10 ATC_REQUIRED
[0C8h] structure of unknown type 9, 5 bytes: 09 00 05 00 ab
[0CDh] error: RMRR has a length of 5, less than its fields' 24"#;
    let text = format!("{}", Dmar::parse(&bytes).unwrap());
    assert_eq!(text, expected);
}

#[test]
fn numbers_of_scopes_are_shown_where_they_say_anything() {
    let shown = |scope: ScopeBuilder| {
        let bytes = TableBuilder::new().structure(StructureBuilder::rmrr(0, 0, 0xfff).scope(scope)).build();
        let dmar = Dmar::parse(&bytes).unwrap();
        format!("{}", dmar.structures().next().unwrap().unwrap().scopes().next().unwrap().unwrap())
    };
    assert_eq!(shown(ScopeBuilder::io_apic(0, 0xf0, &[(0x1f, 0)])), "[048h] ioapic 0 f0:1f.0");
    assert_eq!(shown(ScopeBuilder::endpoint(0, &[(2, 0)])), "[048h] endpoint 00:02.0");
    // Reserved for endpoints and bridges, and shown if it is there all the same.
    let endpoint = ScopeBuilder::new(ScopeKind::PciEndpoint, 5, 0, &[(2, 0)]);
    assert_eq!(shown(endpoint), "[048h] endpoint 5 00:02.0");
}

#[test]
fn a_table_is_debugged_with_header_and_structures() {
    let bytes = TableBuilder::new().host_address_width(39).structure(StructureBuilder::rhsa(0xfed9_0000, 3));
    let bytes = bytes.build();
    let dmar = Dmar::parse(&bytes).unwrap();
    let text = format!("{dmar:?}");
    for part in ["Dmar {", "header: DMAR revision 1, 68 bytes", "width: 39", "structures: [Ok(Rhsa("] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}
