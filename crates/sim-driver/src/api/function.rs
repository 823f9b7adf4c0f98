//! Attributes of kernels.
use super::{
    Out,
    context::{SHARED_OPTIN, THREADS},
    driver_calls, with_handle,
};
use crate::{
    device::{Device, Function},
    handle::{Handle, Kind},
    status::{Result, Status},
};

/// Calls `f` with a kernel's device locked.
pub(super) fn with_function<T>(function: Handle, f: impl FnOnce(&mut Device, Function) -> Result<T>) -> Result<T> {
    with_handle(function, Kind::Function, |d, index| {
        d.check()?;
        let function = d.functions.get(&index).cloned().ok_or(Status::INVALID_HANDLE)?;
        f(d, function)
    })
}

/// The most threads of a block that a kernel can have.
pub(super) fn most_threads(function: &Function) -> usize {
    let declared = function.module.kernel(&function.name).and_then(|k| k.max_threads());
    declared.map_or(THREADS, |n| (n as usize).min(THREADS))
}

/// A kernel's own shared memory.
pub(super) fn fixed_shared(function: &Function) -> usize {
    function.module.kernel(&function.name).map_or(0, |k| k.static_shared())
}

driver_calls! {
    /// The numbers are `CUfunction_attribute`. How many registers a kernel has is not known here: 0.
    fn cuFuncGetAttribute(value: Out<i32>, attribute: i32, function: Handle) {
        let found = with_function(function, |_, f| match attribute {
            0 => Ok(most_threads(&f)),
            1 => Ok(fixed_shared(&f)),
            2..=4 | 7 => Ok(0),
            5 | 6 => Ok(80),
            8 => Ok(f.most_dynamic),
            _ => Err(Status::INVALID_VALUE),
        })?;
        value.set(i32::try_from(found).unwrap_or(i32::MAX))
    }

    fn cuFuncSetAttribute(function: Handle, attribute: i32, value: i32) {
        let (ordinal, index) = function.of(Kind::Function)?;
        with_function(function, |d, f| match attribute {
            8 => {
                let most = SHARED_OPTIN.saturating_sub(fixed_shared(&f));
                match usize::try_from(value).ok().filter(|&v| v <= most) {
                    Some(value) => {
                        if let Some(f) = d.functions.get_mut(&index) {
                            f.most_dynamic = value;
                        }
                        Ok(())
                    }
                    None => Err(d.refuse(&format!(
                        "cuda:{ordinal}: {} cannot have {value} bytes of dynamic shared memory, at most {most}",
                        f.name
                    ))),
                }
            }
            // How a multiprocessor splits shared memory and cache: no effect here.
            9 => Ok(()),
            _ => Err(Status::INVALID_VALUE),
        })
    }

    fn cuFuncSetCacheConfig(function: Handle, _config: i32) {
        with_function(function, |_, _| Ok(()))
    }
}
