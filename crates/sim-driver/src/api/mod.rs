//! The functions of `libcuda`, by name. What they take from C is wrapped in types that know how to be read and written ([`Out`], [`Text`]),
//! so that the bodies are safe code; what they answer is a [`Status`].
#![allow(unsafe_code, reason = "an interface for C: pointers come from the caller, names are exported")]
#![allow(non_snake_case, reason = "the names are NVIDIA's")]

mod context;
mod control;
mod event;
mod function;
mod graph;
mod launch;
mod memory;
mod module;
mod occupancy;
mod pool;
mod stream;

use crate::{
    device::Device,
    handle::{Handle, Kind},
    status::{Result, Status},
};
use std::{
    cell::Cell,
    ffi::{CStr, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

/// Declares functions of the driver: exported under their names, and answering [`Status::UNKNOWN`] where they would panic.
macro_rules! driver_calls {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)+) => {
        $(
            $(#[$doc])*
            // SAFETY: the names are those of libcuda, which this library is loaded instead of, or begin with `ptx_sim_`.
            #[unsafe(no_mangle)]
            extern "C" fn $name($($argument: $type),*) -> $crate::status::Status {
                $crate::api::answer(move || $body)
            }
        )+
    };
}
use driver_calls;

/// Runs a call.
fn answer(call: impl FnOnce() -> Result) -> Status {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Status::SUCCESS,
        Ok(Err(status)) => status,
        Err(_) => Status::UNKNOWN,
    }
}

/// A pointer to where an answer goes. Only C makes them, and by the contract of the interface they are null, or valid to write a `T` to.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Out<T>(*mut T);

impl<T> Out<T> {
    /// # Errors
    /// [`Status::INVALID_VALUE`] for null.
    fn set(self, value: T) -> Result {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, so valid to write, see above. `T` needs no drop: numbers and handles.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// The same where null means that the caller does not want to know.
    fn offer(self, value: T) {
        let _ = self.set(value);
    }
}

/// A text from C: null, or valid up to its zero byte while the call lasts.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Text(*const c_char);

impl Text {
    fn get<'a>(self) -> Result<&'a CStr> {
        if self.0.is_null() {
            return Err(Status::INVALID_VALUE);
        }
        // SAFETY: not null, so a text, see above; no caller keeps it past the call.
        Ok(unsafe { CStr::from_ptr(self.0) })
    }
}

/// Copies a text with its zero byte into a buffer of C, cut to its size.
fn put_text(to: *mut c_char, size: usize, text: &str) -> Result {
    let Some(room) = size.checked_sub(1).filter(|_| !to.is_null()) else {
        return Err(Status::INVALID_VALUE);
    };
    let n = text.len().min(room);
    // SAFETY: `to` begins `size` writable bytes (contract of the interface), of which `n + 1 <= size` are written; `text` is ours.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast::<c_char>(), to, n);
        to.add(n).write(0);
    }
    Ok(())
}

/// All devices that were ever asked for; programs see the first `visible`.
struct Devices {
    visible: usize,
    all: Vec<Arc<Mutex<Device>>>,
}

static DEVICES: RwLock<Devices> = RwLock::new(Devices { visible: 1, all: Vec::new() });

thread_local! {
    /// The device whose context is current on this thread.
    static CURRENT: Cell<Option<usize>> = const { Cell::new(None) };
}

fn visible() -> usize {
    DEVICES.read().unwrap_or_else(PoisonError::into_inner).visible
}

fn set_visible(n: usize) {
    DEVICES.write().unwrap_or_else(PoisonError::into_inner).visible = n;
}

/// Calls `f` with a device locked.
fn with_device<T>(ordinal: usize, f: impl FnOnce(&mut Device) -> Result<T>) -> Result<T> {
    let known = DEVICES.read().unwrap_or_else(PoisonError::into_inner);
    let found = known.all.get(ordinal).map(Arc::clone);
    let (found, visible) = (found, known.visible);
    drop(known);
    let device = match found {
        Some(device) => device,
        None if ordinal < visible => {
            let mut devices = DEVICES.write().unwrap_or_else(PoisonError::into_inner);
            while devices.all.len() <= ordinal {
                devices.all.push(Arc::default());
            }
            Arc::clone(&devices.all[ordinal])
        }
        None => return Err(Status::INVALID_DEVICE),
    };
    let mut device: MutexGuard<'_, Device> = device.lock().unwrap_or_else(PoisonError::into_inner);
    f(&mut device)
}

/// The ordinals of the devices that have been used.
fn used_devices() -> std::ops::Range<usize> {
    0..DEVICES.read().unwrap_or_else(PoisonError::into_inner).all.len()
}

/// The device whose context is current.
fn current() -> Result<usize> {
    CURRENT.get().ok_or(Status::INVALID_CONTEXT)
}

/// Calls `f` with the current device locked, unless it has failed.
fn with_current<T>(f: impl FnOnce(&mut Device) -> Result<T>) -> Result<T> {
    with_device(current()?, |device| {
        device.check()?;
        f(device)
    })
}

/// Calls `f` with a stream's device locked and the stream's index, unless the device has failed.
fn with_stream<T>(stream: Handle, f: impl FnOnce(&mut Device, u32) -> Result<T>) -> Result<T> {
    let (ordinal, index) = stream.stream(current())?;
    with_device(ordinal, |device| {
        device.check()?;
        device.stream(index)?;
        f(device, index)
    })
}

/// Calls `f` with the device of a handle locked, and the handle's index.
fn with_handle<T>(handle: Handle, kind: Kind, f: impl FnOnce(&mut Device, u32) -> Result<T>) -> Result<T> {
    let (ordinal, index) = handle.of(kind)?;
    with_device(ordinal, |device| f(device, index))
}

driver_calls! {
    fn cuInit(_flags: u32) {
        match visible() {
            0 => Err(Status::NO_DEVICE),
            _ => Ok(()),
        }
    }

    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(12080)
    }

    fn cuGetErrorName(status: Status, text: Out<*const c_char>) {
        text.set(status.describe().ok_or(Status::INVALID_VALUE)?.0.as_ptr())
    }

    fn cuGetErrorString(status: Status, text: Out<*const c_char>) {
        text.set(status.describe().ok_or(Status::INVALID_VALUE)?.1.as_ptr())
    }

    fn cuProfilerStart() {
        Ok(())
    }

    fn cuProfilerStop() {
        Ok(())
    }
}
