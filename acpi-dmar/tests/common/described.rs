//! Tables as plain data: what the builder composes from them reads as the same data.

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::{
    AtsrFlags, Dmar, DmarFlags, DrhdFlags, Hop, SatcFlags, ScopeFlags, ScopeKind, Structure, StructureKind,
};

#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) oem: ([u8; 6], [u8; 8], u32),
    pub(crate) creator: ([u8; 4], u32),
    pub(crate) revision: u8,
    pub(crate) width: u8,
    pub(crate) flags: u8,
    pub(crate) structures: Vec<Part>,
}

#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) kind: u16,
    pub(crate) flags: u8,
    pub(crate) size: u8,
    pub(crate) segment: u16,
    pub(crate) addresses: (u64, u64),
    pub(crate) domain: u32,
    pub(crate) name: Vec<u8>,
    pub(crate) scopes: Vec<Scope>,
}

#[derive(Clone, Debug)]
pub(crate) struct Scope {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) id: u8,
    pub(crate) bus: u8,
    pub(crate) path: Vec<(u8, u8)>,
}

impl Part {
    pub(crate) fn build(&self) -> StructureBuilder {
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

impl Table {
    /// Builds it, and reads the same again; gives the bytes.
    pub(crate) fn check(&self) -> Vec<u8> {
        let mut built = TableBuilder::new()
            .oem(self.oem.0, self.oem.1, self.oem.2)
            .creator(self.creator.0, self.creator.1)
            .revision(self.revision)
            .host_address_width(self.width)
            .flags(DmarFlags::from_bits_retain(self.flags));
        for part in &self.structures {
            built = built.structure(part.build());
        }
        let bytes = built.try_build().unwrap();
        assert_eq!(bytes, built.build());
        let dmar = Dmar::parse(&bytes).unwrap();
        let header = dmar.header();
        assert_eq!((*header.oem_id(), *header.oem_table_id(), header.oem_revision()), self.oem);
        assert_eq!((*header.creator_id(), header.creator_revision()), self.creator);
        assert_eq!((header.revision(), dmar.length() as usize), (self.revision, bytes.len()));
        assert_eq!((dmar.host_address_width(), dmar.flags().bits()), (self.width, self.flags));
        assert_eq!(dmar.structures().count(), self.structures.len());
        for (read, part) in dmar.structures().zip(&self.structures) {
            part.check(read.unwrap());
        }
        assert_eq!(TableBuilder::from(&dmar).build(), bytes);
        bytes
    }
}
