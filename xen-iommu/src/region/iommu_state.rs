//! Whether there is an IOMMU at all.

use acpi_dmar::TableError;

/// Whether there is an IOMMU that regions are reserved for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IommuState {
    /// There is one, in use.
    #[error("there is an IOMMU")]
    Active,
    /// Firmware tells of none.
    #[error("firmware tells of no IOMMU")]
    Absent,
    /// The administrator has switched it off.
    #[error("the IOMMU is switched off")]
    Off,
    /// What firmware tells, or the hardware itself, cannot be used.
    #[error("the IOMMU cannot be used: {0}")]
    Unusable(#[source] Unusable),
}

/// Why an IOMMU cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// No DMAR can be read; this is wrong with the first.
    #[error("no DMAR can be read: {0}")]
    Table(#[source] TableError),
    /// The table names no remapping unit.
    #[error("the DMAR names no remapping unit")]
    NoUnit,
    /// The hypervisor says why.
    #[error("{0}")]
    Other(&'static str),
}
