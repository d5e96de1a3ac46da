//! A guest as it is asked for: on the command line of `rdm plan`, or in an xl.cfg.

pub mod config;
pub mod syntax;
pub mod words;

use acpi_dmar::pci_types::PciAddress;
use p2m::Gfn;
use rdm_layout::xen::{DIRECT, HVMLOADER, OVMF, SEABIOS, Strategy, libxl};
use rdm_layout::{Bar, Firmware, Policy};

/// The firmware that a guest starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestFirmware {
    /// SeaBIOS or ROMBIOS.
    Bios,
    /// OVMF.
    Ovmf,
    /// None: a kernel that is booted directly (PVH).
    Direct,
}

impl GuestFirmware {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bios => "BIOS",
            Self::Ovmf => "OVMF",
            Self::Direct => "no firmware",
        }
    }

    /// What it needs: of a builder that knows the plan, or under unmodified hvmloader, which brings either.
    #[must_use]
    pub const fn needs(self, hvmloader: bool) -> Firmware<'static> {
        match self {
            Self::Direct => DIRECT,
            _ if hvmloader => HVMLOADER,
            Self::Bios => SEABIOS,
            Self::Ovmf => OVMF,
        }
    }
}

/// A device that a guest gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Where it is on the host.
    pub address: PciAddress,
    /// Its own `rdm_policy`; without one it has the guest's.
    pub policy: Option<Policy>,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Its memory, in frames.
    pub memory: u64,
    /// Its devices, each once.
    pub devices: Vec<Assigned>,
    /// Which of the host's regions count.
    pub strategy: Strategy,
    /// The policy of regions whose devices have none of their own.
    pub policy: Policy,
    /// What it starts with.
    pub firmware: GuestFirmware,
    /// BARs beside those of its devices: of emulated ones.
    pub bars: Vec<Bar>,
    /// For toolstacks that know two ends of RAM, and unmodified hvmloader.
    pub two_range: bool,
    /// Where the hole for BARs below 4 GiB starts.
    pub hole: Gfn,
    /// What is to be known of how it was asked for.
    pub remarks: Vec<String>,
    /// `rdm_mem_boundary`: libxl moves RAM out of the way above this alone.
    pub boundary: Gfn,
}

impl Guest {
    /// A guest of `memory` frames without a device.
    #[must_use]
    pub const fn new(memory: u64) -> Self {
        Self {
            memory,
            devices: Vec::new(),
            strategy: Strategy::Devices,
            policy: Policy::Strict,
            firmware: GuestFirmware::Bios,
            bars: Vec::new(),
            remarks: Vec::new(),
            two_range: false,
            hole: libxl::HOLE,
            boundary: libxl::BOUNDARY,
        }
    }

    /// The policy that counts for a device.
    #[must_use]
    pub fn policy_of(&self, device: &Assigned) -> Policy {
        device.policy.unwrap_or(self.policy)
    }

    /// Gives it another device.
    ///
    /// # Errors
    /// It has it already.
    pub fn add(&mut self, device: Assigned) -> Result<(), String> {
        if self.devices.iter().any(|other| other.address == device.address) {
            return Err(format!("{} is named twice", device.address));
        }
        self.devices.push(device);
        Ok(())
    }
}

/// The word for a policy, as in `rdm_policy=`.
#[must_use]
pub const fn policy_word(policy: Policy) -> &'static str {
    match policy {
        Policy::Strict => "strict",
        Policy::Relaxed => "relaxed",
        Policy::Private => "private",
    }
}
