//! Attention in the manner of FlashAttention-2 (Dao, arXiv 2307.08691): tiles of 64 queries by 64 keys, four warps of 16 rows, scores never in
//! memory. `kernels/attention_mma.cu` and `kernels/attention_mma_backward.cu`.
use crate::{
    cost::{Counts, Launch},
    gpu::WARP,
};

/// Queries of a block, keys of a step.
const TILE: f64 = 64.0;
const WARPS: f64 = 4.0;
const BF16: f64 = 2.0;
const F32: f64 = 4.0;

/// Head widths that kernels are compiled for; others are padded with zeros to the next.
const WIDTHS: [u32; 6] = [16, 32, 64, 80, 96, 128];

/// One layer's attention over equal sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Attention {
    pub(crate) sequences: f64,
    /// Queries of a sequence.
    pub(crate) queries: f64,
    /// Keys before the first query.
    pub(crate) past: f64,
    pub(crate) heads: f64,
    pub(crate) kv_heads: f64,
    pub(crate) head_dim: f64,
}

impl Attention {
    fn width(&self) -> f64 {
        let wide = WIDTHS.iter().map(|&w| f64::from(w)).find(|&w| self.head_dim <= w);
        wide.unwrap_or((self.head_dim / 16.0).ceil() * 16.0)
    }

    fn pieces(&self) -> f64 {
        (self.queries / TILE).ceil()
    }

    /// Pairs of a query and a key that it sees.
    fn pairs(&self) -> f64 {
        self.sequences * self.heads * self.queries * (self.past + (self.queries + 1.0) / 2.0)
    }

    /// Tiles of scores that are not wholly above the diagonal, of one head of one sequence.
    fn tiles(&self) -> f64 {
        let pieces = self.pieces();
        // The last piece sees all keys, the first those of the past and its own.
        let last = ((self.past + self.queries) / TILE).ceil();
        let first = ((self.past + self.queries.min(TILE)) / TILE).ceil();
        pieces * (first + last) / 2.0
    }

    /// A launch of blocks that do `tiles / blocks` steps each on average, and at most `most`.
    fn launch(&self, counts: Counts, blocks: f64, mean: f64, most: f64) -> Launch {
        Launch { largest: (most / mean).max(1.0), trips: 2.0, ..Launch::even(counts, blocks, 2.0) }
    }

    /// Scores, softmax and values.
    pub(crate) fn forward(&self) -> Launch {
        let d = self.width();
        let heads = self.sequences * self.heads;
        let steps = heads * self.tiles();
        // Of one warp in one step: both products; the softmax of 16 x 64 scores, 32 a lane.
        let (mma, ldmatrix, scores) = (d, d / 2.0, TILE / 2.0);
        // Maximum, scale and subtract, sum; two scores to a pair of bf16; the accumulators' rescaling.
        let fp32 = 3.0 * scores + scores / 2.0 + d / 2.0;
        let copies = 2.0 * TILE * d * BF16;
        // A copy of 16 bytes has an address and a bound.
        let copying = COPY_INSTRUCTIONS * copies / 16.0 / WARP;
        let issue = WARPS * (mma + ldmatrix + fp32 + scores + STEP_INSTRUCTIONS) + copying;
        let rows = heads * self.queries;
        let own = rows * d * BF16 + rows * (self.head_dim + 1.0) * F32;
        let keys = 2.0 * self.sequences * self.kv_heads * (self.past + self.queries) * d * BF16;
        let counts = Counts {
            flops: 4.0 * self.pairs() * self.head_dim,
            dram_bytes: own + keys,
            l2_bytes: own + steps * copies,
            mma: steps * WARPS * mma,
            ldmatrix: steps * WARPS * ldmatrix,
            shared_clocks: steps * (WARPS * 4.0 * ldmatrix + copies / 128.0),
            issue_clocks: steps * issue,
            fp32: steps * WARPS * fp32,
            sfu: steps * WARPS * scores,
        };
        let most = ((self.past + self.queries) / TILE).ceil();
        self.launch(counts, heads * self.pieces(), self.tiles() / self.pieces(), most)
    }

    /// dk and dv of a tile of keys, over the queries of all heads of its group.
    pub(crate) fn backward_kv(&self) -> Launch {
        let step = |d: f64| {
            (4.0 * TILE * d / 128.0, 2.0 * (d / 16.0) * (1.0 + TILE / 16.0) + 2.0 * (d / 16.0) * (TILE / 16.0))
        };
        self.backward(
            step,
            8.0,
            self.sequences * self.kv_heads * self.pieces(),
            self.heads / self.kv_heads,
            2.0 * self.kv_heads,
        )
    }

    /// dq of a tile of queries.
    pub(crate) fn backward_q(&self) -> Launch {
        let step = |d: f64| (3.0 * TILE * d / 128.0, 3.0 * (d / 16.0) * (TILE / 16.0));
        // Scores are made twice; the operation's own work is ten per pair and channel, of which dq has two.
        self.backward(step, 2.0, self.sequences * self.heads * self.pieces(), 1.0, self.heads)
    }

