//! What the tests of this folder share.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part, and one that cannot go on has failed")]
pub(crate) mod odd;
pub(crate) mod sim;

use paring_cuda::{Allocation, Cuda};
use ptx_sim_driver::{Config, device_for_tests};

/// The backend on a simulated device of its own with all checkers, or on a real one where `PARING_REQUIRE_CUDA=1` asks for that. Buffers
/// have exactly their size, so that a step past an end is seen.
pub(crate) fn cuda() -> Cuda {
    cuda_with(&Config::default())
}

/// The same on a device of this configuration.
pub(crate) fn cuda_with(config: &Config) -> Cuda {
    let device = device_for_tests(config).unwrap();
    Cuda::with_allocation(device.ordinal, Allocation::Exact).unwrap()
}
