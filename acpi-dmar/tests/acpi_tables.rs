//! The adapter to the `acpi` crate, on tables in this process's memory.
#![allow(unsafe_code, reason = "acpi's handler is unsafe")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::ptr::NonNull;

use acpi::{AcpiError, AcpiHandler, AcpiTables, PhysicalMapping};
use acpi_dmar::acpi_tables::{MappedDmar, all};
use acpi_dmar::builder::{StructureBuilder, TableBuilder};
use acpi_dmar::{DrhdFlags, TableError};

/// Maps addresses of this process to themselves.
#[derive(Clone)]
struct Identity;

impl AcpiHandler for Identity {
    // SAFETY: that a `T` is at the address is for the caller to see to, as the trait says.
    unsafe fn map_physical_region<T>(&self, address: usize, size: usize) -> PhysicalMapping<Self, T> {
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(address)).unwrap();
        // SAFETY: the tests below keep their tables alive, and the address is that of one of them.
        unsafe { PhysicalMapping::new(address, start, size, size, Self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// An XSDT that lists `tables`.
fn xsdt(tables: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = TableBuilder::new().build();
    bytes.truncate(36);
    bytes[..4].copy_from_slice(b"XSDT");
    for table in tables {
        bytes.extend_from_slice(&(table.as_ptr().expose_provenance() as u64).to_le_bytes());
    }
    let length = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[9] = 0;
    bytes[9] = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)).wrapping_neg();
    bytes
}

fn other(signature: &[u8; 4]) -> Vec<u8> {
    TableBuilder::new().override_signature(*signature).build()
}

fn dmar(registers: u64) -> TableBuilder {
    TableBuilder::new().structure(StructureBuilder::drhd(DrhdFlags::empty(), 0, registers))
}

/// Runs `check` on a machine that has `tables`.
fn on_machine(tables: &[Vec<u8>], check: impl FnOnce(&AcpiTables<Identity>)) {
    let root = xsdt(tables);
    // SAFETY: the XSDT and its tables live until the end of this function.
    let found = unsafe { AcpiTables::from_rsdt(Identity, 2, root.as_ptr().expose_provenance()) };
    check(&found.unwrap());
}

#[test]
fn the_table_is_found_among_others() {
    let table = dmar(0xfed9_0000).build();
    on_machine(&[other(b"APIC"), table.clone(), other(b"HPET")], |tables| {
        let mapped = MappedDmar::find(tables).unwrap();
        assert_eq!(mapped.bytes(), table);
        assert_eq!(mapped.dmar().unwrap().structures().count(), 1);
        assert_eq!(all(tables).count(), 1);
    });
}

#[test]
fn a_machine_may_have_none() {
    on_machine(&[other(b"APIC")], |tables| {
        assert!(matches!(MappedDmar::find(tables), Err(AcpiError::TableMissing(_))));
        assert_eq!(all(tables).count(), 0);
    });
}

#[test]
fn a_wrong_checksum_is_reported_and_not_hidden() {
    on_machine(&[dmar(0).override_checksum(0).build()], |tables| {
        let mapped = MappedDmar::find(tables).unwrap();
        assert!(matches!(mapped.dmar(), Err(TableError::Checksum { .. })));
    });
}

#[test]
fn two_tables_are_noticed() {
    let built = [dmar(0x1000).build(), other(b"APIC"), dmar(0x2000).build()];
    on_machine(&built, |tables| {
        let found: Vec<_> = all(tables).map(|mapped| mapped.bytes().to_vec()).collect();
        assert_eq!(found, [built[0].clone(), built[2].clone()]);
        assert_eq!(MappedDmar::find(tables).unwrap().bytes(), built[0]);
    });
}
