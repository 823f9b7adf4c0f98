//! Attention in the manner of FlashAttention-2 (Dao, arXiv 2307.08691): a block owns rows of one side and goes over tiles of the other, scores
//! never in memory. In bf16 on tensor cores (`kernels/attention_mma.cu`, `attention_mma_backward.cu`), in f32 (`attention_f32.cu`), and for
//! one query over a long cache (`attention_decode.cu`).
//!
//! What a step of a warp takes is counted where the source says it (products, scores, copies). The rest is read off the machine code that
//! ptxas 12.6 makes for sm_80, along the path of a tile that is wholly below the diagonal, without a cap of scores.
use crate::{
    cost::{Counts, Launch},
    gpu::WARP,
};

const BF16: f64 = 2.0;
const F32: f64 = 4.0;

/// Warps of a block.
const WARPS: f64 = 4.0;
/// Rows that a block owns in the backward, 16 a warp, and in f32, 8 a warp.
const OWN: f64 = 64.0;
const OWN_F32: f64 = 32.0;
/// Rows of the other side that a step goes over in f32.
const STREAM_F32: f64 = 32.0;

/// A forward kernel: channels (others are padded with zeros to the next), sixteens of queries of a warp, keys of a step.
struct Forward {
    width: u32,
    sixteens: f64,
    keys: f64,
}

const FORWARDS: [Forward; 5] = [
    Forward { width: 32, sixteens: 2.0, keys: 64.0 },
    Forward { width: 64, sixteens: 2.0, keys: 64.0 },
    Forward { width: 80, sixteens: 2.0, keys: 32.0 },
    Forward { width: 96, sixteens: 2.0, keys: 32.0 },
    Forward { width: 128, sixteens: 1.0, keys: 64.0 },
];

/// The widest head of the tensor-core kernels; wider ones go the f32 way.
pub(crate) const TENSOR_WIDTH: u32 = 128;

/// Instructions of a `cp.async` of 16 bytes: itself, its address, its bound. Machine code: 8 copies in 66 instructions.
const COPY: f64 = 8.25;
/// Instructions of a warp's step that no formula below counts: waits, the loop, reductions of rows, addresses of fragments. Machine code: of
/// the forward's step 610 at head_dim 128 (16 queries a warp) and 679 at 64 (32 queries), of which 532 and 578 are counted: so many, and
/// so many for each 16 queries.
const FORWARD_REST: [f64; 2] = [55.0, 23.0];
/// The same of dk and dv: 497 at head_dim 128 and 352 at 64, of which 354 and 217 are counted.
const BACKWARD_KV_REST: f64 = 139.0;
/// The same of dq: 334 and 406, of which 282 and 354.
const BACKWARD_Q_REST: f64 = 52.0;
/// f32: instructions of one product for each channel, 8 of them multiply-adds; the others read shared memory.
const PRODUCT_F32: f64 = 10.0;
/// f32: instructions that copy a streamed row's channel, four of which share an iteration of 81.
const COPY_F32: f64 = 81.0 / 16.0;
/// f32: instructions of the softmax of 8 x 32 scores, and those of them on the f32 lanes.
const SOFTMAX_F32: [f64; 2] = [230.0, 150.0];

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
    /// Whether factors are rounded to bf16 for the tensor cores.
    pub(crate) tensor: bool,
}

/// What one warp does in one step over `stream` rows of the other side.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    stream: f64,
    /// Rows of a warp, and of a block.
    warp_rows: f64,
    own: f64,
    mma: f64,
    ldmatrix: f64,
    /// Reads of shared memory other than ldmatrix, in clocks.
    shared: f64,
    fp32: f64,
    sfu: f64,
    rest: f64,
}

