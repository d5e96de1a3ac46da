//! Zero-copy reader of the ACPI DMAR table (Intel VT-d), with device-scope resolution.
#![no_std]
