//! Reading a table: everything in it, beside the bare checksum of its bytes.

use acpi_dmar::builder::{ScopeBuilder, StructureBuilder, TableBuilder};
use acpi_dmar::{Dmar, DrhdFlags, Structure};

use crate::measure::Measurements;
use crate::report::Row;

const VISIT: &str = "parse and visit";
const CHECKSUM: &str = "checksum alone";

/// Instructions a byte that reading may take beyond the checksum. A minimal walker with all its checks takes
/// 2.1.
const BOUND: f64 = 2.5;

/// The tables by their names.
fn tables() -> [(&'static str, Vec<u8>); 2] {
    [("200 bytes, as a laptop's", laptop()), ("64 KiB, 2046 RMRRs", large())]
}

/// Two units, and regions for USB, graphics and server management, in the shape that client firmware gives
/// them.
fn laptop() -> Vec<u8> {
    let rmrr = |base, limit, device, function| {
        StructureBuilder::rmrr(0, base, limit).scope(ScopeBuilder::endpoint(0, &[(device, function)]))
    };
    TableBuilder::new()
        .host_address_width(39)
        .structure(
            StructureBuilder::drhd(DrhdFlags::empty(), 0, 0xfed9_0000)
                .scope(ScopeBuilder::endpoint(0, &[(2, 0)])),
        )
        .structure(
            StructureBuilder::drhd(DrhdFlags::INCLUDE_PCI_ALL, 0, 0xfed9_1000)
                .scope(ScopeBuilder::io_apic(2, 0, &[(0x1e, 7)]))
                .scope(ScopeBuilder::hpet(0, 0, &[(0x1e, 6)])),
        )
        .structure(rmrr(0x6cda_2000, 0x6cdc_1fff, 0x14, 0))
        .structure(rmrr(0x7b00_0000, 0x7f7f_ffff, 2, 0))
        .structure(rmrr(0x6ce5_6000, 0x6ced_5fff, 0x16, 7))
        .build()
}

/// As many RMRRs with an endpoint each as fit 64 KiB.
fn large() -> Vec<u8> {
    let mut table = TableBuilder::new();
    for index in 0..2046 {
        let base = 0x1_0000_0000 + (index << 16);
        let (device, function) = ((index % 32) as u8, (index / 32 % 8) as u8);
        table = table.structure(
            StructureBuilder::rmrr(0, base, base + 0xfff)
                .scope(ScopeBuilder::endpoint(0, &[(device, function)])),
        );
    }
    table.build()
}

/// Reads every field of every structure, scope and hop.
fn visit(bytes: &[u8]) -> u64 {
    let Ok(dmar) = Dmar::parse(bytes) else { return 0 };
    let mut sum = u64::from(dmar.host_address_width()) + u64::from(dmar.flags().bits());
    for structure in dmar.structures() {
        let structure = match structure {
            Ok(structure) => structure,
            Err(error) => {
                sum = sum.wrapping_add(error.offset.into());
                continue;
            }
        };
        sum = sum.wrapping_add(match structure {
            Structure::Drhd(drhd) => {
                drhd.register_base()
                    ^ u64::from(drhd.flags().bits())
                    ^ u64::from(drhd.segment())
                    ^ u64::from(drhd.size())
            }
            Structure::Rmrr(rmrr) => rmrr.base() ^ rmrr.limit() ^ u64::from(rmrr.segment()),
            Structure::Atsr(atsr) => u64::from(atsr.segment()) ^ u64::from(atsr.flags().bits()),
            Structure::Rhsa(rhsa) => rhsa.register_base() ^ u64::from(rhsa.proximity_domain()),
            Structure::Andd(andd) => u64::from(andd.number()) ^ andd.name_bytes().len() as u64,
            Structure::Satc(satc) => u64::from(satc.segment()) ^ u64::from(satc.flags().bits()),
            Structure::Sidp(sidp) => u64::from(sidp.segment()),
            Structure::Unknown(unknown) => u64::from(unknown.raw_type()) ^ unknown.bytes().len() as u64,
        });
        for scope in structure.scopes() {
            let scope = match scope {
                Ok(scope) => scope,
                Err(error) => {
                    sum = sum.wrapping_add(error.offset.into());
                    continue;
                }
            };
            sum = sum.wrapping_add(
                u64::from(scope.kind().raw())
                    ^ u64::from(scope.flags().bits())
                    ^ u64::from(scope.enumeration_id())
                    ^ u64::from(scope.start_bus()),
            );
            for hop in scope.path() {
                sum = sum.wrapping_add(u64::from(hop.device) ^ u64::from(hop.function));
            }
        }
    }
    sum
}

/// The sum of all bytes, which must be 0 (ACPI 6.5, 5.2.6).
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// Measures.
pub(crate) fn measure(measurements: &mut Measurements) {
    for (name, bytes) in &tables() {
        let length = bytes.len() as u64;
        measurements
            .call(&format!("{VISIT}: {name}"), visit, bytes.as_slice(), |row| row.each("byte", length));
        measurements
            .call(&format!("{CHECKSUM}: {name}"), checksum, bytes.as_slice(), |row| row.each("byte", length));
    }
}

/// Adds what reading takes beyond the checksum.
pub(crate) fn derive(rows: &mut Vec<Row>) {
    let mut beyond = Vec::new();
    for (name, _) in tables() {
        let of = |what: &str| rows.iter().find(|row| row.case == format!("{what}: {name}"));
        if let (Some(visit), Some(checksum)) = (of(VISIT), of(CHECKSUM)) {
            beyond.push(visit.beyond(checksum, &format!("reading beyond the checksum: {name}")).bound(BOUND));
        }
    }
    rows.extend(beyond);
}

#[cfg(test)]
mod tests {
    use super::{checksum, tables, visit};

    #[test]
    fn the_tables_are_of_the_sizes_that_they_are_named_after() {
        let [(_, laptop), (_, large)] = tables();
        assert_eq!((laptop.len(), large.len()), (200, 48 + 2046 * 32));
        for table in [laptop, large] {
            assert_eq!(checksum(&table), 0);
            assert_ne!(visit(&table), 0);
        }
    }
}
