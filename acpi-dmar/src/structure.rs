//! The remapping structures (VT-d 8.2 to 8.9).

use core::fmt;

use crate::Scopes;
use crate::scope::offset;

bitflags::bitflags! {
    /// Flags of a DRHD (VT-d 8.3, offset 4).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct DrhdFlags: u8 {
        /// The unit also covers every PCI device of its segment that no other unit of the segment names.
        const INCLUDE_PCI_ALL = 1 << 0;
        const _ = !0;
    }

    /// Flags of an ATSR (VT-d 8.5, offset 4).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct AtsrFlags: u8 {
        /// Every root port of the segment supports ATS; the scopes say nothing then.
        const ALL_PORTS = 1 << 0;
        const _ = !0;
    }

    /// Flags of a SATC (VT-d 8.8, offset 4).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct SatcFlags: u8 {
        /// The devices work only with their address translation caches enabled.
        const ATC_REQUIRED = 1 << 0;
        const _ = !0;
    }
}

/// The type of a structure (VT-d 8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StructureKind {
    /// 0: DMA remapping hardware unit definition.
    Drhd,
    /// 1: reserved memory region reporting.
    Rmrr,
    /// 2: root port ATS capability reporting.
    Atsr,
    /// 3: remapping hardware static affinity.
    Rhsa,
    /// 4: ACPI name-space device declaration.
    Andd,
    /// 5: SoC integrated address translation cache reporting.
    Satc,
    /// 6: SoC integrated device property reporting.
    Sidp,
    /// A type that the specification reserves.
    Unknown(u16),
}

impl StructureKind {
    /// The type as the table holds it.
    #[inline]
    #[must_use]
    pub const fn raw(self) -> u16 {
        match self {
            Self::Drhd => 0,
            Self::Rmrr => 1,
            Self::Atsr => 2,
            Self::Rhsa => 3,
            Self::Andd => 4,
            Self::Satc => 5,
            Self::Sidp => 6,
            Self::Unknown(raw) => raw,
        }
    }
}

impl From<u16> for StructureKind {
    #[inline]
    fn from(raw: u16) -> Self {
        match raw {
            0 => Self::Drhd,
            1 => Self::Rmrr,
            2 => Self::Atsr,
            3 => Self::Rhsa,
            4 => Self::Andd,
            5 => Self::Satc,
            6 => Self::Sidp,
            raw => Self::Unknown(raw),
        }
    }
}

impl fmt::Display for StructureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drhd => f.write_str("DRHD"),
            Self::Rmrr => f.write_str("RMRR"),
            Self::Atsr => f.write_str("ATSR"),
            Self::Rhsa => f.write_str("RHSA"),
            Self::Andd => f.write_str("ANDD"),
            Self::Satc => f.write_str("SATC"),
            Self::Sidp => f.write_str("SIDP"),
            Self::Unknown(raw) => write!(f, "structure of unknown type {raw}"),
        }
    }
}

/// Defines a structure as its fixed fields, what follows them, and its place; checked for length once, on the
/// way in.
macro_rules! structure {
    ($(#[$doc:meta])* $name:ident, $fields:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name<'a> {
            head: &'a [u8; $fields],
            tail: &'a [u8],
            /// Where the structure ends, in bytes from the table's start; what its scopes count from.
            end: u32,
        }

        impl<'a> $name<'a> {
            pub(crate) const FIELDS: u16 = $fields;

            /// `None` if the fields do not fit.
            #[inline]
            pub(crate) fn read(bytes: &'a [u8], end: u32) -> Option<Self> {
                let (head, tail) = bytes.split_first_chunk()?;
                Some(Self { head, tail, end })
            }

            /// Where the structure begins, in bytes from the table's start.
            #[inline]
            #[must_use]
            pub const fn offset(&self) -> u32 {
                offset(self.end, self.length() as usize)
            }

            /// Bytes of the structure, everything included.
            #[inline]
            #[must_use]
            pub const fn length(&self) -> u16 {
                le!(self.head, u16, 2)
            }
        }
    };
}

/// Adds the scopes that follow a structure's fields.
macro_rules! scopes {
    ($name:ident, $doc:literal) => {
        impl<'a> $name<'a> {
            #[doc = $doc]
            #[inline]
            #[must_use]
            pub const fn scopes(&self) -> Scopes<'a> {
                Scopes::new(self.tail, self.end)
            }
        }
    };
}

structure! {
    /// DMA remapping hardware unit definition (VT-d 8.3): one IOMMU, and the devices behind it.
    Drhd, 16
}
scopes!(
    Drhd,
    "The devices behind this unit; beside INCLUDE_PCI_ALL only those that need an id, such as I/O APICs."
);

