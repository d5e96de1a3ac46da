//! Device scopes (VT-d 8.3.1): which devices a structure is about.

use core::fmt;
use core::iter::FusedIterator;

use crate::{ScopeError, ScopeErrorKind};

/// Bytes of a scope's fields in front of its path.
const FIELDS: usize = 6;

bitflags::bitflags! {
    /// Flags of a device scope (VT-d 8.3.1, offset 2); they mean something below a SIDP structure (VT-d 8.9)
    /// and are reserved elsewhere.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct ScopeFlags: u8 {
        /// Requests without PASID of this device should not use nested translation.
        const REQ_WO_PASID_NESTED_NOT_ALLOWED = 1 << 0;
        /// Requests without PASID should not have the page-walk-snoop field of their PASID-table entry set.
        const REQ_WO_PASID_PWSNP_NOT_ALLOWED = 1 << 1;
        /// Requests without PASID should not have the page-snoop field of their PASID-table entry set.
        const REQ_WO_PASID_PGSNP_NOT_ALLOWED = 1 << 2;
        /// The device's address translation cache is hardened: it keeps to its translations.
        const ATC_HARDENED = 1 << 3;
        /// The device works only with its address translation cache enabled.
        const ATC_REQUIRED = 1 << 4;
        const _ = !0;
    }
}

/// What kind of device a scope names (VT-d 8.3.1, offset 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScopeKind {
    /// 1: one PCI function.
    PciEndpoint,
    /// 2: a PCI bridge and everything below it ("PCI sub-hierarchy").
    PciBridge,
    /// 3: an I/O APIC, as the MADT numbers them.
    IoApic,
    /// 4: a HPET timer block that can send MSIs.
    Hpet,
    /// 5: a device of the ACPI namespace, declared by an ANDD structure.
    AcpiNamespace,
    /// A type that the specification reserves.
    Unknown(u8),
}

impl ScopeKind {
    /// The type as the table holds it.
    #[must_use]
    pub const fn raw(self) -> u8 {
        match self {
            Self::PciEndpoint => 1,
            Self::PciBridge => 2,
            Self::IoApic => 3,
            Self::Hpet => 4,
            Self::AcpiNamespace => 5,
            Self::Unknown(raw) => raw,
        }
    }
}

impl From<u8> for ScopeKind {
    #[inline]
    fn from(raw: u8) -> Self {
        match raw {
            1 => Self::PciEndpoint,
            2 => Self::PciBridge,
            3 => Self::IoApic,
            4 => Self::Hpet,
            5 => Self::AcpiNamespace,
            raw => Self::Unknown(raw),
        }
    }
}

impl fmt::Display for ScopeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PciEndpoint => f.write_str("endpoint"),
            Self::PciBridge => f.write_str("bridge"),
            Self::IoApic => f.write_str("ioapic"),
            Self::Hpet => f.write_str("hpet"),
            Self::AcpiNamespace => f.write_str("namespace"),
            Self::Unknown(raw) => write!(f, "unknown({raw})"),
        }
    }
}

/// One step of a scope's path: a device and function on the bus that the steps before it lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hop {
    /// The device number; 0 to 31 where the table is right.
    pub device: u8,
    /// The function number; 0 to 7 where the table is right.
    pub function: u8,
}

impl Hop {
    /// True if a bus can have such a function: device at most 31, function at most 7.
    #[inline]
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.device < 32 && self.function < 8
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{:x}", self.device, self.function)
    }
}

/// A device scope: the name of a device, independent of how firmware or the system numbered the buses below
/// the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceScope<'a> {
    head: &'a [u8; FIELDS],
    path: &'a [[u8; 2]],
    offset: u32,
}

impl<'a> DeviceScope<'a> {
    /// Where the scope begins, in bytes from the table's start.
    #[inline]
    #[must_use]
    pub const fn offset(&self) -> u32 {
        self.offset
    }

    /// Bytes of the scope, its path included.
    #[inline]
    #[must_use]
    pub const fn length(&self) -> u8 {
        self.head[1]
    }

