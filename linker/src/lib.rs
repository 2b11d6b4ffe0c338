//! The linker script.
#![no_std]
