//! What must hold of any bytes, and of any table that the builder composes.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use acpi_dmar::builder::{BuildError, ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::{
    AtsrFlags, Dmar, DmarFlags, DrhdFlags, Hop, SatcFlags, ScopeFlags, ScopeKind, Structure, StructureKind,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// Reads everything, strictly counting: each structure takes at least 4 bytes and each scope at least 6, or ends its walk.
fn visit(bytes: &[u8]) {
    let _ = Dmar::parse(bytes);
    let Some(dmar) = Dmar::parse_lenient(bytes, |_| {}) else { return };
    let mut end = 48;
    let mut walk = dmar.structures();
    for structure in walk.by_ref() {
        match structure {
            Ok(structure) => {
                assert_eq!(structure.offset(), end);
                end += u32::from(structure.length());
                let mut scope_end = 0;
                for scope in structure.scopes() {
                    match scope {
                        Ok(scope) => {
                            assert!(scope.offset() >= scope_end && scope.length() >= 6);
                            scope_end = scope.offset() + u32::from(scope.length());
                            assert_eq!(scope.path().count() * 2 + 6, scope.length().into());
                        }
                        Err(error) => {
                            assert!(error.offset >= scope_end);
                            scope_end = error.offset + 7;
                        }
                    }
                    assert!(scope_end <= end + 7);
                }
            }
            Err(error) => {
                assert_eq!(error.offset, end);
                let length =
                    bytes[end as usize..].get(2..4).map_or(0, |at| u16::from_le_bytes([at[0], at[1]]));
                end += u32::from(length).max(1);
                if error.ends_walk() {
                    break;
                }
            }
        }
    }
    assert!(walk.next().is_none());
    let text = dmar.to_string();
    assert!(text.len() < 400 + 200 * bytes.len());
}

