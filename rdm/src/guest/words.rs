//! Words that options and xl.cfg have in common: sizes, devices, policies, BARs. Errors say the rule.

use acpi_dmar::pci_types::PciAddress;
use rdm_layout::{Bar, Policy};

use super::Assigned;

/// The policies that a caller may name: xl knows no private ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policies {
    /// `strict` and `relaxed`.
    OfXl,
    /// `private`, too.
    All,
}

/// A policy's word.
///
/// # Errors
/// There is none of that name.
pub fn policy(word: &str, known: Policies) -> Result<Policy, String> {
    match word {
        "strict" => Ok(Policy::Strict),
        "relaxed" => Ok(Policy::Relaxed),
        "private" if known == Policies::All => Ok(Policy::Private),
        _ if known == Policies::All => Err(format!("{word:?}: a policy is strict, relaxed or private")),
        "private" => Err("\"private\": xl knows strict and relaxed alone; rdm plan has private".into()),
        _ => Err(format!("{word:?}: a policy is strict or relaxed")),
    }
}

/// Bytes: a number (decimal, or hexadecimal after 0x) with K, M, G or T for the powers of 1,024; without one
/// in units of `unit` bytes.
///
/// # Errors
/// It is no number, or has more than 64 bits.
pub fn bytes(word: &str, unit: u64) -> Result<u64, String> {
    let wrong = || format!("{word:?}: a size is a number, with K, M, G or T behind it for its unit");
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let known = units.iter().find_map(|&(letter, shift)| {
        let digits = word.strip_suffix([letter, letter.to_ascii_lowercase()])?;
        Some((digits, 1 << shift))
    });
    let (digits, unit) = known.unwrap_or((word, unit));
    let number = match digits.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    // `parse` takes a sign, too.
    let number = number.ok().filter(|_| !digits.contains('+')).ok_or_else(wrong)?;
    number.checked_mul(unit).ok_or_else(|| format!("{word:?}: more than 64 bits of bytes"))
}

/// Frames of all addresses that page tables can have.
pub(super) const MOST_FRAMES: u64 = 1 << 40;

/// Bytes of memory as frames.
///
/// # Errors
/// None at all, more than an address has, or part of a page.
pub fn memory(word: &str) -> Result<u64, String> {
    let bytes = bytes(word, 1 << 20)?;
    if bytes == 0 || !bytes.is_multiple_of(4096) {
        return Err(format!("{word:?}: memory is whole pages of 4 KiB, and one at least"));
    }
    match bytes >> 12 {
        frames if frames > MOST_FRAMES => {
            Err(format!("{word:?}: more memory than there are addresses of 52 bits"))
        }
        frames => Ok(frames),
    }
}

/// `[SEGMENT:]BUS:DEVICE.FUNCTION`, all hexadecimal.
///
/// # Errors
/// What is wrong with it.
pub fn address(word: &str) -> Result<PciAddress, String> {
    let wrong = |rule: &str| format!("{word:?}: {rule}");
    let form = || wrong("a device is [SEGMENT:]BUS:DEVICE.FUNCTION in hexadecimal");
    let parts: Vec<_> = word.split(':').collect();
    let (segment, bus, rest) = match parts[..] {
        [bus, rest] => ("0", bus, rest),
        [segment, bus, rest] => (segment, bus, rest),
        _ => return Err(form()),
    };
    let (device, function) = rest.split_once('.').ok_or_else(form)?;
    if function == "*" {
        return Err(wrong("all functions of a device (*) are to be named one by one here"));
    }
    let number = |digits: &str, most: u16, rule: &str| {
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(form());
        }
        u16::from_str_radix(digits, 16).ok().filter(|number| *number <= most).ok_or_else(|| wrong(rule))
    };
    let segment = number(segment, u16::MAX, "a segment is 0 to ffff")?;
    let small = |digits, most: u8, rule| {
        number(digits, most.into(), rule).map(|number| u8::try_from(number).unwrap_or(most))
    };
    let bus = small(bus, 0xff, "a bus is 0 to ff")?;
    let device = small(device, 0x1f, "a device number is 0 to 1f")?;
    let function = small(function, 7, "a function is 0 to 7")?;
    Ok(PciAddress::new(segment, bus, device, function))
}

/// Options of a `pci=` entry that have nothing to do with memory (xl-pci-configuration(5)).
const OTHERS: [&str; 5] = ["permissive", "msitranslate", "power_mgmt", "seize", "name"];

/// A `pci=` entry: `BDF[@VSLOT][,rdm_policy=…][,KEY=VALUE…]`, or with `bdf=` and `vslot=` among the keys.
///
/// # Errors
/// What is wrong with it.
pub fn device(entry: &str, known: Policies) -> Result<Assigned, String> {
    let (mut found, mut own) = (None, None);
    for (position, part) in entry.split(',').map(str::trim).enumerate() {
        match part.split_once('=') {
            None if position == 0 => {
                let (bdf, slot) = part.split_once('@').map_or((part, None), |(bdf, slot)| (bdf, Some(slot)));
                if let Some(slot) = slot {
                    vslot(slot)?;
                }
                found = Some(address(bdf)?);
            }
            Some(("bdf", word)) if found.is_none() => found = Some(address(word)?),
            Some(("bdf", _)) => return Err(format!("{entry:?}: it names two devices")),
            Some(("vslot", slot)) => vslot(slot)?,
            Some(("rdm_policy", word)) => own = Some(policy(word, known)?),
            Some((key, _)) if OTHERS.contains(&key) => {}
            Some((key, _)) => {
                return Err(format!(
                    "{key:?}: a pci entry has bdf, vslot, rdm_policy, {}",
                    OTHERS.join(", ")
                ));
            }
            None => return Err(format!("{part:?}: behind the device come KEY=VALUE")),
        }
    }
    let address = found.ok_or_else(|| format!("{entry:?}: it names no device (BDF)"))?;
    Ok(Assigned { address, policy: own })
}

fn vslot(word: &str) -> Result<(), String> {
    let digits = word.split('.').next().unwrap_or(word);
    match u8::from_str_radix(digits, 16) {
        Ok(0..=0x1f) => Ok(()),
        _ => Err(format!("{word:?}: a slot is 0 to 1f in hexadecimal")),
    }
}

/// `SIZE[,64][,pref]`.
///
/// # Errors
/// What is wrong with it.
pub fn bar(word: &str) -> Result<Bar, String> {
    let mut parts = word.split(',');
    let size = bytes(parts.next().unwrap_or_default(), 1)?;
    if !size.is_power_of_two() || size < 16 {
        return Err(format!("{word:?}: a BAR's size is a power of two, of 16 bytes or more"));
    }
    let mut bar = Bar { bytes: size, is_64bit: false, prefetchable: false };
    for part in parts {
        match part {
            "32" => bar.is_64bit = false,
            "64" => bar.is_64bit = true,
            "pref" => bar.prefetchable = true,
            _ => return Err(format!("{part:?}: behind a BAR's size come 32 or 64, and pref")),
        }
    }
    if !bar.is_64bit && size > 1 << 31 {
        return Err(format!("{word:?}: a BAR of 32 bits has 2 GiB at most"));
    }
    Ok(bar)
}
