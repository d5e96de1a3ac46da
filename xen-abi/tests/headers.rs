//! Sizes, offsets and numbers are those of Xen's public headers, to a C compiler that reads them for 64-bit
//! and for 32-bit callers.
//!
//! The 32-bit structures are those that a 32-bit caller itself compiles (`-m32`; only types are looked at, so
//! no 32-bit library is needed). Xen's compat headers, which are made while it is built, describe the same
//! memory.
//!
//! Needs a C compiler (`$CC` or `cc`) and Debian's libxen-dev, or `$XEN_PUBLIC_HEADERS`, a folder with
//! `xen.h`, such as `xen/include/public` of Xen's source. Where one of them is missing the comparison is
//! shown as ignored, with the reason, unless `BOOT_TESTS=required` says that all must be there.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking"
)]

use std::fmt::Write;
use std::mem::size_of_val;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs, iter};

use libtest_mimic::{Arguments, Failed, Trial};
use xen_abi::zerocopy::FromZeros;
use xen_abi::{Errno, Layout, domctl, memory, physdev, xen};

/// C text that compiles if all of what is claimed holds.
#[derive(Default)]
struct Claims(String);

impl Claims {
    fn add(&mut self, left: &str, right: impl Into<i128>) {
        let right: i128 = right.into();
        writeln!(self.0, "_Static_assert(({left}) == {right}, \"{left} is not {right}\");").unwrap();
    }
}

/// The claims about a structure in a layout: its size, and where each of its fields is, of what size. None
/// can be left out.
macro_rules! structure {
    ($claims:ident, $layout:ident, $module:ident::$name:ident, $c:literal { $($field:ident: $c_field:literal),* }) => {{
        let $module::offsets::$name { $($field),* } = $module::$name::offsets($layout);
        $($claims.add(&format!("offsetof({}, {})", $c, $c_field), $field as i64);)*
        match $layout {
            Layout::Native => {
                let raw = $module::native::$name::new_zeroed();
                $($claims.add(&format!("sizeof((({} *)0)->{})", $c, $c_field), size_of_val(&raw.$field) as i64);)*
            }
            Layout::Compat => {
                let raw = $module::compat::$name::new_zeroed();
                $($claims.add(&format!("sizeof((({} *)0)->{})", $c, $c_field), size_of_val(&raw.$field) as i64);)*
            }
        }
        $module::$name::size($layout) as i64
    }};
}

