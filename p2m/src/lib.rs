//! Guest-physical to machine page tables with 1:1 mappings as transactions.
#![no_std]
