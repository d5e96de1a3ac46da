//! Drivers for the emulated devices that master the bus.

pub mod edu;
mod error;
pub mod monitor;
pub mod nvme;
mod ports;
pub mod uhci;

pub use error::DeviceError;
