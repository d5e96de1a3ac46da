//! What the policy does to PCI devices: bus mastering switched off and on, and the BARs that are decoded.

use alloc::vec::Vec;

use pci_types::{CommandRegister, PciAddress, PciHeader};
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

    fn set_bus_master(&self, device: Sbdf, on: bool) {
        PciHeader::new(device.into()).update_command(self.config, |mut command| {
            command.set(CommandRegister::BUS_MASTER_ENABLE, on);
            command
        });
    }

    fn is_bus_master(&self, device: Sbdf) -> bool {
        let command = PciHeader::new(device.into()).command(self.config);
        command.contains(CommandRegister::BUS_MASTER_ENABLE)
    }
}

impl DeviceControl for Control {
    fn quiesce(&mut self, device: Sbdf) -> Result<(), NotQuiesced> {
        if self.config.read32(PciAddress::from(device), 0) == u32::MAX {
            return Err(NotQuiesced::NoAnswer);
        }
        let was_on = self.is_bus_master(device);
        self.set_bus_master(device, false);
        if self.is_bus_master(device) {
            return Err(NotQuiesced::StaysOn);
        }
        if was_on {
            self.mastering.push(device);
        }
        Ok(())
    }

    fn resume(&mut self, device: Sbdf) {
        if let Some(index) = self.mastering.iter().position(|other| *other == device) {
            self.mastering.swap_remove(index);
            self.set_bus_master(device, true);
        }
    }

    fn for_each_bar(&self, visit: &mut dyn FnMut(Bar)) {
        self.bars.iter().filter_map(|bar| bar.decoded(self.config)).for_each(visit);
    }
}
