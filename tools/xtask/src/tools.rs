//! Programs of others that the verbs need: found, or installed where there is apt, or named so that the user
//! can.

use std::env;
use std::io::{IsTerminal, stdin};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::phase::{quiet, spelled};

/// A program, or another file, and the packages that have it.
pub(crate) struct Tool {
    /// Its name; a file's path from the root on.
    program: &'static str,
    /// The environment variable that names another one.
    variable: &'static str,
    /// What it is needed for.
    purpose: &'static str,
    /// Debian's package, and those of others by the program that installs them.
    apt: &'static str,
    others: &'static [(&'static str, &'static str)],
}

/// The machine that everything boots on. SeaBIOS comes with it.
pub(crate) const QEMU: Tool = Tool {
    program: "qemu-system-x86_64",
    variable: "QEMU",
    purpose: "the boot",
    apt: "qemu-system-x86",
    others: &[
        ("dnf", "sudo dnf install qemu-system-x86-core"),
        ("pacman", "sudo pacman -S qemu-system-x86"),
        ("zypper", "sudo zypper install qemu-x86"),
        ("apk", "sudo apk add qemu-system-x86_64"),
        ("xbps-install", "sudo xbps-install qemu"),
        ("emerge", "sudo emerge app-emulation/qemu"),
        ("nix-env", "nix-shell -p qemu"),
        ("brew", "brew install qemu"),
        ("port", "sudo port install qemu"),
    ],
};

/// The machine with Intel's VMX and EPT. Nothing else of the package is used: the firmware is ours.
pub(crate) const BOCHS: Tool = Tool {
    program: "bochs",
    variable: "BOCHS",
    purpose: "the boot under EPT",
    apt: "bochs",
    others: &[
        ("dnf", "sudo dnf install bochs-debugger, and name bochs-debugger in $BOCHS"),
        ("pacman", "sudo pacman -S bochs"),
        ("zypper", "sudo zypper install bochs"),
        ("nix-env", "nix-shell -p bochs"),
    ],
};

/// Another reading of the same tables.
pub(crate) const IASL: Tool = Tool {
    program: "iasl",
    variable: "IASL",
    purpose: "the comparison of tables",
    apt: "acpica-tools",
    others: &[
        ("dnf", "sudo dnf install acpica-tools"),
        ("pacman", "sudo pacman -S acpica"),
        ("zypper", "sudo zypper install acpica"),
        ("apk", "sudo apk add iasl"),
        ("nix-env", "nix-shell -p acpica-tools"),
        ("brew", "brew install acpica"),
    ],
};

/// Counts instructions.
pub(crate) const VALGRIND: Tool = Tool {
    program: "valgrind",
    variable: "VALGRIND",
    purpose: "the count of instructions",
    apt: "valgrind",
    others: &[
        ("dnf", "sudo dnf install valgrind"),
        ("pacman", "sudo pacman -S valgrind"),
        ("zypper", "sudo zypper install valgrind"),
        ("apk", "sudo apk add valgrind"),
        ("nix-env", "nix-shell -p valgrind"),
    ],
};

/// Xen's public headers, and libxenctrl's. The variable names their folder.
pub(crate) const XEN_HEADERS: Tool = Tool {
    program: "/usr/include/xen/xen.h",
    variable: "XEN_PUBLIC_HEADERS",
    purpose: "the comparison with Xen's structures",
    apt: "libxen-dev",
    others: &[
        ("dnf", "sudo dnf install xen-devel"),
        ("zypper", "sudo zypper install xen-devel"),
        ("apk", "sudo apk add xen-dev"),
    ],
};

/// Applies patches, and knows what was changed.
pub(crate) const GIT: Tool = Tool {
    program: "git",
    variable: "GIT",
    purpose: "applying patches",
    apt: "git",
    others: &[
        ("dnf", "sudo dnf install git"),
        ("pacman", "sudo pacman -S git"),
        ("zypper", "sudo zypper install git"),
        ("apk", "sudo apk add git"),
        ("nix-env", "nix-shell -p git"),
        ("brew", "brew install git"),
    ],
};

/// The oldest QEMU that this was tried with.
const QEMU_TRIED: (u32, u32) = (7, 2);

