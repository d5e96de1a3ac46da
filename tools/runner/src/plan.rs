//! A boot planned: from what the user asks for to the emulator, its devices and tables, and the kernel
//! command line.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::bochs::{self, NotReady};
use crate::emulator::Emulator;
use crate::firmware::{self, Firmware, NotATable, Table};
use crate::hash::fnv1a;
use crate::layout::{self, Device};
use crate::qemu::{self, CannotCompose, Invocation, TableFile};
use crate::record::Level;
use crate::stand_in::{self, Left};

/// A processor of QEMU's with SVM, nested paging, pages of 1 GiB, five levels, and addresses that take them.
const NESTED_PAGING: &str = "max,+svm,+npt,phys-bits=52";

/// What the user asks for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Another machine's table in place of ours.
    pub dmar: Option<PathBuf>,
    /// What the firmware says, when it is not another machine's table.
    pub firmware: Firmware,
    /// Another scenario than the one that fits the table.
    pub scenario: Option<String>,
    /// Name the steps instead of doing them.
    pub list_steps: bool,
    /// Spoil this step.
    pub break_step: Option<String>,
    /// Leave the UHCI's regions out of what is mapped.
    pub omit_uhci: bool,
    /// More regions, in Xen's `rmrr=` syntax.
    pub rmrr: Vec<String>,
    /// The least grave level that the log shows.
    pub log: Option<Level>,
    /// Memory in MiB, other than [`layout::RAM_MIB`], for scenarios that need none at a certain place.
    pub memory: Option<u32>,
    /// More words for the kernel command line.
    pub append: Vec<String>,
}

/// A boot: what it runs on, and what is said to the hypervisor.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it runs on.
    pub emulator: Emulator,
    /// QEMU's processor, where its own choice lacks something.
    pub processor: Option<&'static str>,
    /// QEMU's memory in MiB.
    pub memory: u32,
    /// QEMU's IOMMU.
    pub iommu: Device,
    /// The devices besides the IOMMU.
    pub devices: Vec<Device>,
    /// Whether the hypervisor speaks to QEMU's monitor, at COM2.
    pub monitor: bool,
    /// The firmware's tables.
    pub tables: Vec<Table>,
    /// The kernel command line.
    pub append: String,
    /// What another machine's table names and has its stand-in.
    pub placed: Vec<String>,
    /// What another machine's table names and has none.
    pub left: Vec<Left>,
    /// What is wrong with another machine's table, if anything.
    pub problems: Vec<String>,
}

/// A boot that cannot be planned or prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table's file.
    #[error("cannot read the table {}: {source}{}", path.display(), hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The table.
    #[error("{} is not a DMAR table: {source}", path.display())]
    NotATable {
        /// The file.
        path: PathBuf,
        /// What it is.
        source: NotATable,
    },
    /// A word that would be two.
    #[error("{0:?} has a blank, and the kernel command line is split at blanks")]
    Blank(String),
    /// QEMU's command line.
    #[error(transparent)]
    Compose(#[from] CannotCompose),
    /// Bochs.
    #[error(transparent)]
    Bochs(#[from] NotReady),
    /// A file that the emulator is to read.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; as root, copy it to a file of yours: sudo cat TABLE > dmar.bin",
        io::ErrorKind::NotFound => "; a machine with VT-d has its own in /sys/firmware/acpi/tables/DMAR",
        _ => "",
    }
}

