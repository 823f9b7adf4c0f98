//! Devices and their primary contexts. A context is its device: there are no others.
use super::{CURRENT, Out, current, driver_calls, put_text, visible, with_current, with_device};
use crate::{
    handle::{Handle, Kind},
    status::{Result, Status},
};
use std::ffi::{c_char, c_void};

/// The device's name: no time that it reports is a GPU's.
const NAME: &str = "ptx-sim (CPU stand-in)";
/// Shared memory that a block can have after opting in: 163 KiB, as on sm_80.
pub(super) const SHARED_OPTIN: usize = 166_912;
/// Shared memory that a block can have otherwise.
pub(super) const SHARED_DEFAULT: usize = 49_152;
/// Shared memory of a multiprocessor: 164 KiB, as on sm_80.
pub(super) const SHARED_PROCESSOR: usize = 167_936;
/// Threads of a block.
pub(super) const THREADS: usize = 1024;

fn ordinal(device: i32) -> Result<usize> {
    usize::try_from(device).ok().filter(|&d| d < visible()).ok_or(Status::INVALID_DEVICE)
}

fn context(device: usize) -> Handle {
    Handle::new(Kind::Context, device, 1)
}

/// The numbers are `CUdevice_attribute`; the values an A100's (CUDA C++ Programming Guide, "Technical Specifications per Compute
/// Capability", 8.0), where it has any.
fn attribute(attribute: i32, processors: u32) -> i32 {
    match attribute {
        1 | 2 => 1024, // block, x and y
        3 => 64,       // z
        4 => THREADS as i32,
        5 => i32::MAX,   // grid, x
        6 | 7 => 65_535, // grid, y and z
        8 => SHARED_DEFAULT as i32,
        9 => 65_536,       // constant memory
        10 => 32,          // warp
        12 | 82 => 65_536, // registers of a block, of a multiprocessor
        13 => 1_410_000,   // clock, kHz
        16 => processors as i32,
        31 => 1,         // concurrent kernels
        36 => 1_215_000, // memory clock, kHz
        37 => 5120,      // bus, bits
        38 => 40 << 20,  // second-level cache
        39 => 2048,      // threads of a multiprocessor
        40 => 3,         // copy engines
        41 => 1,         // unified addresses
        75 => 8,         // compute capability
        76 => 0,
        81 => SHARED_PROCESSOR as i32,
        97 => SHARED_OPTIN as i32,
        106 => 32,   // blocks of a multiprocessor
        111 => 1024, // shared memory that the system takes of a block
        115 => 1,    // memory pools
        _ => 0,
    }
}

driver_calls! {
    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(visible() as i32)
    }

    fn cuDeviceGet(device: Out<i32>, number: i32) {
        ordinal(number)?;
        device.set(number)
    }

    fn cuDeviceGetName(name: *mut c_char, size: i32, device: i32) {
        ordinal(device)?;
        put_text(name, usize::try_from(size).unwrap_or(0), NAME)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        bytes.set(with_device(ordinal(device)?, |d| Ok(d.config.memory))?)
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) {
        let mut value = *b"ptx-sim-cpu-0000";
        value[12..].copy_from_slice(&(ordinal(device)? as u32).to_be_bytes());
        uuid.set(value)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) {
        match cuDeviceGetUuid(uuid, device) {
            Status::SUCCESS => Ok(()),
            status => Err(status),
        }
    }

    fn cuDeviceGetAttribute(value: Out<i32>, which: i32, device: i32) {
        let processors = with_device(ordinal(device)?, |d| Ok(d.config.processors))?;
        value.set(attribute(which, processors))
    }

    fn cuDevicePrimaryCtxRetain(out: Out<Handle>, device: i32) {
        let device = ordinal(device)?;
        with_device(device, |d| {
            // A context that has failed cannot be had again before everybody has let it go.
            d.check()?;
            d.retained += 1;
            Ok(())
        })?;
        out.set(context(device))
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        with_device(ordinal(device)?, |d| {
            d.retained = d.retained.checked_sub(1).ok_or(Status::INVALID_CONTEXT)?;
            if d.retained == 0 {
                d.reset();
            }
            Ok(())
        })
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        with_device(ordinal(device)?, |d| {
            let retained = d.retained;
            d.reset();
            d.retained = retained;
            Ok(())
        })
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let retained = with_device(ordinal(device)?, |d| Ok(d.retained))?;
        flags.offer(0);
        active.set(i32::from(retained > 0))
    }

    fn cuCtxGetCurrent(out: Out<Handle>) {
        out.set(current().map_or(Handle(std::ptr::null_mut()), context))
    }

    fn cuCtxSetCurrent(handle: Handle) {
        if handle.is_null() {
            CURRENT.set(None);
            return Ok(());
        }
        let (device, _) = handle.of(Kind::Context).map_err(|_| Status::INVALID_CONTEXT)?;
        if with_device(device, |d| Ok(d.retained))? == 0 {
            return Err(Status::INVALID_CONTEXT);
        }
        CURRENT.set(Some(device));
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        device.set(current()? as i32)
    }

    fn cuCtxSynchronize() {
        with_current(|d| {
            d.check_no_capture()?;
            d.synchronize()
        })
    }

    fn cuCtxSetFlags(_flags: u32) {
        current().map(drop)
    }

    fn cuCtxGetLimit(value: Out<usize>, _limit: i32) {
        current()?;
        value.set(0)
    }

    fn cuCtxSetLimit(_limit: i32, _value: usize) {
        current().map(drop)
    }

    fn cuCtxGetCacheConfig(config: Out<i32>) {
        current()?;
        config.set(0)
    }

    fn cuCtxSetCacheConfig(_config: i32) {
        current().map(drop)
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.offer(0);
        greatest.offer(-5);
        Ok(())
    }

    /// Contexts beside the primary one are not made.
    fn cuCtxCreate_v4(_context: Out<Handle>, _parameters: *mut c_void, _flags: u32, _device: i32) {
        Err(Status::NOT_SUPPORTED)
    }

    fn cuCtxDestroy_v2(_context: Handle) {
        Err(Status::INVALID_CONTEXT)
    }
}
