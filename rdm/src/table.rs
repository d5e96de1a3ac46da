//! Where a table comes from: a file, or the machine.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use acpi_dmar::HEADER_LENGTH;
use rdm::machine::Machine;
use rdm::machine::table_path;
use xen_iommu::region::iommu_state::IommuState;

/// More than any firmware could mean: a table with a longer length is read so far.
const MOST: u64 = 64 << 20;

/// The machine below `root`; `None`, with a warning where it cannot be read, if it shows no PCI function.
pub(crate) fn machine_at(root: &Path) -> Option<Machine> {
    let machine = Machine::read(root).unwrap_or_else(|error| {
        eprintln!("warning: this machine's PCI tree cannot be read ({error}); the table is judged alone");
        Machine::default()
    });
    Some(machine).filter(|machine| machine.pci.addresses().next().is_some())
}

/// A table, and the machine that it is judged on.
pub(crate) struct Source {
    pub(crate) bytes: Vec<u8>,
    pub(crate) machine: Option<Machine>,
}

impl Source {
    /// Of a file, judged by itself, or of the machine below `root`. The error is a sentence.
    pub(crate) fn read(file: Option<&Path>, root: &Path) -> Result<Self, String> {
        match file {
            Some(file) => {
                let bytes = if file == Path::new("-") { read_table(io::stdin().lock()) } else { read(file) };
                let bytes = bytes.map_err(|error| format!("{}: cannot be read: {error}", file.display()))?;
                Ok(Self { bytes, machine: None })
            }
            None => {
                let path = table_path(root);
                let bytes =
                    read(&path).map_err(|error| format!("{}: {}", path.display(), no_table(&error)))?;
                Ok(Self { bytes, machine: machine_at(root) })
            }
        }
    }
}

pub(crate) fn read(file: &Path) -> io::Result<Vec<u8>> {
    read_table(File::open(file)?)
}

/// As much as the table's header says, so that an endless file ends too.
pub(crate) fn read_table(mut from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.by_ref().take(HEADER_LENGTH as u64).read_to_end(&mut bytes)?;
    if let Some(length) = bytes.get(4..8).and_then(|field| field.first_chunk())
        && bytes.starts_with(&acpi_dmar::SIGNATURE)
    {
        let length = u64::from(u32::from_le_bytes(*length)).min(MOST);
        from.take(length.saturating_sub(bytes.len() as u64)).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// What it means that the machine's table cannot be read, and what to do.
pub(crate) fn no_table(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => format!(
            "{}: the machine has no Intel one, VT-d is switched off in its firmware setup, or this is not Linux; to read another machine's table, give its \
             file",
            IommuState::Absent
        ),
        ErrorKind::PermissionDenied => "it is for root alone: try again with sudo".into(),
        _ => format!("cannot be read: {error}"),
    }
}
