//! Products of matrices: tiles on tensor cores, and rows of weights times a few vectors.
use crate::{
    cost::{Counts, Launch},
    gpu::{Gpu, WARP},
};

/// A tile of the tensor-core product: what one block computes, and how its warps share it. Sizes are elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tile {
    /// As in the kernel's name.
    pub name: &'static str,
    /// Rows of the block's tile.
    pub m: u32,
    /// Columns of the block's tile.
    pub n: u32,
    /// Depth of one step of the hot loop.
    pub k: u32,
    /// Rows of a warp's part.
    pub warp_m: u32,
    /// Columns of a warp's part.
    pub warp_n: u32,
    /// Blocks that fit on an SM: registers and shared memory of `kernels/budget.toml` decide.
    pub resident: u32,
    /// Instructions of a warp in one step that are neither mma, nor ldmatrix, nor cp.async: addresses, waits, the loop.
    pub other_per_step: f64,
}

/// The tiles of `kernels/gemm_bf16.cu`. Other instructions as in the machine code that ptxas 12.6 makes for sm_80 of y = x w^T: loops of 120,
/// 134 and 57 instructions.
pub const TILES: [Tile; 3] = [
    Tile { name: "gemm 128x256", m: 128, n: 256, k: 32, warp_m: 64, warp_n: 64, resident: 1, other_per_step: 34.0 },
    Tile { name: "gemm 128x128", m: 128, n: 128, k: 32, warp_m: 64, warp_n: 64, resident: 2, other_per_step: 46.0 },
    Tile { name: "gemm 64x64", m: 64, n: 64, k: 32, warp_m: 32, warp_n: 32, resident: 3, other_per_step: 29.0 },
];

/// What one step of the hot loop of one block does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// `mma.sync.m16n8k16` of all warps.
    pub mma: f64,
    /// `ldmatrix.x4` of all warps.
    pub ldmatrix: f64,
    /// `cp.async` of 16 bytes of all warps.
    pub cp_async: f64,
    /// All instructions of all warps.
    pub instructions: f64,
    /// Clocks of shared memory: four wavefronts of 128 bytes an ldmatrix.x4, and the bytes that arrive.
    pub shared_clocks: f64,
    /// Bytes from L2.
    pub bytes: f64,
}

impl Tile {
    /// Warps of a block.
    pub fn warps(&self) -> u32 {
        (self.m / self.warp_m) * (self.n / self.warp_n)
    }

    /// What one step of the hot loop does.
    pub fn step(&self) -> Step {
        let [m, n, k, wm, wn] = [self.m, self.n, self.k, self.warp_m, self.warp_n].map(f64::from);
        let (warps, halves) = (f64::from(self.warps()), k / 16.0);
        let mma = warps * (wm / 16.0) * (wn / 8.0) * halves;
        let ldmatrix = warps * (wm / 16.0 + wn / 16.0) * halves;
        let bytes = (m + n) * k * BF16;
        let cp_async = bytes / 16.0 / WARP;
        Step {
            mma,
            ldmatrix,
            cp_async,
            instructions: mma + ldmatrix + cp_async + warps * self.other_per_step,
            shared_clocks: 4.0 * ldmatrix + bytes / 128.0,
            bytes,
        }
    }
}

/// Bytes of the elements that tensor cores read, and of those in memory.
const BF16: f64 = 2.0;
const F32: f64 = 4.0;

/// `m` rows by `n` columns, `k` deep, `y = x w^T` or one of its gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Product {
    pub(crate) m: f64,
    pub(crate) n: f64,
    pub(crate) k: f64,
    /// Whether the result is added to what is there.
    pub(crate) accumulate: bool,
}

impl Product {
    fn flops(&self) -> f64 {
        2.0 * self.m * self.n * self.k
    }

    fn output_bytes(&self) -> f64 {
        F32 * self.m * self.n * if self.accumulate { 2.0 } else { 1.0 }
    }
}

