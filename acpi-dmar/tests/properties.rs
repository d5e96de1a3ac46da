//! What must hold of any bytes, and of any table that the builder composes.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

#[path = "common/described.rs"]
mod described;
#[path = "common/visit.rs"]
mod visit;

use acpi_dmar::builder::{BuildError, ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::{Dmar, DrhdFlags};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::described::{Part, Scope, Table};
use crate::visit::visit;

proptest! {
    #[test]
    fn any_bytes_end(bytes in vec(any::<u8>(), 0..600)) {
        visit(&bytes);
    }

    /// Bytes after a right header, with small numbers more often than not, so that lengths and types make
    /// sense now and then.
    #[test]
    fn any_body_ends(body in vec(prop_oneof![any::<u8>(), 0u8..32], 0..600)) {
        visit(&TableBuilder::new().trailing(&body).build());
    }

    #[test]
    fn any_built_table_survives_a_round_trip(table in table()) {
        visit(&table.check());
    }

    /// Damage on purpose: any length may be wrong.
    #[test]
    fn wrong_tables_end(table in table(), structure in any::<u16>(), scope in any::<u8>(), small: bool) {
        let structure = if small { structure % 64 } else { structure };
        let mut wrong = TableBuilder::new();
        for part in &table.structures {
            let odd = ScopeBuilder::endpoint(0, &[(1, 1)]).override_length(scope);
            wrong = wrong.structure(part.build().scope(odd).override_length(structure)).structure(part.build());
        }
        visit(&wrong.build());
    }
}

fn scope() -> impl Strategy<Value = Scope> {
    (0u8..8, any::<u8>(), any::<u8>(), any::<u8>(), vec(any::<(u8, u8)>(), 0..124))
        .prop_map(|(kind, flags, id, bus, path)| Scope { kind, flags, id, bus, path })
}

fn part() -> impl Strategy<Value = Part> {
    let numbers = (any::<u8>(), any::<u8>(), any::<u16>(), any::<(u64, u64)>(), any::<u32>());
    (0u16..9, numbers, vec(1u8.., 0..40), vec(scope(), 0..6)).prop_map(
        |(kind, (flags, size, segment, addresses, domain), name, scopes)| Part {
            kind,
            flags,
            size,
            segment,
            addresses,
            domain,
            name,
            scopes: if matches!(kind, 0 | 1 | 2 | 5 | 6) { scopes } else { Vec::new() },
        },
    )
}

fn table() -> impl Strategy<Value = Table> {
    (
        any::<([u8; 6], [u8; 8], u32)>(),
        any::<([u8; 4], u32)>(),
        any::<u8>(),
        1u8..,
        any::<u8>(),
        vec(part(), 0..8),
    )
        .prop_map(|(oem, creator, revision, width, flags, structures)| Table {
            oem,
            creator,
            revision,
            width,
            flags,
            structures,
        })
}

#[test]
fn what_no_length_field_can_say_is_refused() {
    let scope = |hops| ScopeBuilder::endpoint(0, &vec![(0, 0); hops]);
    let unit = || StructureBuilder::drhd(DrhdFlags::empty(), 0, 0);
    assert!(TableBuilder::new().structure(unit().scope(scope(124))).try_build().is_ok());
    let table = TableBuilder::new().structure(unit()).structure(unit().scope(scope(0)).scope(scope(125)));
    assert_eq!(table.try_build(), Err(BuildError::ScopeTooLong { structure: 1, scope: 1, length: 256 }));
    visit(&table.build());
    // 255 bytes, half a hop at the end.
    let longest = ScopeBuilder::endpoint(0, &[]).raw_path(&[0; 249]);
    assert!(TableBuilder::new().structure(unit().scope(longest)).try_build().is_ok());

    let raw = |count| TableBuilder::new().structure(StructureBuilder::raw(9, &vec![0; count]));
    assert!(raw(0xffff - 4).try_build().is_ok());
    let table = raw(0xffff - 3);
    assert_eq!(table.try_build(), Err(BuildError::StructureTooLong { structure: 0, length: 0x1_0000 }));
    visit(&table.build());
}

#[test]
fn a_table_of_64_kib_is_walked_once() {
    let mut table = TableBuilder::new();
    for index in 0..2046u64 {
        let base = 0x1_0000_0000 + (index << 16);
        let scope = ScopeBuilder::endpoint(0, &[((index % 32) as u8, (index / 32 % 8) as u8)]);
        table = table.structure(StructureBuilder::rmrr(0, base, base + 0xfff).scope(scope));
    }
    let bytes = table.try_build().unwrap();
    assert_eq!(bytes.len(), 48 + 2046 * 32);
    let dmar = Dmar::parse(&bytes).unwrap();
    assert_eq!(dmar.structures().filter(|structure| structure.is_ok()).count(), 2046);
    assert_eq!(
        dmar.structures().flatten().map(|structure| structure.scopes().flatten().count()).sum::<usize>(),
        2046
    );
}
