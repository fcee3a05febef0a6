//! A device that does anything at all. `cargo fuzz run device` in `driver`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|script: &[u8]| ringlet_driver::fake::torture(script));
