//! The sizes of memory BARs, found when a function is, before anybody uses it: what is live is not sized by
//! writing to it.

use alloc::vec::Vec;

use pci_types::{CommandRegister, HeaderType, PciAddress, PciHeader};
use xen_iommu::region::forbidden;

use super::config::Config;
use super::error::BarIndex;

/// A memory BAR, whose address may be changed at any time and whose size may not.
#[derive(Clone, Copy, Debug)]
pub struct KnownBar {
    /// The function.
    pub function: PciAddress,
    /// Its number.
    pub index: BarIndex,
    /// Its size in bytes, a power of two.
    pub size: u64,
    /// Whether its address has 64 bits.
    wide: bool,
}

impl KnownBar {
    /// Finds the sizes of a function's memory BARs. It does not answer to memory accesses while they are
    /// measured.
    pub(super) fn of(function: PciAddress, config: &Config, found: &mut Vec<Self>) {
        let mut header = PciHeader::new(function);
        // A bridge's windows are none; those of its own two registers nothing here uses.
        if header.header_type(config) != HeaderType::Endpoint {
            return;
        }
        let command = header.command(config);
        header.update_command(config, |command| command & !CommandRegister::MEMORY_ENABLE);
        let mut index = 0;
        while let Some(at) = bar_offset(index) {
            let wide = match config.read32(function, at) & 0b111 {
                0b000 => Some(false),
                0b100 if index < 5 => Some(true),
                _ => None,
            };
            if let Some(wide) = wide {
                let mask = u64::from(measure(function, at, config) & !0xf);
                let high = if wide { measure(function, at + 4, config) } else { u32::MAX };
                let size = (mask | u64::from(high) << 32).wrapping_neg();
                if size.is_power_of_two() && mask | u64::from(!high) != 0 {
                    found.push(Self { function, index, size, wide });
                }
            }
            index += if wide == Some(true) { 2 } else { 1 };
        }
        header.update_command(config, |_| command);
    }

    /// The address that it holds now; `None` where it holds none.
    pub fn base(&self, config: &Config) -> Option<u64> {
        let at = bar_offset(self.index)?;
        let low = config.read32(self.function, at);
        let high = if self.wide { config.read32(self.function, at + 4) } else { 0 };
        let base = u64::from(low & !0xf) | u64::from(high) << 32;
        // A function that has gone reads as all ones.
        (base != 0 && low != u32::MAX && base.checked_add(self.size).is_some()).then_some(base)
    }

    /// Has it hold another address, a multiple of its size.
    pub(super) fn set_base(&self, base: u64, config: &Config) {
        let Some(at) = bar_offset(self.index) else { return };
        let [low, high] = [base as u32, (base >> 32) as u32];
        config.write32(self.function, at, low);
        if self.wide {
            config.write32(self.function, at + 4, high);
        }
    }

    /// The memory that it decodes now, if it does.
    pub fn decoded(&self, config: &Config) -> Option<forbidden::Bar> {
        if !PciHeader::new(self.function).command(config).contains(CommandRegister::MEMORY_ENABLE) {
            return None;
        }
        let base = self.base(config)?;
        Some(forbidden::Bar { device: self.function.into(), base, limit: base + (self.size - 1) })
    }
}

/// What a BAR reads as after all ones were written. It holds its value again then.
fn measure(function: PciAddress, at: u16, config: &Config) -> u32 {
    let value = config.read32(function, at);
    config.write32(function, at, u32::MAX);
    let mask = config.read32(function, at);
    config.write32(function, at, value);
    mask
}

/// Where a BAR is; there are six.
pub(super) fn bar_offset(index: BarIndex) -> Option<u16> {
    (index < 6).then(|| 0x10 + u16::from(index) * 4)
}