fn structures(layout: Layout) -> Claims {
    let mut claims = Claims::default();
    let size = structure!(claims, layout, memory::ReservedDeviceMemoryMap, "struct xen_reserved_device_memory_map" {
        flags: "flags", nr_entries: "nr_entries", buffer: "buffer", pci: "dev.pci"
    });
    claims.add("sizeof(struct xen_reserved_device_memory_map)", size);
    let size = structure!(claims, layout, memory::ReservedDeviceMemory, "struct xen_reserved_device_memory" {
        start_pfn: "start_pfn", nr_pages: "nr_pages"
    });
    claims.add("sizeof(struct xen_reserved_device_memory)", size);
    let size = structure!(claims, layout, memory::MemoryMap, "struct xen_memory_map" {
        nr_entries: "nr_entries", buffer: "buffer"
    });
    claims.add("sizeof(struct xen_memory_map)", size);
    let size = structure!(claims, layout, memory::ForeignMemoryMap, "struct xen_foreign_memory_map" {
        domid: "domid", map: "map"
    });
    claims.add("sizeof(struct xen_foreign_memory_map)", size);
    let size = structure!(claims, layout, memory::MemoryReservation, "struct xen_memory_reservation" {
        extent_start: "extent_start", nr_extents: "nr_extents", extent_order: "extent_order",
        mem_flags: "mem_flags", domid: "domid"
    });
    claims.add("sizeof(struct xen_memory_reservation)", size);
    let size = structure!(claims, layout, xen::MulticallEntry, "struct multicall_entry" {
        op: "op", result: "result", args: "args"
    });
    claims.add("sizeof(struct multicall_entry)", size);
    claims.add("sizeof(xen_pfn_t)", layout.word_size() as i64);
    claims.add("sizeof(xen_ulong_t)", layout.word_size() as i64);

    let size = structure!(claims, layout, domctl::DomctlHeader, "struct xen_domctl" {
        cmd: "cmd", interface_version: "interface_version", domain: "domain"
    });
    claims.add("offsetof(struct xen_domctl, u)", size);
    claims.add("offsetof(struct xen_domctl, u)", domctl::Domctl::U_OFFSET as i64);
    claims.add("sizeof(((struct xen_domctl *)0)->u)", domctl::Domctl::U_SIZE as i64);
    claims.add("sizeof(struct xen_domctl)", domctl::Domctl::SIZE as i64);
    let size = structure!(claims, layout, domctl::AssignDevice, "struct xen_domctl_assign_device" {
        dev: "dev", flags: "flags", machine_sbdf: "u.pci.machine_sbdf"
    });
    claims.add("sizeof(struct xen_domctl_assign_device)", size);
    let size = structure!(claims, layout, domctl::GetDeviceGroup, "struct xen_domctl_get_device_group" {
        machine_sbdf: "machine_sbdf", max_sdevs: "max_sdevs", num_sdevs: "num_sdevs", sdev_array: "sdev_array"
    });
    claims.add("sizeof(struct xen_domctl_get_device_group)", size);

    let size = structure!(claims, layout, physdev::PciDevice, "struct physdev_pci_device" {
        seg: "seg", bus: "bus", devfn: "devfn"
    });
    claims.add("sizeof(struct physdev_pci_device)", size);
    let size = structure!(claims, layout, physdev::PciDeviceAdd, "struct physdev_pci_device_add" {
        seg: "seg", bus: "bus", devfn: "devfn", flags: "flags",
        physfn_bus: "physfn.bus", physfn_devfn: "physfn.devfn"
    });
    claims.add("sizeof(struct physdev_pci_device_add)", size);
    claims
        .add("offsetof(struct physdev_pci_device_add, optarr)", physdev::PciDeviceAdd::OPTARR_OFFSET as i64);
    claims.add("sizeof(((struct physdev_pci_device_add *)0)->optarr[0])", 4);
    let size = structure!(claims, layout, physdev::ManagePci, "struct physdev_manage_pci" { bus: "bus", devfn: "devfn" });
    claims.add("sizeof(struct physdev_manage_pci)", size);
    let size = structure!(claims, layout, physdev::ManagePciExt, "struct physdev_manage_pci_ext" {
        bus: "bus", devfn: "devfn", is_extfn: "is_extfn", is_virtfn: "is_virtfn",
        physfn_bus: "physfn.bus", physfn_devfn: "physfn.devfn"
    });
    claims.add("sizeof(struct physdev_manage_pci_ext)", size);
    claims
}

/// The entry of a memory map, which only libxenctrl's header declares.
fn e820_entry(layout: Layout) -> Claims {
    let mut claims = Claims::default();
    let size = structure!(claims, layout, memory::E820Entry, "struct e820entry" {
        addr: "addr", size: "size", kind: "type"
    });
    claims.add("sizeof(struct e820entry)", size);
    claims
}

/// Names of ours, what the headers call them, and our numbers.
macro_rules! numbers {
    ($($module:ident: $($ours:ident = $theirs:ident),*;)*) => {
        &[$($((stringify!($ours), stringify!($theirs), $module::$ours as i128)),*),*]
    };
}

