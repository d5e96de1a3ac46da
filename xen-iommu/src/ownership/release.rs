//! What a domain loses when a device leaves it: the mappings of regions that no device there uses any more.

use p2m::AddressSpace;
use p2m::faults::{Fault, is_broken};

use super::transfer::flush;
use super::{Policy, State};
use crate::device::{Domain, Owner};
use crate::error::Note;
use crate::platform::{DomId, RemappingHardware, Sbdf};
use crate::region::registry::{Region, Registry};

impl<'m, S: AddressSpace, H: RemappingHardware> State<'m, S, H> {
    /// After a device has left domain `id`: unmaps those of its regions that no device there uses any more, and those that lingered with them.
    pub(super) fn release(
        &mut self,
        policy: &Policy<'m, S, H>,
        device: Sbdf,
        id: DomId,
        notes: &mut dyn FnMut(Note<'m>),
    ) {
        let Some(domain) = policy.domain(id).filter(|_| !is_broken(Fault::LeaveMapping)) else { return };
        let mut unmapped = false;
        for region in policy.registry.regions_of(device) {
            let Some(cluster) = policy.registry.cluster(region) else { continue };
            let is_unused = |other: &Region<'m>| {
                other.owner() == Some(id)
                    && (is_broken(Fault::IgnoreCount)
                        || !self
                            .devices_of(&policy.registry, other)
                            .any(|device| device.owner() == Owner::Domain(id)))
            };
            let (mut any_unused, mut any_kept) = (false, false);
            for other in cluster.regions.iter().filter(|other| other.owner() == Some(id)) {
                if is_unused(other) {
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
                let owned = cluster.regions.iter().filter(|other| other.owner() == Some(id));
                owned.for_each(|other| other.set_owner(None));
                continue;
            }
            for other in cluster.regions.iter().rev().filter(|other| is_unused(other)) {
                other.set_owner(None);
                if unmap(&policy.registry, other, domain).is_err() {
                    other.set_owner(Some(id));
                    notes(Note::Lingers { region: other, domain: id });
                }
            }
        }
        if unmapped && let Err(error) = flush(&self.hardware, domain) {
            notes(Note::NotFlushed { domain: id, error });
        }
    }
}

/// Unmaps the frames of a region that no other region of `domain` covers. Where such a piece cuts a page that an overlapping region shares, that takes
/// a frame and may fail; then some pieces may be gone.
pub(super) fn unmap<'m, S: AddressSpace>(
    registry: &Registry<'m>,
    region: &'m Region<'m>,
    domain: &Domain<S>,
) -> Result<(), p2m::IdentityError> {
    let Some(id) = domain.id() else { return Ok(()) };
    let mut space = domain.space.lock();
    let Some(space) = space.as_mut() else { return Ok(()) };
    let is_kept = |other: &&'m Region<'m>| !core::ptr::eq(*other, region) && other.owner() == Some(id);
    // From the top down: `end` is what is left to do.
    let mut end = region.range().end();
    while end > region.range().start() {
        let Some(left) = p2m::MfnRange::new(region.range().start(), end) else { break };
        // Of the regions kept, the one that reaches highest: above it is a piece that nobody covers.
        let highest = registry
            .overlapping(left)
            .filter(is_kept)
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
