//! Modules: PTX texts, parsed.
use super::{Out, Text, current, driver_calls, with_current, with_handle};
use crate::{
    device::Function,
    handle::{Handle, Kind},
    status::{Result, Status},
};
use paring_ptx_sim::Module;
use std::{
    ffi::{OsStr, c_char, c_void},
    os::unix::ffi::OsStrExt,
    sync::Arc,
};

fn load(out: Out<Handle>, ptx: &[u8]) -> Result {
    let ordinal = current()?;
    let index = with_current(|d| {
        let parsed = std::str::from_utf8(ptx).map_err(|e| e.to_string());
        let parsed = parsed.and_then(|text| Module::parse(text).map_err(|e| e.to_string()));
        let module = parsed.map_err(|e| {
            d.note(&format!("PTX cannot be loaded: {e}"));
            Status::INVALID_PTX
        })?;
        let index = d.index();
        d.modules.insert(index, Arc::new(crate::trace::replacement(module)));
        Ok(index)
    })?;
    out.set(Handle::new(Kind::Module, ordinal, index))
}

driver_calls! {
    fn cuModuleLoadData(out: Out<Handle>, image: Text) {
        load(out, image.get()?.to_bytes())
    }

    fn cuModuleLoadDataEx(out: Out<Handle>, image: Text, _n: u32, _options: *mut i32, _values: *mut *mut c_void) {
        load(out, image.get()?.to_bytes())
    }

    fn cuModuleLoad(out: Out<Handle>, path: Text) {
        let path = OsStr::from_bytes(path.get()?.to_bytes());
        load(out, &std::fs::read(path).map_err(|_| Status::FILE_NOT_FOUND)?)
    }

    /// Work that is queued keeps what it needs of the module.
    fn cuModuleUnload(module: Handle) {
        with_handle(module, Kind::Module, |d, index| {
            d.functions.retain(|_, f| f.module_index != index);
            d.modules.remove(&index).map(drop).ok_or(Status::INVALID_HANDLE)
        })
    }

    fn cuModuleGetFunction(out: Out<Handle>, module: Handle, name: Text) {
        let (ordinal, _) = module.of(Kind::Module)?;
        let name = name.get()?.to_str().map_err(|_| Status::NOT_FOUND)?;
        let index = with_handle(module, Kind::Module, |d, module_index| {
            d.check()?;
            let module = Arc::clone(d.modules.get(&module_index).ok_or(Status::INVALID_HANDLE)?);
            let kernel = module.kernel(name).ok_or(Status::NOT_FOUND)?;
            let most_dynamic = super::context::SHARED_DEFAULT.saturating_sub(kernel.static_shared());
            let function = Function { module: Arc::clone(&module), module_index, name: name.into(), most_dynamic };
            let index = d.index();
            d.functions.insert(index, function);
            Ok(index)
        })?;
        out.set(Handle::new(Kind::Function, ordinal, index))
    }

    /// Variables of modules are not built.
    fn cuModuleGetGlobal_v2(_address: Out<u64>, _bytes: Out<usize>, _module: Handle, _name: *const c_char) {
        Err(Status::NOT_FOUND)
    }
}