impl Plan {
    /// Plans a boot.
    ///
    /// # Errors
    /// When the table cannot be read or is none, or when a word has a blank.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let mut words: Vec<String> = Vec::new();
        let mut plan = match &options.dmar {
            None => Self {
                emulator: Emulator::Qemu,
                processor: None,
                memory: layout::RAM_MIB,
                iommu: layout::iommu(layout::ADDRESS_WIDTH),
                devices: layout::devices(),
                monitor: false,
                tables: options.firmware.tables(),
                append: String::new(),
                placed: Vec::new(),
                left: Vec::new(),
                problems: Vec::new(),
            },
            Some(path) => Self::for_table(path)?,
        };
        plan.tables.extend((0..layout::PADS).map(|_| firmware::pad()));
        // The steps on our devices have nothing to stand on without our table.
        let ours = options.dmar.is_none() && options.firmware == Firmware::Good;
        let fitting = (!ours).then(|| "table".to_owned());
        words.extend(options.scenario.clone().or(fitting).map(|name| format!("scenario={name}")));
        words.push(match options.dmar {
            Some(_) => format!("stand-in-unit={:#x}", layout::UNIT_BASE),
            None => format!("rmrr={}", layout::OPTION_REGION),
        });
        if options.scenario.as_deref() == Some("hotplug") {
            words.push(format!("rmrr={}", layout::SLOT_REGION));
            plan.devices.push(layout::slot());
            plan.monitor = true;
        }
        words.extend(options.rmrr.iter().map(|spec| format!("rmrr={spec}")));
        words.extend(options.break_step.iter().map(|step| format!("break={step}")));
        if options.omit_uhci {
            words.push("omit=uhci".into());
        }
        words.extend(options.log.iter().map(|level| format!("log={}", level.word().to_lowercase())));
        if options.list_steps {
            words.push("list-steps".into());
        }
        if let Some(word) = words.iter().find(|word| word.contains(char::is_whitespace)) {
            return Err(Error::Blank(word.clone()));
        }
        words.extend(options.append.iter().cloned());
        plan.append = words.join(" ");
        plan.memory = options.memory.unwrap_or(plan.memory);
        match options.scenario.as_deref() {
            // For pages of 1 GiB.
            Some("memory") => plan.processor = Some("max"),
            Some("nested") => plan.processor = Some(NESTED_PAGING),
            // For tables of four levels, and for the snoop bit in leaves.
            Some("vtd-walk-4" | "vtd-walk-ept") => plan.iommu = layout::iommu(48).with("snoop-control=on"),
            Some("ept") => plan.emulator = Emulator::Bochs,
            _ => {}
        }
        Ok(plan)
    }

    fn for_table(path: &Path) -> Result<Self, Error> {
        let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        firmware::check(&bytes).map_err(|source| Error::NotATable { path: path.to_owned(), source })?;
        let (table, problems) = firmware::read(&bytes);
        let (placement, unread) = match table {
            Some(table) => {
                let (scopes, unread) = stand_in::scopes(&table);
                (stand_in::place(&scopes), unread)
            }
            None => Default::default(),
        };
        let file = table_file_name(path, &bytes);
        Ok(Self {
            emulator: Emulator::Qemu,
            processor: None,
            memory: layout::RAM_MIB,
            iommu: layout::iommu(layout::ADDRESS_WIDTH),
            devices: placement.devices,
            monitor: false,
            tables: vec![Table { file, bytes }],
            append: String::new(),
            placed: placement.placed,
            left: placement.left.into_iter().chain(unread).collect(),
            problems,
        })
    }

    /// Writes what the emulator reads into `folder` and composes its command. `program` is the emulator.
    ///
    /// # Errors
    /// When a file cannot be written or the command cannot be composed.
    pub fn prepare(&self, program: &Path, image: &Path, folder: &Path) -> Result<Invocation, Error> {
        let mut files = Vec::new();
        fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        if self.emulator == Emulator::Bochs {
            return Ok(bochs::prepare(program, image, &self.append, folder, write)?);
        }
        for table in &self.tables {
            let path = folder.join(&table.file);
            write(&path, &table.bytes).map_err(|source| Error::Write { path: path.clone(), source })?;
            files.push(TableFile { path, verbatim: !table.survives_acpitable() });
        }
        let mut arguments = qemu::arguments(
            image,
            self.processor,
            self.memory,
            &self.iommu,
            &self.devices,
            &files,
            &self.append,
        )?;
        if self.monitor {
            arguments.extend(qemu::monitor_at_com2());
        }
        Ok(Invocation { emulator: self.emulator, program: program.to_owned(), arguments })
    }
}

/// Two tables of one name may be booted at once, so the name tells their contents apart.
fn table_file_name(path: &Path, bytes: &[u8]) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let stem: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    format!("dmar-{stem}-{:08x}.bin", fnv1a(bytes) >> 32)
}

