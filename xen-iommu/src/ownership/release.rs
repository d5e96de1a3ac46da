//! What a domain loses when a device leaves it: the mappings of regions that no device there uses any more.

use p2m::AddressSpace;

use super::domains::Domain;
use super::{Policy, hardware};
use crate::control::DeviceControl;
use crate::note::Note;
use crate::platform::{RemappingHardware, Sbdf};
use crate::present::Presence;
use crate::region::record::Region;
use crate::region::registry::Registry;

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// After a device has left the domain of this number: unmaps those of its regions that no device there
    /// uses any more, and those that lingered with them. One that was alone in its group shared them with
    /// nobody.
    pub(super) fn release(
        &self,
        presence: &Presence<'m, S>,
        (device, was_alone): (Sbdf, bool),
        number: u32,
        notes: &mut dyn FnMut(Note),
    ) {
        let Some(domain) = self.domain_at(Some(number)) else { return };
        let Some(id) = domain.id() else { return };
        let mut unmapped = false;
        for region in self.registry.regions_of(device) {
            let Some(cluster) = self.registry.cluster(region) else { continue };
            let is_unused = |other: &&&'m Region<'m>| {
                other.owner() == Some(id)
                    && !self.devices_of(presence, other).any(|user| self.is_at(presence, user, number))
            };
            let owned = || cluster.regions.iter().filter(|other| other.owner() == Some(id));
            let (mut any_unused, mut any_kept) = (false, false);
            // Further regions of the cluster may be those of others, which are no group with it while who
            // links them is absent.
            let was_only_user = was_alone && cluster.regions.len() == 1;
            for other in owned() {
                if was_only_user || is_unused(&other) {
                    any_unused = true;
                } else {
                    any_kept = true;
                }
            }
            if !any_unused {
                continue;
            }
            unmapped = true;
            if !any_kept {
                // All of it goes at once, so no page is cut.
                if let Some(space) = domain.space.lock().as_mut() {
                    let _ = space.unmap_identity(cluster.range);
                }
                owned().for_each(|other| other.set_owner(None));
                continue;
            }
            for other in cluster.regions.iter().rev().filter(is_unused) {
                other.set_owner(None);
                if unmap(&self.registry, other, domain).is_err() {
                    other.set_owner(Some(id));
                    notes(Note::Lingers { region: other.name(), domain: id });
                }
            }
        }
        if unmapped && let Err(error) = hardware::flush(&self.hardware, domain) {
            notes(Note::NotFlushed { domain: id, error });
        }
    }
}

/// Unmaps the frames of a region that no other region of `domain` covers.
pub(super) fn unmap<'m, S: AddressSpace>(
    registry: &Registry<'m>,
    region: &'m Region<'m>,
    domain: &Domain<S>,
) -> Result<(), p2m::IdentityError> {
    let Some(id) = domain.id() else { return Ok(()) };
    let mut space = domain.space.lock();
    let Some(space) = space.as_mut() else { return Ok(()) };
    let is_kept = |other: &&'m Region<'m>| !core::ptr::eq(*other, region) && other.owner() == Some(id);
    unmap_but(registry, region, space, is_kept)
}

/// Unmaps the frames of a region that none of those regions covers that are kept. Where such a piece cuts a
/// page, that takes a frame and may fail; then some pieces may be gone. It cuts none where no end of what
/// was ever mapped 1:1 lies inside a page, as in p2m's tables.
pub(super) fn unmap_but<'m, S: AddressSpace>(
    registry: &Registry<'m>,
    region: &'m Region<'m>,
    space: &mut S,
    is_kept: impl Fn(&&'m Region<'m>) -> bool,
) -> Result<(), p2m::IdentityError> {
    // From the top down: `end` is what is left to do.
    let mut end = region.range().end();
    while end > region.range().start() {
        let Some(left) = p2m::MfnRange::new(region.range().start(), end) else { break };
        // Of the regions kept, the one that reaches highest: above it is a piece that nobody covers.
        let highest = registry
            .overlapping(left)
            .filter(&is_kept)
            .map(|other| other.range())
            .max_by_key(|kept| kept.end());
        let piece_start = highest.map_or(left.start(), |kept| kept.end().min(end));
        if let Some(piece) = p2m::MfnRange::new(piece_start, end).filter(|piece| !piece.is_empty()) {
            space.unmap_identity(piece)?;
        }
        end = highest.map_or(left.start(), |kept| kept.start());
    }
    Ok(())
}
