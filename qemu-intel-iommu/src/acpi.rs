//! ACPI tables, read with the `acpi` crate and copied: firmware may keep them in memory that devices write.
#![allow(unsafe_code)]

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use acpi::mcfg::Mcfg;
use acpi::rsdp::Rsdp;
use acpi::sdt::SdtHeader;
use acpi::{AcpiError, AcpiHandler, AcpiTables, PhysicalMapping};

use crate::memory::{copy_from_firmware, phys_to_ptr};
use crate::pci::config::Window;

/// The longest DMAR that is copied, in bytes. Real ones are below 4 KiB.
const LONGEST: u32 = 1 << 20;
const HEADER_LEN: u64 = size_of::<SdtHeader>() as u64;

/// A table that the root table names.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The physical address, which need not be aligned.
    pub address: u64,
    /// The signature.
    pub signature: [u8; 4],
    /// The length in bytes that the header claims.
    pub length: u32,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}, {} bytes", self.signature.escape_ascii(), self.address, self.length)
    }
}

/// What was found.
#[derive(Default)]
pub struct Tables {
    /// Every table, in the root table's order.
    pub tables: Vec<Table>,
    /// Every DMAR, as it is: neither its checksum nor anything in it was looked at. None on a machine without
    /// a remapping unit, two when somebody appended one.
    pub dmars: Vec<&'static [u8]>,
    /// PCI Express's configuration windows.
    pub windows: Vec<Window>,
}

/// Why no table could be read.
#[derive(Debug)]
pub enum TablesError {
    /// The boot loader named no RSDP.
    NoRsdp,
    /// The RSDP is not valid.
    Rsdp(AcpiError),
    /// The root table at this address cannot be read, or claims a length that cannot be.
    Root { address: u64, length: u32 },
}

impl fmt::Display for TablesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRsdp => f.write_str("the boot loader named no RSDP"),
            Self::Rsdp(error) => write!(f, "the RSDP: {error:?}"),
            Self::Root { address, length } => {
                write!(f, "the root table at {address:#x} claims {length} bytes")
            }
        }
    }
}

/// Shows the `acpi` crate physical memory where the direct map has it.
#[derive(Clone, Copy)]
struct DirectMap;

impl AcpiHandler for DirectMap {
    // SAFETY: that a `T` is at the address is for the caller to see to, as the trait says.
    unsafe fn map_physical_region<T>(
        &self,
        physical_address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        // An address of 0 is no address in the direct map either: page 0 is not mapped, and the exception
        // says so.
        let start =
            NonNull::new(phys_to_ptr(physical_address as u64).cast::<T>()).unwrap_or(NonNull::dangling());
        // SAFETY: firmware's memory is mapped one to one; that the address holds a `T` is the caller's
        // contract.
        unsafe { PhysicalMapping::new(physical_address, start, size, size, *self) }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// Reads what the RSDP at physical address `rsdp` leads to.
///
/// # Errors
/// No table can be found at all. A single table that cannot be read is left out with a warning.
pub fn read(rsdp: u64) -> Result<Tables, TablesError> {
    let rsdp_len = size_of::<Rsdp>();
    if rsdp == 0 || copy_from_firmware(rsdp, rsdp_len as u64).is_none() {
        return Err(TablesError::NoRsdp);
    }
    // SAFETY: the bytes were just read as the firmware's memory.
    let mapping = unsafe { DirectMap.map_physical_region::<Rsdp>(rsdp as usize, rsdp_len) };
    mapping.validate().map_err(TablesError::Rsdp)?;
    let (root, width) = if mapping.revision() == 0 {
        (u64::from(mapping.rsdt_address()), 4)
    } else {
        (mapping.xsdt_address(), 8)
    };

    let length = header(root).map_or(0, |header| header.length);
    let entries = u64::from(length).checked_sub(HEADER_LEN).filter(|_| length <= LONGEST);
    let entries = entries.and_then(|len| copy_from_firmware(root + HEADER_LEN, len));
    let entries = entries.ok_or(TablesError::Root { address: root, length })?;

    let mut found = Tables::default();
    for entry in entries.chunks_exact(width) {
        let mut bytes = [0; 8];
        for (to, from) in bytes.iter_mut().zip(entry) {
            *to = *from;
        }
        let address = u64::from_le_bytes(bytes);
        let Some(table) = header(address) else {
            log::warn!("the root table names a table at {address:#x}, which is no memory of the firmware's");
            continue;
        };
        found.tables.push(table);
        if &table.signature == b"DMAR"
            && let Some(bytes) = copy_dmar(&table)
        {
            found.dmars.push(bytes);
        }
    }
    found.windows = windows(rsdp, &found.tables);
    Ok(found)
}

/// The header at `address`, if it can be read.
fn header(address: u64) -> Option<Table> {
    let bytes = copy_from_firmware(address, HEADER_LEN)?;
    let (signature, rest) = bytes.split_first_chunk::<4>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    Some(Table { address, signature: *signature, length: u32::from_le_bytes(*length) })
}

/// The bytes that the table claims, or as many of them as there are: the reader is to judge.
fn copy_dmar(table: &Table) -> Option<&'static [u8]> {
    let mut len = table.length.min(LONGEST);
    loop {
        if let Some(bytes) = copy_from_firmware(table.address, u64::from(len)) {
            if len != table.length {
                log::warn!("{table}: only {len} bytes of it can be read");
            }
            return Some(Box::leak(bytes.into_boxed_slice()));
        }
        // Down to the page boundary before: a header's length was read, so that this ends.
        let end = table.address + u64::from(len);
        len = ((end - 1) & !0xfff)
            .checked_sub(table.address)
            .and_then(|len| u32::try_from(len).ok())
            .filter(|len| *len > 0)?;
    }
}

/// The windows that MCFG names.
fn windows(rsdp: u64, tables: &[Table]) -> Vec<Window> {
    // The crate subtracts the fixed part from the length without looking.
    let Some(mcfg) = tables.iter().find(|table| &table.signature == b"MCFG") else { return Vec::new() };
    if (mcfg.length as usize) < size_of::<Mcfg>() {
        log::warn!("{mcfg}: too short");
        return Vec::new();
    }
    // SAFETY: `read` validated the RSDP at this address.
    let mcfg = unsafe { AcpiTables::from_rsdp(DirectMap, rsdp as usize) }
        .and_then(|tables| tables.find_table::<Mcfg>());
    match mcfg {
        Ok(mcfg) => mcfg
            .entries()
            .iter()
            .map(|entry| Window {
                base: entry.base_address,
                segment: entry.pci_segment_group,
                buses: entry.bus_number_start..=entry.bus_number_end,
            })
            .collect(),
        Err(error) => {
            log::warn!("MCFG cannot be used: {error:?}");
            Vec::new()
        }
    }
}