/// Several boots may write the same file at once, and another QEMU may be reading it: it is replaced whole,
/// and only when it differs.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(());
    }
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let fresh = path.with_extension(format!("{}-{count}.new", process::id()));
    fs::write(&fresh, bytes)?;
    fs::rename(&fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(options: Options) -> String {
        Plan::new(&options).unwrap().append
    }

    #[test]
    fn the_default_boot_has_the_options_region() {
        assert_eq!(append(Options::default()), "rmrr=0xfff4-0xfff5=00:07.0");
    }

    #[test]
    fn what_is_asked_for_becomes_words() {
        let options = Options {
            break_step: Some("own-region".into()),
            omit_uhci: true,
            rmrr: vec!["0x10=00:03.0".into(), "zz".into()],
            log: Some(Level::Debug),
            append: vec!["a=b".into(), "c d".into()],
            list_steps: true,
            ..Options::default()
        };
        assert_eq!(
            append(options),
            "rmrr=0xfff4-0xfff5=00:07.0 rmrr=0x10=00:03.0 rmrr=zz break=own-region omit=uhci log=debug list-steps a=b c d"
        );
    }

    #[test]
    fn scenarios_run_on_what_has_what_they_need() {
        let plan =
            |name: &str| Plan::new(&Options { scenario: Some(name.into()), ..Options::default() }).unwrap();
        assert_eq!((plan("selftest").emulator, plan("selftest").processor), (Emulator::Qemu, None));
        assert_eq!(plan("nested").processor, Some(NESTED_PAGING));
        assert_eq!(plan("ept").emulator, Emulator::Bochs);
        let iommus =
            ["selftest", "vtd-walk", "vtd-walk-4", "vtd-walk-ept"].map(|name| plan(name).iommu.argument());
        let (narrow, wide) = ("intel-iommu,aw-bits=39", "intel-iommu,aw-bits=48,snoop-control=on");
        assert_eq!(iommus, [narrow, narrow, wide, wide]);
    }

    #[test]
    fn a_blank_does_not_split_a_word() {
        let options = Options { rmrr: vec!["1 =2".into()], ..Options::default() };
        assert!(matches!(Plan::new(&options), Err(Error::Blank(_))));
    }

    #[test]
    fn anothers_table_brings_stand_ins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my table.dmar");
        fs::write(&path, &Firmware::Good.tables()[0].bytes).unwrap();
        let plan = Plan::new(&Options { dmar: Some(path), ..Options::default() }).unwrap();
        assert_eq!(plan.append, "scenario=table stand-in-unit=0xfed90000");
        assert_eq!(plan.placed, ["00:03.0", "00:04.0", "00:05.0", "00:1d.0"]);
        // A root port has no device 01 behind it.
        assert_eq!(plan.left.len(), 1);
        assert_eq!(plan.left[0].scope, "00:06.0 -> 01.0");
        assert!(plan.tables[0].file.starts_with("dmar-mytable-"), "{}", plan.tables[0].file);
        assert!(plan.problems.is_empty());
    }

    #[test]
    fn files_are_written_whole_and_wrong_tables_go_in_verbatim() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan::new(&Options { firmware: Firmware::BadChecksum, ..Options::default() }).unwrap();
        assert!(plan.append.starts_with("scenario=table rmrr="));
        let invocation = plan.prepare(Path::new("qemu"), Path::new("image"), folder.path()).unwrap();
        let text = invocation.to_string();
        assert!(text.contains("-fw_cfg name=acpi/table-0,file="), "{text}");
        assert_eq!(text.matches("-acpitable").count(), layout::PADS);
        let mut names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["dmar-bad-checksum.bin", "pad.bin"]);
        assert_eq!(fs::read(folder.path().join("pad.bin")).unwrap(), firmware::pad().bytes);
    }

    #[test]
    fn a_table_that_is_not_there_or_is_none_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.dmar");
        let options = Options { dmar: Some(path.clone()), ..Options::default() };
        let error = Plan::new(&options).unwrap_err().to_string();
        assert!(error.contains("none.dmar") && error.contains("/sys/firmware"), "{error}");
        fs::write(&path, "APIC0123456789").unwrap();
        let error = Plan::new(&options).unwrap_err().to_string();
        assert!(error.contains("not a DMAR") && error.contains("APIC"), "{error}");
        let error = Plan::new(&Options { dmar: Some(folder.path().into()), ..Options::default() });
        assert!(matches!(error, Err(Error::Read { .. })));
    }
}
