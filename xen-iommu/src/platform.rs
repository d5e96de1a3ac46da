//! What the hypervisor and its hardware give to the policy.

use core::fmt;

use p2m::{DeviceRoot, Flush};

/// A PCI function: segment, bus, device, function, in the layout of Xen's `machine_sbdf` (segment << 16 | bus
/// << 8 | device << 3 | function).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Sbdf(u32);

impl Sbdf {
    /// From its parts; only the low 5 bits of `device` and 3 of `function` are used.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        Self((segment as u32) << 16 | (bus as u32) << 8 | (device as u32 & 0x1f) << 3 | function as u32 & 7)
    }

    /// From Xen's number.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// From a segment and a 16-bit source id.
    #[must_use]
    pub const fn from_source_id(segment: u16, source_id: u16) -> Self {
        let [bus, devfn] = source_id.to_be_bytes();
        Self::new(segment, bus, devfn >> 3, devfn)
    }

    /// Xen's number.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The PCI segment group.
    #[must_use]
    pub const fn segment(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// The bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// The function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }

    /// Device and function in one byte, as configuration cycles and source ids carry them.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.0 as u8
    }

    /// The 16-bit source id: bus, device, function.
    #[must_use]
    pub const fn source_id(self) -> u16 {
        self.0 as u16
    }
}

impl From<pci_types::PciAddress> for Sbdf {
    fn from(address: pci_types::PciAddress) -> Self {
        Self::new(address.segment(), address.bus(), address.device(), address.function())
    }
}

impl From<Sbdf> for pci_types::PciAddress {
    fn from(sbdf: Sbdf) -> Self {
        Self::new(sbdf.segment(), sbdf.bus(), sbdf.device(), sbdf.function())
    }
}

impl From<xen_abi::PciDevice> for Sbdf {
    fn from(device: xen_abi::PciDevice) -> Self {
        Self(device.machine_sbdf())
    }
}

impl From<Sbdf> for xen_abi::PciDevice {
    fn from(sbdf: Sbdf) -> Self {
        Self::from_machine_sbdf(sbdf.0)
    }
}

impl fmt::Display for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment(), self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for Sbdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A domain's number (Xen's `domid_t`, 16 bits).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomId(pub u16);

impl DomId {
    /// Xen's `DOMID_IO` (`xen/include/public/xen.h`): toolstacks assign to it what is to wait in quarantine.
    pub const IO: Self = Self(xen_abi::DOMID_IO);
}

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}

impl fmt::Debug for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One address space that devices can be attached to: a domain's, or a quarantined device's. What hardware
/// tags translations with is derived from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u32);

/// A requester id, and the function by which its remapping unit is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequesterId {
    /// What requests carry: segment, and the 16-bit source id.
    pub id: Sbdf,
    /// The function that a device scope can name for it: the device itself where `id` is one of its phantom
    /// functions, the physical function where `id` is a virtual function's, which no scope names (VT-d
    /// 8.3.1), a device below the bridge where `id` is what a bridge puts in place of its own.
    pub unit_of: Sbdf,
}

impl From<Sbdf> for RequesterId {
    /// A function's own id.
    fn from(function: Sbdf) -> Self {
        Self { id: function, unit_of: function }
    }
}

impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id, f)
    }
}

/// Why remapping hardware did not do as told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HardwareError {
    /// No unit translates this requester's DMA.
    #[error("no remapping unit translates the DMA of {requester}")]
    NoUnit {
        /// The requester.
        requester: Sbdf,
    },
    /// Translation is off in the requester's unit, so that its DMA reaches everything.
    #[error("the remapping unit at {unit:#x} does not translate")]
    NotTranslating {
        /// The unit's register base.
        unit: u64,
    },
    /// No frame was left for a root or context table.
    #[error("no frame is left for the remapping tables")]
    NoFrames,
    /// The unit has no domain id left.
    #[error("the remapping unit at {unit:#x} has no domain id left")]
    NoDomainId {
        /// The unit's register base.
        unit: u64,
    },
    /// The unit cannot walk a table of so many levels.
    #[error("the remapping unit at {unit:#x} cannot walk {levels}-level tables")]
    Levels {
        /// The unit's register base.
        unit: u64,
        /// What was asked.
        levels: u8,
    },
    /// The unit did not answer in time.
    #[error("the remapping unit at {unit:#x} did not finish: {operation}")]
    TimedOut {
        /// The unit's register base.
        unit: u64,
        /// What was waited for.
        operation: &'static str,
    },
    /// The unit reported an error of its invalidation queue.
    #[error("the remapping unit at {unit:#x} reports an invalidation error (status {status:#x})")]
    QueueError {
        /// The unit's register base.
        unit: u64,
        /// The fault status register (VT-d 11.4.7.1).
        status: u32,
    },
}

