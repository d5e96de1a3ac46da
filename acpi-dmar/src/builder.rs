//! Composes tables: for tests, for QEMU's `-acpitable`, and for people who write firmware.
//!
//! What it composes with right values parses back to the same. Every length, the checksum and the signature
//! can be overridden, to compose tables that are wrong on purpose.
//!
//! ```
//! use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
//! use acpi_dmar::{Dmar, DrhdFlags};
//!
//! let bytes = TableBuilder::new()
//!     .host_address_width(39)
//!     .structure(StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, 0, 0xfed9_0000))
//!     .structure(StructureBuilder::rmrr(0, 0xe_8000, 0xe_ffff).scope(ScopeBuilder::endpoint(0, &[(0x1d, 0)])))
//!     .build();
//! assert_eq!(Dmar::parse(&bytes)?.structures().count(), 2);
//! # Ok::<(), acpi_dmar::TableError>(())
//! ```

use alloc::vec::Vec;

use crate::{
    AtsrFlags, DeviceScope, Dmar, DmarFlags, DrhdFlags, HEADER_LENGTH, SIGNATURE, SatcFlags, ScopeFlags,
    ScopeKind, Structure, StructureKind,
};

/// Why [`TableBuilder::try_build`] refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A device scope is longer than its 8-bit length field can say.
    #[error("scope {scope} of structure {structure} takes {length} bytes, more than 255")]
    ScopeTooLong {
        /// Which structure, from 0.
        structure: usize,
        /// Which of its scopes, from 0.
        scope: usize,
        /// Bytes it takes.
        length: usize,
    },
    /// A structure is longer than its 16-bit length field can say.
    #[error("structure {structure} takes {length} bytes, more than 65535")]
    StructureTooLong {
        /// Which structure, from 0.
        structure: usize,
        /// Bytes it takes.
        length: usize,
    },
    /// The table is longer than its 32-bit length field can say.
    #[error("the table takes {length} bytes, more than 32 bits can say")]
    TableTooLong {
        /// Bytes it takes.
        length: usize,
    },
}

/// Composes a table.
#[derive(Clone, Debug)]
#[must_use]
pub struct TableBuilder {
    signature: [u8; 4],
    revision: u8,
    oem_id: [u8; 6],
    oem_table_id: [u8; 8],
    oem_revision: u32,
    creator_id: [u8; 4],
    creator_revision: u32,
    width_field: u8,
    flags: DmarFlags,
    structures: Vec<StructureBuilder>,
    trailing: Vec<u8>,
    length: Option<u32>,
    checksum: Option<u8>,
}

impl Default for TableBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TableBuilder {
    /// A table of revision 1 without structures, for 48-bit addresses, with blank OEM ids.
    pub const fn new() -> Self {
        Self {
            signature: SIGNATURE,
            revision: 1,
            oem_id: *b"      ",
            oem_table_id: *b"        ",
            oem_revision: 0,
            creator_id: *b"    ",
            creator_revision: 0,
            width_field: 47,
            flags: DmarFlags::empty(),
            structures: Vec::new(),
            trailing: Vec::new(),
            length: None,
            checksum: None,
        }
    }

    /// The header's revision.
    pub const fn revision(mut self, revision: u8) -> Self {
        self.revision = revision;
        self
    }

    /// Who makes the machine, and the name and revision of the table.
    pub const fn oem(mut self, id: [u8; 6], table_id: [u8; 8], revision: u32) -> Self {
        self.oem_id = id;
        self.oem_table_id = table_id;
        self.oem_revision = revision;
        self
    }

    /// What composes the table, and its revision.
    pub const fn creator(mut self, id: [u8; 4], revision: u32) -> Self {
        self.creator_id = id;
        self.creator_revision = revision;
        self
    }

    /// Bits of a physical address; the field holds one less (0 wraps to 255).
    pub const fn host_address_width(mut self, bits: u8) -> Self {
        self.width_field = bits.wrapping_sub(1);
        self
    }

