//! A CUDA backend for a test: on a simulated device of its own, whose kernels are executed instruction by instruction with all checkers on,
//! or on device 0 of the real driver where `PARING_REQUIRE_CUDA=1` asks for it.
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_cuda::{Allocation, Cuda};
use ptx_sim_driver::{Config, Report, TestDevice, device_for_tests};

/// A backend, and the device that it runs on.
pub(crate) struct Opened {
    pub(crate) cuda: Cuda,
    pub(crate) device: TestDevice,
}

impl Opened {
    /// What happened on the simulated device since this was last asked; everything that is queued runs first. `None` on a real one.
    pub(crate) fn report(&self) -> Option<Report> {
        // An error is in the report.
        let _ = self.cuda.synchronize();
        self.device.simulated.map(|driver| driver.take_report(self.device.ordinal).unwrap())
    }

    /// Checks that nothing was found.
    pub(crate) fn clean(&self) {
        let findings = self.report().map_or(Vec::new(), |r| r.findings);
        assert!(findings.is_empty(), "{}", findings.join("\n"));
    }
}

/// A backend whose buffers are exactly as long as they are asked for, so that every step past an end is found.
pub(crate) fn open() -> Opened {
    open_with(&Config::default(), Allocation::Exact)
}

pub(crate) fn open_with(config: &Config, allocation: Allocation) -> Opened {
    let device = device_for_tests(config).unwrap();
    Opened { cuda: Cuda::with_allocation(device.ordinal, allocation).unwrap(), device }
}