impl Drhd<'_> {
    /// Whether the unit takes every device that no other unit names.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> DrhdFlags {
        DrhdFlags::from_bits_retain(self.head[4])
    }

    /// The size byte (offset 5): the low 4 bits are N for a register set of 2^N pages of 4 KiB. Older
    /// specifications reserve it as 0, which means the same one page.
    #[inline]
    #[must_use]
    pub const fn size(&self) -> u8 {
        self.head[5]
    }

    /// Bytes of the register set, 4 KiB to 128 MiB, from [`size`](Self::size).
    #[inline]
    #[must_use]
    pub const fn register_bytes(&self) -> u64 {
        0x1000 << (self.head[5] & 0xf)
    }

    /// The PCI segment group of all its devices.
    #[inline]
    #[must_use]
    pub const fn segment(&self) -> u16 {
        le!(self.head, u16, 6)
    }

    /// Physical address of the unit's registers.
    #[inline]
    #[must_use]
    pub const fn register_base(&self) -> u64 {
        le!(self.head, u64, 8)
    }
}

structure! {
    /// Reserved memory region reporting (VT-d 8.4): memory that firmware has devices use, to be mapped 1:1
    /// for them.
    Rmrr, 24
}
scopes!(Rmrr, "The devices that use the region.");

impl Rmrr<'_> {
    /// The PCI segment group of all its devices.
    #[inline]
    #[must_use]
    pub const fn segment(&self) -> u16 {
        le!(self.head, u16, 6)
    }

    /// Physical address of the first byte; on a 4 KiB page edge where the table is right.
    #[inline]
    #[must_use]
    pub const fn base(&self) -> u64 {
        le!(self.head, u64, 8)
    }

    /// Physical address of the last byte, inclusive; the last of a 4 KiB page where the table is right.
    #[inline]
    #[must_use]
    pub const fn limit(&self) -> u64 {
        le!(self.head, u64, 16)
    }
}

structure! {
    /// Root port ATS capability reporting (VT-d 8.5): which root ports pass address translation requests.
    Atsr, 8
}
scopes!(Atsr, "The root ports, as bridges.");

impl Atsr<'_> {
    /// Whether every root port of the segment is meant.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> AtsrFlags {
        AtsrFlags::from_bits_retain(self.head[4])
    }

    /// The PCI segment group of the root ports.
    #[inline]
    #[must_use]
    pub const fn segment(&self) -> u16 {
        le!(self.head, u16, 6)
    }
}

structure! {
    /// Remapping hardware static affinity (VT-d 8.6): which NUMA node a unit is near.
    Rhsa, 20
}

impl Rhsa<'_> {
    /// The register base of the unit that is meant, as its DRHD gives it.
    #[inline]
    #[must_use]
    pub const fn register_base(&self) -> u64 {
        le!(self.head, u64, 8)
    }

    /// The proximity domain, as the SRAT numbers them.
    #[inline]
    #[must_use]
    pub const fn proximity_domain(&self) -> u32 {
        le!(self.head, u32, 16)
    }
}

structure! {
    /// ACPI name-space device declaration (VT-d 8.7): gives a number to a device of the namespace, for scopes
    /// to name it by.
    Andd, 8
}

impl<'a> Andd<'a> {
    /// The ACPI device number that scopes of the namespace kind carry as their enumeration id.
    #[inline]
    #[must_use]
    pub const fn number(&self) -> u8 {
        self.head[7]
    }

    /// The whole name field: the object's path, its NUL, and what firmware pads the structure with.
    #[inline]
    #[must_use]
    pub const fn name_field(&self) -> &'a [u8] {
        self.tail
    }

    /// The object's path in the namespace, such as `\_SB.PCI0.I2C0`, up to its NUL or, where that is missing,
    /// to the structure's end.
    #[inline]
    #[must_use]
    pub fn name_bytes(&self) -> &'a [u8] {
        until_nul(self.tail)
    }

    /// The object's path in the namespace as text; `None` where it is not ASCII.
    #[must_use]
    pub fn name(&self) -> Option<&'a str> {
        core::str::from_utf8(self.name_bytes()).ok().filter(|name| name.is_ascii())
    }

    /// False where the NUL that ends the name is missing.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.tail.contains(&0)
    }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

structure! {
    /// SoC integrated address translation cache reporting (VT-d 8.8): devices of the SoC that cache
    /// translations.
    Satc, 8
}
scopes!(Satc, "The devices with a cache.");

impl Satc<'_> {
    /// Whether the devices need their caches.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> SatcFlags {
        SatcFlags::from_bits_retain(self.head[4])
    }

    /// The PCI segment group of all its devices.
    #[inline]
    #[must_use]
    pub const fn segment(&self) -> u16 {
        le!(self.head, u16, 6)
    }
}

structure! {
    /// SoC integrated device property reporting (VT-d 8.9): its scopes' flags say how devices of the SoC want
    /// to be set up.
    Sidp, 8
}
scopes!(Sidp, "The devices, each with its properties in its flags.");