    fn backward(
        &self,
        step: impl Fn(f64) -> (f64, f64),
        flops: f64,
        blocks: f64,
        group: f64,
        out_heads: f64,
    ) -> Launch {
        let d = self.width();
        let steps = self.sequences * self.heads * self.tiles();
        let (mma, ldmatrix) = step(d);
        let scores = TILE / 2.0;
        // Scale and subtract lse; dp - delta, times p; both rounded in pairs.
        let fp32 = 3.0 * scores + scores;
        let copies = 2.0 * TILE * d * BF16;
        let issue =
            WARPS * (mma + ldmatrix + fp32 + scores + STEP_INSTRUCTIONS) + COPY_INSTRUCTIONS * copies / 16.0 / WARP;
        let tokens = self.sequences * self.queries;
        let reads = tokens * d * BF16 * 2.0 * (self.heads + self.kv_heads);
        let writes = tokens * self.head_dim * F32 * out_heads;
        let counts = Counts {
            flops: flops * self.pairs() * self.head_dim,
            dram_bytes: reads + writes,
            l2_bytes: steps * copies + writes,
            mma: steps * WARPS * mma,
            ldmatrix: steps * WARPS * ldmatrix,
            shared_clocks: steps * (WARPS * 4.0 * ldmatrix + copies / 128.0),
            issue_clocks: steps * issue,
            fp32: steps * WARPS * fp32,
            sfu: steps * WARPS * scores,
        };
        self.launch(counts, blocks, self.tiles() / self.pieces() * group, self.pieces() * group)
    }

    /// One query a sequence over a cache in f32, keys cut into parts so that the GPU is full: a warp reads a key or a value once for all query
    /// heads of its group.
    pub(crate) fn decode(&self) -> Launch {
        let keys = self.sequences * (self.past + self.queries);
        let values = 2.0 * keys * self.kv_heads * self.head_dim;
        let bytes = values * F32;
        let group = self.heads / self.kv_heads;
        let own = 2.0 * self.sequences * self.heads * self.head_dim * F32;
        let lanes = values / WARP;
        let scores = keys * self.heads / WARP;
        let fp32 = lanes * group;
        let counts = Counts {
            flops: 4.0 * keys * self.heads * self.head_dim,
            dram_bytes: bytes + own,
            l2_bytes: bytes + own,
            // A load of 16 bytes and the loop for four values; a score costs a reduction over lanes, an exponential and a rescaling.
            issue_clocks: lanes * (0.75 + group) + DECODE_SCORE_INSTRUCTIONS * scores * WARP / 8.0,
            fp32,
            sfu: scores,
            ..Counts::default()
        };
        let parts = (keys / self.sequences / DECODE_PART).ceil();
        Launch { trips: 3.0, ..Launch::even(counts, self.sequences * self.kv_heads * parts, 8.0) }
    }
}

/// Instructions of one warp in one step that are none of the counted ones: waits, the loop, reductions of two rows over four lanes.
const STEP_INSTRUCTIONS: f64 = 40.0;
/// Instructions of a copy of 16 bytes: itself, its address, its bound.
const COPY_INSTRUCTIONS: f64 = 4.0;
/// Keys of one block when a single query reads a long cache.
const DECODE_PART: f64 = 256.0;
/// Instructions of one score when one query is decoded, for the eight lanes or so that share a key.
const DECODE_SCORE_INSTRUCTIONS: f64 = 8.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn attention(queries: f64, past: f64) -> Attention {
        Attention { sequences: 1.0, queries, past, heads: 32.0, kv_heads: 8.0, head_dim: 128.0 }
    }

    /// `spec/cuda.md`, section 2: as many mma as the lower triangle's tiles take, at least two for each ldmatrix.
    #[test]
    fn tiles_above_the_diagonal_are_skipped() {
        let counts = attention(2048.0, 0.0).forward().counts;
        let tiles = 32.0 * 33.0 / 2.0;
        // 64 x 64 x 128 multiply-adds, twice.
        assert_eq!(counts.mma, 32.0 * tiles * 2.0 * 64.0 * 64.0 * 128.0 / 2048.0);
        assert!(counts.mma / counts.ldmatrix >= 2.0);
        assert_eq!(counts.flops, 4.0 * 32.0 * 2048.0 * 2049.0 / 2.0 * 128.0);
    }

    #[test]
    fn a_past_adds_its_columns() {
        let with = attention(64.0, 640.0).forward().counts.mma;
        assert_eq!(with, 11.0 * attention(64.0, 0.0).forward().counts.mma);
    }

    #[test]
    fn the_backward_multiplies_seven_times_where_the_forward_does_twice() {
        let a = attention(1024.0, 0.0);
        assert_eq!((a.backward_kv().counts.mma + a.backward_q().counts.mma) / a.forward().counts.mma, 3.5);
    }

    #[test]
    fn decoding_reads_the_cache_once() {
        let counts = attention(1.0, 4095.0).decode().counts;
        assert_eq!(counts.dram_bytes, 2.0 * 4096.0 * 8.0 * 128.0 * 4.0 + 2.0 * 32.0 * 128.0 * 4.0);
    }
}
