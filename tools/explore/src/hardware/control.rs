//! Devices whose DMA can be switched off.

use xen_iommu::{DeviceControl, NotQuiesced, Sbdf};

use super::{Failure, Machine, Wrong};

/// The policy's hand on the devices of a machine.
#[derive(Clone, Copy)]
pub struct Control(pub &'static Machine);

impl Control {
    fn set(&self, device: Sbdf, off: bool) {
        let machine = self.0;
        let Some(index) = machine.board.device_at(device) else { return };
        let (bit, quiesced) = (1 << index, machine.quiesced.get());
        if !off && quiesced & bit == 0 {
            machine.wrong(Wrong::ResumedTwice);
        }
        machine.quiesced.set(if off { quiesced | bit } else { quiesced & !bit });
        machine.observe();
    }
}

impl DeviceControl for Control {
    fn quiesce(&mut self, device: Sbdf) -> Result<(), NotQuiesced> {
        let number = {
            let mut seen = self.0.seen.borrow_mut();
            seen.quiesces += 1;
            seen.quiesces - 1
        };
        if self.0.failure.get() == Failure::Quiesce(number) {
            return Err(NotQuiesced::StaysOn);
        }
        self.set(device, true);
        Ok(())
    }

    fn resume(&mut self, device: Sbdf) {
        self.set(device, false);
    }

    fn for_each_bar(&self, _: &mut dyn FnMut(xen_iommu::region::forbidden::Bar)) {}
}
