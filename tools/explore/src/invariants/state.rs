//! What must hold in each state: owners, where requesters go, and what they reach.

use xen_iommu::pci::Role;

use super::{Breach, broken, owner_name};
use crate::machine::{DOMAINS, members};
use crate::rules::Owners;
use crate::world::{Known, Own, QUARANTINE, World};

impl World {
    /// Judges a state.
    ///
    /// # Errors
    /// What does not hold.
    pub fn judge_state(&mut self) -> Result<(), Breach> {
        let owners = self.owners();
        self.judge_owners(&owners)?;
        self.judge_functions(&owners)?;
        self.judge_attached(&owners)?;
        self.judge_reach(&owners)?;
        self.judge_told(&owners)?;
        for domain in 0..DOMAINS {
            self.judge_domain(domain, &owners)?;
        }
        Ok(())
    }

    /// A group has one owner at most; each member is with it or waits. Nothing tears what hardware cannot
    /// tell or keep apart.
    fn judge_owners(&self, owners: &Owners) -> Result<(), Breach> {
        for one in members(self.devices(owners)) {
            let (bound, group) = (self.bound(one, owners), self.group(one, owners));
            for other in members(group & !(1 << one)) {
                let apart =
                    owners[one] != owners[other] && ![owners[one], owners[other]].contains(&Some(QUARANTINE));
                let is_bound = bound & 1 << other != 0;
                broken(!apart || (self.known.torn && !is_bound), || {
                    let [one_name, other_name] = [one, other].map(|device| self.board.devices[device].name);
                    format!(
                        "{one_name} belongs to {} and {other_name} to {}, and they belong together",
                        owner_name(owners[one]),
                        owner_name(owners[other])
                    )
                })?;
            }
        }
        for (index, device) in self.board.devices.iter().enumerate() {
            let test = self.policy.test_assign(device.sbdf).is_ok();
            broken(test == matches!(owners[index], Some(0 | QUARANTINE)), || {
                format!("test_assign is wrong about {}", device.name)
            })?;
            broken(!device.is_bridge() || matches!(owners[index], None | Some(0)), || {
                format!("{} has left the hardware domain", device.name)
            })?;
            let off = self.machine.quiesced() & 1 << index != 0;
            broken(self.policy.is_quiesced(device.sbdf) == off, || {
                format!("is_quiesced is wrong about {}", device.name)
            })?;
            broken(!off || owners[index] == Some(QUARANTINE), || {
                format!("the DMA of {} is off, and it does not wait", device.name)
            })?;
        }
        Ok(())
    }

    /// A physical function is a guest's only without its virtual ones, and those are a guest's only while it
    /// is the hardware domain's.
    fn judge_functions(&self, owners: &Owners) -> Result<(), Breach> {
        let is_guest =
            |device: usize| matches!(owners[device], Some(domain) if (1..DOMAINS).contains(&domain));
        for (index, device) in self.board.devices.iter().enumerate() {
            let Role::Virtual { physical } = device.role else { continue };
            let Some(physical) = self.board.device_at(physical) else { continue };
            // One that appears while a guest has the physical function waits.
            broken(!is_guest(index) || matches!(owners[physical], None | Some(0)), || {
                format!(
                    "{} is a guest's, and its physical function is not the hardware domain's",
                    device.name
                )
            })?;
        }
        Ok(())
    }

    /// Requesters are where their devices' owner is, all their ids alike, with one domain id for each table.
    fn judge_attached(&self, owners: &Owners) -> Result<(), Breach> {
        for source in 0..self.board.sources.len() {
            let id = self.board.sources[source];
            broken(!self.is_off(source, owners) || self.known.uncertain[source], || {
                format!("requester id {id} is not attached where its devices belong")
            })?;
            let mut carriers =
                self.machine.carriers(source).filter(|device| owners[*device].is_some()).peekable();
            let is_locked = |device: usize| self.policy.is_suspect(self.board.devices[device].sbdf);
            let is_known =
                !self.is_off(source, owners) || carriers.peek().is_none() || carriers.any(is_locked);
            broken(is_known, || {
                format!("requester id {id} is not where its devices belong, and they are not locked away")
            })?;
            let context = self.sight.contexts[source];
            for other in 0..source {
                let other_context = self.sight.contexts[other];
                if let (Some(one), Some(other)) = (context, other_context) {
                    let same_id = one.high.domain_id() == other.high.domain_id();
                    broken(same_id == (one.low.table() == other.low.table()), || {
                        "two tables have one domain id, or one has two".into()
                    })?;
                }
                // Ids that nobody carries any more may have gone or not.
                let is_carried =
                    |source: usize| self.machine.carriers(source).any(|device| owners[device].is_some());
                let both = is_carried(source) && is_carried(other);
                let requesters = [source, other].map(|source| self.requester_of_source(source, owners));
                if both && requesters[0] == requesters[1] && !self.is_in_doubt() {
                    broken(self.sight.roots[source] == self.sight.roots[other], || {
                        format!("{id} and {} are one requester, and go apart", self.board.sources[other])
                    })?;
                }
            }
            if self.machine.in_doubt() {
                continue;
            }
            broken(self.sight.stale[source].is_none(), || {
                format!("an old context entry of {id} is still cached")
            })?;
            for (probe, frame) in self.board.probes.iter().enumerate() {
                let reach = self.sight.reach[source][probe];
                broken(!reach.is_stale(), || {
                    format!("an old translation of frame {frame:#x} for {id} is still cached")
                })?;
                let levels = context.map_or(0, |entry| u32::from(entry.high.width()) + 2);
                let in_memory =
                    self.sight.roots[source].and_then(|root| self.pool.walk(root, levels, *frame));
                broken(reach.now == in_memory, || {
                    format!("the unit does not see what was written for frame {frame:#x} of {id}")
                })?;
            }
        }
        Ok(())
    }

