//! QEMU's command: found, composed, and printed so that it can be pasted into a shell.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::emulator::Emulator;
use crate::layout::{self, Device};

/// The program's name.
pub const PROGRAM: &str = Emulator::Qemu.program();

/// The image's buffer for the kernel command line holds about 4 KiB, and what is longer overwrites what lies
/// behind it without a word.
const APPEND_LIMIT: usize = 4000;

/// A program and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// What the program is.
    pub emulator: Emulator,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

impl Invocation {
    /// The same as the system's command.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }

    /// Program and arguments as strings.
    pub fn words(&self) -> Vec<String> {
        let mut words = vec![self.program.to_string_lossy().into_owned()];
        words.extend(self.arguments.iter().cloned());
        words
    }

    /// The command over several lines, each option with its value on one; it can be pasted into a shell.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![quote(&self.program.to_string_lossy())];
        for argument in &self.arguments {
            match lines.last_mut() {
                Some(line) if !argument.starts_with('-') => {
                    line.push(' ');
                    line.push_str(&quote(argument));
                }
                _ => lines.push(quote(argument)),
            }
        }
        lines
    }
}

/// The command on one line; it can be pasted into a shell.
impl fmt::Display for Invocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().join(" "))
    }
}

/// A word as a POSIX shell reads it back.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+,./:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A command that cannot be composed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotCompose {
    /// The kernel command line is too long.
    #[error("the kernel command line has {0} bytes, and the image's buffer holds {APPEND_LIMIT}")]
    AppendTooLong(usize),
    /// `-acpitable` takes several files with ':' between them.
    #[error("the path {0:?} has a ':', which QEMU takes for the end of a file name")]
    Colon(String),
}

/// How a table gets to the firmware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFile {
    /// The file.
    pub path: PathBuf,
    /// Whether as it is, wrong length and checksum included, instead of through `-acpitable`.
    pub verbatim: bool,
}

/// QEMU's arguments for this processor (else QEMU's own choice) and memory, this IOMMU, these devices and
/// tables.
///
/// # Errors
/// When the kernel command line or a file's name cannot be passed on.
pub fn arguments(
    image: &Path,
    processor: Option<&str>,
    memory_mib: u32,
    iommu: &Device,
    devices: &[Device],
    tables: &[TableFile],
    append: &str,
) -> Result<Vec<String>, CannotCompose> {
    if append.len() > APPEND_LIMIT {
        return Err(CannotCompose::AppendTooLong(append.len()));
    }
    let mut arguments: Vec<String> = Vec::new();
    let mut push = |option: &str, value: &str| {
        arguments.push(option.to_owned());
        if !value.is_empty() {
            arguments.push(value.to_owned());
        }
    };
    // With ACPI off, SeaBIOS makes the tables, and ours is the only DMAR.
    push("-machine", "q35,acpi=off");
    push("-accel", "tcg");
    if let Some(processor) = processor {
        push("-cpu", processor);
    }
    push("-m", &memory_mib.to_string());
    push("-no-user-config", "");
    push("-nodefaults", "");
    push("-display", "none");
    push("-serial", "stdio");
    push("-monitor", "none");
    push("-no-reboot", "");
    // The guest's clock counts instructions and leaps while it sleeps: fast, and the same every time.
    push("-icount", "shift=4,sleep=off");
    push("-device", &format!("isa-debug-exit,iobase={:#x},iosize=4", layout::EXIT_PORT));
    push("-device", &iommu.argument());
    for device in devices {
        push("-device", &device.argument());
    }
    for (index, table) in tables.iter().enumerate() {
        let path = shown(&table.path);
        if table.verbatim {
            // SeaBIOS takes every file whose name begins so for a table. QEMU warns that such names are not
            // for users.
            push("-fw_cfg", &format!("name=acpi/table-{index},file={}", path.replace(',', ",,")));
        } else if path.contains(':') {
            return Err(CannotCompose::Colon(path));
        } else {
            push("-acpitable", &format!("file={}", path.replace(',', ",,")));
        }
    }
    push("-kernel", &shown(image));
    push("-append", append);
    Ok(arguments)
}

