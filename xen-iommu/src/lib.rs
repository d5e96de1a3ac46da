//! Reserved-memory policy for PCI passthrough: regions, groups, device ownership, Xen's hypercalls and a VT-d driver.
#![no_std]
