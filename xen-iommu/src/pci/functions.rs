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
        Sbdf::from_source_id(self.function.segment(), id)
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
    // How many of the upper bits of a function number it may use; without any the distance would be 8.
    let bits = space.read(express.checked_add(4)?) >> 3 & 3;
    FunctionIds::phantom(function, 8_u8.checked_shr(bits)?).filter(|_| enabled)
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
