//! The emulators that the hypervisor boots on.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

/// A program that emulates a computer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Emulator {
    /// QEMU: has the IOMMU, and AMD's SVM with nested paging.
    #[default]
    Qemu,
    /// Bochs: has Intel's VMX with EPT, and no IOMMU.
    Bochs,
}

impl Emulator {
    /// The program's name.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64",
            Self::Bochs => "bochs",
        }
    }

    /// The environment variable that names another program.
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU",
            Self::Bochs => "BOCHS",
        }
    }

    /// Finds it: what the variable names, or the first in `PATH`.
    pub fn find(self) -> Option<PathBuf> {
        match env::var_os(self.variable()) {
            Some(program) if !program.is_empty() => Some(program.into()),
            _ => in_path(OsStr::new(self.program()), &env::var_os("PATH")?),
        }
    }
}

/// As people call it.
impl fmt::Display for Emulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qemu => "QEMU",
            Self::Bochs => "Bochs",
        })
    }
}

fn in_path(program: &OsStr, path: &OsStr) -> Option<PathBuf> {
    env::split_paths(path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn programs_are_found_in_the_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("prog"), "").unwrap();
        let path = env::join_paths([Path::new("/nowhere"), folder.path()]).unwrap();
        assert_eq!(in_path(OsStr::new("prog"), &path), Some(folder.path().join("prog")));
        assert_eq!(in_path(OsStr::new("other"), &path), None);
    }
}
