//! The walk of PCI on made-up buses: what is there, which ids its DMA carries, and who can reach whom.

mod acs;
mod ids;
mod isolation;
mod kit;
mod random;
mod walk;
