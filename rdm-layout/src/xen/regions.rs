//! Which of a host's regions a guest's layout has to do with, as `rdm=` and `rdm_policy=` of xl.cfg say
//! (docs/man/xl.cfg.5.pod.in).

use p2m::GfnRange;

use crate::machine::{Policy, Region};

/// `rdm="strategy=…"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The regions of the devices that the guest has. (What xl calls "none", or leaves out.)
    Devices,
    /// All of the host's, so that any device can be added later.
    Host,
}

/// A region of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRegion<'a> {
    /// Its frames.
    pub frames: GfnRange,
    /// The `rdm_policy=` of each device of the guest that has this region; `None` for one that has none of
    /// its own. Empty: the guest has no such device.
    pub devices: &'a [Option<Policy>],
}

/// The regions that count, as many as fit into `out`, and how many there are.
///
/// A device's own policy goes before the guest's, which is `policy`; where devices with different ones share
/// a region, it is strict. Private is of devices: with [`Strategy::Host`] the regions of no device of the
/// guest's are strict then.
pub fn regions(strategy: Strategy, policy: Policy, host: &[HostRegion<'_>], out: &mut [Region]) -> usize {
    let counts = |region: &&HostRegion<'_>| strategy == Strategy::Host || !region.devices.is_empty();
    let mut count = 0_usize;
    for region in host.iter().filter(counts) {
        let own = region.devices.iter().map(|own| own.unwrap_or(policy));
        let policy = own.reduce(Policy::with).unwrap_or(match policy {
            // A region of no device of the guest's is kept free; nothing is put there yet.
            Policy::Private => Policy::Strict,
            other => other,
        });
        if let Some(place) = out.get_mut(count) {
            *place = Region { frames: region.frames, policy };
        }
        count = count.saturating_add(1);
    }
    count
}
