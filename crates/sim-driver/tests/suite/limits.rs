//! Launches that no device would take.
#![allow(unsafe_code, reason = "the driver API, as programs call it")]
use crate::support::{Function, Lab, address, code, launch, ramp};
use cudarc::driver::{result, sys};
use std::ffi::{CString, c_void};

const INVALID: u32 = sys::CUresult::CUDA_ERROR_INVALID_VALUE as u32;
const DYNAMIC: sys::CUfunction_attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

fn attribute(f: Function, which: sys::CUfunction_attribute) -> i32 {
    // SAFETY: the function's module is loaded.
    unsafe { result::function::get_function_attribute(f, which) }.unwrap()
}

#[test]
fn blocks_grids_and_shared_memory_have_limits() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(128)).unwrap();
    let y = lab.stream.alloc_zeros::<f32>(128).unwrap();
    let mut p = [address(&y), address(&x)];
    let bounded = lab.function("reverse_f32");
    assert_eq!(attribute(bounded, sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK), 128);
    assert_eq!(attribute(bounded, sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES), 512);
    assert_eq!(code(launch(bounded, &lab.stream, [1, 129], 0, &mut p)), INVALID);
    assert_eq!(code(launch(bounded, &lab.stream, [0, 128], 0, &mut p)), INVALID);
    assert_eq!(code(launch(bounded, &lab.stream, [1, 0], 0, &mut p)), INVALID);

    let dynamic = lab.function("reverse_dynamic_f32");
    assert_eq!(code(launch(dynamic, &lab.stream, [1, 1025], 8192, &mut p)), INVALID);
    assert_eq!(code(launch(dynamic, &lab.stream, [1, 128], 50_000, &mut p)), INVALID);
    // SAFETY: the function's module is loaded.
    let set = |bytes| unsafe { result::function::set_function_attribute(dynamic, DYNAMIC, bytes) };
    assert_eq!(code(set(166_913)), INVALID);
    set(60_000).unwrap();
    assert_eq!(attribute(dynamic, DYNAMIC), 60_000);
    launch(dynamic, &lab.stream, [1, 128], 50_000, &mut p).unwrap();
    assert_eq!(code(launch(dynamic, &lab.stream, [1, 128], 60_001, &mut p)), INVALID);
    assert_eq!(lab.stream.clone_dtoh(&y).unwrap()[0], 127.0);
    let report = lab.report();
    assert_eq!(report.launches, 1);
    assert!(report.findings.iter().any(|f| f.contains("129 threads")), "{:?}", report.findings);
}

#[test]
fn a_buffer_of_parameters_has_to_be_as_long_as_they_are() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(2)).unwrap();
    let y = lab.stream.alloc_zeros::<f32>(2).unwrap();
    let f = lab.function("scale_f32");
    let mut buffer = [address(&y), address(&x), u64::from(2.5_f32.to_bits()) << 32 | 2];
    let mut launch = |mut size: usize| {
        let mut extra: [*mut c_void; 5] = [
            std::ptr::without_provenance_mut(1),
            buffer.as_mut_ptr().cast(),
            std::ptr::without_provenance_mut(2),
            std::ptr::from_mut(&mut size).cast(),
            std::ptr::null_mut(),
        ];
        let on = lab.stream.cu_stream();
        let each = std::ptr::null_mut();
        // SAFETY: a list as the interface describes it; the buffer is longer than any size that is tried.
        unsafe { sys::cuLaunchKernel(f, 1, 1, 1, 32, 1, 1, 0, on, each, extra.as_mut_ptr()) }.result()
    };
    assert_eq!(code(launch(16)), INVALID);
    assert_eq!(code(launch(8)), INVALID);
    launch(24).unwrap();
    assert_eq!(lab.stream.clone_dtoh(&y).unwrap(), [0.0, 2.5]);
}

#[test]
fn occupancy_is_bound_by_threads_and_shared_memory() {
    let lab = Lab::new();
    let f = lab.function("reverse_dynamic_f32");
    // SAFETY: the function's module is loaded.
    let blocks =
        |threads, shared| unsafe { result::occupancy::max_active_block_per_multiprocessor(f, threads, shared) };
    assert_eq!(blocks(1024, 0).unwrap(), 2);
    assert_eq!(blocks(32, 0).unwrap(), 32);
    assert_eq!(blocks(128, 40_000).unwrap(), 4);
}

#[test]
fn what_is_not_there_is_not_found() {
    let lab = Lab::new();
    lab.context.bind_to_thread().unwrap();
    let text = CString::new(crate::support::PTX).unwrap();
    // SAFETY: a text with its zero byte.
    let module = unsafe { result::module::load_data(text.as_ptr().cast()) }.unwrap();
    // SAFETY: the module is loaded.
    assert_eq!(code(unsafe { result::module::get_function(module, CString::new("scale").unwrap()) }), 500);
    let text =
        CString::new(".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry f() { nonsense; }").unwrap();
    // SAFETY: a text with its zero byte.
    assert_eq!(code(unsafe { result::module::load_data(text.as_ptr().cast()) }), 218);
    let count = cudarc::driver::CudaContext::device_count().unwrap();
    assert_eq!(code(cudarc::driver::CudaContext::new(count as usize)), 101);
}
