//! Groups as circles of devices: sets that can be joined, asked for sameness and walked, in memory that the
//! devices have anyway.

use super::{Device, Devices, Number};

/// A device's place in its circle.
pub(crate) struct Ring {
    /// The number of the device that stands for the circle.
    first: Number,
    next: Number,
    /// Devices in it, where this one stands for it.
    len: Number,
}

impl Ring {
    /// A circle of its own for the device of this number.
    pub(crate) const fn alone(number: u32) -> Self {
        Self { first: Number::new(number), next: Number::new(number), len: Number::new(1) }
    }

    /// Cuts it loose; what it was in is to be made anew.
    pub(crate) fn reset(&self, number: u32) {
        self.first.set(number);
        self.next.set(number);
        self.len.set(1);
    }

    /// Whether the device of this number, whose place it is, is alone in it.
    pub(crate) fn is_alone(&self, number: u32) -> bool {
        self.next.get() == number
    }

    /// The number of the next device in the circle.
    pub(crate) fn next(&self) -> u32 {
        self.next.get()
    }

    /// Whether both are in one circle.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.first.get() == other.first.get()
    }
}

/// The members of a device's circle, itself first.
pub(crate) fn members<'d, 'm>(
    devices: &'d Devices<'m>,
    device: &'m Device,
) -> impl Iterator<Item = &'m Device> + use<'d, 'm> {
    let mut next = Some(device);
    core::iter::from_fn(move || {
        let member = next?;
        next = devices.at(member.group.next.get()).filter(|next| next.number != device.number);
        Some(member)
    })
}

/// Makes one circle of two, the smaller relabelled.
pub(crate) fn unite<'m>(devices: &Devices<'m>, one: &'m Device, other: &'m Device) {
    if one.group.is_same(&other.group) {
        return;
    }
    let len = |device: &Device| devices.at(device.group.first.get()).map_or(1, |first| first.group.len.get());
    let (larger, smaller) = if len(one) < len(other) { (other, one) } else { (one, other) };
    let first = larger.group.first.get();
    if let Some(leader) = devices.at(first) {
        leader.group.len.set(len(larger).saturating_add(len(smaller)));
    }
    for member in members(devices, smaller) {
        member.group.first.set(first);
    }
    // Exchanging the successors of two circles makes them one.
    let next = larger.group.next.get();
    larger.group.next.set(smaller.group.next.get());
    smaller.group.next.set(next);
}
