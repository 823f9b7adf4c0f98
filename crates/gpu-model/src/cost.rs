//! From what a launch does, counted, to how long it takes at least: each resource by itself, the slowest counts.
//!
//! Williams, Waterman and Patterson, "Roofline" (CACM 52(4), 2009), with the resources of an SM beside arithmetic and memory. Work that
//! overlaps is taken to overlap perfectly; what cannot (the first load of a wave of blocks, launches) is added.
use crate::gpu::{Gpu, SCHEDULERS};

/// A chain of one load from device memory: from issue to data. Assumption: 0.5 us, near what microbenchmarks find on all three GPUs when the
/// L2 cache misses (arXiv 2501.12084 and its references: 450 to 900 clocks).
pub const MEMORY_LATENCY: f64 = 0.5e-6;

/// Between two kernels of a stream, on the GPU. Assumption after Gray, "Getting Started with CUDA Graphs" (NVIDIA Technical Blog, 2019): a
/// kernel of 2.9 us took 3.8 us in a row of launches.
pub const STREAM_GAP: f64 = 0.9e-6;

/// Between two kernels of a CUDA graph. The same source: 3.4 us.
pub const GRAPH_GAP: f64 = 0.5e-6;

/// What the processor takes to launch one kernel through the driver: a floor of time in a row of short kernels. Assumption: 4 us, the lower
/// end of what is commonly measured for a driver call of its own with checked arguments.
pub const HOST_LAUNCH: f64 = 4e-6;

/// What the processor takes to put one kernel into a graph that is captured anew for each token, and to update the last one by it.
/// Assumption: 1.5 us, less than a launch, since nothing goes to the device.
pub const GRAPH_CAPTURE: f64 = 1.5e-6;

/// What the processor takes to launch a whole graph. Assumption: 10 us, a few calls.
pub const GRAPH_LAUNCH: f64 = 10e-6;

/// What it costs when the processor waits for a number: the GPU runs dry, a few bytes are copied, the next launch starts from nothing.
/// Assumption: 15 us.
pub const HOST_WAIT: f64 = 15e-6;

/// What one or more launches of a kernel do. Numbers are of all launches together; instructions are of warps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Multiplications and additions of the operation itself.
    pub flops: f64,
    /// Bytes between device memory and L2: what no order of work can avoid, and what does not stay in L2.
    pub dram_bytes: f64,
    /// Bytes between L2 and SMs.
    pub l2_bytes: f64,
    /// `mma.sync.m16n8k16`, those on padding included.
    pub mma: f64,
    /// `ldmatrix.x4`.
    pub ldmatrix: f64,
    /// Clocks of an SM's shared memory.
    pub shared_clocks: f64,
    /// All instructions: clocks of a scheduler.
    pub issue_clocks: f64,
    /// Instructions of the f32 lanes.
    pub fp32: f64,
    /// Instructions of the special-function unit.
    pub sfu: f64,
}

impl Counts {
    pub(crate) fn scaled(self, by: f64) -> Counts {
        Counts {
            flops: self.flops * by,
            dram_bytes: self.dram_bytes * by,
            l2_bytes: self.l2_bytes * by,
            mma: self.mma * by,
            ldmatrix: self.ldmatrix * by,
            shared_clocks: self.shared_clocks * by,
            issue_clocks: self.issue_clocks * by,
            fp32: self.fp32 * by,
            sfu: self.sfu * by,
        }
    }

    pub(crate) fn plus(self, other: Counts) -> Counts {
        Counts {
            flops: self.flops + other.flops,
            dram_bytes: self.dram_bytes + other.dram_bytes,
            l2_bytes: self.l2_bytes + other.l2_bytes,
            mma: self.mma + other.mma,
            ldmatrix: self.ldmatrix + other.ldmatrix,
            shared_clocks: self.shared_clocks + other.shared_clocks,
            issue_clocks: self.issue_clocks + other.issue_clocks,
            fp32: self.fp32 + other.fp32,
            sfu: self.sfu + other.sfu,
        }
    }
}

/// What a kernel waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Limit {
    /// The tensor cores.
    Tensor,
    /// Shared memory's wavefronts.
    Shared,
    /// The schedulers: one instruction a clock each.
    Issue,
    /// The f32 lanes.
    Fp32,
    /// The special-function unit.
    Sfu,
    /// The L2 cache, or the port of the busiest SM to it.
    L2,
    /// Device memory.
    Dram,
    /// Nothing but the way there: too little work for a GPU.
    Latency,
}

impl Limit {
    /// A word for tables.
    pub fn name(self) -> &'static str {
        match self {
            Limit::Tensor => "tensor",
            Limit::Shared => "shared",
            Limit::Issue => "issue",
            Limit::Fp32 => "fp32",
            Limit::Sfu => "sfu",
            Limit::L2 => "l2",
            Limit::Dram => "dram",
            Limit::Latency => "latency",
        }
    }
}

