//! PCI configuration space of made-up devices and bridges.
