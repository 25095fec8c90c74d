//! weir: a network callout driver for Windows.
#![no_std]
