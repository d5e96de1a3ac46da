//! Devices with TLBs of their own (PCIe ATS): which they are, and what becomes of one that does not answer.
//!
//! A device keeps translations and sends requests that the unit lets pass as they are, as long as its context
//! entry says so (TT = 1). It is trusted to forget what it is told to forget. One that does not answer when
//! it is told is cut off: its entry blocks translated requests from then on, so that what it keeps is of no
//! use to it, and neither its space's flushes nor its being detached wait for it again.

use p2m::FrameSource;

use crate::platform::{HardwareError, Sbdf};
use crate::vtd::invalidate::{Block, Request};
use crate::vtd::registers::{FaultStatus, Registers};
use crate::vtd::tables::{ContextEntry, DomainId};
use crate::vtd::unit::Locked;

/// Room for one device whose own TLB may be in use.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceTlbSlot(Option<AtsDevice>);

impl DeviceTlbSlot {
    /// A slot that is not in use.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }
}

/// A device whose own TLB is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AtsDevice {
    /// Its source id.
    pub(crate) source: u16,
    /// The source id of its physical function: its own, unless it is a virtual function; 0 where the unit
    /// does not ask for it.
    pub(crate) physical_function: u16,
    /// The most invalidations that it may have outstanding, less one (its ATS capability's invalidate queue
    /// depth; 0 there means 32).
    pub(crate) max_pending: u8,
    /// It did not answer.
    pub(crate) is_cut_off: bool,
}

impl<R: Registers> Locked<'_, '_, R> {
    /// Lets a device that is about to get its own TLB switched on use it, and invalidates that from now on;
    /// `false` when the unit cannot (no support, no queue, no room left), and ATS has to stay off.
    ///
    /// # Errors
    /// As of attaching.
    pub(super) fn use_device_tlb(
        &mut self,
        frames: &impl FrameSource,
        device: AtsDevice,
    ) -> Result<bool, HardwareError> {
        let Some(live) = &self.state.live else { return Ok(false) };
        if !live.extended.device_tlb() || !live.way.is_queue() {
            return Ok(false);
        }
        // PFSID, which is reserved elsewhere (§6.5.2.5).
        let physical_function =
            if live.extended.invalidation_throttle() { device.physical_function } else { 0 };
        let device = AtsDevice { physical_function, ..device };
        let same = |place: &DeviceTlbSlot| place.0.is_some_and(|other| other.source == device.source);
        let places = &mut self.state.device_tlbs;
        let free = places.iter().position(same).or_else(|| places.iter().position(|place| place.0.is_none()));
        let Some(place) = free.and_then(|index| places.get_mut(index)) else { return Ok(false) };
        place.0 = Some(device);
        let result = self.set_translation_type(frames, device.source, 1);
        if result.is_err() {
            self.forget_device_tlb(device.source);
            // After a time-out the entry still lets translated requests through.
            let _ = self.set_translation_type(frames, device.source, 0);
        }
        result.map(|()| true)
    }

    /// The device's own TLB is off (and was so before this call): blocks translated requests from it and
    /// leaves its TLB alone from now on.
    ///
    /// # Errors
    /// As of attaching.
    pub(super) fn drop_device_tlb(
        &mut self,
        frames: &impl FrameSource,
        source: Sbdf,
    ) -> Result<(), HardwareError> {
        self.forget_device_tlb(source.source_id());
        self.set_translation_type(frames, source.source_id(), 0)
    }

    fn forget_device_tlb(&mut self, source: u16) {
        for place in self.state.device_tlbs.iter_mut() {
            if place.0.is_some_and(|device| device.source == source) {
                *place = DeviceTlbSlot::new();
            }
        }
    }

    /// A requester's own TLB, if it is in use.
    pub(super) fn device_tlb(&self, source: Sbdf) -> Option<AtsDevice> {
        let mut devices = self.state.device_tlbs.iter().filter_map(|place| place.0);
        devices.find(|device| device.source == source.source_id() && !device.is_cut_off)
    }

    /// The devices that were cut off.
    pub(super) fn cut_off_devices(&self) -> impl Iterator<Item = Sbdf> + '_ {
        let devices = self.state.device_tlbs.iter().filter_map(|place| place.0);
        devices.filter(|device| device.is_cut_off).map(|device| self.requester(device.source))
    }

    fn set_translation_type(
        &mut self,
        frames: &impl FrameSource,
        source: u16,
        translation_type: u8,
    ) -> Result<(), HardwareError> {
        let source = self.requester(source);
        let Some(slot) = self.slot(frames, source) else { return Ok(()) };
        let entry = slot.read();
        let Some(domain) = entry.domain() else { return Ok(()) };
        // The new entry is one more user of the domain id until the old one is gone.
        self.unit.domains.retain(domain);
        let low = entry.low.with_translation_type(translation_type);
        self.change(frames, source, slot, ContextEntry { low, ..entry })
    }

    /// Drops translations in the devices' own TLBs, of those devices that are attached under such a domain
    /// id.
    pub(super) fn flush_device_tlbs(
        &mut self,
        frames: &impl FrameSource,
        attached: impl Fn(Option<DomainId>) -> bool,
        block: Option<Block>,
    ) -> Result<(), HardwareError> {
        for index in 0..self.state.device_tlbs.len() {
            let device = self.state.device_tlbs.get(index).and_then(|place| place.0);
            let Some(device) = device.filter(|device| !device.is_cut_off) else { continue };
            let slot = self.slot(frames, self.requester(device.source));
            if attached(slot.and_then(|slot| slot.read().domain())) {
                self.flush_device_tlb(frames, device, block)?;
            }
        }
        Ok(())
    }

    /// Drops translations in a device's own TLB; cuts the device off if it does not answer, or not rightly.
    pub(super) fn flush_device_tlb(
        &mut self,
        frames: &impl FrameSource,
        device: AtsDevice,
        block: Option<Block>,
    ) -> Result<(), HardwareError> {
        // One request at a time is in the queue, so that these errors are this device's. A unit tells of them
        // after a minute or more, so that the wait for it mostly ends before; whether it is the unit that
        // stands still shows when the device is cut off.
        let of_device = FaultStatus::TIME_OUT_ERROR.union(FaultStatus::COMPLETION_ERROR);
        match self.invalidate(frames, Request::DeviceTlb { device, block }) {
            Err(HardwareError::QueueError { status, .. })
                if !FaultStatus::from_bits_retain(status).intersects(of_device) =>
            {
                Err(HardwareError::QueueError { unit: self.unit.base, status })
            }
            Err(HardwareError::QueueError { .. } | HardwareError::TimedOut { .. }) => {
                self.cut_off(frames, device)
            }
            result => result,
        }
    }

    fn cut_off(&mut self, frames: &impl FrameSource, device: AtsDevice) -> Result<(), HardwareError> {
        for place in self.state.device_tlbs.iter_mut().filter_map(|place| place.0.as_mut()) {
            place.is_cut_off |= place.source == device.source;
        }
        let source = self.requester(device.source);
        let Some(slot) = self.slot(frames, source) else { return Ok(()) };
        let entry = slot.read();
        let blocked = entry.without_device_tlb();
        if blocked == entry {
            // Detached, or on its way to be: nothing passes.
            return Ok(());
        }
        // One word changes.
        slot.replace_by_words(blocked);
        self.write_back(slot.words());
        let done = self.flush_context_entry(frames, source, entry);
        let done = done.and_then(|()| match entry.domain() {
            Some(domain) => self.invalidate(frames, Request::IotlbDomain { domain }),
            None => Ok(()),
        });
        self.state.in_doubt |= done.is_err();
        done
    }
}
