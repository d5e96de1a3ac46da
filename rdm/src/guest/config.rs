//! A guest from an xl.cfg: the settings that have to do with where its memory lies.

use p2m::Gfn;
use rdm_layout::Policy;
use rdm_layout::xen::Strategy;

use super::syntax::{Atom, Config, ConfigError, Value};
use super::words::{MOST_FRAMES, Policies, device, policy};
use super::{Guest, GuestFirmware};

/// MiB in frames.
const MIB: u64 = 256;

/// Reads an xl.cfg.
///
/// # Errors
/// The first thing that xl would not take, or that makes no guest, with its line, value and rule.
pub fn read(text: &str) -> Result<Guest, ConfigError> {
    let config = Config::read(text)?;
    let kind = kind(&config)?;
    let mut guest = Guest::new(memory(&config)?);
    // libxl's default.
    guest.policy = Policy::Relaxed;
    guest.firmware = match kind {
        Kind::Pvh => GuestFirmware::Direct,
        Kind::Hvm => firmware(&config)?,
    };
    if guest.firmware != GuestFirmware::Direct {
        take_video(&config, &mut guest)?;
    }
    rdm(&config, &mut guest)?;
    if let Some((atom, boundary)) = number(&config, "rdm_mem_boundary")? {
        guest.boundary = Gfn::new(boundary.checked_mul(MIB).ok_or_else(|| {
            wrong(atom, "rdm_mem_boundary", "it is in MiB, and more than there are addresses")
        })?);
    }
    if let Some((atom, hole)) = number(&config, "mmio_hole")? {
        // HVM_BELOW_4G_MMIO_LENGTH and HVM_BELOW_4G_MMIO_START (xen/include/public/hvm/e820.h).
        if !(256..=3840).contains(&hole) {
            return Err(wrong(atom, "mmio_hole", "the hole below 4 GiB has 256 to 3840 MiB"));
        }
        guest.hole = Gfn::new((4096 - hole) * MIB);
    }
    for entry in list(&config, "pci")? {
        let added = device(&entry.text, Policies::OfXl).and_then(|device| guest.add(device));
        added.map_err(|sentence| ConfigError { line: entry.line, sentence: format!("pci: {sentence}") })?;
    }
    Ok(guest)
}

/// The kinds of guests that have a layout.
enum Kind {
    Hvm,
    Pvh,
}

fn wrong(atom: &Atom, name: &str, rule: &str) -> ConfigError {
    ConfigError { line: atom.line, sentence: format!("{name} = {:?}: {rule}", atom.text) }
}

/// A setting that is no list.
fn atom<'c>(config: &'c Config, name: &str) -> Result<Option<&'c Atom>, ConfigError> {
    match config.get(name).map(|setting| (&setting.value, setting.line)) {
        None => Ok(None),
        Some((Value::Atom(atom), _)) => Ok(Some(atom)),
        Some((Value::List(_), line)) => {
            Err(ConfigError { line, sentence: format!("{name}: it is one value, not a list") })
        }
    }
}

fn number<'c>(config: &'c Config, name: &str) -> Result<Option<(&'c Atom, u64)>, ConfigError> {
    let Some(atom) = atom(config, name)? else { return Ok(None) };
    // As strtol reads it, with base 0.
    let text = atom.text.trim();
    let number = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8),
        None => text.parse(),
    };
    let number = number.map_err(|_| wrong(atom, name, "it is a number, not negative, of 64 bits at most"))?;
    Ok(Some((atom, number)))
}

fn list<'c>(config: &'c Config, name: &str) -> Result<Vec<&'c Atom>, ConfigError> {
    let Some(setting) = config.get(name) else { return Ok(Vec::new()) };
    let line = setting.line;
    let Value::List(items) = &setting.value else {
        return Err(ConfigError { line, sentence: format!("{name}: it is a list in brackets") });
    };
    let text = |item: &'c Value| match item {
        Value::Atom(atom) => Ok(atom),
        Value::List(_) => {
            Err(ConfigError { line, sentence: format!("{name}: a list of strings, not of lists") })
        }
    };
    items.iter().map(text).collect()
}

fn kind(config: &Config) -> Result<Kind, ConfigError> {
    let no_pv = "a PV guest has the host's own addresses, so there is nothing to lay out";
    if let Some(atom) = atom(config, "type")? {
        return match atom.text.as_str() {
            "hvm" => Ok(Kind::Hvm),
            "pvh" => Ok(Kind::Pvh),
            "pv" => Err(wrong(atom, "type", no_pv)),
            _ => Err(wrong(atom, "type", "a guest is hvm, pvh or pv")),
        };
    }
    match atom(config, "builder")? {
        Some(atom) if atom.text == "hvm" => Ok(Kind::Hvm),
        Some(atom) if atom.text == "generic" => Err(wrong(atom, "builder", no_pv)),
        Some(atom) => Err(wrong(atom, "builder", "it is hvm or generic (type is its newer name)")),
        None => {
            let sentence = format!("type: it is missing, so it is a PV guest for xl: {no_pv}");
            Err(ConfigError { line: 1, sentence })
        }
    }
}

