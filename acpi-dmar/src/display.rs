//! Tables as text, to be read beside `iasl -d`: the same hexadecimal offsets, one line for each structure and
//! scope, errors in their place.

use core::fmt;

use bitflags::Flags;

use crate::{DeviceScope, Dmar, Header, Path, ScopeKind, Structure, Structures};

impl fmt::Display for Dmar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.header())?;
        let (width, flags) = (self.host_address_width(), FlagNames(self.flags()));
        write!(f, "host address width {width} bits, flags {flags}")?;
        for structure in self.structures() {
            match structure {
                Ok(structure) => write!(f, "\n{structure}")?,
                Err(error) => write!(f, "\n[{:03X}h] error: {}", error.offset, error.kind)?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dmar<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dmar")
            .field("header", &self.header())
            .field("host_address_width", &self.host_address_width())
            .field("flags", &self.flags())
            .field("structures", &List(self.structures()))
            .finish()
    }
}

struct List<'a>(Structures<'a>);

impl fmt::Debug for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.clone()).finish()
    }
}

impl fmt::Display for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "DMAR revision {}, {} bytes, OEM \"{}\" \"{}\" revision {:#x}, creator \"{}\" revision {:#x}",
            self.revision(),
            self.length(),
            Text(self.oem_id()),
            Text(self.oem_table_id()),
            self.oem_revision(),
            Text(self.creator_id()),
            self.creator_revision(),
        )
    }
}

impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Structure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:03X}h] {}", self.offset(), self.kind())?;
        if let Some(segment) = self.segment() {
            write!(f, " segment {segment:04x}")?;
        }
        match self {
            Self::Drhd(drhd) => {
                let (base, size) = (drhd.register_base(), Size(drhd.register_bytes().into()));
                write!(f, ", registers at {base:#x} ({size}), flags {}", FlagNames(drhd.flags()))?;
            }
            Self::Rmrr(rmrr) => {
                write!(f, ", memory {:#x} to {:#x}", rmrr.base(), rmrr.limit())?;
                match rmrr.limit().checked_sub(rmrr.base()) {
                    Some(less_one) => write!(f, " ({})", Size(u128::from(less_one).saturating_add(1)))?,
                    None => f.write_str(" (base above limit)")?,
                }
            }
            Self::Atsr(atsr) => write!(f, ", flags {}", FlagNames(atsr.flags()))?,
            Self::Rhsa(rhsa) => {
                let (base, domain) = (rhsa.register_base(), rhsa.proximity_domain());
                write!(f, " registers at {base:#x} in proximity domain {domain}")?;
            }
            Self::Andd(andd) => {
                let (number, name) = (andd.number(), Text(andd.name_bytes()));
                write!(f, " ACPI device {number} is \"{name}\"")?;
            }
            Self::Satc(satc) => write!(f, ", flags {}", FlagNames(satc.flags()))?,
            Self::Sidp(_) => {}
            Self::Unknown(unknown) => {
                write!(f, ", {} bytes:", unknown.length())?;
                for byte in unknown.bytes() {
                    write!(f, " {byte:02x}")?;
                }
            }
        }
        for scope in self.scopes() {
            match scope {
                Ok(scope) => write!(f, "\n  {scope}")?,
                Err(error) => write!(f, "\n  [{:03X}h] error: {}", error.offset, error.kind)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for DeviceScope<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:03X}h] {}", self.offset(), self.kind())?;
        if !matches!(self.kind(), ScopeKind::PciEndpoint | ScopeKind::PciBridge) || self.enumeration_id() != 0
        {
            write!(f, " {}", self.enumeration_id())?;
        }
        write!(f, " {:02x}:{}", self.start_bus(), self.path())?;
        if !self.flags().is_empty() {
            write!(f, ", flags {}", FlagNames(self.flags()))?;
        }
        if let Some(hop) = self.invalid_hop() {
            write!(f, " (no bus can have {hop})")?;
        }
        Ok(())
    }
}

impl fmt::Display for Path<'_> {
    /// The hops, with a slash for each bridge on the way: `1c.0/00.0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len() == 0 {
            return f.write_str("(no path)");
        }
        let mut separator = "";
        for hop in self.clone() {
            write!(f, "{separator}{hop}")?;
            separator = "/";
        }
        Ok(())
    }
}

/// Flags as the byte and the names of those that have one.
struct FlagNames<T>(T);

impl<T: Flags<Bits = u8>> fmt::Display for FlagNames<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0.bits())?;
        let mut separator = " ";
        for (name, _) in self.0.iter_names() {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// A number of bytes, shown in the largest unit that divides it: `40 MiB`, `2344 KiB`, `1000 bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u128);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = [(30, "GiB"), (20, "MiB"), (10, "KiB")]
            .into_iter()
            .find(|&(shift, _)| self.0 != 0 && self.0.trailing_zeros() >= shift);
        match unit {
            Some((shift, name)) => write!(f, "{} {name}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

/// What should be ASCII text, with `\x..` for bytes that are none. Backslashes, which begin names in the ACPI
/// namespace, stay single.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for &byte in self.0 {
            match byte {
                b' '..=b'~' => fmt::Write::write_char(f, byte.into())?,
                _ => write!(f, "\\x{byte:02x}")?,
            }
        }
        Ok(())
    }
}
