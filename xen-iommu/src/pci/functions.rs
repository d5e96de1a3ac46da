//! Further requester ids of a function: its phantom functions, and its SR-IOV virtual functions.
//!
//! No device scope names them. A phantom function is the same device under another number, and goes wherever
//! it goes. A virtual function is a device of its own, which the remapping unit of its physical function
//! translates.

use acpi_dmar::pci_types::ConfigRegionAccess;

use crate::pci::config::{CAPABILITY_EXPRESS, EXTENDED_SR_IOV, Space};
use crate::platform::Sbdf;

/// Requester ids at equal distances from that of a function, in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionIds {
    /// The function that they belong to.
    pub function: Sbdf,
    /// From its id to the first of them.
    pub offset: u16,
    /// From each to the next; not 0 where there are several.
    pub stride: u16,
    /// How many.
    pub count: u16,
}

impl FunctionIds {
    /// The phantom functions of `function`, whose distance is `stride`: 1, 2 or 4. `None` where that leaves
    /// none: another stride, or a function number that is one of the phantoms' own.
    #[must_use]
    pub fn phantom(function: Sbdf, stride: u8) -> Option<Self> {
        let count = match stride {
            1 => 7,
            2 => 3,
            4 => 1,
            _ => return None,
        };
        let stride = u16::from(stride);
        (u16::from(function.function()) < stride).then_some(Self { function, offset: stride, stride, count })
    }

    /// Each of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Sbdf> + Clone {
        (0..self.count).map(move |number| self.at(number))
    }

    /// Ids are 16-bit numbers that wrap around (SR-IOV, 9.2.1.2).
    fn at(self, number: u16) -> Sbdf {
        let distance = self.offset.wrapping_add(self.stride.wrapping_mul(number));
        let id = self.function.source_id().wrapping_add(distance);
        Sbdf::from_raw(u32::from(self.function.segment()) << 16 | u32::from(id))
    }

    /// Whether `source` is one of them.
    #[must_use]
    pub fn contains(self, source: Sbdf) -> bool {
        if source.segment() != self.function.segment() {
            return false;
        }
        let first = self.function.source_id().wrapping_add(self.offset);
        let distance = source.source_id().wrapping_sub(first);
        match (distance.checked_div(self.stride), distance.checked_rem(self.stride)) {
            (Some(number), Some(0)) => number < self.count,
            (Some(_), _) => false,
            (None, _) => self.count > 0 && distance == 0,
        }
    }
}

/// The phantom functions that `function` has switched on (PCI Express base specification 5.0, 7.5.3.3 and
/// 7.5.3.4).
#[must_use]
pub fn phantom_functions(function: Sbdf, pci: &impl ConfigRegionAccess) -> Option<FunctionIds> {
    let space = Space::new(function, pci);
    let express = space.capability(CAPABILITY_EXPRESS)?;
    let enabled = space.read(express.checked_add(8)?) & 1 << 9 != 0;
    // How many of the upper bits of a function number it may use.
    let bits = space.read(express.checked_add(4)?) >> 3 & 3;
    if !enabled || bits == 0 {
        return None;
    }
    FunctionIds::phantom(function, 8_u8.checked_shr(bits)?)
}

/// The virtual functions that `function` may have: all of its `TotalVFs`, at the offset and stride that it
/// has now. These may change when the number of virtual functions, or ARI, is set (PCI Express base
/// specification 5.0, 9.3.3.9 and 9.3.3.10).
#[must_use]
pub fn virtual_functions(function: Sbdf, pci: &impl ConfigRegionAccess) -> Option<FunctionIds> {
    let space = Space::new(function, pci);
    let sr_iov = space.extended_capability(EXTENDED_SR_IOV)?;
    let total = (space.read(sr_iov.checked_add(0xc)?) >> 16) as u16;
    of_sr_iov(function, &space, sr_iov, total)
}

/// The virtual functions that are there: `NumVFs` of them where VF Enable is set (same, 9.3.3.3.1 and
/// 9.3.3.7).
#[must_use]
pub fn enabled_virtual_functions(function: Sbdf, pci: &impl ConfigRegionAccess) -> Option<FunctionIds> {
    let space = Space::new(function, pci);
    let sr_iov = space.extended_capability(EXTENDED_SR_IOV)?;
    let enabled = space.read(sr_iov.checked_add(8)?) & 1 != 0;
    let total = (space.read(sr_iov.checked_add(0xc)?) >> 16) as u16;
    let number = space.read(sr_iov.checked_add(0x10)?) as u16;
    enabled.then(|| of_sr_iov(function, &space, sr_iov, number.min(total)))?
}