/// libxl lays out what a guest may have at most.
fn memory(config: &Config) -> Result<u64, ConfigError> {
    let (memory, most) = (number(config, "memory")?, number(config, "maxmem")?);
    let (atom, name, mib) = match (memory, most) {
        (Some((_, memory)), Some((atom, most))) if most < memory => {
            let rule = format!("it is not less than memory, which is {memory}");
            return Err(wrong(atom, "maxmem", &rule));
        }
        (_, Some((atom, most))) => (atom, "maxmem", most),
        (Some((atom, memory)), None) => (atom, "memory", memory),
        (None, None) => {
            let sentence = "memory: it is missing, and so is maxmem".into();
            return Err(ConfigError { line: 1, sentence });
        }
    };
    match mib.checked_mul(MIB).filter(|frames| *frames > 0 && *frames <= MOST_FRAMES) {
        Some(frames) => Ok(frames),
        None => Err(wrong(atom, name, "it is in MiB, 1 or more, and no more than there are addresses")),
    }
}

fn is_traditional(config: &Config) -> Result<bool, ConfigError> {
    let Some(atom) = atom(config, "device_model_version")? else { return Ok(false) };
    match atom.text.as_str() {
        "qemu-xen" => Ok(false),
        "qemu-xen-traditional" => Ok(true),
        _ => {
            let rule = "a device model is qemu-xen or qemu-xen-traditional";
            Err(wrong(atom, "device_model_version", rule))
        }
    }
}

fn firmware(config: &Config) -> Result<GuestFirmware, ConfigError> {
    let traditional = is_traditional(config)?;
    let (atom, name) = match (atom(config, "bios")?, atom(config, "firmware")?) {
        (Some(atom), _) => (atom, "bios"),
        (None, Some(atom)) => (atom, "firmware"),
        (None, None) => return Ok(GuestFirmware::Bios),
    };
    match atom.text.as_str() {
        "ovmf" | "uefi" if traditional => {
            Err(wrong(atom, name, "the device model qemu-xen-traditional starts rombios alone"))
        }
        "ovmf" => Ok(GuestFirmware::Ovmf),
        "uefi" if name == "firmware" => Ok(GuestFirmware::Ovmf),
        "seabios" | "rombios" => Ok(GuestFirmware::Bios),
        "bios" if name == "firmware" => Ok(GuestFirmware::Bios),
        _ if name == "bios" => Err(wrong(atom, name, "it is seabios, rombios or ovmf")),
        // A file of hvmloader's: what it brings, nobody knows.
        path if path.contains('/') => Ok(GuestFirmware::Bios),
        _ => Err(wrong(atom, name, "it is bios, uefi, seabios, rombios, ovmf or a file's path")),
    }
}

/// What of the guest's memory libxl leaves to its display: `videoram`, or the least that its kind takes
/// (tools/libs/light/libxl_create.c, `libxl__domain_build_info_setdefault`).
fn take_video(config: &Config, guest: &mut Guest) -> Result<(), ConfigError> {
    let traditional = is_traditional(config)?;
    let standard = number(config, "stdvga")?.is_some_and(|(_, number)| number != 0);
    let least = match atom(config, "vga")? {
        Some(vga) => match (vga.text.as_str(), traditional) {
            ("none", _) => 0,
            ("qxl", false) => 128,
            ("stdvga", false) => 16,
            ("stdvga", true) | ("cirrus", false) => 8,
            ("cirrus", true) => 4,
            _ => return Err(wrong(vga, "vga", "a display is stdvga, cirrus, none or, with qemu-xen, qxl")),
        },
        None => match (standard, traditional) {
            (true, false) => 16,
            (true, true) | (false, false) => 8,
            (false, true) => 4,
        },
    };
    let video = match number(config, "videoram")? {
        Some((atom, mib)) if mib < least => {
            let rule = format!("it is in MiB, and not less than the {least} of its display");
            return Err(wrong(atom, "videoram", &rule));
        }
        Some((_, mib)) => mib,
        None => least,
    };
    let left = video.checked_mul(MIB).and_then(|video| guest.memory.checked_sub(video));
    guest.memory = left.filter(|left| *left > 0).ok_or_else(|| {
        let line = config.get("memory").or(config.get("maxmem")).map_or(1, |setting| setting.line);
        let sentence = format!("memory: {video} MiB of it are the display's, which leaves nothing");
        ConfigError { line, sentence }
    })?;
    if video > 0 {
        guest.remarks.push(format!("{video} MiB of its memory are the display's (videoram)."));
    }
    Ok(())
}

/// `rdm = "strategy=host,policy=relaxed"`.
fn rdm(config: &Config, guest: &mut Guest) -> Result<(), ConfigError> {
    let Some(atom) = atom(config, "rdm")? else { return Ok(()) };
    for part in atom.text.split(',').map(str::trim) {
        match part.split_once('=') {
            Some(("strategy", "host")) => guest.strategy = Strategy::Host,
            Some(("strategy", _)) => return Err(wrong(atom, "rdm", "its strategy is host, or left out")),
            Some(("policy", word)) => {
                guest.policy = policy(word, Policies::OfXl).map_err(|rule| wrong(atom, "rdm", &rule))?;
                // Seen in 4.17.
                let dropped = "xl 4.17 drops all of rdm= where it holds a policy: give each device its \
                               rdm_policy= instead.";
                guest.remarks.push(dropped.into());
            }
            _ => return Err(wrong(atom, "rdm", "it has strategy=host and policy=strict or policy=relaxed")),
        }
    }
    Ok(())
}