    /// The table's flags.
    pub const fn flags(mut self, flags: DmarFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Appends a structure.
    pub fn structure(mut self, structure: StructureBuilder) -> Self {
        self.structures.push(structure);
        self
    }

    /// Bytes after the last structure that the header's length covers.
    pub fn trailing(mut self, bytes: &[u8]) -> Self {
        self.trailing.extend_from_slice(bytes);
        self
    }

    /// Another signature than `DMAR`.
    pub const fn override_signature(mut self, signature: [u8; 4]) -> Self {
        self.signature = signature;
        self
    }

    /// Another length than the right one.
    pub const fn override_length(mut self, length: u32) -> Self {
        self.length = Some(length);
        self
    }

    /// Another checksum than the right one.
    pub const fn override_checksum(mut self, checksum: u8) -> Self {
        self.checksum = Some(checksum);
        self
    }

    /// The bytes. What is too long for its length field gets the field's highest value, and is a wrong table;
    /// [`try_build`](Self::try_build) refuses instead.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.signature);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&[self.revision, 0]);
        bytes.extend_from_slice(&self.oem_id);
        bytes.extend_from_slice(&self.oem_table_id);
        bytes.extend_from_slice(&self.oem_revision.to_le_bytes());
        bytes.extend_from_slice(&self.creator_id);
        bytes.extend_from_slice(&self.creator_revision.to_le_bytes());
        bytes.extend_from_slice(&[self.width_field, self.flags.bits()]);
        bytes.resize(HEADER_LENGTH, 0);
        for structure in &self.structures {
            structure.append_to(&mut bytes);
        }
        bytes.extend_from_slice(&self.trailing);

        let length = self.length.unwrap_or(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        put(&mut bytes, 4, &length.to_le_bytes());
        // A length that was made shorter on purpose still gets the sum that a reader of so many bytes
        // expects.
        let summed = bytes.iter().take(length as usize).fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        put(&mut bytes, 9, &[self.checksum.unwrap_or(summed.wrapping_neg())]);
        bytes
    }

    /// The bytes, unless a length does not fit its field.
    ///
    /// # Errors
    ///
    /// Says which scope or structure, or the table itself, is too long.
    pub fn try_build(&self) -> Result<Vec<u8>, BuildError> {
        for (index, structure) in self.structures.iter().enumerate() {
            structure.check(index)?;
        }
        let bytes = self.build();
        match u32::try_from(bytes.len()) {
            Ok(_) => Ok(bytes),
            Err(_) => Err(BuildError::TableTooLong { length: bytes.len() }),
        }
    }
}

impl From<&Dmar<'_>> for TableBuilder {
    /// The same table, without what cannot be read and without reserved bytes.
    fn from(dmar: &Dmar<'_>) -> Self {
        let header = dmar.header();
        let mut table = Self::new()
            .revision(header.revision())
            .oem(*header.oem_id(), *header.oem_table_id(), header.oem_revision())
            .creator(*header.creator_id(), header.creator_revision())
            .host_address_width(dmar.host_address_width())
            .flags(dmar.flags());
        table.structures.extend(dmar.structures().flatten().map(StructureBuilder::from));
        table
    }
}

/// Composes a remapping structure.
#[derive(Clone, Debug)]
#[must_use]
pub struct StructureBuilder {
    kind: StructureKind,
    /// The fields after type and length.
    fields: Vec<u8>,
    scopes: Vec<ScopeBuilder>,
    trailing: Vec<u8>,
    length: Option<u16>,
}

impl StructureBuilder {
    /// An IOMMU with registers at `register_base`.
    pub fn drhd(flags: DrhdFlags, segment: u16, register_base: u64) -> Self {
        Self::with_segment(StructureKind::Drhd, flags.bits(), segment, &[register_base])
    }

    /// A reserved region from `base` to `limit`, inclusive.
    pub fn rmrr(segment: u16, base: u64, limit: u64) -> Self {
        Self::with_segment(StructureKind::Rmrr, 0, segment, &[base, limit])
    }

    /// Root ports that support ATS.
    pub fn atsr(flags: AtsrFlags, segment: u16) -> Self {
        Self::with_segment(StructureKind::Atsr, flags.bits(), segment, &[])
    }

