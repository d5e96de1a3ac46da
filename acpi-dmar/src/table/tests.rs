use std::string::ToString;
use std::vec::Vec;

use crate::builder::{StructureBuilder, TableBuilder};
use crate::{Dmar, DmarFlags, DrhdFlags, StructureErrorKind, TableError};

fn one_unit() -> TableBuilder {
    TableBuilder::new()
        .revision(2)
        .oem(*b"OEMOEM", *b"BOARD  1", 0x1234_5678)
        .creator(*b"TEST", 0x9abc_def0)
        .host_address_width(39)
        .flags(DmarFlags::INTR_REMAP | DmarFlags::DMA_CTRL_PLATFORM_OPT_IN)
        .structure(StructureBuilder::drhd(DrhdFlags::empty(), 0, 0xfed9_0000))
}

#[test]
fn header_fields_are_where_the_specification_has_them() {
    let bytes = one_unit().build();
    assert_eq!(bytes[..10], [b'D', b'M', b'A', b'R', 64, 0, 0, 0, 2, bytes[9]]);
    assert_eq!(bytes[10..36], *b"OEMOEMBOARD  1\x78\x56\x34\x12TEST\xf0\xde\xbc\x9a");
    assert_eq!(bytes[36..48], [38, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);

    let dmar = Dmar::parse(&bytes).unwrap();
    let header = dmar.header();
    assert_eq!((dmar.length(), header.revision(), header.checksum()), (64, 2, bytes[9]));
    assert_eq!((header.oem_id(), header.oem_table_id()), (b"OEMOEM", b"BOARD  1"));
    assert_eq!((header.oem_revision(), header.creator_revision()), (0x1234_5678, 0x9abc_def0));
    assert_eq!(header.creator_id(), b"TEST");
    assert_eq!(dmar.host_address_width(), 39);
    assert_eq!(dmar.flags(), DmarFlags::INTR_REMAP | DmarFlags::DMA_CTRL_PLATFORM_OPT_IN);
}

#[test]
fn the_absurd_width_does_not_wrap() {
    let bytes = TableBuilder::new().host_address_width(0).build();
    assert_eq!(Dmar::parse(&bytes).unwrap().host_address_width(), 255);
}

#[test]
fn a_header_without_structures_is_a_table() {
    let bytes = TableBuilder::new().build();
    assert_eq!(bytes.len(), 48);
    assert_eq!(Dmar::parse(&bytes).unwrap().structures().count(), 0);
}

#[test]
fn bytes_behind_the_length_are_ignored() {
    let mut bytes = one_unit().build();
    bytes.extend_from_slice(&[1, 2, 3]);
    let dmar = Dmar::parse(&bytes).unwrap();
    assert!(dmar.structures().all(|structure| structure.is_ok()));
}

#[test]
fn each_wrong_header_has_its_error() {
    let right = one_unit().build();
    for available in 0..48 {
        assert_eq!(Dmar::parse(&right[..available]), Err(TableError::TooShort { available }));
    }
    for available in 48..64 {
        assert_eq!(Dmar::parse(&right[..available]), Err(TableError::Truncated { length: 64, available }));
    }
    let wrong = one_unit().override_signature(*b"DM\xffR").build();
    let error = Dmar::parse(&wrong).unwrap_err();
    assert_eq!(error, TableError::Signature { found: *b"DM\xffR" });
    assert_eq!(error.to_string(), r#"the signature is "DM\xffR" and not "DMAR""#);
    for length in [0, 1, 36, 47] {
        let wrong = one_unit().override_length(length).build();
        assert_eq!(Dmar::parse(&wrong), Err(TableError::LengthBelowHeader { length }));
    }
    let wrong = one_unit().override_length(u32::MAX).build();
    assert_eq!(Dmar::parse(&wrong), Err(TableError::Truncated { length: u32::MAX, available: 64 }));
    let wrong = one_unit().override_checksum(right[9].wrapping_add(3)).build();
    assert_eq!(Dmar::parse(&wrong), Err(TableError::Checksum { sum: 3 }));
}

fn lenient(bytes: &[u8]) -> (Option<Dmar<'_>>, Vec<TableError>) {
    let mut errors = Vec::new();
    let dmar = Dmar::parse_lenient(bytes, |error| errors.push(error));
    (dmar, errors)
}

#[test]
fn lenient_reading_goes_on_where_it_can() {
    let bytes = one_unit().build();
    assert_eq!(lenient(&bytes), (Dmar::parse(&bytes).ok(), [].into()));

    let wrong = one_unit().override_checksum(0).build();
    let (dmar, errors) = lenient(&wrong);
    assert_eq!(errors, [TableError::Checksum { sum: 0u8.wrapping_sub(bytes[9]) }]);
    assert_eq!(dmar.unwrap().structures().flatten().count(), 1);

    let (dmar, errors) = lenient(&bytes[..60]);
    assert_eq!(errors, [TableError::Truncated { length: 64, available: 60 }]);
    let structures: Vec<_> = dmar.unwrap().structures().collect();
    assert!(matches!(
        structures[..],
        [Err(crate::StructureError { offset: 48, kind: StructureErrorKind::PastEnd { available: 12, .. } })]
    ));

    assert_eq!(lenient(b"DMAR"), (None, [TableError::TooShort { available: 4 }].into()));
}

#[test]
fn the_first_declaration_of_a_namespace_device_counts() {
    let bytes = TableBuilder::new()
        .structure(StructureBuilder::andd(1, r"\_SB.A"))
        .structure(StructureBuilder::andd(2, r"\_SB.B"))
        .structure(StructureBuilder::andd(2, r"\_SB.C"))
        .build();
    let dmar = Dmar::parse(&bytes).unwrap();
    assert_eq!(dmar.namespace_device(2).unwrap().name(), Some(r"\_SB.B"));
    assert_eq!(dmar.namespace_device(3), None);
}

#[test]
fn a_table_can_have_bytes_after_its_last_structure() {
    let bytes = one_unit().trailing(&[1, 2, 3]).build();
    assert_eq!((bytes.len(), &bytes[64..]), (67, &[1, 2, 3][..]));
    let dmar = Dmar::parse(&bytes).unwrap();
    let [Ok(_), Err(error)] = dmar.structures().collect::<Vec<_>>()[..] else { panic!("{dmar}") };
    assert_eq!((error.offset, error.kind), (64, StructureErrorKind::TrailingBytes { count: 3 }));
}
