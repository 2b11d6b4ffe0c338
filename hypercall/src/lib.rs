//! Typed Xen PV hypercalls.
#![cfg_attr(not(test), no_std)]
