//! How many blocks fit on a multiprocessor, by threads and shared memory. Registers are not known here, so real numbers may be lower.
use super::{
    Out,
    context::{SHARED_OPTIN, SHARED_PROCESSOR, THREADS},
    driver_calls,
    function::{fixed_shared, most_threads, with_function},
};
use crate::{
    device::Function,
    handle::Handle,
    status::{Result, Status},
};

/// Threads and blocks of a multiprocessor, and shared memory that the system takes of each block (compute capability 8.0).
const PROCESSOR_THREADS: usize = 2048;
const PROCESSOR_BLOCKS: usize = 32;
const RESERVED: usize = 1024;

type DynamicOfBlock = extern "C" fn(i32) -> usize;

fn blocks(f: &Function, threads: i32, dynamic: usize) -> Result<usize> {
    let threads =
        usize::try_from(threads).ok().filter(|&n| n > 0 && n <= most_threads(f)).ok_or(Status::INVALID_VALUE)?;
    let shared = fixed_shared(f) + dynamic;
    if dynamic > f.most_dynamic || shared > SHARED_OPTIN {
        return Ok(0);
    }
    let by_threads = PROCESSOR_THREADS / threads.next_multiple_of(32);
    Ok(by_threads.min(PROCESSOR_BLOCKS).min(SHARED_PROCESSOR / (shared + RESERVED)))
}

driver_calls! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(out: Out<i32>, function: Handle, threads: i32, dynamic: usize) {
        out.set(with_function(function, |_, f| blocks(&f, threads, dynamic))? as i32)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        out: Out<i32>,
        function: Handle,
        threads: i32,
        dynamic: usize,
        _flags: u32,
    ) {
        out.set(with_function(function, |_, f| blocks(&f, threads, dynamic))? as i32)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(out: Out<usize>, function: Handle, count: i32, _threads: i32) {
        let count = usize::try_from(count).ok().filter(|&n| n > 0).ok_or(Status::INVALID_VALUE)?;
        let fixed = with_function(function, |_, f| Ok(fixed_shared(&f)))?;
        out.set((SHARED_PROCESSOR / count).saturating_sub(RESERVED + fixed).min(SHARED_OPTIN.saturating_sub(fixed)))
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>,
        block: Out<i32>,
        function: Handle,
        dynamic_of: Option<DynamicOfBlock>,
        dynamic: usize,
        limit: i32,
    ) {
        let (best, threads, processors) = with_function(function, |d, f| {
            let most = most_threads(&f).min(usize::try_from(limit).ok().filter(|&n| n > 0).unwrap_or(THREADS));
            let mut best = (0, 32);
            for threads in (32..=most.max(32)).step_by(32) {
                let dynamic = dynamic_of.map_or(dynamic, |of| of(threads as i32));
                let count = blocks(&f, threads as i32, dynamic).unwrap_or(0);
                if count * threads >= best.0 * best.1 {
                    best = (count, threads);
                }
            }
            Ok((best.0, best.1, d.config.processors as usize))
        })?;
        grid.offer((best * processors) as i32);
        block.set(threads as i32)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>,
        block: Out<i32>,
        function: Handle,
        dynamic_of: Option<DynamicOfBlock>,
        dynamic: usize,
        limit: i32,
        _flags: u32,
    ) {
        match cuOccupancyMaxPotentialBlockSize(grid, block, function, dynamic_of, dynamic, limit) {
            Status::SUCCESS => Ok(()),
            status => Err(status),
        }
    }
}