impl Sidp<'_> {
    /// The PCI segment group of all its devices.
    #[inline]
    #[must_use]
    pub const fn segment(&self) -> u16 {
        le!(self.head, u16, 6)
    }
}

/// A structure of a type that the specification reserves, as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown<'a> {
    bytes: &'a [u8],
    raw_type: u16,
    end: u32,
}

impl<'a> Unknown<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8], raw_type: u16, end: u32) -> Self {
        Self { bytes, raw_type, end }
    }

    /// The type field.
    #[inline]
    #[must_use]
    pub const fn raw_type(&self) -> u16 {
        self.raw_type
    }

    /// The whole structure, type and length included.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Where the structure begins, in bytes from the table's start.
    #[inline]
    #[must_use]
    pub const fn offset(&self) -> u32 {
        offset(self.end, self.bytes.len())
    }

    /// Bytes of the structure, everything included.
    #[inline]
    #[must_use]
    pub const fn length(&self) -> u16 {
        // The length came from a 16-bit field.
        self.bytes.len() as u16
    }
}

/// One remapping structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Structure<'a> {
    /// An IOMMU.
    Drhd(Drhd<'a>),
    /// A reserved region.
    Rmrr(Rmrr<'a>),
    /// Root ports with ATS.
    Atsr(Atsr<'a>),
    /// A unit's NUMA node.
    Rhsa(Rhsa<'a>),
    /// A device of the ACPI namespace.
    Andd(Andd<'a>),
    /// SoC devices with translation caches.
    Satc(Satc<'a>),
    /// Properties of SoC devices.
    Sidp(Sidp<'a>),
    /// A reserved type.
    Unknown(Unknown<'a>),
}

impl<'a> Structure<'a> {
    /// Which type it is.
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> StructureKind {
        match self {
            Self::Drhd(_) => StructureKind::Drhd,
            Self::Rmrr(_) => StructureKind::Rmrr,
            Self::Atsr(_) => StructureKind::Atsr,
            Self::Rhsa(_) => StructureKind::Rhsa,
            Self::Andd(_) => StructureKind::Andd,
            Self::Satc(_) => StructureKind::Satc,
            Self::Sidp(_) => StructureKind::Sidp,
            Self::Unknown(unknown) => StructureKind::Unknown(unknown.raw_type()),
        }
    }

    /// Where the structure begins, in bytes from the table's start.
    #[inline]
    #[must_use]
    pub const fn offset(&self) -> u32 {
        match self {
            Self::Drhd(drhd) => drhd.offset(),
            Self::Rmrr(rmrr) => rmrr.offset(),
            Self::Atsr(atsr) => atsr.offset(),
            Self::Rhsa(rhsa) => rhsa.offset(),
            Self::Andd(andd) => andd.offset(),
            Self::Satc(satc) => satc.offset(),
            Self::Sidp(sidp) => sidp.offset(),
            Self::Unknown(unknown) => unknown.offset(),
        }
    }

    /// Bytes of the structure, everything included.
    #[inline]
    #[must_use]
    pub const fn length(&self) -> u16 {
        match self {
            Self::Drhd(drhd) => drhd.length(),
            Self::Rmrr(rmrr) => rmrr.length(),
            Self::Atsr(atsr) => atsr.length(),
            Self::Rhsa(rhsa) => rhsa.length(),
            Self::Andd(andd) => andd.length(),
            Self::Satc(satc) => satc.length(),
            Self::Sidp(sidp) => sidp.length(),
            Self::Unknown(unknown) => unknown.length(),
        }
    }

    /// The PCI segment group that its scopes are in, for the types that have one.
    #[inline]
    #[must_use]
    pub const fn segment(&self) -> Option<u16> {
        match self {
            Self::Drhd(drhd) => Some(drhd.segment()),
            Self::Rmrr(rmrr) => Some(rmrr.segment()),
            Self::Atsr(atsr) => Some(atsr.segment()),
            Self::Satc(satc) => Some(satc.segment()),
            Self::Sidp(sidp) => Some(sidp.segment()),
            Self::Rhsa(_) | Self::Andd(_) | Self::Unknown(_) => None,
        }
    }

    /// Its device scopes; none for the types that have none.
    #[inline]
    #[must_use]
    pub const fn scopes(&self) -> Scopes<'a> {
        match self {
            Self::Drhd(drhd) => drhd.scopes(),
            Self::Rmrr(rmrr) => rmrr.scopes(),
            Self::Atsr(atsr) => atsr.scopes(),
            Self::Satc(satc) => satc.scopes(),
            Self::Sidp(sidp) => sidp.scopes(),
            Self::Rhsa(_) | Self::Andd(_) | Self::Unknown(_) => Scopes::new(&[], 0),
        }
    }
}

#[cfg(test)]
mod tests;