impl Attention {
    fn kernel(&self) -> &'static Forward {
        let [.., widest] = &FORWARDS;
        FORWARDS.iter().find(|f| self.head_dim <= f64::from(f.width)).unwrap_or(widest)
    }

    /// Channels with their padding.
    fn width(&self) -> f64 {
        if self.tensor { f64::from(self.kernel().width) } else { (self.head_dim / 32.0).ceil() * 32.0 }
    }

    /// Pairs of a query and a key that it sees.
    fn pairs(&self) -> f64 {
        self.sequences * self.heads * self.queries * (self.past + (self.queries + 1.0) / 2.0)
    }

    /// Tiles of `rows` queries by `columns` keys that are not wholly above the diagonal; of one head of one sequence.
    fn tiles(&self, rows: f64, columns: f64) -> f64 {
        // The last rows see all keys, the first those of the past and their own.
        let last = ((self.past + self.queries) / columns).ceil();
        let first = ((self.past + self.queries.min(rows)) / columns).ceil();
        (self.queries / rows).ceil() * (first + last) / 2.0
    }

    /// Scores, softmax and values.
    pub(crate) fn forward(&self) -> Launch {
        let d = self.width();
        let step = if self.tensor {
            let Forward { sixteens, keys, .. } = *self.kernel();
            let scores = sixteens * 16.0 * keys / WARP;
            Step {
                stream: keys,
                warp_rows: 16.0 * sixteens,
                own: WARPS * 16.0 * sixteens,
                mma: sixteens * d * keys / 64.0,
                // Fragments of K and V, each for all of the warp's queries.
                ldmatrix: d * keys / 128.0,
                // Maximum, scale and subtract, sum; accumulators rescaled; two scores rounded to a pair.
                fp32: 3.0 * scores + sixteens * d / 2.0 + scores / 2.0,
                sfu: scores,
                rest: FORWARD_REST[0] + FORWARD_REST[1] * sixteens,
                ..Step::default()
            }
        } else {
            self.step_f32(2.0)
        };
        let heads = self.sequences * self.heads;
        let element = if self.tensor { BF16 } else { F32 };
        let own = heads * self.queries * (d * element + (self.head_dim + 1.0) * F32);
        let keys = 2.0 * self.sequences * self.kv_heads * (self.past + self.queries) * d * element;
        self.launch(&step, 4.0, own + keys, own, 1.0)
    }

    /// dk and dv of a tile of keys, over the queries of all heads of its group.
    pub(crate) fn backward_kv(&self) -> Launch {
        let d = self.width();
        let step = if self.tensor {
            // S and dP have a fragment of the warp's own rows beside those of the tile.
            let stream = 32.0;
            let fragments = d / 16.0 * (1.0 + stream / 16.0) + d / 16.0 * (stream / 16.0);
            Step { ldmatrix: 2.0 * fragments, ..Self::step_mma(d, stream, 4.0, BACKWARD_KV_REST) }
        } else {
            self.step_f32(4.0)
        };
        let outputs = self.sequences * self.queries * 2.0 * self.kv_heads * self.head_dim * F32;
        // The operation's own work is ten per pair and channel, of which dv, dk, S and dP have eight.
        self.launch(&step, 8.0, outputs + self.backward_reads(), outputs, self.heads / self.kv_heads)
    }

    /// dq of a tile of queries. S and dP are made again.
    pub(crate) fn backward_q(&self) -> Launch {
        let d = self.width();
        let step = if self.tensor {
            let stream = if d <= 64.0 { 64.0 } else { 32.0 };
            let fragments = 3.0 * (d / 16.0) * (stream / 16.0);
            Step { ldmatrix: fragments, ..Self::step_mma(d, stream, 3.0, BACKWARD_Q_REST) }
        } else {
            self.step_f32(3.0)
        };
        let outputs = self.sequences * self.queries * self.heads * self.head_dim * F32;
        self.launch(&step, 2.0, outputs + self.backward_reads(), outputs, 1.0)
    }

    fn step_mma(d: f64, stream: f64, products: f64, rest: f64) -> Step {
        let scores = stream * 16.0 / WARP;
        // dp - delta, times p; scale and subtract lse. Rounded in pairs: p and ds for dv and dk, ds alone for dq.
        let fp32 = 3.0 * scores + scores / 2.0 * (products - 2.0);
        let mma = products * stream * d / 128.0;
        Step { stream, warp_rows: 16.0, own: OWN, mma, fp32, sfu: scores, rest, ..Step::default() }
    }

    fn step_f32(&self, products: f64) -> Step {
        let d = self.width();
        let reads = (PRODUCT_F32 - 8.0) * products * d;
        Step {
            stream: STREAM_F32,
            // All warps of a block go over all of its tiles.
            warp_rows: OWN_F32,
            own: OWN_F32,
            // Two wavefronts for a read of 16 bytes a lane, of which many are the same.
            shared: 2.0 * reads,
            fp32: 8.0 * products * d + SOFTMAX_F32[1],
            sfu: 8.0,
            rest: reads + SOFTMAX_F32[0] - SOFTMAX_F32[1],
            ..Step::default()
        }
    }

    /// q, k, v and dy.
    fn backward_reads(&self) -> f64 {
        let element = if self.tensor { BF16 } else { F32 };
        self.sequences * self.queries * self.width() * element * 2.0 * (self.heads + self.kv_heads)
    }

    /// A block has the tiles of `group` heads.
    fn launch(&self, step: &Step, flops: f64, dram: f64, own: f64, group: f64) -> Launch {
        let heads = self.sequences * self.heads;
        let element = if self.tensor { BF16 } else { F32 };
        let tiles = self.tiles(step.own, step.stream);
        let block_steps = heads * tiles;
        // Warps skip tiles that none of their rows has a part in.
        let warps = if step.warp_rows < step.own { 1.0 } else { WARPS };
        let warp_steps = heads * self.tiles(step.warp_rows, step.stream) * warps;
        let copied = 2.0 * step.stream * self.width() * element;
        let copying = if self.tensor { COPY * copied / 16.0 / WARP } else { COPY_F32 * copied / F32 / WARP };
        let issue = step.mma + step.ldmatrix + step.fp32 + step.sfu + step.rest;
        let counts = Counts {
            flops: flops * self.pairs() * self.head_dim,
            dram_bytes: dram,
            l2_bytes: own + block_steps * copied,
            mma: warp_steps * step.mma,
            ldmatrix: warp_steps * step.ldmatrix,
            shared_clocks: warp_steps * (4.0 * step.ldmatrix + step.shared) + block_steps * copied / 128.0,
            issue_clocks: warp_steps * issue + block_steps * copying,
            fp32: warp_steps * step.fp32,
            sfu: warp_steps * step.sfu,
        };
        let pieces = (self.queries / step.own).ceil();
        let most = ((self.past + self.queries) / step.stream).ceil();
        let largest = (most * pieces / tiles).max(1.0);
        Launch { largest, trips: 2.0, ..Launch::even(counts, heads / group * pieces, 2.0) }
    }

    /// One query a sequence over a cache in f32: keys are cut into splits so that the GPU is full; a block reads a key and a value once for up
    /// to eight query heads of their group.
    pub(crate) fn decode(&self) -> Launch {
        let keys = self.sequences * (self.past + self.queries);
        let group = self.heads / self.kv_heads;
        // Query heads of a block; keys of a place at once; lanes that share a key.
        let (heads, at_once): (f64, f64) =
            if group <= 1.0 { (1.0, 4.0) } else { (if group <= 4.0 { 4.0 } else { 8.0 }, 2.0) };
        let lanes = [8.0, 16.0, 32.0].into_iter().find(|l| self.head_dim <= 8.0 * l).unwrap_or(32.0);
        let visits = (group / heads).ceil();
        let bytes = 2.0 * keys * self.kv_heads * self.head_dim * F32;
        let own = 2.0 * self.sequences * self.heads * self.head_dim * F32;
        // Steps of all warps: each is of `at_once` keys for each group of lanes.
        let steps = visits * self.kv_heads * keys / (at_once * WARP / lanes);
        let shuffles = at_once * f64::log2(lanes);
        let counts = Counts {
            flops: 4.0 * keys * self.heads * self.head_dim,
            dram_bytes: bytes + own,
            l2_bytes: visits * bytes + own,
            shared_clocks: steps * heads * shuffles,
            issue_clocks: steps * (DECODE_STEP + heads * (DECODE_HEAD + 2.0 * shuffles + 16.0 * at_once)),
            fp32: steps * heads * (DECODE_HEAD / 2.0 + shuffles + 16.0 * at_once),
            sfu: steps * heads * (1.0 + at_once),
            ..Counts::default()
        };
        let keys = keys / self.sequences;
        let split = ((keys / DECODE_SPLITS / DECODE_KEYS).ceil() * DECODE_KEYS).max(DECODE_KEYS);
        let splits = (keys / split).ceil();
        Launch { trips: 3.0, ..Launch::even(counts, self.sequences * self.kv_heads * visits * splits, 4.0) }
    }
}

