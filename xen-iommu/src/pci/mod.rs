//! PCI as the policy needs it: which functions there are, the requester ids that their DMA may carry, and who
//! can reach whom beside the IOMMU.
//!
//! [`Topology`] is read once, knows which bridge leads to which bus, and describes a [`Function`] when asked.
//! What can change (capabilities that are switched on, virtual functions) is read anew each time. Nothing
//! that config space holds makes it loop, fail or miss its bounds.

pub mod acs;
mod acs_parts;
pub mod alias;
mod alias_quirks;
mod buses;
pub mod class;
pub(crate) mod config;
pub mod functions;
mod isolation;
pub mod port;
pub mod role;
pub mod walk;

pub use acs::{Controls, Enabled, PchPeers};
pub(crate) use alias::MAX_IDS;
pub use alias::RequesterIds;
pub use buses::{Bridge, BusRange};
pub use class::{DeviceClass, RelaxError};
pub use functions::{FunctionIds, enabled_virtual_functions, phantom_functions, virtual_functions};
pub use port::PortType;
pub use role::Role;
pub use walk::{Function, Topology};
