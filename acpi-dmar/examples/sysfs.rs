//! Prints this machine's DMAR table, as Linux shows it: `sudo cargo run -p acpi-dmar --example sysfs [FILE]`.

use std::io::ErrorKind;
use std::process::ExitCode;

use acpi_dmar::Dmar;

fn main() -> ExitCode {
    let path = std::env::args().nth(1).unwrap_or_else(|| "/sys/firmware/acpi/tables/DMAR".into());
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            match error.kind() {
                ErrorKind::NotFound => eprintln!(
                    "There is no {path}: this machine has no Intel IOMMU, its firmware setup has VT-d switched off, or this is not Linux."
                ),
                ErrorKind::PermissionDenied => eprintln!("{path} is for root alone: try again with sudo."),
                _ => eprintln!("{path} cannot be read: {error}."),
            }
            return ExitCode::FAILURE;
        }
    };
    let mut sound = true;
    let dmar = Dmar::parse_lenient(&bytes, |error| {
        eprintln!("{path}: {error}");
        sound = false;
    });
    match dmar {
        Some(dmar) => {
            println!("{dmar}");
            if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        None => ExitCode::FAILURE,
    }
}