/// DMA remapping hardware as the policy uses it.
///
/// Every call may come from any processor, and from several at once; an implementation locks inside, each
/// unit for itself, so that a unit that does not answer holds up nobody who has nothing there. The policy
/// calls [`attach`](Self::attach) and [`detach`](Self::detach) under its ownership lock,
/// [`flush`](Self::flush) under a table lock, and neither from an interrupt.
pub trait RemappingHardware {
    /// Sends the DMA of a requester through `root` from now on, tagged as `space`, in place of what it went
    /// through before, in one step; returns when no translation of the old space is in use for it any more.
    ///
    /// # Errors
    /// [`HardwareError`]; then the requester is attached as it was before, except after a time-out, when
    /// nothing is certain and the requester must be taken as reaching both.
    fn attach(&self, requester: RequesterId, space: SpaceId, root: DeviceRoot) -> Result<(), HardwareError>;

    /// Blocks the DMA of a requester.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    fn detach(&self, requester: RequesterId) -> Result<(), HardwareError>;

    /// Drops translations of `space` that may be cached; returns when that is done.
    ///
    /// # Errors
    /// [`HardwareError::TimedOut`] or [`HardwareError::QueueError`]; the old translations may then still be
    /// in use. The next call for the space that succeeds has dropped them too, whatever it asks for.
    fn flush(&self, space: SpaceId, flush: &Flush) -> Result<(), HardwareError>;

    /// Whether a unit covers the requester and translates now: only then is its DMA kept inside what it is
    /// attached to.
    ///
    /// # Errors
    /// [`HardwareError::NoUnit`] or [`HardwareError::NotTranslating`].
    fn check_translating(&self, requester: RequesterId) -> Result<(), HardwareError>;

    /// The width in bits of the guest addresses that the requester's unit translates; `None` where there is
    /// no unit, or it is not known.
    fn address_width(&self, requester: RequesterId) -> Option<u8>;
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    /// The layout of Xen's `machine_sbdf`.
    #[test]
    fn a_function_is_one_number() {
        for (raw, (segment, bus, device, function), words) in [
            (0, (0, 0, 0, 0), "0000:00:00.0"),
            (0x0000_00a0, (0, 0, 0x14, 0), "0000:00:14.0"),
            (0x0000_03ff, (0, 3, 0x1f, 7), "0000:03:1f.7"),
            (0x0001_021a, (1, 2, 3, 2), "0001:02:03.2"),
            (0xabcd_ef5d, (0xabcd, 0xef, 0xb, 5), "abcd:ef:0b.5"),
            (0xffff_ffff, (0xffff, 0xff, 0x1f, 7), "ffff:ff:1f.7"),
        ] {
            let sbdf = Sbdf::from_raw(raw);
            assert_eq!(sbdf, Sbdf::new(segment, bus, device, function));
            assert_eq!(sbdf, Sbdf::from_source_id(segment, raw as u16));
            assert_eq!((sbdf.raw(), sbdf.source_id(), sbdf.devfn()), (raw, raw as u16, raw as u8));
            let parts = (sbdf.segment(), sbdf.bus(), sbdf.device(), sbdf.function());
            assert_eq!(parts, (segment, bus, device, function));
            assert_eq!((sbdf.to_string(), std::format!("{sbdf:?}")), (words.into(), words.into()));
            assert_eq!(RequesterId::from(sbdf), RequesterId { id: sbdf, unit_of: sbdf });

            let address = pci_types::PciAddress::new(segment, bus, device, function);
            assert_eq!((pci_types::PciAddress::from(sbdf), Sbdf::from(address)), (address, sbdf));
            let device = xen_abi::PciDevice::from_machine_sbdf(raw);
            assert_eq!((xen_abi::PciDevice::from(sbdf), Sbdf::from(device)), (device, sbdf));
        }
        assert_eq!(Sbdf::new(0, 1, 0x22, 0xb), Sbdf::new(0, 1, 2, 3), "5 bits, and 3 bits");
    }

    #[test]
    fn names_are_as_in_the_log() {
        let id = Sbdf::new(0, 3, 0, 0);
        let behind_bridge = RequesterId { id, unit_of: Sbdf::new(0, 3, 1, 0) };
        assert_eq!(behind_bridge.to_string(), "0000:03:00.0");
        assert_eq!((DomId(7).to_string(), std::format!("{:?}", DomId::IO)), ("d7".into(), "d32753".into()));
    }
}