/// The product by one tile with its depth cut into `splits` parts, each a block; partial sums go through memory and a second kernel.
pub(crate) fn tiled(gpu: &Gpu, tile: &Tile, p: &Product, splits: f64) -> Launch {
    let [tm, tn, tk] = [tile.m, tile.n, tile.k].map(f64::from);
    let (rows, columns) = ((p.m / tm).ceil(), (p.n / tn).ceil());
    let blocks = rows * columns * splits;
    let steps = (p.k / tk / splits).ceil();
    let step = tile.step();
    // Sums pass through shared memory and leave four to a lane.
    let epilogue = blocks * EPILOGUE * tm * tn / 4.0 / WARP;
    let output = if splits > 1.0 { F32 * p.m * p.n * splits } else { p.output_bytes() };
    let loaded = blocks * steps * step.bytes;
    let counts = Counts {
        flops: p.flops(),
        dram_bytes: output + operand_bytes(gpu, tile, p, rows, columns, loaded),
        l2_bytes: loaded + output,
        mma: blocks * steps * step.mma,
        ldmatrix: blocks * steps * step.ldmatrix,
        shared_clocks: blocks * (steps * step.shared_clocks + 2.0 * F32 * tm * tn / 128.0),
        issue_clocks: blocks * steps * step.instructions + epilogue,
        ..Counts::default()
    };
    Launch { tail_issue: epilogue, ..Launch::even(counts, blocks, tile.resident.into()) }
}

/// Instructions of the epilogue for four sums of each lane of a warp: to shared memory and back, addresses, bounds, choices. Machine code.
const EPILOGUE: f64 = 78.0;

/// Bytes of both operands from device memory. Once each if the smaller one stays in half of L2 while the other streams by, or else what each
/// wave of blocks, laid out as a square as nearly as can be, has to read anew.
fn operand_bytes(gpu: &Gpu, tile: &Tile, p: &Product, rows: f64, columns: f64, loaded: f64) -> f64 {
    let (a, b) = (BF16 * p.m * p.k, BF16 * p.n * p.k);
    if a.min(b) <= gpu.l2_bytes / 2.0 {
        return a + b;
    }
    let [tm, tn] = [tile.m, tile.n].map(f64::from);
    let wave = f64::from(gpu.sms * tile.resident);
    let high = (wave * tn / tm).sqrt().clamp(1.0, rows);
    let wide = (wave / high).clamp(1.0, columns);
    let waves = (rows * columns / (high * wide)).max(1.0);
    (waves * (high * tm + wide * tn) * p.k * BF16).clamp(a + b, loaded.max(a + b))
}

/// A tile of the f32 product (`kernels/gemm_f32.cu`), on the f32 lanes: 256 threads, 16 of k between two barriers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LaneTile {
    pub(crate) name: &'static str,
    /// Rows and columns of the block's tile.
    side: u32,
    resident: f64,
    /// Instructions of a warp in one step. Machine code.
    step: f64,
}

/// Elements of k of a step, and warps of a block.
const LANE_K: f64 = 16.0;
const LANE_WARPS: f64 = 8.0;

pub(crate) const LANE_TILES: [LaneTile; 2] = [
    LaneTile { name: "gemm_f32 128x128", side: 128, resident: 2.0, step: 1263.0 },
    LaneTile { name: "gemm_f32 64x64", side: 64, resident: 3.0, step: 352.0 },
];

/// The f32 product.
pub(crate) fn lanes(gpu: &Gpu, tile: &LaneTile, p: &Product, splits: f64) -> Launch {
    let side = f64::from(tile.side);
    let (rows, columns) = ((p.m / side).ceil(), (p.n / side).ceil());
    let blocks = rows * columns * splits;
    let steps = blocks * (p.k / LANE_K / splits).ceil();
    let loaded = steps * 2.0 * side * LANE_K * F32;
    let output = if splits > 1.0 { F32 * p.m * p.n * splits } else { p.output_bytes() };
    let square = Tile { m: tile.side, n: tile.side, resident: tile.resident as u32, ..TILES[0] };
    // The same traffic as on tensor cores, of elements twice as wide.
    let operands = 2.0 * operand_bytes(gpu, &square, p, rows, columns, loaded / 2.0);
    let fp32 = steps * side * side * LANE_K / WARP;
    // A thread has 4 x 4 of each 64 x 64: of every row of k it reads 16 bytes for its rows and 16 for its columns, which a warp needs one
    // wavefront for, since its lanes share them. What arrives is written four bytes a lane.
    let reads = steps * LANE_WARPS * LANE_K * 2.0 * side / 64.0;
    let counts = Counts {
        flops: p.flops(),
        dram_bytes: output + operands,
        l2_bytes: loaded + output,
        shared_clocks: reads + loaded / F32 / WARP,
        issue_clocks: steps * LANE_WARPS * tile.step + blocks * EPILOGUE * side * side / 4.0 / WARP,
        fp32,
        ..Counts::default()
    };
    Launch::even(counts, blocks, tile.resident)
}

