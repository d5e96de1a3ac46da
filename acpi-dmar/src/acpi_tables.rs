//! DMAR tables of a machine whose kernel uses the `acpi` crate.
//!
//! ```no_run
//! # fn example<H: acpi::AcpiHandler>(tables: acpi::AcpiTables<H>) -> Option<()> {
//! use acpi_dmar::acpi_tables::MappedDmar;
//!
//! let table = MappedDmar::find(&tables).ok()?;
//! let dmar = table.dmar().ok()?;
//! # dmar.structures(); Some(()) }
//! ```

use acpi::{AcpiHandler, AcpiResult, AcpiTables};
use acpi_table_bytes::MappedTable;

use crate::{Dmar, TableError};

/// A DMAR table that the kernel's `AcpiHandler` keeps mapped as long as this lives.
pub struct MappedDmar<H: AcpiHandler> {
    table: MappedTable<H>,
}

impl<H: AcpiHandler> MappedDmar<H> {
    /// The machine's DMAR table, the first if there are several; [`all`] tells. `acpi` passes over tables whose OEM ids are not UTF-8.
    ///
    /// # Errors
    ///
    /// `AcpiError::TableMissing` if there is none.
    pub fn find(tables: &AcpiTables<H>) -> AcpiResult<Self> {
        MappedTable::find(tables, 0).map(|table| Self { table })
    }

    /// Reads the table where it is.
    ///
    /// # Errors
    ///
    /// As [`Dmar::parse`].
    pub fn dmar(&self) -> Result<Dmar<'_>, TableError> {
        Dmar::parse(self.bytes())
    }

    /// The table's bytes, for [`Dmar::parse_lenient`] or to keep.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.table.bytes()
    }

    /// Where the table is in physical memory.
    #[must_use]
    pub fn physical_start(&self) -> usize {
        self.table.physical_start()
    }
}

/// Every DMAR table of the machine in the order of the RSDT or XSDT. There should be one; a second comes from firmware or from QEMU's `-acpitable`,
/// and systems differ in which they believe, so it is worth a report.
pub fn all<H: AcpiHandler>(tables: &AcpiTables<H>) -> impl Iterator<Item = MappedDmar<H>> {
    (0..).map_while(|nth| MappedTable::find(tables, nth).ok()).map(|table| MappedDmar { table })
}
