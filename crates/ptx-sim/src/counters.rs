//! Counters: what a launch executed and which traffic it caused.
//!
//! They are exact counts of what the program asked for. They say nothing about time.

use std::collections::BTreeMap;

/// Classes of instructions, by the unit that runs them on a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Class {
    /// Tensor-core products.
    Mma,
    /// `ldmatrix`.
    Ldmatrix,
    /// f32 add, multiply, fused multiply-add, minimum and maximum, compares.
    F32,
    /// f64 arithmetic.
    F64,
    /// bf16 and f16 arithmetic.
    Half,
    /// Integer arithmetic, logic, shifts, compares, address arithmetic.
    Integer,
    /// Special functions: `ex2`, `lg2`, `rcp`, `sqrt`, `rsqrt`, `sin`, `cos`, `tanh` and divisions.
    Sfu,
    /// Conversions between types.
    Convert,
    /// Moves and selects.
    Move,
    /// Loads and stores of global memory.
    Global,
    /// Loads and stores of shared memory.
    Shared,
    /// Loads of parameters.
    Param,
    /// `cp.async`, its commits and waits.
    CpAsync,
    /// `atom` and `red`.
    Atomic,
    /// Exchange between lanes: `shfl`, `vote`, `redux`, `activemask`.
    Lanes,
    /// Branches and exits.
    Control,
    /// Barriers and fences.
    Barrier,
}

impl Class {
    /// Every class, in declaration order.
    pub const ALL: [Class; 17] = [
        Class::Mma,
        Class::Ldmatrix,
        Class::F32,
        Class::F64,
        Class::Half,
        Class::Integer,
        Class::Sfu,
        Class::Convert,
        Class::Move,
        Class::Global,
        Class::Shared,
        Class::Param,
        Class::CpAsync,
        Class::Atomic,
        Class::Lanes,
        Class::Control,
        Class::Barrier,
    ];
}

/// Traffic that one PTX line caused beyond the ideal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCost {
    /// How many warps executed the instructions of this line.
    pub executed: u64,
    /// 32-byte sectors beyond the fewest that could hold the bytes asked for.
    pub extra_sectors: u64,
    /// Shared-memory wavefronts beyond the conflict-free number.
    pub extra_wavefronts: u64,
}

/// What a launch executed and moved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// CTAs that ran.
    pub ctas: u64,
    /// Instructions, counted once for each warp.
    pub warp_instructions: u64,
    /// Instructions, counted once for each active lane.
    pub lane_instructions: u64,
    /// Warp instructions by [`Class`]; read it with [`Counters::warp`].
    pub warp_by_class: [u64; Class::ALL.len()],
    /// Lane instructions by [`Class`]; read it with [`Counters::lanes`].
    pub lanes_by_class: [u64; Class::ALL.len()],
    /// Scalar f32 operations: 1 for an add or a multiply, 2 for a fused multiply-add.
    pub f32_flops: u64,
    /// Operations of the tensor-core products: 2 for each multiply-add.
    pub tensor_flops: u64,
    /// Warp-wide loads, stores and asynchronous copies of global memory.
    pub global_requests: u64,
    /// 32-byte sectors those requests touched.
    pub global_sectors: u64,
    /// The fewest sectors that could hold the same bytes.
    pub global_ideal_sectors: u64,
    /// Bytes that lanes read from global memory (a byte read twice counts twice).
    pub global_bytes_read: u64,
    /// Bytes that lanes wrote to global memory.
    pub global_bytes_written: u64,
    /// Distinct 32-byte sectors read: what must come from memory at least once.
    pub unique_sectors_read: u64,
    /// Distinct 32-byte sectors written.
    pub unique_sectors_written: u64,
    /// Warp-wide loads, stores, `ldmatrix` and asynchronous copies that touch shared memory.
    pub shared_requests: u64,
    /// Shared-memory wavefronts (clocks) those need, bank conflicts included.
    pub shared_wavefronts: u64,
    /// Wavefronts without any bank conflict.
    pub shared_ideal_wavefronts: u64,
    /// Barriers that completed, once for each CTA.
    pub barriers: u64,
    /// Branches where a warp split.
    pub divergent_branches: u64,
    /// Cost of the PTX lines that have memory accesses, by line number.
    pub lines: BTreeMap<u32, LineCost>,
}

impl Counters {
    /// Warp instructions of a class.
    pub fn warp(&self, class: Class) -> u64 {
        self.warp_by_class[class as usize]
    }

    /// Lane instructions of a class.
    pub fn lanes(&self, class: Class) -> u64 {
        self.lanes_by_class[class as usize]
    }

    /// Bytes of the distinct sectors read and written: the traffic that no cache can avoid.
    pub fn compulsory_bytes(&self) -> u64 {
        32 * (self.unique_sectors_read + self.unique_sectors_written)
    }

    /// Sectors touched over the fewest possible; 1 is perfect coalescing, also where nothing was touched.
    pub fn coalescing(&self) -> f64 {
        ratio(self.global_sectors, self.global_ideal_sectors)
    }

    /// Shared wavefronts over the conflict-free number; 1 is free of bank conflicts.
    pub fn bank_conflicts(&self) -> f64 {
        ratio(self.shared_wavefronts, self.shared_ideal_wavefronts)
    }

    /// The `n` lines with the most extra sectors and wavefronts, worst first; lines without any are left out.
    pub fn worst_lines(&self, n: usize) -> Vec<(u32, LineCost)> {
        let mut all: Vec<(u32, LineCost)> = self
            .lines
            .iter()
            .map(|(&l, &c)| (l, c))
            .filter(|(_, c)| c.extra_sectors + c.extra_wavefronts > 0)
            .collect();
        all.sort_by_key(|(l, c)| (std::cmp::Reverse(c.extra_sectors + c.extra_wavefronts), *l));
        all.truncate(n);
        all
    }
}

fn ratio(a: u64, b: u64) -> f64 {
    if b == 0 { 1.0 } else { a as f64 / b as f64 }
}
