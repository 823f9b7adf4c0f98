#![doc = include_str!("../README.md")]

mod api; // the functions of libcuda
mod client; // the test's side
mod config; // what a device is and how it runs
mod counters; // the simulator's counters by name
mod device; // memory, streams, findings
mod handle; // numbers in the clothes of pointers
mod host; // host memory by its address
mod report; // what launches did
mod status; // what calls answer
mod trace; // for `cargo xtask kernels`: launches written down, modules replaced
mod work; // what waits in streams and graphs

pub use client::{Error, SimDriver, TestDevice, device_for_tests, library_path};
pub use config::{Config, MOST_DEVICES};
pub use paring_ptx_sim::Rounding;
pub use report::{Record, Report};
pub use trace::{replacement, run};
