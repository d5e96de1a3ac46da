//! Which DMAR counts, where firmware has none, one, or several.

use acpi_dmar::{Dmar, TableError};

use super::iommu_state::{IommuState, Unusable};

/// Why a table does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[source] TableError),
    /// One before it counts.
    #[error("one before it is used")]
    Further,
}

/// Of the DMARs that the root table names, in its order, the first that can be read. The others are reported
/// with their numbers from 0: two tables of one machine contradict each other sooner or later, and Xen and
/// Linux look at the first alone.
///
/// # Errors
/// [`IommuState::Absent`] where there is no table, [`IommuState::Unusable`] where none can be read.
pub fn choose<'a>(
    tables: impl IntoIterator<Item = &'a [u8]>,
    ignored: &mut dyn FnMut(usize, Ignored),
) -> Result<Dmar<'a>, IommuState> {
    let mut chosen = Err(IommuState::Absent);
    for (number, bytes) in tables.into_iter().enumerate() {
        if chosen.is_ok() {
            ignored(number, Ignored::Further);
            continue;
        }
        match Dmar::parse(bytes) {
            Ok(dmar) => chosen = Ok(dmar),
            Err(error) => {
                ignored(number, Ignored::Unreadable(error));
                if chosen == Err(IommuState::Absent) {
                    chosen = Err(IommuState::Unusable(Unusable::Table(error)));
                }
            }
        }
    }
    chosen
}
