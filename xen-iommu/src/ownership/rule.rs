//! Who may get which device: the rules that a move is checked against before anything is changed.

use p2m::AddressSpace;

use super::assign::Transfer;
use super::{Mode, Policy};
use crate::control::DeviceControl;
use crate::error::{AssignError, Together};
use crate::owner::Owner;
use crate::platform::{HardwareError, RemappingHardware};
use crate::present::{Device, Part, Presence, Requester};
use crate::region::forbidden::Window;
use crate::region::iommu_state::IommuState;
use crate::region::record::Region;

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Transfer<'_, 'm, S, H, C> {
    /// What concerns owners, groups and the machine.
    pub(super) fn check_rules(&self) -> Result<(), AssignError> {
        for device in self.moving() {
            self.check_translated(device)?;
            self.check_functions(device)?;
            if self.target != Owner::Quarantine {
                self.check_group(device)?;
            }
        }
        Ok(())
    }

    /// Each other member of the group is with the target or in quarantine. Relaxed assignments may leave
    /// members elsewhere, but none that hardware cannot tell from the device, or that the hypervisor wants
    /// kept with it for want of isolation.
    fn check_group(&self, device: &'m Device) -> Result<(), AssignError> {
        let grouping = self.policy.grouping(self.presence);
        let is_elsewhere = |other: &&'m Device| {
            other.part() != Part::Moves && other.owner() != Owner::Quarantine && other.owner() != self.target
        };
        let found = match self.mode_of(device) {
            Mode::Strict => grouping.members(device).find(is_elsewhere),
            Mode::Relaxed => grouping.bound(device).find(is_elsewhere),
        };
        let Some(other) = found else { return Ok(()) };
        let Owner::Domain(owner) = other.owner() else { return Ok(()) };
        let Some((via, link)) = grouping.reason(device, other) else { return Ok(()) };
        if device.physical() == Some(other.sbdf()) {
            return Err(AssignError::WithPhysical { device: device.sbdf(), physical: other.sbdf(), link });
        }
        let holder = self.policy.holder(owner);
        Err(AssignError::Group(Together { device: device.sbdf(), other: other.sbdf(), holder, link, via }))
    }

    /// A device leaves the hardware domain only where a unit translates its DMA, and goes to a guest only
    /// while that unit does.
    fn check_translated(&self, device: &'m Device) -> Result<(), AssignError> {
        let requester = self.presence.requesters.of(device);
        // At home, too, its DMA would be that of others elsewhere.
        if self.target != Owner::Quarantine && requester.is_some_and(Requester::is_contested) {
            return Err(AssignError::Contested(device.sbdf()));
        }
        if self.target == Owner::Domain(self.policy.hardware_domain) {
            return Ok(());
        }
        let sbdf = device.sbdf();
        let state = self.policy.registry.iommu();
        if state != IommuState::Active {
            return Err(AssignError::NoIommu { device: sbdf, state });
        }
        let Some(requester) = requester.filter(|requester| !requester.is_contested()) else { return Ok(()) };
        if !requester.is_translated() || device.is_without_unit() {
            let error = HardwareError::NoUnit { requester: sbdf };
            return Err(AssignError::Hardware { device: sbdf, error });
        }
        if self.guest().is_some() {
            if !device.has_all_ids() {
                return Err(AssignError::UnknownIds(sbdf));
            }
            for id in self.presence.requesters.ids(requester) {
                self.policy
                    .hardware
                    .check_translating(id)
                    .map_err(|error| AssignError::Hardware { device: sbdf, error })?;
            }
        }
        Ok(())
    }

    /// A physical function configures its virtual ones: it may not be in other hands than the hardware
    /// domain's while a guest could have one of those.
    fn check_functions(&self, device: &'m Device) -> Result<(), AssignError> {
        let hardware_domain = Owner::Domain(self.policy.hardware_domain);
        if self.target == hardware_domain {
            return Ok(());
        }
        let sbdf = device.sbdf();
        if device.is_physical() {
            // To a guest it goes without any; out of the hardware domain's hands, without those that a guest
            // has.
            let mut functions = self.presence.devices.all().filter(|other| other.physical() == Some(sbdf));
            let found = functions.find(|function| match function.owner() {
                Owner::Domain(_) if function.owner() != hardware_domain => true,
                _ => self.guest().is_some(),
            });
            if let Some(function) = found {
                let owner = function.owner();
                return Err(AssignError::VirtualFunction { device: sbdf, function: function.sbdf(), owner });
            }
        }
        if let Some(physical) = device.physical().filter(|_| self.guest().is_some()) {
            let owner = self.presence.devices.find(physical).map(|physical| match physical.part() {
                Part::Moves => self.target,
                _ => physical.owner(),
            });
            if owner != Some(hardware_domain) {
                return Err(AssignError::PhysicalFunction { device: sbdf, physical, owner });
            }
        }
        Ok(())
    }

    /// What concerns the regions that a guest is to get, with those of devices that go with them in
    /// quarantine.
    pub(super) fn check_regions(&self) -> Result<(), AssignError> {
        if self.guest().is_none() {
            return Ok(());
        }
        for device in self.selected().filter(|device| self.mode_of(device) == Mode::Strict) {
            let limit = self.limit(device);
            for region in self.policy.registry.regions_of(device.sbdf()) {
                if let Some(unfit) = self.unfit(device, region, limit) {
                    return Err(unfit);
                }
            }
        }
        Ok(())
    }

    /// The bits of guest addresses that the units of a device translate, and the first frame beyond; `None`
    /// where that is not known.
    pub(super) fn limit(&self, device: &'m Device) -> Option<(u8, u64)> {
        let requester = self.presence.requesters.of(device)?;
        let ids = self.presence.requesters.ids(requester);
        let width = ids.filter_map(|id| self.policy.hardware.address_width(id)).min()?;
        Some((width, 1_u64.checked_shl(u32::from(width).saturating_sub(p2m::PAGE_SHIFT))?))
    }

    /// Why a region of a device cannot be a guest's, as an error; memory and tables aside.
    pub(super) fn unfit(
        &self,
        device: &'m Device,
        region: &'m Region<'m>,
        limit: Option<(u8, u64)>,
    ) -> Option<AssignError> {
        let (sbdf, name) = (device.sbdf(), region.name());
        if let Some(why) = region.rejection() {
            return Some(AssignError::RejectedRegion { device: sbdf, region: name, why });
        }
        let mut what = None;
        self.control.for_each_bar(&mut |bar| {
            if what.is_none() {
                what = Window::Bar(bar).check(region.range(), self.policy.registry.devices_of(region));
            }
        });
        if let Some(what) = what {
            return Some(AssignError::Forbidden { device: sbdf, region: name, what });
        }
        let (width, end) = limit?;
        (region.range().end().raw() > end).then_some(AssignError::BeyondUnit {
            device: sbdf,
            region: name,
            width,
        })
    }
}

impl<'m, S: AddressSpace, H: RemappingHardware, C: DeviceControl> Policy<'m, S, H, C> {
    /// The domain whose tables the DMA of a device goes through, by its number: that of any of its
    /// requester's devices which has one. The hardware domain's for a requester that only bridges have.
    pub(super) fn holder_of(&self, presence: &Presence<'m, S>, device: &'m Device) -> Option<u32> {
        if device.is_bridge() {
            let user = presence.requesters.of(device)?.first_user.get();
            return match presence.devices.at(user) {
                Some(user) => self.holder_of(presence, user),
                None => self.domain(self.hardware_domain).map(|domain| domain.number),
            };
        }
        let grouping = self.grouping(presence);
        let mut owners = grouping.of_requester(device).map(Device::owner);
        owners.find_map(|owner| match owner {
            Owner::Domain(id) => self.domain(id).map(|domain| domain.number),
            Owner::Quarantine => None,
        })
    }
}
