//! A device of its own for each test, and a few kernels (`kernels.cu`, compiled by NVRTC 12.6).
#![allow(unsafe_code, reason = "the driver API, as programs call it")]
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DriverError, result, sys};
use ptx_sim_driver::{Config, Report, SimDriver};
use std::{
    ffi::{CString, c_void},
    sync::Arc,
};

/// `scale_f32`: `y[i] = factor * x[i]` for `i < n`. `scale_one_more_f32` does one more than `n`. `reverse_f32` turns a block of at most 128
/// around in static shared memory, `reverse_dynamic_f32` one of any size in dynamic shared memory.
pub(crate) const PTX: &str = include_str!("kernels.ptx");

pub(crate) type Function = sys::CUfunction;

/// A device with a stream.
pub(crate) struct Lab {
    pub(crate) driver: &'static SimDriver,
    pub(crate) ordinal: usize,
    pub(crate) context: Arc<CudaContext>,
    pub(crate) stream: Arc<CudaStream>,
    module: sys::CUmodule,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        let mut config = Config::default();
        config.record = true;
        Lab::with(&config)
    }

    pub(crate) fn with(config: &Config) -> Lab {
        let driver = SimDriver::load().unwrap();
        let ordinal = driver.device(config).unwrap();
        let context = CudaContext::new(ordinal).unwrap();
        // SAFETY: the tests order the use of every slice themselves, or show what happens otherwise.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let text = CString::new(PTX).unwrap();
        // SAFETY: a text with its zero byte.
        let module = unsafe { result::module::load_data(text.as_ptr().cast()) }.unwrap();
        Lab { driver, ordinal, context, stream, module }
    }

    pub(crate) fn function(&self, name: &str) -> Function {
        self.context.bind_to_thread().unwrap();
        // SAFETY: the module stays loaded as long as its context.
        unsafe { result::module::get_function(self.module, CString::new(name).unwrap()) }.unwrap()
    }

    /// `y = factor * x` on a stream.
    pub(crate) fn scale(&self, on: &CudaStream, y: &CudaSlice<f32>, x: &CudaSlice<f32>, n: u32, factor: f32) {
        let f = self.function("scale_f32");
        launch(f, on, [n.div_ceil(128), 128], 0, &mut [address(y), address(x), n.into(), factor.to_bits().into()])
            .unwrap();
    }

    pub(crate) fn report(&self) -> Report {
        self.driver.take_report(self.ordinal).unwrap()
    }
}

/// Where a slice begins.
pub(crate) fn address(slice: &CudaSlice<f32>) -> u64 {
    slice.device_ptr(slice.stream()).0
}

/// Blocks and threads along x; every parameter in the low bytes of a `u64`.
pub(crate) fn launch(
    function: Function,
    on: &CudaStream,
    [blocks, threads]: [u32; 2],
    shared: u32,
    parameters: &mut [u64],
) -> Result<(), DriverError> {
    on.context().bind_to_thread()?;
    let mut pointers: Vec<*mut c_void> = parameters.iter_mut().map(|p| std::ptr::from_mut(p).cast()).collect();
    // SAFETY: a pointer to eight bytes for every parameter; no parameter is longer.
    unsafe { result::launch_kernel(function, (blocks, 1, 1), (threads, 1, 1), shared, on.cu_stream(), &mut pointers) }
}

/// The number of a driver's error.
pub(crate) fn code<T>(result: Result<T, DriverError>) -> u32 {
    result.err().map_or(0, |e| e.0 as u32)
}

/// `0, 1, 2, …`
pub(crate) fn ramp(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32).collect()
}
