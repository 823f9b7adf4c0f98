//! Memory: what there is, what is used, what is freed too early.
#![allow(unsafe_code, reason = "the driver API, as programs call it")]
use crate::support::{Lab, address, code, ramp};
use cudarc::driver::{DriverError, result, sys};
use ptx_sim_driver::Config;

#[test]
fn memory_ends() {
    let mut config = Config::default();
    config.memory = 1 << 20;
    let lab = Lab::with(&config);
    assert_eq!(lab.context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
    let first = lab.stream.alloc_zeros::<u8>(700_000).unwrap();
    let second = lab.stream.alloc_zeros::<u8>(700_000);
    assert_eq!(second.unwrap_err(), DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY));
    // What was given back in the stream's order is there again.
    drop(first);
    let third = lab.stream.alloc_zeros::<u8>(700_000).unwrap();
    assert_eq!(lab.context.mem_get_info().unwrap().0, (1 << 20) - 700_000);
    drop(third);
}

#[test]
fn memory_freed_in_the_order_of_its_stream_may_still_be_used_there() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(4)).unwrap();
    let y = lab.stream.alloc_zeros::<f32>(4).unwrap();
    lab.scale(&lab.stream, &y, &x, 4, 3.0);
    drop(x);
    assert_eq!(lab.stream.clone_dtoh(&y).unwrap(), [0.0, 3.0, 6.0, 9.0]);
}

#[test]
fn freeing_waits_for_the_device_unless_the_memory_is_a_pools() {
    let lab = Lab::new();
    let y = lab.stream.alloc_zeros::<f32>(4).unwrap();
    // SAFETY: freed below, once.
    let x = unsafe { result::malloc_sync(16) }.unwrap();
    // SAFETY: 16 bytes at both ends.
    unsafe { result::memset_d8_async(x, 0, 16, lab.stream.cu_stream()) }.unwrap();
    // SAFETY: as above.
    unsafe { result::memcpy_dtod_async(address(&y), x, 16, lab.stream.cu_stream()) }.unwrap();
    // SAFETY: made above.
    unsafe { result::free_sync(x) }.unwrap();
    assert_eq!(lab.stream.clone_dtoh(&y).unwrap(), [0.0; 4]);

    // SAFETY: freed below, once.
    let x = unsafe { result::malloc_async(lab.stream.cu_stream(), 16) }.unwrap();
    // SAFETY: 16 bytes at both ends.
    unsafe { result::memcpy_dtod_async(address(&y), x, 16, lab.stream.cu_stream()) }.unwrap();
    // SAFETY: made above; that it is freed too early is the point.
    unsafe { result::free_sync(x) }.unwrap();
    assert_eq!(code(lab.stream.synchronize()), 700);
    assert!(lab.report().findings[0].contains("no longer there"));
}

#[test]
fn a_copy_past_an_end_is_refused() {
    let lab = Lab::new();
    let x = lab.stream.clone_htod(&ramp(4)).unwrap();
    let mut out = [0.0_f32; 5];
    // SAFETY: `out` is long enough; the driver refuses the source.
    let copied = unsafe { result::memcpy_dtoh_async(&mut out, address(&x), lab.stream.cu_stream()) };
    assert_eq!(code(copied), 1);
    // SAFETY: the driver refuses it.
    assert_eq!(code(unsafe { result::free_sync(address(&x) + 4) }), 1);
    // Nothing has failed for good.
    assert_eq!(lab.stream.clone_dtoh(&x).unwrap(), ramp(4));
}

#[test]
fn memory_is_set_in_units_of_one_two_and_four_bytes() {
    let lab = Lab::new();
    let x = lab.stream.alloc_zeros::<u32>(3).unwrap();
    let start = {
        use cudarc::driver::DevicePtr;
        x.device_ptr(&lab.stream).0
    };
    let on = lab.stream.cu_stream();
    // SAFETY: within twelve bytes at `start`.
    unsafe {
        sys::cuMemsetD32Async(start, 0x0102_0304, 3, on).result().unwrap();
        sys::cuMemsetD16Async(start + 4, 0xabcd, 2, on).result().unwrap();
        result::memset_d8_async(start + 8, 0xff, 3, on).unwrap();
    }
    assert_eq!(lab.stream.clone_dtoh(&x).unwrap(), [0x0102_0304, 0xabcd_abcd, 0x01ff_ffff]);
    // SAFETY: refused: not aligned.
    assert_eq!(code(unsafe { sys::cuMemsetD32Async(start + 2, 0, 1, on) }.result()), 1);
}
