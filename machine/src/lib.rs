//! The QEMU machine that the hypervisor boots on: its devices, firmware table, command line, and reading its log.