fn of_sr_iov<A: ConfigRegionAccess>(
    function: Sbdf,
    space: &Space<'_, A>,
    sr_iov: u16,
    count: u16,
) -> Option<FunctionIds> {
    let place = space.read(sr_iov.checked_add(0x14)?);
    let (offset, stride) = (place as u16, (place >> 16) as u16);
    // More would be where others are already: ids are 16-bit numbers.
    let most = u16::MAX.checked_div(stride).unwrap_or(u16::MAX).saturating_add(1);
    let ids = FunctionIds { function, offset, stride, count: count.min(most) };
    // Without a stride there is room for one; without an offset it would be the function itself.
    (count > 0 && offset != 0 && (stride != 0 || count == 1)).then_some(ids)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::vec::Vec;

    use acpi_dmar::pci_types::PciAddress;

    use super::*;

    struct Config(BTreeMap<u16, u32>);

    #[expect(unsafe_code, reason = "the trait's methods are unsafe; these touch nothing")]
    impl ConfigRegionAccess for Config {
        unsafe fn read(&self, _: PciAddress, offset: u16) -> u32 {
            self.0.get(&offset).copied().unwrap_or(0)
        }

        unsafe fn write(&self, _: PciAddress, _: u16, _: u32) {}
    }

    const FUNCTION: Sbdf = Sbdf::new(1, 2, 3, 1);

    fn express(capabilities: u32, control: u32) -> Config {
        // A power management capability comes first.
        Config(BTreeMap::from([
            (4, 1 << 20),
            (0x34, 0x41),
            (0x40, 0x5001),
            (0x50, 0x10),
            (0x54, capabilities),
            (0x58, control),
        ]))
    }

    #[test]
    fn phantom_functions_are_those_switched_on() {
        let numbers = |bits: u32, control, function: Sbdf| {
            let found = phantom_functions(function, &express(bits << 3, control));
            found.map(|ids| ids.iter().map(Sbdf::function).collect::<Vec<_>>())
        };
        assert_eq!(numbers(1, 1 << 9, FUNCTION), Some(std::vec![5]));
        assert_eq!(numbers(2, 1 << 9, FUNCTION), Some(std::vec![3, 5, 7]));
        assert_eq!(numbers(3, 1 << 9, Sbdf::new(1, 2, 3, 0)), Some((1..8).collect()));
        // Off, none, a function that would be its own phantom's, and no list of capabilities at all.
        assert_eq!(numbers(1, 0, FUNCTION), None);
        assert_eq!(numbers(0, 1 << 9, FUNCTION), None);
        assert_eq!(numbers(3, 1 << 9, FUNCTION), None);
        assert_eq!(phantom_functions(FUNCTION, &Config(BTreeMap::new())), None);
    }

    #[test]
    fn virtual_functions_cross_buses() {
        let config = |total: u32, place: u32| {
            Config(BTreeMap::from([
                (4, 1 << 20),
                (0x34, 0x40),
                (0x40, 0x10),
                (0x100, 0x1401_0001),
                (0x140, 0x0001_0010),
                (0x14c, total << 16 | 8),
                (0x154, place),
            ]))
        };
        let found = virtual_functions(FUNCTION, &config(64, 2 << 16 | 0x80)).unwrap();
        assert_eq!(found.iter().count(), 64);
        // 02:03.1 is 0x219: from 0x299 on, by twos.
        assert_eq!(found.iter().next(), Some(Sbdf::new(1, 2, 0x13, 1)));
        assert_eq!(found.iter().last(), Some(Sbdf::new(1, 3, 2, 7)));
        for id in 0..=u16::MAX {
            let source = Sbdf::from_raw(1 << 16 | u32::from(id));
            assert_eq!(found.contains(source), found.iter().any(|one| one == source), "{source}");
        }
        assert!(!found.contains(Sbdf::new(0, 2, 0x13, 1)), "another segment");
        for (total, place) in [(0, 0x2_0080), (4, 0x2_0000), (4, 0x80)] {
            assert_eq!(virtual_functions(FUNCTION, &config(total, place)), None);
        }
        assert!(virtual_functions(FUNCTION, &config(1, 0x80)).unwrap().contains(Sbdf::new(1, 2, 0x13, 1)));
    }

    #[test]
    fn virtual_functions_are_there_when_they_are_enabled() {
        let config = |control: u32, number: u32| {
            Config(BTreeMap::from([
                (4, 1 << 20),
                (0x34, 0x40),
                (0x40, 0x10),
                (0x100, 0x0001_0010),
                (0x108, control),
                (0x10c, 8 << 16 | 8),
                (0x110, number),
                (0x114, 1 << 16 | 0x80),
            ]))
        };
        let count = |control, number| {
            enabled_virtual_functions(FUNCTION, &config(control, number)).map(|ids| ids.iter().count())
        };
        assert_eq!((count(1, 3), count(0, 3), count(1, 0)), (Some(3), None, None));
        assert_eq!(count(0x11, 9), Some(8), "there are no more than the total");
        let mut lapping = config(1, 0xffff);
        lapping.0.extend([(0x10c, 0xffff_ffff), (0x114, 0x1000 << 16 | 0x80)]);
        let ids: Vec<_> = enabled_virtual_functions(FUNCTION, &lapping).unwrap().iter().collect();
        assert_eq!((ids.len(), ids[15]), (16, Sbdf::new(1, 0xf2, 0x13, 1)), "all the way round, once");
    }

    #[test]
    fn lists_with_loops_end() {
        let looping =
            Config(BTreeMap::from([(4, 1 << 20), (0x34, 0x40), (0x40, 0x4001), (0x100, 0x1001_0001)]));
        assert_eq!(phantom_functions(FUNCTION, &looping), None);
        let looping =
            Config(BTreeMap::from([(4, 1 << 20), (0x34, 0x40), (0x40, 0x4010), (0x100, 0x1001_0001)]));
        assert_eq!(virtual_functions(FUNCTION, &looping), None);
    }
}