const NUMBERS: &[(&str, &str, i128)] = numbers! {
    xen:
        HYPERVISOR_MEMORY_OP = __HYPERVISOR_memory_op,
        HYPERVISOR_MULTICALL = __HYPERVISOR_multicall,
        HYPERVISOR_PHYSDEV_OP = __HYPERVISOR_physdev_op,
        HYPERVISOR_DOMCTL = __HYPERVISOR_domctl,
        DOMID_FIRST_RESERVED = DOMID_FIRST_RESERVED,
        DOMID_SELF = DOMID_SELF,
        DOMID_IO = DOMID_IO,
        DOMID_XEN = DOMID_XEN,
        DOMID_COW = DOMID_COW,
        DOMID_INVALID = DOMID_INVALID,
        DOMID_IDLE = DOMID_IDLE,
        DOMID_MASK = DOMID_MASK;
    memory:
        XENMEM_POPULATE_PHYSMAP = XENMEM_populate_physmap,
        XENMEM_MEMORY_MAP = XENMEM_memory_map,
        XENMEM_MACHINE_MEMORY_MAP = XENMEM_machine_memory_map,
        XENMEM_SET_MEMORY_MAP = XENMEM_set_memory_map,
        XENMEM_RESERVED_DEVICE_MEMORY_MAP = XENMEM_reserved_device_memory_map,
        XENMEM_RDM_ALL = XENMEM_RDM_ALL,
        XENMEMF_POPULATE_ON_DEMAND = XENMEMF_populate_on_demand,
        XENMEMF_EXACT_NODE_REQUEST = XENMEMF_exact_node_request,
        XENMEMF_VNODE = XENMEMF_vnode;
    domctl:
        XEN_DOMCTL_ASSIGN_DEVICE = XEN_DOMCTL_assign_device,
        XEN_DOMCTL_TEST_ASSIGN_DEVICE = XEN_DOMCTL_test_assign_device,
        XEN_DOMCTL_DEASSIGN_DEVICE = XEN_DOMCTL_deassign_device,
        XEN_DOMCTL_GET_DEVICE_GROUP = XEN_DOMCTL_get_device_group,
        XEN_DOMCTL_DEV_PCI = XEN_DOMCTL_DEV_PCI,
        XEN_DOMCTL_DEV_DT = XEN_DOMCTL_DEV_DT,
        XEN_DOMCTL_DEV_RDM_RELAXED = XEN_DOMCTL_DEV_RDM_RELAXED;
    physdev:
        PHYSDEVOP_MANAGE_PCI_ADD = PHYSDEVOP_manage_pci_add,
        PHYSDEVOP_MANAGE_PCI_REMOVE = PHYSDEVOP_manage_pci_remove,
        PHYSDEVOP_MANAGE_PCI_ADD_EXT = PHYSDEVOP_manage_pci_add_ext,
        PHYSDEVOP_PCI_DEVICE_ADD = PHYSDEVOP_pci_device_add,
        PHYSDEVOP_PCI_DEVICE_REMOVE = PHYSDEVOP_pci_device_remove,
        XEN_PCI_DEV_EXTFN = XEN_PCI_DEV_EXTFN,
        XEN_PCI_DEV_VIRTFN = XEN_PCI_DEV_VIRTFN,
        XEN_PCI_DEV_PXM = XEN_PCI_DEV_PXM;
};

/// The types of memory, which only libxenctrl's headers name.
const E820_TYPES: &[(&str, &str, i128)] = numbers! {
    memory:
        E820_RAM = E820_RAM,
        E820_RESERVED = E820_RESERVED,
        E820_ACPI = E820_ACPI,
        E820_NVS = E820_NVS,
        E820_UNUSABLE = E820_UNUSABLE;
};

/// Constants of ours that are compared otherwise, or that no public header has.
const OTHERS: &[&str] = &[
    "XENMEMF_ADDRESS_BITS_MASK",
    "XENMEMF_NODE_SHIFT",
    "XEN_DOMCTL_INTERFACE_VERSIONS",
    "MEMOP_EXTENT_SHIFT",
    "MEMOP_CMD_MASK",
];

fn numbers() -> Claims {
    let mut claims = Claims::default();
    for (_, theirs, number) in NUMBERS {
        claims.add(theirs, *number);
    }
    claims.add("XENMEMF_get_address_bits(~0u)", memory::XENMEMF_ADDRESS_BITS_MASK);
    claims.add("XENMEMF_node(0)", 1 << memory::XENMEMF_NODE_SHIFT);
    claims.add("XENMEMF_node(0)", memory::xenmemf_node(0));
    claims.add("XENMEMF_node(7)", memory::xenmemf_node(7));
    claims.add("XENMEMF_node(254)", memory::xenmemf_node(254));
    let versions = domctl::XEN_DOMCTL_INTERFACE_VERSIONS;
    claims.add(&format!("XEN_DOMCTL_INTERFACE_VERSION >= {}", versions.start()), 1);
    claims.add(&format!("XEN_DOMCTL_INTERFACE_VERSION <= {}", versions.end()), 1);
    for error in (0..=4096).filter_map(Errno::from_raw) {
        claims.add(&format!("XEN_{error}"), error as i32);
    }
    claims.add("XEN_EWOULDBLOCK", Errno::EWOULDBLOCK as i32);
    claims.add("XEN_EDEADLOCK", Errno::EDEADLOCK as i32);
    claims
}