/// Keys of a split are a multiple of these.
const DECODE_KEYS: f64 = 64.0;
/// Splits of a cache, at most.
const DECODE_SPLITS: f64 = 64.0;
/// Instructions of a step of decoding that all heads share: addresses, loads, bounds. Machine code of `attention_decode_f32_16_4`.
const DECODE_STEP: f64 = 93.0;
/// Instructions of a step for one head beside its products and its sums over lanes: maximum, exponentials, rescaling. Machine code.
const DECODE_HEAD: f64 = 50.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn attention(queries: f64, past: f64) -> Attention {
        Attention { sequences: 1.0, queries, past, heads: 32.0, kv_heads: 8.0, head_dim: 128.0, tensor: true }
    }

    /// As many mma as the lower triangle's tiles take, at least two for each ldmatrix.
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
        for head_dim in [64.0, 128.0] {
            let a = Attention { head_dim, ..attention(1024.0, 0.0) };
            let times = (a.backward_kv().counts.mma + a.backward_q().counts.mma) / a.forward().counts.mma;
            // A little less: the backward's tiles are half as long and follow the diagonal more closely.
            assert!((3.35..=3.5).contains(&times), "{times}");
        }
    }

    /// The f32 kernels multiply as often: 32 lanes and one multiply-add each, where an mma has 2048.
    #[test]
    fn f32_does_the_same_products_on_its_lanes() {
        let tensor = attention(1024.0, 0.0);
        let f32 = Attention { tensor: false, ..tensor };
        let ratio = f32.forward().counts.fp32 * WARP / (tensor.forward().counts.mma * 2048.0);
        // Smaller tiles skip more of the upper triangle; softmax adds a little.
        assert!((0.95..1.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn decoding_reads_the_cache_once() {
        let counts = attention(1.0, 4095.0).decode().counts;
        assert_eq!(counts.dram_bytes, 2.0 * 4096.0 * 8.0 * 128.0 * 4.0 + 2.0 * 32.0 * 128.0 * 4.0);
    }
}
