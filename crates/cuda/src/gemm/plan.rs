//! Which kernel makes a product, with which tiles, in how many parts of k: a function of the shape and of the number of multiprocessors,
//! and of nothing else, so that results can be repeated and the roofline model can ask for the same plan.

/// How the operands lie in memory. The product is `c[m, n] = sum_k a(m, k) b(k, n)`, everything row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `a` is `[m, k]`, `b` is `[n, k]`: `y = x w^T`.
    Nt,
    /// `a` is `[m, k]`, `b` is `[k, n]`: `dx = dy w`.
    Nn,
    /// `a` is `[k, m]`, `b` is `[k, n]`: `dw = dy^T x`.
    Tn,
}

/// What factors are rounded to before they are multiplied. Sums are f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compute {
    /// bf16, on tensor cores.
    Bf16,
    /// Nothing: fused multiply-adds of f32.
    F32,
}

/// What a block of threads makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Rows of c.
    pub m: usize,
    /// Columns of c.
    pub n: usize,
    /// Threads.
    pub threads: u32,
    /// Dynamic shared memory in bytes.
    pub shared: u32,
}

/// How one product is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The kernel.
    pub entry: &'static str,
    /// Its tile.
    pub tile: Tile,
    /// Blocks: rows of tiles in a group, columns of tiles, groups times parts of k.
    pub grid: [u32; 3],
    /// The number of parts of k as a power of two. Parts leave partial sums, which a second kernel adds up in order.
    pub split_bits: u32,
    /// Elements of k in a part, whole tiles.
    pub k_split: usize,
    /// Blocks of threads that have work.
    pub blocks: usize,
}

impl Plan {
    /// Parts of k.
    pub fn splits(&self) -> usize {
        1 << self.split_bits
    }
}

/// A tile, and what it costs on one multiprocessor.
struct Choice {
    tile: Tile,
    /// Kernels for nt, nn and tn.
    entries: [&'static str; 3],
    /// Elements of k between two barriers.
    k_tile: usize,
    /// Clocks for so many elements of k, at the rate of an A100: 1024 products of bf16 or 64 of f32 a clock, as far as a tile gets there.
    clocks: usize,
}

const BF16: [Choice; 3] = [
    Choice {
        tile: Tile { m: 128, n: 256, threads: 256, shared: 4 * (128 + 256) * 64 },
        entries: ["gemm_nt_bf16_128x256", "gemm_nn_bf16_128x256", "gemm_tn_bf16_128x256"],
        k_tile: 32,
        clocks: 1024,
    },
    Choice {
        tile: Tile { m: 128, n: 128, threads: 128, shared: 3 * (128 + 128) * 64 },
        entries: ["gemm_nt_bf16_128x128", "gemm_nn_bf16_128x128", "gemm_tn_bf16_128x128"],
        k_tile: 32,
        clocks: 540,
    },
    // Shared memory is busy as long as the tensor cores: half as many products for each ldmatrix.
    Choice {
        tile: Tile { m: 64, n: 64, threads: 128, shared: 4 * (64 + 64) * 64 },
        entries: ["gemm_nt_bf16_64x64", "gemm_nn_bf16_64x64", "gemm_tn_bf16_64x64"],
        k_tile: 32,
        clocks: 200,
    },
];

const F32: [Choice; 2] = [
    Choice {
        tile: Tile { m: 128, n: 128, threads: 256, shared: 0 },
        entries: ["gemm_nt_f32_128x128", "gemm_nn_f32_128x128", "gemm_tn_f32_128x128"],
        k_tile: 16,
        clocks: 5000,
    },
    Choice {
        tile: Tile { m: 64, n: 64, threads: 256, shared: 0 },
        entries: ["gemm_nt_f32_64x64", "gemm_nn_f32_64x64", "gemm_tn_f32_64x64"],
        k_tile: 16,
        clocks: 1450,
    },
];

/// Tiles of rows that are computed together, so that both operands stay in the L2 cache.
const GROUP: usize = 8;

/// The most parts of k, as a power of two.
const MOST_SPLIT_BITS: u32 = 4;

/// A part of k has at least so many tiles of k, or filling the ring costs more than is gained.
const LEAST_TILES: usize = 4;

/// Clocks of a launch that could be spared: the second pass of parts of k.
const LAUNCH: usize = 4000;

/// Bytes that one multiprocessor gets from memory in a clock.
const BYTES_PER_CLOCK: usize = 10;

/// The plan with the fewest clocks for `c[m, n]` over `k` on `processors` multiprocessors. The clocks are a model: they decide between
/// plans, and say nothing about a device.
pub fn plan(compute: Compute, layout: Layout, m: usize, n: usize, k: usize, processors: usize) -> Plan {
    let choices: &[Choice] = match compute {
        Compute::Bf16 => &BF16,
        Compute::F32 => &F32,
    };
    let processors = processors.max(1);
    let mut best: Option<(usize, Plan)> = None;
    for choice in choices {
        for split_bits in 0..=MOST_SPLIT_BITS {
            let Some((clocks, plan)) = choice.plan(layout, [m, n, k], split_bits, processors) else { break };
            if best.is_none_or(|(least, _)| clocks < least) {
                best = Some((clocks, plan));
            }
        }
    }
    // Every choice has a plan without parts, so there is one.
    best.map_or_else(|| choices[0].undivided(layout, [m, n, k]), |(_, plan)| plan)
}

impl Choice {
    fn entry(&self, layout: Layout) -> &'static str {
        let [nt, nn, tn] = self.entries;
        match layout {
            Layout::Nt => nt,
            Layout::Nn => nn,
            Layout::Tn => tn,
        }
    }