impl Tool {
    /// Finds the program, or installs it.
    pub(crate) fn have(&self) -> Result<PathBuf, String> {
        if let Some(named) = env::var_os(self.variable).filter(|named| !named.is_empty()) {
            return Ok(named.into());
        }
        if let Some(found) = in_path(self.program) {
            return Ok(found);
        }
        if in_path("apt-get").is_none() {
            return Err(self.advice());
        }
        self.install()?;
        in_path(self.program)
            .ok_or_else(|| format!("the package {} is installed and has no {}", self.apt, self.program))
    }

    fn install(&self) -> Result<(), String> {
        let by_hand = format!("apt-get update && apt-get install {}", self.apt);
        eprintln!(
            "{} is missing, which {} needs; installing Debian's package {}",
            self.program, self.purpose, self.apt
        );
        let prefix: &[&str] = if is_root() {
            &[]
        } else if in_path("sudo").is_none() {
            return Err(format!("{} is missing, and there is no sudo; as root: {by_hand}", self.program));
        } else if stdin().is_terminal() {
            &["sudo"]
        } else {
            // Nobody is there to type a password.
            &["sudo", "-n"]
        };
        // An old list may do; the installation says if it does not.
        let _ = apt(prefix, &["update", "-q"]);
        apt(prefix, &["install", "-q", "-y", "--no-install-recommends", self.apt])
            .map_err(|reason| format!("{reason}; as root: {by_hand}"))
    }

    fn advice(&self) -> String {
        let line = self.others.iter().find(|(manager, _)| in_path(manager).is_some());
        let how = match line {
            Some((_, line)) => format!("install it with: {line}"),
            None => {
                format!("install it (Debian's package is {}), or name it in ${}", self.apt, self.variable)
            }
        };
        format!("{} is missing, which {} needs; {how}", self.program, self.purpose)
    }
}

fn apt(prefix: &[&str], words: &[&str]) -> Result<(), String> {
    let mut all = prefix.to_vec();
    // Through env, since sudo does not pass the environment on.
    all.extend(["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    all.extend(words);
    let Some((program, arguments)) = all.split_first() else { return Ok(()) };
    let mut command = Command::new(program);
    // What apt says is not what the verb says.
    command.args(arguments).stdin(Stdio::inherit()).stdout(std::io::stderr());
    let spelled = spelled(&command);
    eprintln!("{}", quiet(&format!("$ {spelled}")));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{spelled} failed ({status})")),
        Err(error) => Err(format!("cannot start {program}: {error}")),
    }
}

/// Says what it found, and whether it is older than what this was tried with.
pub(crate) fn qemu_version(program: &PathBuf) -> Result<String, String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("cannot start {}: {error}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(version) = text.split_whitespace().skip_while(|word| *word != "version").nth(1) else {
        return Err(format!("{} --version does not say which QEMU it is", program.display()));
    };
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let old = if (major, minor) < QEMU_TRIED {
        format!(", older than {}.{}, the oldest this was tried with", QEMU_TRIED.0, QEMU_TRIED.1)
    } else {
        String::new()
    };
    Ok(format!("QEMU {version}{old}"))
}

/// Runs a command that installs something.
pub(crate) fn install(command: &mut Command) -> Result<(), String> {
    let spelled = spelled(command);
    eprintln!("{}", quiet(&format!("$ {spelled}")));
    match command.stdout(std::io::stderr()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{spelled} failed ({status})")),
        Err(error) => Err(format!("{spelled}: {error}")),
    }
}

/// A subcommand of cargo's, `cargo NAME`, of the package cargo-NAME: found, or built and installed where
/// cargo puts its own.
pub(crate) fn have_cargo_verb(cargo: &mut Command, name: &str, purpose: &str) -> Result<(), String> {
    let version = cargo.args([name, "--version"]).stderr(Stdio::null()).output();
    if version.is_ok_and(|version| version.status.success()) {
        return Ok(());
    }
    let package = format!("cargo-{name}");
    eprintln!("{package} is missing, which {purpose}; installing it");
    install(crate::cargo().args(["install", &package, "--locked"]))
}

/// Where a program is.
pub(crate) fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
