//! Launches: held against the limits of the device and of the kernel, then queued.
use super::{
    context::{SHARED_OPTIN, THREADS},
    current, driver_calls,
    function::{fixed_shared, most_threads, with_function},
    with_device,
};
use crate::{
    device::Function,
    handle::{Handle, Kind},
    status::{Result, Status},
    work::{Kernel, Work},
};
use paring_ptx_sim::Launch;
use std::{ffi::c_void, ptr, sync::Arc};

/// The most blocks along x, y and z.
const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];
/// The most threads of a block along x, y and z.
const BLOCK: [u32; 3] = [1024, 1024, 64];

/// Why a launch cannot be, or `None`.
fn refusal(f: &Function, grid: [u32; 3], block: [u32; 3], dynamic: usize) -> Option<String> {
    let (threads, most) = (block.iter().map(|&n| u64::from(n)).product::<u64>(), most_threads(f));
    let total = fixed_shared(f) + dynamic;
    if (0..3).any(|i| grid[i] == 0 || GRID[i] < grid[i]) {
        return Some(format!("a grid of {grid:?} blocks, expected 1 to {GRID:?}"));
    }
    if (0..3).any(|i| block[i] == 0 || BLOCK[i] < block[i]) {
        return Some(format!("blocks of {block:?} threads, expected 1 to {BLOCK:?}"));
    }
    if threads > most as u64 {
        return Some(format!("{threads} threads in a block, expected at most {most} (of {THREADS})"));
    }
    if dynamic > f.most_dynamic || total > SHARED_OPTIN {
        return Some(format!(
            "{dynamic} bytes of dynamic shared memory, expected at most {} (the function's attribute)",
            f.most_dynamic
        ));
    }
    None
}

/// The bytes of a kernel's parameters, from either of the two forms in which C hands them over.
fn parameters(f: &Function, each: *mut *mut c_void, extra: *mut *mut c_void) -> std::result::Result<Vec<u8>, String> {
    let Some(kernel) = f.module.kernel(&f.name) else {
        return Err("no such kernel".into());
    };
    let mut bytes = vec![0_u8; kernel.param_bytes()];
    if bytes.is_empty() {
        return Ok(bytes);
    }
    match (each.is_null(), extra.is_null()) {
        (true, true) => Err(format!("no parameters, expected {}", kernel.params().len())),
        (false, false) => Err("parameters in both forms".into()),
        (false, true) => {
            for (i, p) in kernel.params().iter().enumerate() {
                // SAFETY: `each` begins a pointer for every parameter of the kernel (contract of cuLaunchKernel).
                let from = unsafe { each.add(i).read() };
                if from.is_null() {
                    return Err(format!("parameter {i} is null"));
                }
                let to = bytes.get_mut(p.offset..p.offset + p.size).ok_or("a parameter beyond the parameters")?;
                // SAFETY: the pointer is to as many bytes as the parameter has (contract of cuLaunchKernel); `to` is ours and as long.
                unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), to.as_mut_ptr(), p.size) };
            }
            Ok(bytes)
        }
        (true, false) => {
            let (buffer, size) = buffer_of(extra)?;
            let (got, want) = (size, bytes.len());
            // Hosts may round up to the alignment of their struct.
            if got != want && got != want.next_multiple_of(8) {
                return Err(format!("{got} bytes of parameters, expected {want}"));
            }
            // SAFETY: `buffer` begins `size >= want` bytes, as the caller says; `bytes` is ours and `want` long.
            unsafe { ptr::copy_nonoverlapping(buffer, bytes.as_mut_ptr(), want) };
            Ok(bytes)
        }
    }
}

/// Reads the list `CU_LAUNCH_PARAM_BUFFER_POINTER` (1), buffer, `CU_LAUNCH_PARAM_BUFFER_SIZE` (2), size, `CU_LAUNCH_PARAM_END` (0).
fn buffer_of(extra: *mut *mut c_void) -> std::result::Result<(*const u8, usize), String> {
    let (mut buffer, mut size) = (ptr::null(), None);
    let mut at = 0;
    loop {
        // SAFETY: the list goes on up to its end mark (contract of cuLaunchKernel), and we have not come there.
        let key = unsafe { extra.add(at).read() }.addr();
        if key == 0 {
            break;
        }
        // SAFETY: as above: every key but the end mark is followed by a value.
        let value = unsafe { extra.add(at + 1).read() };
        match key {
            1 => buffer = value.cast_const().cast::<u8>(),
            // SAFETY: the value of this key is a pointer to a size.
            2 if !value.is_null() => size = Some(unsafe { value.cast::<usize>().read_unaligned() }),
            _ => return Err(format!("launch option {key} is not known")),
        }
        at += 2;
    }
    match (buffer.is_null(), size) {
        (false, Some(size)) => Ok((buffer, size)),
        _ => Err("a parameter buffer without pointer or size".into()),
    }
}

fn launch(
    function: Handle,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic: u32,
    stream: Handle,
    each: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Result {
    let (of_stream, index) = stream.stream(current())?;
    let (of_function, _) = function.of(Kind::Function)?;
    if of_stream != of_function {
        return Err(Status::INVALID_HANDLE);
    }
    let dynamic_shared = dynamic as usize;
    let made = with_function(function, |d, f| {
        let wrong = refusal(&f, grid, block, dynamic_shared);
        let made = match wrong {
            Some(why) => Err(why),
            None => parameters(&f, each, extra),
        };
        made.map(|params| Kernel {
            module: Arc::clone(&f.module),
            name: Arc::clone(&f.name),
            launch: Launch { grid, block, dynamic_shared, params },
        })
        .map_err(|why| d.refuse(&format!("launch of {}: {why}", f.name)))
    })?;
    with_device(of_stream, |d| d.submit(index, Work::Kernel(Arc::new(made))))
}

driver_calls! {
    fn cuLaunchKernel(
        function: Handle,
        grid_x: u32,
        grid_y: u32,
        grid_z: u32,
        block_x: u32,
        block_y: u32,
        block_z: u32,
        dynamic_shared: u32,
        stream: Handle,
        each: *mut *mut c_void,
        extra: *mut *mut c_void,
    ) {
        launch(function, [grid_x, grid_y, grid_z], [block_x, block_y, block_z], dynamic_shared, stream, each, extra)
    }

    /// Blocks do not wait for each other here.
    fn cuLaunchCooperativeKernel(
        _function: Handle,
        _grid_x: u32,
        _grid_y: u32,
        _grid_z: u32,
        _block_x: u32,
        _block_y: u32,
        _block_z: u32,
        _dynamic_shared: u32,
        _stream: Handle,
        _each: *mut *mut c_void,
    ) {
        Err(Status::NOT_SUPPORTED)
    }
}
