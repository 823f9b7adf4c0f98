//! Attention in f32 throughout (`kernels/attention_f32.cu`).
use super::{
    Gradients, Inputs, Saved, Sizes,
    pieces::{Pieces, Rows},
};
use crate::{
    device::Device,
    driver::Address,
    kernel::{Launch, arguments},
};
use paring_ops::{AttnSpec, Error, Result};

arguments! {
    /// The forward.
    pub(crate) struct Forward in "attention_f32" for ["attention_f32_64", "attention_f32_128", "attention_f32_256"] {
        q: Address, k: Address, v: Address, pieces: Address, y: Address, lse: Address,
        tokens: u32, heads: u32, kv_heads: u32, head_dim: u32, past: u32, window: u32, scale: f32, cap: f32
    }
}

arguments! {
    /// dq.
    pub(crate) struct BackwardQ in "attention_f32" for
        ["attention_backward_q_f32_64", "attention_backward_q_f32_128", "attention_backward_q_f32_256"] {
        q: Address, k: Address, v: Address, dy: Address, lse: Address, delta: Address, pieces: Address, dq: Address,
        tokens: u32, heads: u32, kv_heads: u32, head_dim: u32, window: u32, scale: f32, cap: f32
    }
}

arguments! {
    /// dk and dv.
    pub(crate) struct BackwardKv in "attention_f32" for
        ["attention_backward_kv_f32_64", "attention_backward_kv_f32_128", "attention_backward_kv_f32_256"] {
        q: Address, k: Address, v: Address, dy: Address, lse: Address, delta: Address, pieces: Address,
        dk: Address, dv: Address,
        tokens: u32, heads: u32, kv_heads: u32, head_dim: u32, window: u32, scale: f32, cap: f32
    }
}

/// The kernels for heads of up to one width.
struct Kernels {
    /// Width that rows in shared memory are padded to.
    padded: u32,
    /// Rows that a block owns: a warp has 8.
    rows: u32,
    forward: &'static str,
    backward_q: &'static str,
    backward_kv: &'static str,
}

macro_rules! kernels {
    ($($padded:literal of $rows:literal rows),+) => {
        [$(Kernels {
            padded: $padded,
            rows: $rows,
            forward: concat!("attention_f32_", $padded),
            backward_q: concat!("attention_backward_q_f32_", $padded),
            backward_kv: concat!("attention_backward_kv_f32_", $padded),
        }),+]
    };
}
const KERNELS: [Kernels; 3] = kernels!(64 of 32 rows, 128 of 32 rows, 256 of 16 rows);
/// Rows of a streamed tile.
const STREAM: u32 = 32;

impl Kernels {
    fn of(op: &'static str, spec: &AttnSpec) -> Result<&'static Kernels> {
        let what = || format!("heads of {} elements", spec.head_dim);
        let found = KERNELS.iter().find(|k| spec.head_dim <= k.padded as usize);
        found.ok_or_else(|| Error::Unsupported { op, what: what() })
    }

    /// `owned` tiles of the block's rows, one streamed tile, and the scores between them, each row padded by four floats.
    fn launch(&self, pieces: &Pieces, entry: &'static str, heads: u32, owned: u32) -> Launch {
        let floats = (owned * self.rows + STREAM) * (self.padded + 4) + self.rows * (STREAM + 4);
        pieces.launch(entry, heads, self.rows * 4, floats * 4)
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
    let kernels = Kernels::of(op, spec)?;
    let &Inputs { q, k, v } = inputs;
    let Sizes { tokens, heads, kv_heads, head_dim, past, window, .. } = sizes;
    let (scale, cap) = (spec.scale, spec.softcap.unwrap_or(0.0));
    let of_queries = Pieces::of(device, op, spec, kernels.rows, Rows::Queries)?;
    let pieces = of_queries.address();
    device.launch(
        op,
        kernels.launch(&of_queries, kernels.forward, heads, 1),
        Forward { q, k, v, pieces, y, lse, tokens, heads, kv_heads, head_dim, past, window, scale, cap },
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
    let kernels = Kernels::of(op, spec)?;
    let &Inputs { q, k, v } = inputs;
    let Sizes { tokens, heads, kv_heads, head_dim, window, .. } = sizes;
    let (dy, lse, delta) = (saved.dy, saved.lse.address(), saved.delta.address());
    let (scale, cap) = (spec.scale, spec.softcap.unwrap_or(0.0));
    let Gradients { dq, dk, dv } = to;

    let of_keys = Pieces::of(device, op, spec, kernels.rows, Rows::Keys)?;
    let pieces_of_keys = of_keys.address();
    device.launch(
        op,
        kernels.launch(&of_keys, kernels.backward_kv, kv_heads, 2),
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
            scale,
            cap,
        },
    )?;
    let of_queries = Pieces::of(device, op, spec, kernels.rows, Rows::Queries)?;
    let pieces = of_queries.address();
    device.launch(
        op,
        kernels.launch(&of_queries, kernels.backward_q, heads, 2),
        BackwardQ { q, k, v, dy, lse, delta, pieces, dq, tokens, heads, kv_heads, head_dim, window, scale, cap },
    )
}