/// What there is to compare with.
#[derive(Clone)]
struct Headers {
    compiler: PathBuf,
    /// The compiler's name for this machine, as Debian has it; empty elsewhere.
    multiarch: String,
    folder: PathBuf,
}

impl Headers {
    fn find() -> Result<Self, String> {
        let named = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = named("XEN_PUBLIC_HEADERS").unwrap_or_else(|| "/usr/include/xen".into());
        if !folder.join("xen.h").is_file() {
            return Err(format!("no xen.h in {} (Debian: apt-get install libxen-dev)", folder.display()));
        }
        let compiler = named("CC").unwrap_or_else(|| "cc".into());
        let unusable = |error: String| {
            let first = error.lines().find(|line| line.contains("error")).unwrap_or(&error).to_owned();
            format!("{} is no C compiler for x86: {first}", compiler.display())
        };
        let multiarch = Command::new(&compiler).arg("-print-multiarch").output();
        let multiarch = multiarch.map_err(|error| unusable(error.to_string()))?.stdout;
        let multiarch = String::from_utf8_lossy(&multiarch).trim().to_owned();
        let headers = Self { compiler: compiler.clone(), multiarch, folder };
        for layout in [Layout::Native, Layout::Compat] {
            headers.compile("", &Claims::default(), layout).map_err(unusable)?;
        }
        Ok(headers)
    }

