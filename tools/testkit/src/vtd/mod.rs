//! A remapping unit in software, register by register.
