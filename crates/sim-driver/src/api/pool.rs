//! Memory pools: there is one a device, with nothing to tune.
use super::{Out, driver_calls, visible, with_device, with_handle};
use crate::{
    handle::{Handle, Kind},
    status::{Result, Status},
};
use std::ffi::c_void;

fn pool(device: i32) -> Result<Handle> {
    let device = usize::try_from(device).ok().filter(|&d| d < visible()).ok_or(Status::INVALID_DEVICE)?;
    Ok(Handle::new(Kind::Pool, device, 1))
}

driver_calls! {
    fn cuDeviceGetDefaultMemPool(out: Out<Handle>, device: i32) {
        out.set(pool(device)?)
    }

    fn cuDeviceGetMemPool(out: Out<Handle>, device: i32) {
        out.set(pool(device)?)
    }

    fn cuDeviceSetMemPool(device: i32, handle: Handle) {
        match pool(device)? == handle {
            true => Ok(()),
            false => Err(Status::INVALID_VALUE),
        }
    }

    fn cuMemPoolCreate(_out: Out<Handle>, _properties: *const c_void) {
        Err(Status::NOT_SUPPORTED)
    }

    fn cuMemPoolDestroy(_pool: Handle) {
        Err(Status::NOT_SUPPORTED)
    }

    fn cuMemPoolTrimTo(handle: Handle, _keep: usize) {
        handle.of(Kind::Pool).map(drop)
    }

    /// 5 and 7 are the bytes reserved and used now, the others settings that do nothing.
    fn cuMemPoolGetAttribute(handle: Handle, attribute: u32, value: Out<u64>) {
        let used = with_handle(handle, Kind::Pool, |d, _| Ok(d.used as u64))?;
        match attribute {
            5..=8 => value.set(used),
            4 => value.set(0),
            _ => Err(Status::NOT_SUPPORTED),
        }
    }

    fn cuMemPoolSetAttribute(handle: Handle, _attribute: u32, _value: *mut c_void) {
        let (device, _) = handle.of(Kind::Pool)?;
        with_device(device, |d| d.check())
    }
}
