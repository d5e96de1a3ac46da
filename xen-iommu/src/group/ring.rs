//! Devices in circles: sets that can be joined, asked for sameness and walked, in memory that the devices have anyway.

use crate::present::{Device, Devices, Number};

/// A device's place in a circle of one kind.
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

/// Which of a device's circles.
pub(crate) type Kind = fn(&Device) -> &Ring;

/// The members of a device's circle, itself first.
pub(crate) fn members<'d, 'm>(
    devices: &'d Devices<'m>,
    kind: Kind,
    device: &'m Device,
) -> impl Iterator<Item = &'m Device> + use<'d, 'm> {
    let mut next = Some(device);
    core::iter::from_fn(move || {
        let member = next?;
        next = devices.at(kind(member).next.get()).filter(|next| next.number != device.number);
        Some(member)
    })
}

/// Makes one circle of two, the smaller relabelled.
pub(crate) fn unite<'m>(devices: &Devices<'m>, kind: Kind, one: &'m Device, other: &'m Device) {
    if kind(one).is_same(kind(other)) {
        return;
    }
    let len = |device: &Device| devices.at(kind(device).first.get()).map_or(1, |first| kind(first).len.get());
    let (larger, smaller) = if len(one) < len(other) { (other, one) } else { (one, other) };
    let first = kind(larger).first.get();
    if let Some(leader) = devices.at(first) {
        kind(leader).len.set(len(larger).saturating_add(len(smaller)));
    }
    for member in members(devices, kind, smaller) {
        kind(member).first.set(first);
    }
    // Exchanging the successors of two circles makes them one.
    let next = kind(larger).next.get();
    kind(larger).next.set(kind(smaller).next.get());
    kind(smaller).next.set(next);
}
