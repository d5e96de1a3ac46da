//! The firmware's tables: our DMAR, right and wrong ones, and padding.

use std::fmt;
use std::str::FromStr;

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::{Dmar, DrhdFlags};

use crate::layout::{self, Region};

/// What the firmware says about the IOMMU. All but the first are wrong in one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Firmware {
    /// One right table.
    #[default]
    Good,
    /// The sum of its bytes is not zero.
    BadChecksum,
    /// Its header gives fewer bytes than a DMAR's header has (and they sum to zero, so that only the length
    /// is wrong).
    BadLength,
    /// Its header gives 1 GiB, more than there is memory.
    HugeLength,
    /// Its signature is not `DMAR`.
    BadSignature,
    /// There is no table.
    None,
    /// There are two right tables.
    Two,
}

impl Firmware {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Good,
        Self::BadChecksum,
        Self::BadLength,
        Self::HugeLength,
        Self::BadSignature,
        Self::None,
        Self::Two,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::BadChecksum => "bad-checksum",
            Self::BadLength => "bad-length",
            Self::HugeLength => "huge-length",
            Self::BadSignature => "bad-signature",
            Self::None => "none",
            Self::Two => "two",
        }
    }

    /// The tables that the firmware has in place of the one.
    pub fn tables(self) -> Vec<Table> {
        let good = builder();
        let file = |name: &str, bytes| Table { file: name.to_owned(), bytes };
        match self {
            Self::Good => vec![file("dmar.bin", good.build())],
            Self::BadChecksum => {
                let right = good.build();
                let wrong = right.get(9).map_or(0, |sum| sum ^ 0x5a);
                vec![file("dmar-bad-checksum.bin", good.override_checksum(wrong).build())]
            }
            Self::BadLength => vec![file("dmar-bad-length.bin", good.override_length(40).build())],
            Self::HugeLength => vec![file("dmar-huge-length.bin", good.override_length(1 << 30).build())],
            Self::BadSignature => {
                vec![file("dmar-bad-signature.bin", good.override_signature(*b"DMAX").build())]
            }
            Self::None => Vec::new(),
            Self::Two => vec![
                file("dmar.bin", good.build()),
                file("dmar-second.bin", good.oem(*b"SECOND", *b"SECOND  ", 2).build()),
            ],
        }
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Firmware {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.into_iter().map(Self::name).collect();
            format!("there is no firmware {name:?}; there are {}", names.join(", "))
        })
    }
}

/// A table as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The file's name, in the directory that the caller has for such files.
    pub file: String,
    /// The table.
    pub bytes: Vec<u8>,
}

impl Table {
    /// Whether `-acpitable` passes the table on as it is. QEMU corrects a table's length and checksum, and
    /// has 16 bits for its size.
    pub fn survives_acpitable(&self) -> bool {
        let length = self.bytes.get(4..8).and_then(|field| field.try_into().ok()).map(u32::from_le_bytes);
        let sum = self.bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
        length.is_some_and(|length| usize::try_from(length) == Ok(self.bytes.len()))
            && sum == 0
            && u16::try_from(self.bytes.len()).is_ok()
    }
}

/// Our DMAR.
fn builder() -> TableBuilder {
    let unit = StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, 0, layout::UNIT_BASE);
    let table = TableBuilder::new()
        .oem(*b"RDM   ", *b"MACHINE ", 1)
        .creator(*b"RDM ", 1)
        .host_address_width(layout::ADDRESS_WIDTH)
        .structure(unit);
    layout::REGIONS.iter().fold(table, |table, region| table.structure(rmrr(region)))
}

fn rmrr(region: &Region) -> StructureBuilder {
    region.scopes.iter().fold(StructureBuilder::rmrr(0, region.base, region.limit), |rmrr, path| {
        let hops: Vec<(u8, u8)> = path.iter().map(|slot| (slot.device, slot.function)).collect();
        rmrr.scope(ScopeBuilder::endpoint(0, &hops))
    })
}

/// A table that nobody reads. SeaBIOS copies it into memory that it reserves, which is what it is for.
pub fn pad() -> Table {
    let mut bytes = TableBuilder::new().override_signature(*b"OEMR").oem(*b"RDM   ", *b"PADDING ", 1).build();
    // Longer by zeroes alone, so that only length and checksum change.
    bytes.resize(layout::PAD_SIZE, 0);
    if let (Ok(length), Some(field)) = (u32::try_from(bytes.len()), bytes.get_mut(4..8)) {
        field.copy_from_slice(&length.to_le_bytes());
    }
    let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    if let Some(checksum) = bytes.get_mut(9) {
        *checksum = checksum.wrapping_sub(sum);
    }
    Table { file: "pad.bin".into(), bytes }
}

/// Why a file is no table to boot with.
#[derive(Debug, thiserror::Error)]
pub enum NotATable {
    /// It is empty.
    #[error("it is empty")]
    Empty,
    /// It is text, as `acpidump` without `-b` writes it.
    #[error(
        "it is text; if it comes from acpidump, acpixtract makes binary tables of it: acpixtract -s DMAR FILE"
    )]
    Text,
    /// Another ACPI table, or something else.
    #[error(
        "it begins with {0:?} instead of \"DMAR\"; this machine's own table is /sys/firmware/acpi/tables/DMAR (as root)"
    )]
    Signature(String),
    /// Cut short.
    #[error("it has {0} bytes, and a DMAR's header alone has 48")]
    Short(usize),
}