/// One launch: what it does, and how it is spread over the SMs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub(crate) counts: Counts,
    /// Blocks of the grid.
    pub(crate) blocks: f64,
    /// Blocks that an SM holds at once; what one waits for, the others fill.
    pub(crate) resident: f64,
    /// The work of the largest block over the mean.
    pub(crate) largest: f64,
    /// Dependent trips to memory before a block has anything to do.
    pub(crate) trips: f64,
    /// Of the instructions, those at a block's end, when it has nothing else to do.
    pub(crate) tail_issue: f64,
}

impl Launch {
    /// A launch of equal blocks.
    pub(crate) fn even(counts: Counts, blocks: f64, resident: f64) -> Launch {
        Launch { counts, blocks: blocks.max(1.0), resident, largest: 1.0, trips: 1.0, tail_issue: 0.0 }
    }

    /// Seconds on the GPU, and what they are spent on.
    pub(crate) fn seconds(&self, gpu: &Gpu) -> (f64, Limit) {
        let (c, sms) = (&self.counts, f64::from(gpu.sms));
        // The busiest SM decides. Equal blocks are dealt out evenly; of unequal ones the largest come first, so the rest evens out.
        let busiest = if self.largest > 1.0 {
            (1.0 / sms).max(self.largest / self.blocks)
        } else {
            (self.blocks / sms).ceil() / self.blocks
        };
        let clocks = |n: f64| n * busiest / gpu.clock_hz;
        let lanes = |n: f64, per_clock: f64| clocks(n * crate::gpu::WARP / per_clock);
        let most =
            |times: &[(f64, Limit)]| times.iter().fold((0.0, Limit::Latency), |a, b| if a.0 < b.0 { *b } else { a });
        let (own, own_limit) = most(&[
            (clocks(c.mma * gpu.mma_clocks() / SCHEDULERS), Limit::Tensor),
            (clocks(c.shared_clocks), Limit::Shared),
            (clocks(c.issue_clocks / SCHEDULERS), Limit::Issue),
            (lanes(c.fp32, gpu.fp32_lanes), Limit::Fp32),
            (lanes(c.sfu, gpu.sfu_lanes), Limit::Sfu),
            (clocks(c.l2_bytes / gpu.fill_bytes_per_clock), Limit::L2),
        ]);
        let (common, common_limit) = most(&[
            (c.l2_bytes / gpu.l2_bytes_per_clock / gpu.clock_hz, Limit::L2),
            (c.dram_bytes / gpu.dram_bytes_per_second, Limit::Dram),
        ]);
        // A block that is alone on its SM waits for its first data each time, and writes its results while nothing is multiplied; with company
        // only the first wave waits, and the others multiply. What all SMs share goes on meanwhile: they are not in step.
        let trip = self.trips * MEMORY_LATENCY;
        let alone = self.resident < 2.0;
        let waits = if alone { trip * (self.blocks / sms).ceil() } else { trip };
        let tail = if alone { clocks(self.tail_issue / SCHEDULERS) } else { 0.0 };
        let (own_all, common_all) = (own + waits + tail, common + trip);
        if own_all < common_all {
            (common_all, if common < trip { Limit::Latency } else { common_limit })
        } else {
            (own_all, if own < waits { Limit::Latency } else { own_limit })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{A100, GPUS};

    #[test]
    fn each_resource_can_be_the_limit() {
        let much = 1e12;
        for (counts, limit) in [
            (Counts { mma: much, ..Counts::default() }, Limit::Tensor),
            (Counts { shared_clocks: much, ..Counts::default() }, Limit::Shared),
            (Counts { issue_clocks: much, ..Counts::default() }, Limit::Issue),
            (Counts { fp32: much, ..Counts::default() }, Limit::Fp32),
            (Counts { sfu: much, ..Counts::default() }, Limit::Sfu),
            (Counts { l2_bytes: much, ..Counts::default() }, Limit::L2),
            (Counts { dram_bytes: much, ..Counts::default() }, Limit::Dram),
            (Counts::default(), Limit::Latency),
        ] {
            for gpu in GPUS {
                assert_eq!(Launch::even(counts, 1e6, 2.0).seconds(&gpu).1, limit);
            }
        }
    }

    #[test]
    fn one_block_more_than_sms_takes_twice_as_long() {
        let time = |blocks: f64| {
            let counts = Counts { mma: 1e6 * blocks, ..Counts::default() };
            Launch::even(counts, blocks, 2.0).seconds(&A100).0 - MEMORY_LATENCY
        };
        assert!((time(109.0) / time(108.0) - 2.0).abs() < 1e-9);
        assert!((time(216.0) / time(109.0) - 1.0).abs() < 1e-9);
    }
}