proptest! {
    #[test]
    fn any_bytes_end(bytes in vec(any::<u8>(), 0..600)) {
        visit(&bytes);
    }

    /// Bytes behind a right header, with small numbers more often than not, so that lengths and types make sense now and then.
    #[test]
    fn any_body_ends(body in vec(prop_oneof![any::<u8>(), 0u8..32], 0..600)) {
        visit(&TableBuilder::new().trailing(&body).build());
    }

    #[test]
    fn any_built_table_survives_a_round_trip(table in table()) {
        check(&table);
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

#[derive(Clone, Debug)]
struct Table {
    oem: ([u8; 6], [u8; 8], u32),
    creator: ([u8; 4], u32),
    revision: u8,
    width: u8,
    flags: u8,
    structures: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    kind: u16,
    flags: u8,
    size: u8,
    segment: u16,
    addresses: (u64, u64),
    domain: u32,
    name: Vec<u8>,
    scopes: Vec<Scope>,
}

#[derive(Clone, Debug)]
struct Scope {
    kind: u8,
    flags: u8,
    id: u8,
    bus: u8,
    path: Vec<(u8, u8)>,
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

impl Part {
    fn build(&self) -> StructureBuilder {
        let mut built = match self.kind {
            0 => StructureBuilder::drhd(
                DrhdFlags::from_bits_retain(self.flags),
                self.segment,
                self.addresses.0,
            )
            .size(self.size),
            1 => StructureBuilder::rmrr(self.segment, self.addresses.0, self.addresses.1),
            2 => StructureBuilder::atsr(AtsrFlags::from_bits_retain(self.flags), self.segment),
            3 => StructureBuilder::rhsa(self.addresses.0, self.domain),
            4 => StructureBuilder::andd(self.size, &self.name),
            5 => StructureBuilder::satc(SatcFlags::from_bits_retain(self.flags), self.segment),
            6 => StructureBuilder::sidp(self.segment),
            other => StructureBuilder::raw(other, &self.name),
        };
        for scope in &self.scopes {
            built = built.scope(
                ScopeBuilder::new(scope.kind.into(), scope.id, scope.bus, &scope.path)
                    .flags(ScopeFlags::from_bits_retain(scope.flags)),
            );
        }
        built
    }

    fn check(&self, read: Structure<'_>) {
        assert_eq!(read.kind(), StructureKind::from(self.kind));
        match read {
            Structure::Drhd(drhd) => {
                assert_eq!(
                    (drhd.flags().bits(), drhd.size(), drhd.segment()),
                    (self.flags, self.size, self.segment)
                );
                assert_eq!(drhd.register_base(), self.addresses.0);
            }
            Structure::Rmrr(rmrr) => {
                assert_eq!(
                    (rmrr.segment(), rmrr.base(), rmrr.limit()),
                    (self.segment, self.addresses.0, self.addresses.1)
                );
            }
            Structure::Atsr(atsr) => {
                assert_eq!((atsr.flags().bits(), atsr.segment()), (self.flags, self.segment))
            }
            Structure::Rhsa(rhsa) => {
                assert_eq!((rhsa.register_base(), rhsa.proximity_domain()), (self.addresses.0, self.domain));
            }
            Structure::Andd(andd) => {
                assert_eq!((andd.number(), andd.name_bytes()), (self.size, &self.name[..]))
            }
            Structure::Satc(satc) => {
                assert_eq!((satc.flags().bits(), satc.segment()), (self.flags, self.segment))
            }
            Structure::Sidp(sidp) => assert_eq!(sidp.segment(), self.segment),
            Structure::Unknown(unknown) => assert_eq!(unknown.bytes()[4..], self.name[..]),
        }
        let scopes: Vec<_> = read.scopes().map(Result::unwrap).collect();
        assert_eq!(scopes.len(), self.scopes.len());
        for (read, built) in scopes.iter().zip(&self.scopes) {
            assert_eq!((read.kind(), read.flags().bits()), (ScopeKind::from(built.kind), built.flags));
            assert_eq!((read.enumeration_id(), read.start_bus()), (built.id, built.bus));
            let path = built.path.iter().map(|&(device, function)| Hop { device, function });
            assert!(read.path().eq(path));
        }
    }
}

fn check(table: &Table) {
    let mut built = TableBuilder::new()
        .oem(table.oem.0, table.oem.1, table.oem.2)
        .creator(table.creator.0, table.creator.1)
        .revision(table.revision)
        .host_address_width(table.width)
        .flags(DmarFlags::from_bits_retain(table.flags));
    for part in &table.structures {
        built = built.structure(part.build());
    }
    let bytes = built.try_build().unwrap();
    assert_eq!(bytes, built.build());
    let dmar = Dmar::parse(&bytes).unwrap();
    let header = dmar.header();
    assert_eq!((*header.oem_id(), *header.oem_table_id(), header.oem_revision()), table.oem);
    assert_eq!((*header.creator_id(), header.creator_revision()), table.creator);
    assert_eq!((header.revision(), dmar.length() as usize), (table.revision, bytes.len()));
    assert_eq!((dmar.host_address_width(), dmar.flags().bits()), (table.width, table.flags));
    assert_eq!(dmar.structures().count(), table.structures.len());
    for (read, part) in dmar.structures().zip(&table.structures) {
        part.check(read.unwrap());
    }
    assert_eq!(TableBuilder::from(&dmar).build(), bytes);
    visit(&bytes);
}

#[test]
fn what_no_length_field_can_say_is_refused() {
    let scope = |hops| ScopeBuilder::endpoint(0, &vec![(0, 0); hops]);
    let unit = || StructureBuilder::drhd(DrhdFlags::empty(), 0, 0);
    assert!(TableBuilder::new().structure(unit().scope(scope(124))).try_build().is_ok());
    let table = TableBuilder::new().structure(unit()).structure(unit().scope(scope(0)).scope(scope(125)));
    assert_eq!(table.try_build(), Err(BuildError::ScopeTooLong { structure: 1, scope: 1, length: 256 }));
    visit(&table.build());

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
