//! What the policy asks of the PCI devices themselves.

use crate::platform::Sbdf;
use crate::region::forbidden::Bar;

/// Why a device's DMA could not be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotQuiesced {
    /// There is no way to reset it, and its bus mastering stays on.
    #[error("it cannot be reset, and its bus mastering does not go off")]
    StaysOn,
    /// It does not answer.
    #[error("it does not answer")]
    NoAnswer,
    /// Nobody here may touch it.
    #[error("its configuration is not the hypervisor's to change")]
    NotOurs,
}

/// How the hypervisor acts on PCI devices for the policy. Called under the ownership lock: it must not call
/// the policy.
pub trait DeviceControl {
    /// Switches the DMA of a device off while it waits in quarantine and a guest has memory that it could
    /// reach: by a reset, or by its bus master enable bit (PCI Local Bus Specification 3.0, 6.2.2). It stays
    /// off until [`resume`](Self::resume): who traps configuration space keeps others from setting the bit
    /// ([`Policy::is_quiesced`](crate::Policy::is_quiesced)).
    ///
    /// # Errors
    /// [`NotQuiesced`]; its DMA may go on then.
    fn quiesce(&mut self, device: Sbdf) -> Result<(), NotQuiesced>;

    /// The device has an owner again, who may switch its DMA on.
    fn resume(&mut self, device: Sbdf);

    /// Visits the base address registers of present devices that are decoded now, bridge windows left out.
    /// Their sizes are known from boot: nothing that is live is to be sized by writing to it.
    fn for_each_bar(&self, visit: &mut dyn FnMut(Bar));
}

impl<T: DeviceControl + ?Sized> DeviceControl for &mut T {
    fn quiesce(&mut self, device: Sbdf) -> Result<(), NotQuiesced> {
        (**self).quiesce(device)
    }

    fn resume(&mut self, device: Sbdf) {
        (**self).resume(device);
    }

    fn for_each_bar(&self, visit: &mut dyn FnMut(Bar)) {
        (**self).for_each_bar(visit);
    }
}
