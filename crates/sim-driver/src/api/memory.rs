//! Memory of devices and page-locked memory of the host; copies and memsets, which run when their stream is waited for.
//!
//! Of pageable host memory a copy takes its bytes at the call, and one to it waits for its stream: real drivers stage such copies, and host
//! code relies on it. Copies from and to page-locked memory reach it when they run.
use super::{Out, current, driver_calls, used_devices, with_current, with_device, with_stream};
use crate::{
    device::Device,
    handle::Handle,
    host,
    status::{Result, Status},
    work::{HostSource, Point, Work},
};
use std::ffi::c_void;

/// Refuses a range that is not in one allocation.
fn want_range(d: &mut Device, call: &str, address: u64, bytes: usize) -> Result {
    match d.allocation(address, bytes) {
        Some(_) => Ok(()),
        None => Err(d.refuse(&format!("{call}: {bytes} bytes at {address:#x} are not in one allocation"))),
    }
}

fn is_capturing(d: &mut Device, stream: u32) -> Result<bool> {
    Ok(d.stream(stream)?.capture.is_some())
}

fn host_to_device(stream: Handle, to: u64, from: *const c_void, bytes: usize) -> Result {
    with_stream(stream, |d, index| {
        if bytes == 0 {
            return Ok(());
        }
        want_range(d, "copy to the device", to, bytes)?;
        let at = from.expose_provenance();
        if at == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let lazy = host::is_pinned(at, bytes) || is_capturing(d, index)?;
        let from = match lazy {
            true => HostSource::Lazy(at, bytes),
            false => HostSource::Staged(host::bytes(at, bytes).into()),
        };
        d.submit(index, Work::HostToDevice { to, from })
    })
}

fn device_to_host(stream: Handle, to: *mut c_void, from: u64, bytes: usize) -> Result {
    with_stream(stream, |d, index| {
        if bytes == 0 {
            return Ok(());
        }
        want_range(d, "copy to the host", from, bytes)?;
        let to = to.expose_provenance();
        if to == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let lazy = host::is_pinned(to, bytes) || is_capturing(d, index)?;
        d.submit(index, Work::DeviceToHost { to, from, bytes })?;
        match lazy {
            true => Ok(()),
            false => d.synchronize_stream(index),
        }
    })
}

fn device_to_device(stream: Handle, to: u64, from: u64, bytes: usize) -> Result {
    with_stream(stream, |d, index| {
        if bytes == 0 {
            return Ok(());
        }
        want_range(d, "copy from the device", from, bytes)?;
        want_range(d, "copy to the device", to, bytes)?;
        d.submit(index, Work::DeviceToDevice { to, from, bytes })
    })
}

fn set(stream: Handle, to: u64, pattern: [u8; 4], width: usize, count: usize) -> Result {
    let bytes = count.checked_mul(width).ok_or(Status::INVALID_VALUE)?;
    with_stream(stream, |d, index| {
        if bytes == 0 {
            return Ok(());
        }
        if !to.is_multiple_of(width as u64) {
            return Err(d.refuse(&format!("memset: {to:#x} is no multiple of {width}")));
        }
        want_range(d, "memset", to, bytes)?;
        d.submit(index, Work::Set { to, pattern, width, bytes })
    })
}

fn wide(value: u16) -> [u8; 4] {
    let [a, b] = value.to_le_bytes();
    [a, b, 0, 0]
}

/// Calls that block do so on the legacy stream.
const BLOCKING: Handle = Handle(std::ptr::null_mut());

fn wait(copied: Result) -> Result {
    copied?;
    with_stream(BLOCKING, |d, index| d.synchronize_stream(index))
}

fn allocate_pinned(out: Out<*mut c_void>, bytes: usize) -> Result {
    with_current(|_| Ok(()))?;
    if bytes == 0 {
        return out.set(std::ptr::null_mut());
    }
    out.set(host::allocate_pinned(bytes).ok_or(Status::OUT_OF_MEMORY)?)
}