/// How a matrix lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weights {
    /// 4 bytes a value, multiplied in f32.
    F32,
    /// 2 bytes a value.
    Bf16,
    /// ggml's blocks of 32 in 34 bytes.
    Q8_0,
    /// ggml's blocks of 32 in 18 bytes.
    Q4_0,
    /// ggml's blocks of 32 in 20 bytes.
    Q4_1,
}

impl Weights {
    /// All of them.
    pub const ALL: [Weights; 5] = [Weights::F32, Weights::Bf16, Weights::Q8_0, Weights::Q4_0, Weights::Q4_1];

    /// As a flag says it.
    pub fn name(self) -> &'static str {
        match self {
            Weights::F32 => "f32",
            Weights::Bf16 => "bf16",
            Weights::Q8_0 => "q8_0",
            Weights::Q4_0 => "q4_0",
            Weights::Q4_1 => "q4_1",
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> f64 {
        match self {
            Weights::F32 => 4.0,
            Weights::Bf16 => 2.0,
            Weights::Q8_0 => 34.0 / 32.0,
            Weights::Q4_0 => 18.0 / 32.0,
            Weights::Q4_1 => 20.0 / 32.0,
        }
    }

    /// Whether values share scales in blocks: then there is no gradient.
    pub fn is_quantised(self) -> bool {
        matches!(self, Weights::Q8_0 | Weights::Q4_0 | Weights::Q4_1)
    }
}

/// Rows of activations that one pass over a weight serves at most: bf16, and all others.
pub const VECTOR_ROWS: [u32; 2] = [16, 8];

/// What a warp does in one step over a part of the weight, from the machine code of `kernels/gemv.cu` and `gemv_quantised.cu`.
struct VectorStep {
    name: &'static str,
    /// Rows of the weight, and values of each.
    rows: f64,
    values: f64,
    /// Instructions for any number of activations' rows, and for each of them.
    base: f64,
    each: f64,
    mma: f64,
    /// Rows of the weight of a block.
    block_rows: f64,
}

impl VectorStep {
    fn of(weights: Weights, activations: f64) -> VectorStep {
        let step =
            |name, values, base, each| VectorStep { name, rows: 1.0, values, base, each, mma: 0.0, block_rows: 8.0 };
        // A lane has one of 32 blocks of a row.
        let blocks = 32.0 * 32.0;
        match weights {
            Weights::F32 => step("gemv_f32", 512.0, 35.0, 35.0),
            // On tensor cores, which take activations eight at a time.
            Weights::Bf16 => {
                let wide = activations > 8.0;
                let (name, base, mma) = if wide { ("gemv_bf16_t16", 121.0, 8.0) } else { ("gemv_bf16_t8", 82.0, 4.0) };
                VectorStep { name, rows: 16.0, values: 64.0, base, each: 0.0, mma, block_rows: 16.0 }
            }
            Weights::Q8_0 => step("gemv_q8_0", blocks, 82.0, 22.0),
            Weights::Q4_0 => step("gemv_q4_0", blocks, 75.0, 22.0),
            Weights::Q4_1 => step("gemv_q4_1", blocks, 67.0, 23.0),
        }
    }
}

/// Blocks of 256 threads that an SM holds: 40 registers a thread, shared memory for the rings.
const VECTOR_RESIDENT: f64 = 6.0;

/// A few rows of activations times a weight that is read once for each of them that fit; further ones pass over it again.
pub(crate) fn vectors(gpu: &Gpu, weights: Weights, p: &Product) -> (&'static str, Launch) {
    let most = VECTOR_ROWS[usize::from(weights != Weights::Bf16)];
    let passes = (p.m / f64::from(most)).ceil();
    let rows = (p.m / passes).ceil();
    let step = VectorStep::of(weights, rows);
    let values = p.n * p.k;
    let steps = passes * (p.n / step.rows).ceil() * (p.k / step.values).ceil();
    let weight_bytes = values * weights.bytes();
    // Activations of quantised weights are bytes with a scale for 32.
    let element = if weights.is_quantised() { 1.25 } else { F32 };
    let activations = element * p.m * p.k + F32 * p.m * p.n;
    // A weight that stays in L2 comes from memory once.
    let read = if weight_bytes <= gpu.l2_bytes / 2.0 { weight_bytes } else { passes * weight_bytes };
    let blocks = passes * (p.n / step.block_rows).ceil();
    // All blocks read all of their activations: from L2 once a block, from the first-level cache once a row of the weight.
    let shared = blocks * rows * p.k * element;
    let each = if weights == Weights::Bf16 { shared } else { shared * step.block_rows };
    let counts = Counts {
        flops: p.flops(),
        dram_bytes: read + activations,
        l2_bytes: passes * weight_bytes + shared + F32 * p.m * p.n,
        mma: steps * step.mma,
        shared_clocks: (each + passes * weight_bytes) / 128.0,
        issue_clocks: steps * (step.base + step.each * rows),
        fp32: if weights == Weights::F32 { passes * rows * values / WARP } else { 0.0 },
        ..Counts::default()
    };
    (step.name, Launch::even(counts, blocks, VECTOR_RESIDENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cost::Limit,
        gpu::{A100, GPUS, H100},
    };

    fn square(n: f64) -> Product {
        Product { m: n, n, k: n, accumulate: false }
    }

    /// What the kernels were asked to keep.
    #[test]
    fn the_main_tile_is_bound_by_its_tensor_cores() {
        let step = TILES[0].step();
        assert!(step.mma / step.ldmatrix >= 4.0);
        assert!(step.shared_clocks / (step.mma * 8.0 / 4.0) <= 0.75);
        assert!(step.mma / step.instructions >= 0.4);
        // A 64x32 warp tile would wait for shared memory as long as for its tensor cores.
        let narrow = Tile { warp_n: 32, ..TILES[1] }.step();
        assert!(narrow.shared_clocks / (narrow.mma * 8.0 / 4.0) >= 1.0);
    }

    #[test]
    fn a_large_product_comes_near_its_ceiling_and_never_above() {
        for gpu in GPUS {
            for n in [512.0, 2048.0, 8192.0] {
                let product = square(n);
                let (seconds, _) = tiled(&gpu, &TILES[0], &product, 1.0).seconds(&gpu);
                let reached = product.flops() / seconds / gpu.mma_sync_flops();
                assert!(reached <= 1.0, "{} {n}: {reached}", gpu.name);
                assert!(n < 8192.0 || 0.85 < reached, "{} {n}: {reached}", gpu.name);
            }
        }
    }

    #[test]
    fn one_vector_takes_as_long_as_its_weight_takes_to_arrive() {
        for weights in Weights::ALL {
            let product = Product { m: 1.0, n: 14336.0, k: 4096.0, accumulate: false };
            for gpu in [A100, H100] {
                let (_, launch) = vectors(&gpu, weights, &product);
                let (seconds, limit) = launch.seconds(&gpu);
                let least = product.n * product.k * weights.bytes() / gpu.dram_bytes_per_second;
                assert!(least < seconds, "{weights:?} {}", gpu.name);
                if limit == Limit::Dram {
                    assert!(seconds < 1.3 * least + 1e-6, "{weights:?} {}: {seconds} {least}", gpu.name);
                }
            }
        }
    }
}