    /// Whether some guest has mapped a frame by itself. That is its toolstack's to take back before a device
    /// of the region waits.
    pub(super) fn maps_itself(&self, frame: u64) -> bool {
        self.mapped_itself(&self.known, frame)
    }

    /// The same by what was known.
    pub(super) fn mapped_itself(&self, known: &Known, frame: u64) -> bool {
        (1..DOMAINS).any(|domain| {
            let places = (0_u8..).zip(known.own[domain]).filter(|(_, own)| *own == Own::Direct);
            places.map(|(place, _)| self.place(place)).any(|(start, end)| (start..end).contains(&frame))
        })
    }

    /// No region is reachable from two domains, nor by who waits while a guest has it; and each device
    /// reaches its own.
    fn judge_reach(&self, owners: &Owners) -> Result<(), Breach> {
        let reached = self.reached();
        for (probe, frame) in self.board.probes.iter().enumerate() {
            let mut domains = 0_u32;
            for domain in 0..DOMAINS {
                if let Some([(root, levels), _]) = self.roots(domain)
                    && self.pool.walk(root, levels, *frame) == Some(*frame)
                {
                    domains |= 1 << domain;
                }
            }
            let mut waiting = None;
            for source in (0..self.board.sources.len()).filter(|source| reached[*source] & 1 << probe != 0) {
                let Some(root) = self.sight.roots[source] else { continue };
                let id = self.board.sources[source];
                match self.domain_of_root(root) {
                    Some(domain) => domains |= 1 << domain,
                    None => {
                        // Of all that share an id with it, present or not: they cannot be told apart.
                        let mut own = (0..self.board.devices.len()).filter(|device| {
                            self.machine
                                .carriers(source)
                                .any(|carrier| self.ids[carrier] & self.ids[*device] != 0)
                        });
                        broken(own.any(|device| self.wanted(device) & 1 << probe != 0), || {
                            format!("{id} reaches frame {frame:#x} from quarantine")
                        })?;
                        let is_said = self.machine.carriers(source).any(|device| self.known.running[device]);
                        if self.machine.is_live(source) && !is_said {
                            waiting = Some(id);
                        }
                    }
                }
            }
            let names: Vec<_> =
                (0..DOMAINS).filter(|d| domains & 1 << d != 0).map(|d| format!("d{d}")).collect();
            broken(domains.count_ones() <= 1, || {
                format!("frame {frame:#x} of a region is reachable from {}", names.join(" and "))
            })?;
            let guest = domains & !1 != 0 && !self.maps_itself(*frame);
            if let Some(id) = waiting.filter(|_| guest && !self.is_in_doubt()) {
                return Err(format!(
                    "{id} reaches frame {frame:#x} from quarantine, and {} has it",
                    names.join("")
                ));
            }
        }
        for device in members(self.devices(owners)) {
            let sources = self.ids[device];
            let said =
                self.known.lacks[device] || members(sources).any(|source| self.known.uncertain[source]);
            let requester = self.requester(device, owners);
            let blocked =
                members(requester).any(|device| self.known.blocked[device] || self.known.unprovided[device]);
            // Whose DMA is off misses nothing.
            let off = self.machine.quiesced() & 1 << device != 0;
            if said || off || (blocked && self.holder(requester, owners) == QUARANTINE) {
                continue;
            }
            let wanted = self.wanted(device);
            broken(members(sources).all(|source| reached[source] & wanted == wanted), || {
                let name = self.board.devices[device].name;
                format!("{name} of {} does not reach its region", owner_name(owners[device]))
            })?;
        }
        Ok(())
    }
}