/// Options that put QEMU's monitor at the other end of COM2, by a socket of Linux's abstract names that no
/// other boot has.
pub fn monitor_at_com2() -> Vec<String> {
    static BOOTS: AtomicU32 = AtomicU32::new(0);
    let name = format!("rdm-monitor-{}-{}", process::id(), BOOTS.fetch_add(1, Ordering::Relaxed));
    let socket = |id: &str, more: &str| format!("socket,id={id},path={name},abstract=on{more}");
    let options = [
        ("-chardev", socket("monitor", ",server=on,wait=off")),
        ("-mon", "chardev=monitor,mode=readline".into()),
        ("-chardev", socket("com2", "")),
        ("-serial", "chardev:com2".into()),
    ];
    options.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect()
}

/// A path as short as it can be from here.
pub fn shown(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(&here).unwrap_or(path).to_string_lossy().into_owned()
}

/// Finds QEMU: what `QEMU` in the environment names, or the first in `PATH`.
pub fn find() -> Option<PathBuf> {
    Emulator::Qemu.find()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standard() -> Vec<String> {
        let tables = [
            TableFile { path: "t/dmar.bin".into(), verbatim: false },
            TableFile { path: "t/a,b.bin".into(), verbatim: true },
        ];
        arguments(
            Path::new("image"),
            None,
            layout::RAM_MIB,
            &layout::iommu(layout::ADDRESS_WIDTH),
            &layout::devices(),
            &tables,
            "rmrr=1-2=00:07.0 log=info",
        )
        .unwrap()
    }

    fn values<'a>(arguments: &'a [String], option: &str) -> Vec<&'a str> {
        let pairs = arguments.iter().zip(arguments.iter().skip(1));
        pairs.filter(|(name, _)| *name == option).map(|(_, value)| value.as_str()).collect()
    }

    #[test]
    fn the_iommu_comes_before_everything_that_does_dma() {
        let arguments = standard();
        let devices = values(&arguments, "-device");
        assert_eq!(devices[0], "isa-debug-exit,iobase=0xf4,iosize=4");
        assert_eq!(devices[1], "intel-iommu,aw-bits=39");
        assert_eq!(devices.len(), 2 + layout::devices().len());
        assert!(devices.contains(&"edu,bus=pci,addr=2.0,dma_mask=0xffffffffffffffff"));
        assert!(devices.contains(&"nvme,addr=7.0,serial=rdm"));
        assert!(devices.contains(&"ich9-usb-uhci1,id=uhci,addr=1d.0"));
    }

    #[test]
    fn tables_go_in_as_they_survive() {
        let arguments = standard();
        assert_eq!(values(&arguments, "-acpitable"), ["file=t/dmar.bin"]);
        assert_eq!(values(&arguments, "-fw_cfg"), ["name=acpi/table-1,file=t/a,,b.bin"]);
        assert_eq!(values(&arguments, "-append"), ["rmrr=1-2=00:07.0 log=info"]);
        assert_eq!(values(&arguments, "-kernel"), ["image"]);
    }

    #[test]
    fn what_qemu_would_misread_is_refused() {
        let iommu = layout::iommu(layout::ADDRESS_WIDTH);
        let long = "x".repeat(APPEND_LIMIT + 1);
        assert_eq!(
            arguments(Path::new("image"), None, layout::RAM_MIB, &iommu, &[], &[], &long),
            Err(CannotCompose::AppendTooLong(APPEND_LIMIT + 1))
        );
        let tables = [TableFile { path: "a:b".into(), verbatim: false }];
        assert_eq!(
            arguments(Path::new("image"), None, layout::RAM_MIB, &iommu, &[], &tables, ""),
            Err(CannotCompose::Colon("a:b".into()))
        );
    }

    #[test]
    fn a_shell_reads_back_what_is_printed() {
        for word in [
            "",
            "plain",
            "two words",
            "rmrr=1=00:07.0;2=0:1.0",
            "it's",
            "$HOME `x` \"y\" \\",
            "a\nb",
            "*?[#~",
        ] {
            let output =
                Command::new("sh").arg("-c").arg(format!("printf %s {}", quote(word))).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
    }

    #[test]
    fn each_option_has_its_line() {
        let invocation =
            Invocation { emulator: Emulator::Qemu, program: "qemu".into(), arguments: standard() };
        let lines = invocation.lines();
        assert_eq!(lines[0], "qemu");
        assert!(lines[1..].iter().all(|line| line.starts_with('-')));
        assert_eq!(lines.last().unwrap(), "-append 'rmrr=1-2=00:07.0 log=info'");
    }
}