    fn undivided(&self, layout: Layout, [m, n, k]: [usize; 3]) -> Plan {
        let (tiles_m, tiles_n) = (m.div_ceil(self.tile.m), n.div_ceil(self.tile.n));
        // Groups of about the same size: blocks beyond the last row would only leave again.
        let groups = tiles_m.div_ceil(GROUP);
        let group = tiles_m.div_ceil(groups.max(1));
        // What does not fit in a grid is refused at the launch.
        let grid = [group, tiles_n, groups].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let k_split = k.next_multiple_of(self.k_tile);
        Plan { entry: self.entry(layout), tile: self.tile, grid, split_bits: 0, k_split, blocks: tiles_m * tiles_n }
    }

    /// Its clocks and its launch; `None` when k is too short for so many parts.
    fn plan(&self, layout: Layout, size: [usize; 3], split_bits: u32, processors: usize) -> Option<(usize, Plan)> {
        let [m, n, k] = size;
        let mut plan = self.undivided(layout, size);
        let splits = 1usize << split_bits;
        let tiles_k = k.div_ceil(self.k_tile);
        let per_split = tiles_k.div_ceil(splits);
        // Parts only where there are too few blocks to go round, and none that is empty.
        if 1 < splits && (per_split < LEAST_TILES || tiles_k <= (splits - 1) * per_split || processors <= plan.blocks) {
            return None;
        }
        plan.split_bits = split_bits;
        plan.k_split = per_split * self.k_tile;
        plan.grid[2] = plan.grid[2].saturating_mul(splits as u32);
        plan.blocks *= splits;
        // To fill the ring, and to write the tile.
        let each = per_split * self.clocks + 1000 + self.tile.m * self.tile.n / 8;
        let rounds = plan.blocks.div_ceil(processors);
        let second = match splits {
            1 => 0,
            _ => LAUNCH + (2 * splits + 1) * m * n * 4 / (processors * BYTES_PER_CLOCK),
        };
        Some((rounds * each + second, plan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A100: usize = 108;

    #[test]
    fn large_products_take_large_tiles_and_small_ones_fill_the_device() {
        let large = plan(Compute::Bf16, Layout::Nt, 8192, 4096, 4096, A100);
        assert_eq!((large.entry, large.splits(), large.grid), ("gemm_nt_bf16_128x256", 1, [8, 16, 8]));
        // Few rows: the weight's columns alone do not occupy the device.
        let few = plan(Compute::Bf16, Layout::Nt, 32, 1024, 4096, A100);
        assert_eq!(few.entry, "gemm_nt_bf16_64x64");
        assert!(1 < few.splits() && few.blocks <= 2 * A100, "{few:?}");
        // A small weight's gradient over many tokens.
        let gradient = plan(Compute::Bf16, Layout::Tn, 576, 576, 65_536, A100);
        assert!(1 < gradient.splits() && A100 / 2 <= gradient.blocks, "{gradient:?}");
        assert_eq!(plan(Compute::F32, Layout::Tn, 4096, 4096, 8192, A100).entry, "gemm_tn_f32_128x128");
    }

    #[test]
    fn every_element_of_every_shape_has_its_place() {
        let sizes = [0, 1, 15, 16, 17, 127, 128, 129, 1000, 4097];
        for compute in [Compute::Bf16, Compute::F32] {
            for (m, n) in sizes.iter().flat_map(|&m| sizes.map(|n| (m, n))) {
                for k in sizes {
                    for processors in [1, 46, A100, 132] {
                        let p = plan(compute, Layout::Nn, m, n, k, processors);
                        let [group, columns, z] = p.grid.map(|n| n as usize);
                        assert!(m <= group * (z >> p.split_bits) * p.tile.m && n <= columns * p.tile.n, "{p:?}");
                        assert!(k <= p.k_split * p.splits() && z.is_multiple_of(p.splits()), "{p:?}");
                        // No part is empty, so that none leaves zeros for nothing.
                        assert!(p.splits() == 1 || p.k_split * (p.splits() - 1) < k, "{p:?}");
                        assert_eq!(p.blocks == 0, m == 0 || n == 0);
                    }
                }
            }
        }
    }
}