/// Whether these bytes are at least meant to be a DMAR. A wrong length or checksum is the hypervisor's to
/// find.
///
/// # Errors
/// Says what they are instead.
pub fn check(bytes: &[u8]) -> Result<(), NotATable> {
    if bytes.is_empty() {
        return Err(NotATable::Empty);
    }
    let start = bytes.get(..bytes.len().min(256)).unwrap_or_default();
    // acpidump's text begins with the table's signature too.
    if start.contains(&b'\n') && start.iter().all(|&byte| matches!(byte, b'\n' | b'\r' | b'\t' | b' '..=b'~'))
    {
        return Err(NotATable::Text);
    }
    if !bytes.starts_with(&acpi_dmar::SIGNATURE) {
        return Err(NotATable::Signature(start.iter().take(4).map(|&byte| char::from(byte)).collect()));
    }
    if bytes.len() < acpi_dmar::HEADER_LENGTH {
        return Err(NotATable::Short(bytes.len()));
    }
    Ok(())
}

/// The table as far as it can be read, and what is wrong with it.
pub fn read(bytes: &[u8]) -> (Option<Dmar<'_>>, Vec<String>) {
    let mut problems = Vec::new();
    let table = Dmar::parse_lenient(bytes, |error| problems.push(error.to_string()));
    (table, problems)
}

#[cfg(test)]
mod tests {
    use acpi_dmar::{Structure, TableError};

    use super::*;

    #[test]
    fn the_good_table_says_what_the_layout_says() {
        let table = &Firmware::Good.tables()[0];
        assert!(table.survives_acpitable());
        let dmar = Dmar::parse(&table.bytes).unwrap();
        assert_eq!(dmar.host_address_width(), 39);
        let structures: Vec<_> = dmar.structures().map(Result::unwrap).collect();
        let Structure::Drhd(unit) = structures[0] else { panic!("a DRHD first") };
        assert_eq!(unit.register_base(), layout::UNIT_BASE);
        assert!(unit.flags().contains(DrhdFlags::INCLUDE_PCI_ALL));
        assert_eq!(structures.len(), 1 + layout::REGIONS.len());
        for (structure, region) in structures[1..].iter().zip(&layout::REGIONS) {
            let Structure::Rmrr(rmrr) = structure else { panic!("an RMRR") };
            assert_eq!((rmrr.base(), rmrr.limit()), (region.base, region.limit));
            let paths: Vec<Vec<_>> = rmrr
                .scopes()
                .map(|scope| scope.unwrap().path().map(|hop| (hop.device, hop.function)).collect())
                .collect();
            let wanted: Vec<Vec<_>> = region
                .scopes
                .iter()
                .map(|path| path.iter().map(|slot| (slot.device, slot.function)).collect())
                .collect();
            assert_eq!(paths, wanted);
        }
    }

    #[test]
    fn each_wrong_table_is_wrong_in_its_way() {
        let error = |kind: Firmware| Dmar::parse(&kind.tables()[0].bytes).unwrap_err();
        assert!(matches!(error(Firmware::BadChecksum), TableError::Checksum { .. }));
        assert!(matches!(error(Firmware::BadLength), TableError::LengthBelowHeader { length: 40 }));
        assert!(matches!(error(Firmware::HugeLength), TableError::Truncated { .. }));
        assert!(matches!(error(Firmware::BadSignature), TableError::Signature { .. }));
        assert!(Firmware::None.tables().is_empty());
        let two = Firmware::Two.tables();
        assert_eq!(two.len(), 2);
        assert_ne!(two[0].bytes, two[1].bytes);
        assert!(two.iter().all(|table| Dmar::parse(&table.bytes).is_ok()));
    }

    #[test]
    fn a_short_length_is_all_that_is_wrong_with_bad_length() {
        let table = &Firmware::BadLength.tables()[0].bytes;
        assert_eq!(table[..40].iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }

    #[test]
    fn wrong_tables_do_not_go_through_acpitable() {
        for kind in [Firmware::BadChecksum, Firmware::BadLength, Firmware::HugeLength] {
            assert!(!kind.tables()[0].survives_acpitable(), "{kind}");
        }
        let huge = TableBuilder::new().trailing(&vec![0; 0x10000]).build();
        assert!(!Table { file: String::new(), bytes: huge }.survives_acpitable());
    }

    #[test]
    fn kinds_are_found_by_name() {
        for kind in Firmware::ALL {
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("wrong".parse::<Firmware>().unwrap_err().contains("bad-checksum"));
    }

    #[test]
    fn a_pad_is_a_table_of_zeroes() {
        let pad = pad();
        assert!(pad.survives_acpitable());
        assert_eq!(pad.bytes.len(), layout::PAD_SIZE);
        assert_eq!(pad.bytes[..4], *b"OEMR");
        assert!(pad.bytes[48..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_is_no_table_is_told_by_what_it_is() {
        assert!(matches!(check(b""), Err(NotATable::Empty)));
        assert!(matches!(check(b"DMAR @ 0x0\n  00: 44 4d"), Err(NotATable::Text)));
        assert!(matches!(check(b"APIC\x10\0\0\0"), Err(NotATable::Signature(found)) if found == "APIC"));
        assert!(matches!(check(b"DMAR\x10\0\0\0"), Err(NotATable::Short(8))));
        assert!(check(&Firmware::BadChecksum.tables()[0].bytes).is_ok());
    }
}
