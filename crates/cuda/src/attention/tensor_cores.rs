//! Attention on tensor cores (`kernels/attention_mma*.cu`): q, k, v and dy are rounded to bf16 first, with every head padded to a width that
//! the kernels are compiled for.
use super::{
    Gradients, Inputs, Saved, Sizes,
    pieces::{Pieces, Rows},
};
use crate::{
    device::Device,
    driver::Address,
    kernel::{Launch, arguments},
    memory::DeviceBuffer,
};
use paring_ops::{AttnSpec, Error, Result};
use paring_tensor::DType;

arguments! {
    /// f32 `[rows, heads * head_dim]` times a factor to bf16 `[rows, heads, padded]`.
    pub(crate) struct Cast in "attention_cast" for ["attention_cast_bf16"] {
        from: Address, to: Address,
        /// Eights of elements that are written.
        chunks: u32,
        head_dim: u32, padded: u32,
        /// Whether `head_dim` is a multiple of four and `from` aligned to 16 bytes.
        vectors: u32,
        factor: f32
    }
}

arguments! {
    /// `attention_mma.cu`.
    pub(crate) struct Forward in "attention_mma" for
        ["attention_mma_32", "attention_mma_64", "attention_mma_80", "attention_mma_96", "attention_mma_128"] {
        q: Address, k: Address, v: Address, pieces: Address, y: Address, lse: Address,
        tokens: u32, heads: u32, kv_heads: u32, head_dim: u32, past: u32, window: u32, multiplier: f32, inner: f32
    }
}

arguments! {
    /// dq in `attention_mma_backward.cu`.
    pub(crate) struct BackwardQ in "attention_mma_backward" for [
        "attention_backward_q_mma_32", "attention_backward_q_mma_64", "attention_backward_q_mma_80",
        "attention_backward_q_mma_96", "attention_backward_q_mma_128"
    ] {
        q: Address, k: Address, v: Address, dy: Address, lse: Address, delta: Address, pieces: Address, dq: Address,
        tokens: u32, heads: u32, kv_heads: u32, head_dim: u32, window: u32, multiplier: f32, inner: f32, scale_q: f32
    }
}

arguments! {
    /// dk and dv in `attention_mma_backward.cu`.
    pub(crate) struct BackwardKv in "attention_mma_backward" for [
        "attention_backward_kv_mma_32", "attention_backward_kv_mma_64", "attention_backward_kv_mma_80",
        "attention_backward_kv_mma_96", "attention_backward_kv_mma_128"
    ] {
        q: Address, k: Address, v: Address, dy: Address, lse: Address, delta: Address, pieces: Address,
        dk: Address, dv: Address,
        tokens: u32, heads: u32, kv_heads: u32, head_dim: u32, window: u32, multiplier: f32, inner: f32, scale_k: f32
    }
}

/// Threads of a block, and the rows that it owns in the backward.
const THREADS: u32 = 128;
const ROWS: u32 = 64;
/// Queries of a step of `attention_backward_kv_mma_*`, and its stages.
const QUERIES: u32 = 32;
const STAGES: u32 = 2;

/// The kernels for one width of heads.
struct Kernels {
    padded: u32,
    /// Queries of a block of the forward.
    queries: u32,
    forward: &'static str,
    backward_q: &'static str,
    backward_kv: &'static str,
}

macro_rules! kernels {
    ($($padded:literal of $queries:literal queries),+) => {
        [$(Kernels {
            padded: $padded,
            queries: $queries,
            forward: concat!("attention_mma_", $padded),
            backward_q: concat!("attention_backward_q_mma_", $padded),
            backward_kv: concat!("attention_backward_kv_mma_", $padded),
        }),+]
    };
}
const KERNELS: [Kernels; 5] = kernels!(
    32 of 128 queries,
    64 of 128 queries,
    80 of 128 queries,
    96 of 128 queries,
    128 of 64 queries
);

fn kernels(head_dim: usize) -> Option<&'static Kernels> {
    KERNELS.iter().find(|k| head_dim <= k.padded as usize)
}

/// Whether the spec allows rounding, and there is a kernel for its heads.
pub(super) fn fits(spec: &AttnSpec) -> bool {
    spec.compute == DType::BF16 && kernels(spec.head_dim).is_some()
}