    /// The NUMA node of the IOMMU with registers at `register_base`.
    pub fn rhsa(register_base: u64, proximity_domain: u32) -> Self {
        let mut fields = Vec::from([0; 4]);
        fields.extend_from_slice(&register_base.to_le_bytes());
        fields.extend_from_slice(&proximity_domain.to_le_bytes());
        Self::raw(StructureKind::Rhsa.raw(), &fields)
    }

    /// ACPI device `number` is the namespace object `name`; the NUL after it is added.
    pub fn andd(number: u8, name: impl AsRef<[u8]>) -> Self {
        let mut fields = Vec::from([0, 0, 0, number]);
        fields.extend_from_slice(name.as_ref());
        fields.push(0);
        Self::raw(StructureKind::Andd.raw(), &fields)
    }

    /// SoC devices with translation caches.
    pub fn satc(flags: SatcFlags, segment: u16) -> Self {
        Self::with_segment(StructureKind::Satc, flags.bits(), segment, &[])
    }

    /// SoC devices with properties.
    pub fn sidp(segment: u16) -> Self {
        Self::with_segment(StructureKind::Sidp, 0, segment, &[])
    }

    /// A structure of any type, with `fields` after its type and length.
    pub fn raw(raw_type: u16, fields: &[u8]) -> Self {
        Self {
            kind: raw_type.into(),
            fields: Vec::from(fields),
            scopes: Vec::new(),
            trailing: Vec::new(),
            length: None,
        }
    }

    fn with_segment(kind: StructureKind, flags: u8, segment: u16, addresses: &[u64]) -> Self {
        let mut fields = Vec::from([flags, 0]);
        fields.extend_from_slice(&segment.to_le_bytes());
        for address in addresses {
            fields.extend_from_slice(&address.to_le_bytes());
        }
        Self::raw(kind.raw(), &fields)
    }

    /// The size byte of a DRHD: 2^N pages of registers. Other types keep the byte reserved, and get it all
    /// the same.
    pub fn size(mut self, size: u8) -> Self {
        put(&mut self.fields, 1, &[size]);
        self
    }

    /// Appends a device scope.
    pub fn scope(mut self, scope: ScopeBuilder) -> Self {
        self.scopes.push(scope);
        self
    }

    /// Bytes after the last scope that the structure's length covers.
    pub fn trailing(mut self, bytes: &[u8]) -> Self {
        self.trailing.extend_from_slice(bytes);
        self
    }

    /// Another length than the right one.
    pub const fn override_length(mut self, length: u16) -> Self {
        self.length = Some(length);
        self
    }

    fn byte_count(&self) -> usize {
        let scopes = self.scopes.iter().map(ScopeBuilder::byte_count).fold(0, usize::saturating_add);
        [4, self.fields.len(), self.trailing.len()].into_iter().fold(scopes, usize::saturating_add)
    }

    fn check(&self, index: usize) -> Result<(), BuildError> {
        for (scope, built) in self.scopes.iter().enumerate() {
            let length = built.byte_count();
            if built.length.is_none() && length > usize::from(u8::MAX) {
                return Err(BuildError::ScopeTooLong { structure: index, scope, length });
            }
        }
        let length = self.byte_count();
        if self.length.is_none() && length > usize::from(u16::MAX) {
            return Err(BuildError::StructureTooLong { structure: index, length });
        }
        Ok(())
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        let length = self.length.unwrap_or(u16::try_from(self.byte_count()).unwrap_or(u16::MAX));
        bytes.extend_from_slice(&self.kind.raw().to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&self.fields);
        for scope in &self.scopes {
            scope.append_to(bytes);
        }
        bytes.extend_from_slice(&self.trailing);
    }
}