driver_calls! {
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let (used, all) = with_current(|d| Ok((d.used, d.config.memory)))?;
        free.offer(all.saturating_sub(used));
        total.offer(all);
        Ok(())
    }

    fn cuMemAlloc_v2(out: Out<u64>, bytes: usize) {
        out.set(with_current(|d| {
            d.check_no_capture()?;
            d.allocate(bytes, false)
        })?)
    }

    /// Waits for the device first, as drivers do for memory of `cuMemAlloc`. Memory of a pool is freed at once: work that is queued and
    /// uses it is an error.
    fn cuMemFree_v2(address: u64) {
        if address == 0 {
            return Ok(());
        }
        with_current(|d| {
            d.check_no_capture()?;
            match d.allocations.get(&address) {
                None => Err(d.refuse(&format!("free: nothing is allocated at {address:#x}"))),
                Some(a) => {
                    if !a.pooled {
                        d.synchronize()?;
                    }
                    d.free_now(address);
                    Ok(())
                }
            }
        })
    }

    fn cuMemAllocAsync(out: Out<u64>, bytes: usize, stream: Handle) {
        out.set(with_stream(stream, |d, index| match d.stream(index)?.capture.clone() {
            // Allocation nodes are not built.
            Some(joined) => Err(d.break_capture(joined.capture)),
            None => d.allocate(bytes, true),
        })?)
    }

    fn cuMemAllocFromPoolAsync(out: Out<u64>, bytes: usize, _pool: Handle, stream: Handle) {
        match cuMemAllocAsync(out, bytes, stream) {
            Status::SUCCESS => Ok(()),
            status => Err(status),
        }
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        if address == 0 {
            return Ok(());
        }
        with_stream(stream, |d, index| {
            if !d.allocations.contains_key(&address) {
                return Err(d.refuse(&format!("free: nothing is allocated at {address:#x}")));
            }
            d.submit(index, Work::Free { address })
        })
    }

    fn cuMemAllocManaged(_out: Out<u64>, _bytes: usize, _flags: u32) {
        Err(Status::NOT_SUPPORTED)
    }

    fn cuMemHostAlloc(out: Out<*mut c_void>, bytes: usize, _flags: u32) {
        allocate_pinned(out, bytes)
    }

    fn cuMemAllocHost_v2(out: Out<*mut c_void>, bytes: usize) {
        allocate_pinned(out, bytes)
    }

    /// Work that still uses the memory is an error, and will not run.
    fn cuMemFreeHost(start: *mut c_void) {
        let at = start.addr();
        if at == 0 {
            return Ok(());
        }
        let bytes = host::pinned_bytes(at).ok_or(Status::INVALID_VALUE)?;
        for ordinal in used_devices() {
            with_device(ordinal, |d| {
                let used = d.streams.values().flat_map(|s| &s.queue).any(|t| t.work.uses_host(at, at + bytes));
                if used {
                    d.fail("page-locked memory was freed while a queued copy uses it");
                }
                Ok(())
            })?;
        }
        host::free_pinned(at);
        Ok(())
    }

    fn cuMemHostGetDevicePointer_v2(_out: Out<u64>, _start: *mut c_void, _flags: u32) {
        Err(Status::NOT_SUPPORTED)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        wait(host_to_device(BLOCKING, to, from, bytes))
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) {
        host_to_device(stream, to, from, bytes)
    }

    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        wait(device_to_host(BLOCKING, to, from, bytes))
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) {
        device_to_host(stream, to, from, bytes)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        wait(device_to_device(BLOCKING, to, from, bytes))
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        device_to_device(stream, to, from, bytes)
    }

    /// Both devices finish what they have first: devices run one at a time here.
    fn cuMemcpyPeerAsync(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle) {
        let (to_device, _) = to_context.of(crate::handle::Kind::Context)?;
        let (from_device, _) = from_context.of(crate::handle::Kind::Context)?;
        if to_device == from_device {
            return device_to_device(stream, to, from, bytes);
        }
        let (ordinal, index) = stream.stream(current())?;
        with_device(ordinal, |d| {
            d.check()?;
            d.run_to(Point { stream: index, sequence: u64::MAX });
            d.check()
        })?;
        let mut all = vec![0; bytes];
        with_device(from_device, |d| {
            want_range(d, "copy between devices", from, bytes)?;
            d.memory.read(from, &mut all).map_err(|e| d.refuse(&e.to_string()))
        })?;
        with_device(to_device, |d| {
            want_range(d, "copy between devices", to, bytes)?;
            d.memory.write(to, &all).map_err(|e| d.refuse(&e.to_string()))
        })
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        wait(set(BLOCKING, to, [value, 0, 0, 0], 1, count))
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        set(stream, to, [value, 0, 0, 0], 1, count)
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        wait(set(BLOCKING, to, wide(value), 2, count))
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) {
        set(stream, to, wide(value), 2, count)
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        wait(set(BLOCKING, to, value.to_le_bytes(), 4, count))
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) {
        set(stream, to, value.to_le_bytes(), 4, count)
    }
}
