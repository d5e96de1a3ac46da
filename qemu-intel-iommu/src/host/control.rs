//! What the policy does to PCI devices: bus mastering switched off and on, and the BARs that are decoded.

use alloc::vec::Vec;

use pci_types::PciAddress;
use xen_iommu::region::forbidden::Bar;
use xen_iommu::{DeviceControl, NotQuiesced, Sbdf};

use crate::pci::config::Config;
use crate::pci::{KnownBar, Pci};

/// Acts on devices by their configuration space.
pub struct Control {
    config: &'static Config,
    bars: Vec<KnownBar>,
    /// Those switched off that mastered the bus before.
    mastering: Vec<Sbdf>,
}

impl Control {
    /// Of the devices that were found so far.
    pub(super) fn new(pci: &Pci) -> Self {
        Self { config: pci.config(), bars: pci.bars().to_vec(), mastering: Vec::new() }
    }

    /// Learns which devices have come and gone.
    pub fn learn(&mut self, pci: &Pci) {
        self.bars = pci.bars().to_vec();
        self.mastering.retain(|device| pci.function((*device).into()).is_ok());
    }
}

impl DeviceControl for Control {
    fn quiesce(&mut self, device: Sbdf) -> Result<(), NotQuiesced> {
        if self.config.read32(PciAddress::from(device), 0) == u32::MAX {
            return Err(NotQuiesced::NoAnswer);
        }
        let was_on = self.config.is_bus_master(device.into());
        self.config.set_bus_master(device.into(), false);
        if self.config.is_bus_master(device.into()) {
            return Err(NotQuiesced::StaysOn);
        }
        if was_on {
            self.mastering.push(device);
        }
        Ok(())
    }

    /// As it was before: a driver that had let it master the bus finds it so.
    fn resume(&mut self, device: Sbdf) {
        if let Some(index) = self.mastering.iter().position(|other| *other == device) {
            self.mastering.swap_remove(index);
            self.config.set_bus_master(device.into(), true);
        }
    }

    fn for_each_bar(&self, visit: &mut dyn FnMut(Bar)) {
        self.bars.iter().filter_map(|bar| bar.decoded(self.config)).for_each(visit);
    }
}
