//! The bytes of the DMAR tables that the `acpi` crate finds.
//!
//! `acpi` 5 hands out tables as types that implement its unsafe `AcpiTable` trait. The two lines of unsafe code which that takes are here, so that
//! `acpi-dmar` itself can forbid it. Nothing of a table is trusted but that it is mapped; to read it is up to `acpi-dmar`.
#![no_std]

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use acpi::sdt::{SdtHeader, Signature};
use acpi::{AcpiError, AcpiHandler, AcpiResult, AcpiTable, AcpiTables, PhysicalMapping};

/// A DMAR table, mapped as long as this lives.
pub struct MappedTable<H: AcpiHandler> {
    mapping: PhysicalMapping<H, Table>,
}

impl<H: AcpiHandler> MappedTable<H> {
    /// Maps the DMAR table number `nth`, from 0, in the order of the RSDT or XSDT.
    ///
    /// # Errors
    ///
    /// `TableMissing` if there are not so many. `acpi` also passes over tables whose OEM ids are not UTF-8.
    pub fn find(tables: &AcpiTables<H>, nth: usize) -> AcpiResult<Self> {
        let _search = Search::begin(nth);
        Ok(Self { mapping: tables.find_table()? })
    }

    /// The table's bytes, as many as its header's length says. Its checksum has not been looked at.
    #[must_use]
    #[expect(unsafe_code, reason = "acpi hands out mapped memory as a pointer")]
    pub fn bytes(&self) -> &[u8] {
        let length = usize::try_from(self.mapping.header.length).unwrap_or(usize::MAX);
        // SAFETY: `PhysicalMapping::new`, which is unsafe, has its caller map `region_length` bytes from `virtual_start` for as long as the mapping
        // is not dropped, and `self` owns it. Bytes have no alignment and no invalid values. Nobody writes: `acpi` gives out shared references
        // to the same memory, and the mapping's `DerefMut` needs `&mut self.mapping`, which nothing here takes.
        unsafe {
            core::slice::from_raw_parts(
                self.mapping.virtual_start().as_ptr().cast::<u8>(),
                length.min(self.mapping.region_length()),
            )
        }
    }

    /// Where the table is in physical memory.
    #[must_use]
    pub fn physical_start(&self) -> usize {
        self.mapping.physical_start()
    }
}

#[repr(transparent)]
struct Table {
    header: SdtHeader,
}

#[expect(unsafe_code, reason = "acpi's trait for tables is unsafe")]
// SAFETY: `Table` is an `SdtHeader` and no more (`repr(transparent)`), which every table begins with, so it is never larger than the table, and
// `SdtHeader` is packed and takes any bytes.
unsafe impl AcpiTable for Table {
    const SIGNATURE: Signature = Signature::DMAR;

    fn header(&self) -> &SdtHeader {
        &self.header
    }

    /// Takes the table with the number that is searched for, whatever its checksum: that is for `acpi-dmar` to report.
    fn validate(&self) -> AcpiResult<()> {
        // `find_table` goes on silently after this error alone.
        let pass = PASS_OVER.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1));
        if pass.is_ok() { Err(AcpiError::SdtInvalidSignature(Self::SIGNATURE)) } else { Ok(()) }
    }
}

/// `find_table` stops at the first table it likes, and asks a function without an argument for the search. So how many tables to pass over is
/// global, and one search runs at a time.
static PASS_OVER: AtomicUsize = AtomicUsize::new(0);
static SEARCHING: AtomicBool = AtomicBool::new(false);

/// The one search that runs.
struct Search;

impl Search {
    fn begin(pass_over: usize) -> Self {
        while SEARCHING.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            core::hint::spin_loop();
        }
        PASS_OVER.store(pass_over, Ordering::Relaxed);
        Self
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        SEARCHING.store(false, Ordering::Release);
    }
}