    /// Compiles claims, with `head` before them.
    fn compile(&self, head: &str, claims: &Claims, layout: Layout) -> Result<(), String> {
        let place = tempfile::tempdir().unwrap();
        // For 32 bits glibc's own headers ask for this one, which only its 32-bit development package has; it
        // says which functions are missing.
        fs::create_dir(place.path().join("gnu")).unwrap();
        fs::write(place.path().join("gnu/stubs-32.h"), "").unwrap();
        let file = place.path().join("claims.c");
        fs::write(&file, format!("#include <stddef.h>\n#include <stdint.h>\n{head}\n{}", claims.0)).unwrap();
        let output = Command::new(&self.compiler)
            .arg(match layout {
                Layout::Native => "-m64",
                Layout::Compat => "-m32",
            })
            .args([
                "-std=gnu11",
                "-fsyntax-only",
                "-D__XEN_TOOLS__",
                "-D__XEN_INTERFACE_VERSION__=0x00041100",
            ])
            .arg("-iquote")
            .arg(&self.folder)
            // libxenctrl's header includes <xen/…>, of its own version.
            .arg("-I")
            .arg(self.folder.join(".."))
            .arg("-I")
            .arg(place.path())
            // Debian keeps some of glibc's headers in a folder of the machine's, which -m32 leaves out.
            .arg("-idirafter")
            .arg(Path::new("/usr/include").join(&self.multiarch))
            .arg(&file)
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn compare(&self, claims: &Claims, layout: Layout) -> Result<(), Failed> {
        let head = ["xen.h", "memory.h", "domctl.h", "physdev.h", "errno.h"]
            .map(|name| format!("#include \"{name}\"\n"))
            .concat();
        Ok(self.compile(&head, claims, layout)?)
    }

    /// libxenctrl's header, beside the public ones where they are installed.
    fn xenctrl(&self) -> Option<PathBuf> {
        Some(self.folder.parent()?.join("xenctrl.h")).filter(|file| file.is_file())
    }
}

fn compared(headers: &Headers) -> Vec<Trial> {
    let mut trials = Vec::new();
    let mut trial = |name: String, run: fn(&Headers, Layout) -> Result<(), Failed>, layout| {
        let headers = headers.clone();
        trials.push(Trial::test(name, move || run(&headers, layout)));
    };
    for (layout, word) in [(Layout::Native, "64-bit"), (Layout::Compat, "32-bit")] {
        trial(
            format!("the structures are the headers', {word}"),
            |headers, layout| headers.compare(&structures(layout), layout),
            layout,
        );
        trial(
            format!("the numbers are the headers', {word}"),
            |headers, layout| headers.compare(&numbers(), layout),
            layout,
        );
        trial(
            format!("another layout's structures are refused, {word}"),
            |headers, layout| {
                let other = if layout == Layout::Native { Layout::Compat } else { Layout::Native };
                let errors = headers.compare(&structures(other), layout).expect_err("all of them hold");
                let errors = errors.message().unwrap();
                // Each claim is looked at: the first that is wrong does not end it.
                assert!(errors.matches("static assertion failed").count() > 10, "{errors}");
                Ok(())
            },
            layout,
        );
        if headers.xenctrl().is_some() {
            trial(
                format!("the memory map's entry is libxenctrl's, {word}"),
                |headers, layout| {
                    let mut claims = e820_entry(layout);
                    for (_, theirs, number) in E820_TYPES {
                        claims.add(theirs, *number);
                    }
                    let file = headers.xenctrl().expect("it was there");
                    let head = format!("#include \"{}\"", file.display());
                    Ok(headers.compile(&head, &claims, layout)?)
                },
                layout,
            );
        }
    }
    trial(
        "no error number of the header's is missing".into(),
        |headers, _| {
            let text = fs::read_to_string(headers.folder.join("errno.h"))?;
            let mut count = 0;
            for (name, number) in text.lines().filter_map(error_number) {
                // Those that no caller gets are Xen's own, by the header's words.
                let own = ["EINTR", "ERESTART"].contains(&name);
                assert_eq!(Errno::from_raw(number).is_none(), own, "{name}");
                count += 1;
            }
            assert!(count > 40, "{count}");
            Ok(())
        },
        Layout::Native,
    );
    if headers.xenctrl().is_none() {
        trials.push(skipped("the memory map's entry is libxenctrl's", "no xenctrl.h beside the headers"));
    }
    trials
}

/// The name and number of a line such as `XEN_ERRNO(EPERM, 1)`.
fn error_number(line: &str) -> Option<(&str, i32)> {
    let (name, rest) = line.strip_prefix("XEN_ERRNO(")?.split_once(',')?;
    Some((name, rest.split_once(')')?.0.trim().parse().ok()?))
}

/// Each constant of the crate's is compared, or has a reason not to be.
fn none_is_forgotten() -> Result<(), Failed> {
    let listed: Vec<&str> =
        NUMBERS.iter().chain(E820_TYPES).map(|number| number.0).chain(OTHERS.iter().copied()).collect();
    let mut found = 0;
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))? {
        let text = fs::read_to_string(file?.path())?;
        for name in text.lines().filter_map(|line| line.strip_prefix("pub const ")) {
            if let Some((name, _)) = name.split_once(": ").filter(|(name, _)| !name.contains('(')) {
                assert!(listed.contains(&name), "{name}");
                found += 1;
            }
        }
    }
    assert_eq!(found, listed.len());
    Ok(())
}

/// Whether a tool that is missing is a failure.
fn required() -> bool {
    env::var_os("BOOT_TESTS").is_some_and(|value| value == "required")
}

/// A test for what cannot be compared here; where all must be there, one that fails.
fn skipped(name: &str, reason: &str) -> Trial {
    let name = format!("{name} ({reason})");
    if required() {
        let reason = reason.to_owned();
        return Trial::test(name, move || Err(reason.into()));
    }
    eprintln!("skipped: {name}");
    Trial::test(name, || Ok(())).with_ignored_flag(true)
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials = match Headers::find() {
        Ok(headers) => compared(&headers),
        Err(reason) => {
            vec![skipped("comparison with Xen's headers", &reason)]
        }
    };
    let own = Trial::test("no constant is forgotten", none_is_forgotten);
    libtest_mimic::run(&arguments, trials.into_iter().chain(iter::once(own)).collect()).exit_code()
}