impl From<Structure<'_>> for StructureBuilder {
    /// The same structure, without scopes that cannot be read and without reserved bytes.
    fn from(structure: Structure<'_>) -> Self {
        let mut built = match structure {
            Structure::Drhd(drhd) => {
                Self::drhd(drhd.flags(), drhd.segment(), drhd.register_base()).size(drhd.size())
            }
            Structure::Rmrr(rmrr) => Self::rmrr(rmrr.segment(), rmrr.base(), rmrr.limit()),
            Structure::Atsr(atsr) => Self::atsr(atsr.flags(), atsr.segment()),
            Structure::Rhsa(rhsa) => Self::rhsa(rhsa.register_base(), rhsa.proximity_domain()),
            Structure::Andd(andd) => {
                let mut fields = Vec::from([0, 0, 0, andd.number()]);
                fields.extend_from_slice(andd.name_field());
                Self::raw(StructureKind::Andd.raw(), &fields)
            }
            Structure::Satc(satc) => Self::satc(satc.flags(), satc.segment()),
            Structure::Sidp(sidp) => Self::sidp(sidp.segment()),
            Structure::Unknown(unknown) => {
                Self::raw(unknown.raw_type(), unknown.bytes().get(4..).unwrap_or_default())
            }
        };
        built.scopes.extend(structure.scopes().flatten().map(ScopeBuilder::from));
        built
    }
}

/// Composes a device scope. Paths are lists of (device, function).
#[derive(Clone, Debug)]
#[must_use]
pub struct ScopeBuilder {
    kind: ScopeKind,
    flags: ScopeFlags,
    enumeration_id: u8,
    start_bus: u8,
    path: Vec<u8>,
    length: Option<u8>,
}

impl ScopeBuilder {
    /// A PCI function.
    pub fn endpoint(start_bus: u8, path: &[(u8, u8)]) -> Self {
        Self::new(ScopeKind::PciEndpoint, 0, start_bus, path)
    }

    /// A PCI bridge and what is below it.
    pub fn bridge(start_bus: u8, path: &[(u8, u8)]) -> Self {
        Self::new(ScopeKind::PciBridge, 0, start_bus, path)
    }

    /// The I/O APIC `id`.
    pub fn io_apic(id: u8, start_bus: u8, path: &[(u8, u8)]) -> Self {
        Self::new(ScopeKind::IoApic, id, start_bus, path)
    }

    /// The HPET `number`.
    pub fn hpet(number: u8, start_bus: u8, path: &[(u8, u8)]) -> Self {
        Self::new(ScopeKind::Hpet, number, start_bus, path)
    }

    /// ACPI device `number`, which an ANDD structure declares.
    pub fn namespace(number: u8, start_bus: u8, path: &[(u8, u8)]) -> Self {
        Self::new(ScopeKind::AcpiNamespace, number, start_bus, path)
    }

    /// A scope of any kind.
    pub fn new(kind: ScopeKind, enumeration_id: u8, start_bus: u8, path: &[(u8, u8)]) -> Self {
        Self {
            kind,
            flags: ScopeFlags::empty(),
            enumeration_id,
            start_bus,
            path: path.iter().flat_map(|&(device, function)| [device, function]).collect(),
            length: None,
        }
    }

    /// Properties of the device, below a SIDP structure.
    pub const fn flags(mut self, flags: ScopeFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Any bytes as path, half hops too.
    pub fn raw_path(mut self, path: &[u8]) -> Self {
        self.path = Vec::from(path);
        self
    }

    /// Another length than the right one.
    pub const fn override_length(mut self, length: u8) -> Self {
        self.length = Some(length);
        self
    }

    fn byte_count(&self) -> usize {
        self.path.len().saturating_add(6)
    }

    fn append_to(&self, bytes: &mut Vec<u8>) {
        let length = self.length.unwrap_or(u8::try_from(self.byte_count()).unwrap_or(u8::MAX));
        let (kind, flags) = (self.kind.raw(), self.flags.bits());
        bytes.extend_from_slice(&[kind, length, flags, 0, self.enumeration_id, self.start_bus]);
        bytes.extend_from_slice(&self.path);
    }
}

impl From<DeviceScope<'_>> for ScopeBuilder {
    /// The same scope, without reserved bytes.
    fn from(scope: DeviceScope<'_>) -> Self {
        let mut built = Self::new(scope.kind(), scope.enumeration_id(), scope.start_bus(), &[]);
        built.path = scope.path().flat_map(|hop| [hop.device, hop.function]).collect();
        built.flags(scope.flags())
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(value) {
        *to = *from;
    }
}
