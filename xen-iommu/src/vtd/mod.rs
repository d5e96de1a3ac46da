//! The driver of Intel VT-d remapping hardware.
