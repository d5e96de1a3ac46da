//! PCI as the policy needs it: a function's configuration space, its class, and the requester ids that its DMA may carry.

pub(crate) mod alias;
pub(crate) mod class;
pub(crate) mod config;
pub(crate) mod functions;