fn wanted(op: &'static str, spec: &AttnSpec) -> Result<&'static Kernels> {
    let what = || format!("heads of {} elements on tensor cores", spec.head_dim);
    kernels(spec.head_dim).ok_or_else(|| Error::Unsupported { op, what: what() })
}

/// How scores come from products. The kernels take a maximum of products, not of scores, so the multiplier has to be positive: a negative
/// scale is moved into q, and so is one of 0.
struct Scores {
    /// Of q when it is rounded: 1, -1 or 0.
    factor: f32,
    /// What the product of k and the factored q is scaled by: > 0.
    scale: f32,
    multiplier: f32,
    inner: f32,
}

impl Scores {
    fn of(spec: &AttnSpec) -> Scores {
        let factor = if spec.scale == 0.0 { 0.0 } else { spec.scale.signum() };
        let scale = if spec.scale == 0.0 { 1.0 } else { spec.scale.abs() };
        // Exponentials are powers of two.
        let log2_e = std::f32::consts::LOG2_E;
        match spec.softcap {
            None => Scores { factor, scale, multiplier: scale * log2_e, inner: 0.0 },
            Some(cap) => Scores { factor, scale, multiplier: cap * log2_e, inner: scale / cap },
        }
    }
}

/// `rows` rows of `heads` heads in bf16.
fn cast(
    device: &Device,
    op: &'static str,
    from: Address,
    [rows, heads]: [usize; 2],
    head_dim: u32,
    padded: u32,
    factor: f32,
) -> Result<DeviceBuffer> {
    let elements = rows * heads * padded as usize;
    let to = device.scratch(op, elements * 2)?;
    let too_many = || Error::Unsupported { op, what: format!("{elements} elements in bf16") };
    let chunks = u32::try_from(elements / 8).map_err(|_| too_many())?;
    let vectors = u32::from(head_dim.is_multiple_of(4) && from.0.is_multiple_of(16));
    let launch = Launch::over("attention_cast_bf16", elements, 8, 256, u32::MAX);
    device.launch(op, launch, Cast { from, to: to.address(), chunks, head_dim, padded, vectors, factor })?;
    Ok(to)
}

/// q, k and v in bf16.
struct Rounded {
    q: DeviceBuffer,
    k: DeviceBuffer,
    v: DeviceBuffer,
}

impl Rounded {
    fn of(
        device: &Device,
        op: &'static str,
        inputs: &Inputs,
        spec: &AttnSpec,
        sizes: Sizes,
        padded: u32,
        factor: f32,
    ) -> Result<Rounded> {
        // Spare rows of a cache have no keys.
        let (queries, keys) = ([spec.n_tokens(), spec.heads], [spec.past + spec.n_tokens(), spec.kv_heads]);
        let cast = |from, shape, factor| cast(device, op, from, shape, sizes.head_dim, padded, factor);
        Ok(Rounded {
            q: cast(inputs.q, queries, factor)?,
            k: cast(inputs.k, keys, 1.0)?,
            v: cast(inputs.v, keys, 1.0)?,
        })
    }
}

pub(super) fn forward(
    device: &Device,
    y: Address,
    lse: Address,
    inputs: &Inputs,
    spec: &AttnSpec,
    sizes: Sizes,
) -> Result<()> {
    let op = "attention";
    let kernels = wanted(op, spec)?;
    let Scores { factor, multiplier, inner, .. } = Scores::of(spec);
    let Sizes { tokens, heads, kv_heads, head_dim, past, window, .. } = sizes;
    let rounded = Rounded::of(device, op, inputs, spec, sizes, kernels.padded, factor)?;
    let of_queries = Pieces::of(device, op, spec, kernels.queries, Rows::Queries)?;
    let (q, k, v) = (rounded.q.address(), rounded.k.address(), rounded.v.address());
    let pieces = of_queries.address();
    device.launch(
        op,
        of_queries.launch(kernels.forward, heads, THREADS, 0),
        Forward { q, k, v, pieces, y, lse, tokens, heads, kv_heads, head_dim, past, window, multiplier, inner },
    )
}

pub(super) fn backward(
    device: &Device,
    to: Gradients,
    saved: &Saved,
    inputs: &Inputs,
    spec: &AttnSpec,
    sizes: Sizes,
) -> Result<()> {
    let op = "attention_backward";
    let kernels = wanted(op, spec)?;
    let Scores { factor, scale, multiplier, inner } = Scores::of(spec);
    let Sizes { tokens, heads, kv_heads, head_dim, window, .. } = sizes;
    let rounded = Rounded::of(device, op, inputs, spec, sizes, kernels.padded, factor)?;
    let dy = cast(device, op, saved.dy, [spec.n_tokens(), spec.heads], head_dim, kernels.padded, 1.0)?;
    let (q, k, v, dy) = (rounded.q.address(), rounded.k.address(), rounded.v.address(), dy.address());
    let (lse, delta) = (saved.lse.address(), saved.delta.address());

    let of_keys = Pieces::of(device, op, spec, ROWS, Rows::Keys)?;
    // Tiles of k and v; in each stage, of q and dy, with lse and delta.
    let shared = 2 * ROWS * kernels.padded * 2 + STAGES * (2 * QUERIES * kernels.padded * 2 + 2 * QUERIES * 4);
    let Gradients { dq, dk, dv } = to;
    let (pieces_of_keys, scale_k) = (of_keys.address(), scale);
    device.launch(
        op,
        of_keys.launch(kernels.backward_kv, kv_heads, THREADS, shared),
        BackwardKv {
            q,
            k,
            v,
            dy,
            lse,
            delta,
            pieces: pieces_of_keys,
            dk,
            dv,
            tokens,
            heads,
            kv_heads,
            head_dim,
            window,
            multiplier,
            inner,
            scale_k,
        },
    )?;
    let of_queries = Pieces::of(device, op, spec, ROWS, Rows::Queries)?;
    let pieces = of_queries.address();
    device.launch(
        op,
        of_queries.launch(kernels.backward_q, heads, THREADS, 0),
        BackwardQ {
            q,
            k,
            v,
            dy,
            lse,
            delta,
            pieces,
            dq,
            tokens,
            heads,
            kv_heads,
            head_dim,
            window,
            multiplier,
            inner,
            // What was moved into q has to come back.
            scale_q: spec.scale,
        },
    )
}
