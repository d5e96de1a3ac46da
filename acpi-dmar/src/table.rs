//! The table: its header, checksum, and the way to its structures.

use crate::{Andd, Structure, Structures, TableError};

/// The signature of the table (VT-d 8.1).
pub const SIGNATURE: [u8; 4] = *b"DMAR";

/// Bytes of the DMAR header: the 36 of any ACPI table, then width, flags and 10 reserved ones (VT-d 8.1).
pub const HEADER_LENGTH: usize = 48;

bitflags::bitflags! {
    /// Flags of the table (VT-d 8.1, offset 37).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct DmarFlags: u8 {
        /// The platform supports interrupt remapping.
        const INTR_REMAP = 1 << 0;
        /// Firmware asks system software not to enable extended xAPIC mode.
        const X2APIC_OPT_OUT = 1 << 1;
        /// Firmware protects memory from DMA until the operating system takes over, and asks it to keep up
        /// the protection.
        const DMA_CTRL_PLATFORM_OPT_IN = 1 << 2;
        const _ = !0;
    }
}

/// A DMAR table: `length` bytes that begin with a right header. The structures after it are checked as they
/// are read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Dmar<'a> {
    head: &'a [u8; HEADER_LENGTH],
    /// What lies after the header, up to the length that the header gives.
    body: &'a [u8],
}

impl<'a> Dmar<'a> {
    /// Reads the table at the start of `bytes`: signature, length and checksum must be right. Bytes after
    /// the header's length are ignored.
    ///
    /// # Errors
    ///
    /// Says which of these is wrong, and with what value.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        let (head, length) = check_head(bytes)?;
        let table = usize::try_from(length)
            .ok()
            .and_then(|length| bytes.get(..length))
            .ok_or(TableError::Truncated { length, available: bytes.len() })?;
        let dmar = Self { head, body: table.get(HEADER_LENGTH..).unwrap_or_default() };
        match sum(table) {
            0 => Ok(dmar),
            sum => Err(TableError::Checksum { sum }),
        }
    }

    /// Reads as much of a damaged table as there is, for tools that report rather than trust: a wrong
    /// checksum and a missing end are given to `report`, and reading goes on. Only what has no DMAR header at
    /// all gives `None`, after its error went to `report` too.
    pub fn parse_lenient(bytes: &'a [u8], mut report: impl FnMut(TableError)) -> Option<Self> {
        let (head, length) = match check_head(bytes) {
            Ok(found) => found,
            Err(error) => {
                report(error);
                return None;
            }
        };
        let table = usize::try_from(length).ok().and_then(|length| bytes.get(..length));
        match table {
            // The sum of a part says nothing about the whole.
            None => report(TableError::Truncated { length, available: bytes.len() }),
            Some(table) => match sum(table) {
                0 => {}
                sum => report(TableError::Checksum { sum }),
            },
        }
        Some(Self { head, body: table.unwrap_or(bytes).get(HEADER_LENGTH..).unwrap_or_default() })
    }

    /// The fields that every ACPI table has.
    #[must_use]
    pub const fn header(&self) -> Header<'a> {
        Header { bytes: self.head }
    }

    /// The table's length in bytes as its header gives it.
    #[must_use]
    pub const fn length(&self) -> u32 {
        self.header().length()
    }

    /// Bits of a physical address that DMA can use, 1 to 255: the field (VT-d 8.1, offset 36) plus one. An
    /// absurd field of 255 gives 255.
    #[inline]
    #[must_use]
    pub const fn host_address_width(&self) -> u8 {
        self.head[36].saturating_add(1)
    }

    /// The table's flags (VT-d 8.1, offset 37).
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> DmarFlags {
        DmarFlags::from_bits_retain(self.head[37])
    }

    /// The remapping structures in the table's order. One that is wrong gives an error in its place; where
    /// its length still shows the next one, the walk goes on.
    #[inline]
    #[must_use]
    pub const fn structures(&self) -> Structures<'a> {
        Structures::new(self.body)
    }

    /// The ANDD structure that declares ACPI device `number` (VT-d 8.7), the first one if there are several.
    #[must_use]
    pub fn namespace_device(&self, number: u8) -> Option<Andd<'a>> {
        self.structures().find_map(|structure| match structure {
            Ok(Structure::Andd(andd)) if andd.number() == number => Some(andd),
            _ => None,
        })
    }
}

/// The fields that every ACPI table begins with (ACPI 6.5, 5.2.6).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    bytes: &'a [u8; HEADER_LENGTH],
}

impl<'a> Header<'a> {
    /// Bytes of the whole table, as the header gives them.
    #[must_use]
    pub const fn length(&self) -> u32 {
        le!(self.bytes, u32, 4)
    }

    /// Revision of the table's layout.
    #[must_use]
    pub const fn revision(&self) -> u8 {
        self.bytes[8]
    }

    /// The byte that makes the sum of all bytes zero.
    #[must_use]
    pub const fn checksum(&self) -> u8 {
        self.bytes[9]
    }

    /// Who made the machine; padded with NUL or blanks, and not always ASCII.
    #[must_use]
    pub fn oem_id(&self) -> &'a [u8; 6] {
        array(self.bytes.get(10..16), &[0; 6])
    }

    /// The maker's name of the table or board.
    #[must_use]
    pub fn oem_table_id(&self) -> &'a [u8; 8] {
        array(self.bytes.get(16..24), &[0; 8])
    }

    /// The maker's revision of the table.
    #[must_use]
    pub const fn oem_revision(&self) -> u32 {
        le!(self.bytes, u32, 24)
    }

    /// What composed the table.
    #[must_use]
    pub fn creator_id(&self) -> &'a [u8; 4] {
        array(self.bytes.get(28..32), &[0; 4])
    }

    /// Revision of what composed the table.
    #[must_use]
    pub const fn creator_revision(&self) -> u32 {
        le!(self.bytes, u32, 32)
    }
}

/// A constant range of an array as an array; the fallback is never taken when the range has the array's
/// length.
fn array<'a, const N: usize>(part: Option<&'a [u8]>, otherwise: &'a [u8; N]) -> &'a [u8; N] {
    part.and_then(|part| part.first_chunk()).unwrap_or(otherwise)
}

#[inline]
fn check_head(bytes: &[u8]) -> Result<(&[u8; HEADER_LENGTH], u32), TableError> {
    let head = bytes.first_chunk::<HEADER_LENGTH>().ok_or(TableError::TooShort { available: bytes.len() })?;
    let found = [head[0], head[1], head[2], head[3]];
    if found != SIGNATURE {
        return Err(TableError::Signature { found });
    }
    let length = le!(head, u32, 4);
    if (length as usize) < HEADER_LENGTH {
        return Err(TableError::LengthBelowHeader { length });
    }
    Ok((head, length))
}

#[inline]
fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, &byte| sum.wrapping_add(byte))
}

#[cfg(test)]
mod tests;
