//! All can be given back.

use super::{Breach, broken};
use crate::hardware::frames_of;
use crate::machine::{DEVICES, DOMAINS, REGIONS};
use crate::world::World;

/// The invalidation queue's ring and status.
const QUEUE_FRAMES: u32 = 2;

impl World {
    /// Gives everything back, and judges that nothing is left: no frame, no mapping, no context entry.
    /// Changes the state.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge_end(&mut self) -> Result<(), Breach> {
        for domain in 1..DOMAINS {
            drop(self.policy.destroy_domain(xen_iommu::DomId(domain as u16), &mut |_| {}));
        }
        let absent: Vec<_> =
            self.board.devices.iter().filter(|device| self.policy.owner(device.sbdf).is_none()).collect();
        for device in self.board.devices {
            let _ = self.policy.remove_device(device.sbdf, &mut |_| {});
        }
        // What a failed flush kept back.
        let _ = self.policy.flush_domain(xen_iommu::DomId(0));
        self.known.own[1] = Default::default();
        self.known.own[2] = Default::default();
        self.known.lingers = Default::default();
        broken(self.owners() == [None; DEVICES], || "in the end: devices are left".into())?;
        broken(self.region_owners() == [None; REGIONS], || "in the end: a region still has an owner".into())?;
        self.judge_domain(0, &[None; DEVICES]).map_err(|breach| format!("in the end: {breach}"))?;
        let (mut used, mut needed) = self.frames();
        let attached = self.machine.sight().contexts.iter().any(Option::is_some);
        if used != needed || attached {
            // What a device that hardware did not let go may still use is kept until that comes back.
            for device in absent {
                let new_space = || crate::world::space(self.machine, false);
                let _ = self.policy.add_device(&device.function(), new_space, &mut |_| {});
                let _ = self.policy.remove_device(device.sbdf, &mut |_| {});
            }
            (used, needed) = self.frames();
        }
        let sight = self.machine.sight();
        for (source, id) in self.board.sources.iter().enumerate() {
            broken(sight.contexts[source].is_none(), || {
                format!("in the end: requester id {id} is still attached")
            })?;
        }
        broken(used == needed, || format!("in the end: {used} frames are in use, and {needed} are needed"))
    }

    /// How many frames are in use, and how many are needed when there is nothing but the hardware domain.
    fn frames(&self) -> (u32, u32) {
        let held = self.policy.with_space(xen_iommu::DomId(0), |space| space.held_frames()).unwrap_or(0);
        let tables = self.roots(0).map_or(0, |roots| {
            roots.into_iter().fold(0, |frames, (root, levels)| frames | frames_of(self.pool, root, levels))
        });
        let needed = (tables | self.machine.unit_frames()).count_ones() + QUEUE_FRAMES + held as u32;
        (self.pool.allocated().count_ones(), needed)
    }
}