    /// What kind of device it names.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> ScopeKind {
        self.head[0].into()
    }

    /// Properties of the device (below a SIDP structure).
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> ScopeFlags {
        ScopeFlags::from_bits_retain(self.head[2])
    }

    /// The I/O APIC id, the HPET number or the ACPI device number, by kind; 0 for PCI devices.
    #[inline]
    #[must_use]
    pub const fn enumeration_id(&self) -> u8 {
        self.head[4]
    }

    /// The bus that the path starts on.
    #[inline]
    #[must_use]
    pub const fn start_bus(&self) -> u8 {
        self.head[5]
    }

    /// The hops from the start bus to the device: every one but the last is a bridge.
    #[inline]
    #[must_use]
    pub const fn path(&self) -> Path<'a> {
        Path { hops: self.path, at: 0 }
    }

    /// The first hop that no bus can have (device above 31 or function above 7).
    #[must_use]
    pub fn invalid_hop(&self) -> Option<Hop> {
        self.path().find(|hop| !hop.is_valid())
    }
}

/// The hops of a scope's path.
#[derive(Clone, Debug)]
pub struct Path<'a> {
    hops: &'a [[u8; 2]],
    /// Which hop is next, at most 124, as a scope's length is 8 bits. So is this index, which keeps the
    /// compiler from unrolling loops over paths: nearly all are of one hop.
    at: u8,
}

impl Iterator for Path<'_> {
    type Item = Hop;

    #[inline]
    fn next(&mut self) -> Option<Hop> {
        let &[device, function] = self.hops.get(usize::from(self.at))?;
        self.at = self.at.wrapping_add(1);
        Some(Hop { device, function })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let hops = self.hops.len().saturating_sub(self.at.into());
        (hops, Some(hops))
    }
}

impl ExactSizeIterator for Path<'_> {}
impl FusedIterator for Path<'_> {}

/// The device scopes of a structure.
#[derive(Clone, Debug)]
pub struct Scopes<'a> {
    rest: &'a [u8],
    /// Where `rest` ends, in bytes from the table's start: a place that does not move while walking.
    end: u32,
}

impl<'a> Scopes<'a> {
    #[inline]
    pub(crate) const fn new(bytes: &'a [u8], end: u32) -> Self {
        Self { rest: bytes, end }
    }

    /// No scope begins in what is left: the end, or an error and then the end.
    #[inline]
    fn end(&mut self) -> Option<Result<DeviceScope<'a>, ScopeError>> {
        let rest = core::mem::take(&mut self.rest);
        Self::last_error(rest, self.end).map(Err)
    }

    /// Inlined, or else the walk puts its state and what it gives into memory for the call: half as slow
    /// again.
    #[inline(always)]
    fn last_error(rest: &[u8], end: u32) -> Option<ScopeError> {
        let available = rest.len();
        let kind = match *rest {
            [] => return None,
            [raw, length, _, _, _, _, ..] if usize::from(length) > available => {
                ScopeErrorKind::PastEnd { scope: raw.into(), length, available }
            }
            [raw, length, _, _, _, _, ..] => ScopeErrorKind::LengthBelowHeader { scope: raw.into(), length },
            _ => ScopeErrorKind::TrailingBytes { count: available },
        };
        Some(ScopeError { offset: offset(end, available), kind })
    }
}

/// Where what is `length` bytes long and ends at `end` begins. Lengths inside a table fit 32 bits, as the
/// table's own does.
#[inline]
pub(crate) const fn offset(end: u32, length: usize) -> u32 {
    end.wrapping_sub(length as u32)
}

impl<'a> Iterator for Scopes<'a> {
    type Item = Result<DeviceScope<'a>, ScopeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Some(&[raw, length, ..]) = self.rest.first_chunk::<FIELDS>() else {
            return self.end();
        };
        let Some((scope, rest)) = self.rest.split_at_checked(length.into()) else {
            return self.end();
        };
        let Some((head, path)) = scope.split_first_chunk::<FIELDS>() else {
            return self.end();
        };
        let offset = offset(self.end, self.rest.len());
        self.rest = rest;
        match path.as_chunks() {
            (path, []) => Some(Ok(DeviceScope { head, path, offset })),
            _ => {
                Some(Err(ScopeError { offset, kind: ScopeErrorKind::OddPath { scope: raw.into(), length } }))
            }
        }
    }
}

impl FusedIterator for Scopes<'_> {}

#[cfg(test)]
mod tests;
