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

/// The tiles of `kernels/gemm.cu`.
pub const TILES: [Tile; 2] = [
    Tile { name: "128x256", m: 128, n: 256, k: 32, warp_m: 64, warp_n: 64, resident: 1, other_per_step: 24.0 },
    Tile { name: "128x128", m: 128, n: 128, k: 32, warp_m: 64, warp_n: 64, resident: 2, other_per_step: 24.0 },
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
    // Accumulators go out in pairs of f32, each with its address and its bound.
    let stores = tm * tn / 2.0 / WARP;
    let output = if splits > 1.0 { F32 * p.m * p.n * splits } else { p.output_bytes() };
    let loaded = blocks * steps * step.bytes;
    let counts = Counts {
        flops: p.flops(),
        dram_bytes: output + operand_bytes(gpu, tile, p, rows, columns, loaded),
        l2_bytes: loaded + output,
        mma: blocks * steps * step.mma,
        ldmatrix: blocks * steps * step.ldmatrix,
        shared_clocks: blocks * steps * step.shared_clocks,
        issue_clocks: blocks * (steps * step.instructions + STORE_INSTRUCTIONS * stores),
        ..Counts::default()
    };
    Launch::even(counts, blocks, tile.resident.into())
}

/// Instructions of a store of the epilogue: itself, its address, its bound.
const STORE_INSTRUCTIONS: f64 = 3.0;

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

/// The f32 product on the f32 lanes: a thread's part of the tile, the depth of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LaneTile {
    m: f64,
    n: f64,
    /// Rows and columns of a thread's part.
    part: f64,
    resident: f64,
}

pub(crate) const LANE_TILES: [LaneTile; 2] = [
    LaneTile { m: 128.0, n: 128.0, part: 8.0, resident: 2.0 },
    LaneTile { m: 64.0, n: 64.0, part: 4.0, resident: 4.0 },
];

/// The f32 product. Per unit of depth a thread reads a column and a row of its part from shared memory, 16 bytes an instruction, and
/// multiplies them out; two more instructions for the loop and the copies.
pub(crate) fn lanes(gpu: &Gpu, tile: &LaneTile, p: &Product, splits: f64) -> Launch {
    let (rows, columns) = ((p.m / tile.m).ceil(), (p.n / tile.n).ceil());
    let blocks = rows * columns * splits;
    let depth = (p.k / splits).ceil();
    let warps = tile.m * tile.n / (tile.part * tile.part) / WARP;
    let loads = 2.0 * tile.part / 4.0;
    let loaded = blocks * depth * (tile.m + tile.n) * F32;
    let output = if splits > 1.0 { F32 * p.m * p.n * splits } else { p.output_bytes() };
    let fp32 = blocks * depth * warps * tile.part * tile.part;
    let reads = blocks * depth * warps * loads;
    let square = Tile { m: tile.m as u32, n: tile.n as u32, resident: tile.resident as u32, ..TILES[0] };
    // The same traffic as on tensor cores, of elements twice as wide.
    let operands = 2.0 * operand_bytes(gpu, &square, p, rows, columns, loaded / 2.0);
    let counts = Counts {
        flops: p.flops(),
        dram_bytes: output + operands,
        l2_bytes: loaded + output,
        // Threads of a warp share rows and columns: 16 lanes by 2 read 8 * part distinct values at a time.
        shared_clocks: 2.0 * reads + loaded / 128.0,
        issue_clocks: fp32 + reads + 2.0 * blocks * depth * warps,
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

    /// Instructions that make a value a number, beside its multiplications.
    fn unpack(self) -> f64 {
        match self {
            Weights::F32 => 0.0,
            // A shift or a mask.
            Weights::Bf16 => 1.0,
            // Extract and convert; scales are shared by 32.
            Weights::Q8_0 => 2.0,
            // One more to take the nibble out.
            Weights::Q4_0 | Weights::Q4_1 => 3.0,
        }
    }
}

/// Rows of activations that one pass over a weight serves.
pub const VECTOR_ROWS: u32 = 8;

/// A few rows of activations times a weight that is read once: a warp a row of the weight, 16 bytes a lane at a time.
pub(crate) fn vectors(weights: Weights, p: &Product) -> Launch {
    let passes = (p.m / f64::from(VECTOR_ROWS)).ceil();
    let rows = (p.m / passes).ceil();
    let values = p.n * p.k;
    // A warp's instruction covers a value of each lane.
    let lanes = passes * values / WARP;
    let per_load = 16.0 / weights.bytes();
    // One load of weights and the loop's two instructions for each 16 bytes; activations come four to a load and are shared by no one.
    let issue = lanes * ((3.0 / per_load) + weights.unpack() + rows * (1.0 + 0.25));
    let weight_bytes = passes * values * weights.bytes();
    let activations = F32 * p.m * (p.k + p.n);
    // Each warp reads all of the activations: from L1, which shares its port with shared memory.
    let cached = passes * p.n * rows * p.k * F32;
    let counts = Counts {
        flops: p.flops(),
        dram_bytes: weight_bytes + activations,
        l2_bytes: weight_bytes + activations,
        shared_clocks: (cached + weight_bytes) / 128.0,
        issue_clocks: issue,
        fp32: lanes * (rows + weights.unpack()),
        ..Counts::default()
    };
    // Four warps a block.
    Launch::even(counts, passes * (p.n / 4.0).ceil(), 8.0)
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

    /// The budgets of `spec/cuda.md`, section 2.
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
                let (seconds, limit) = vectors(weights, &product).seconds(&gpu);
                let least = product.n * product.k * weights.bytes() / gpu.dram_bytes_per_second;
                assert!(least < seconds, "{weights:?} {}", gpu.name);
                if limit == Limit::Dram {
                    assert!(seconds < 1.3 * least + 1e-6, "{weights:?} {}: {seconds} {least}", gpu.name);
                }
            }
        }
    }
}
