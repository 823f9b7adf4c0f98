//! Causal attention in tiles of queries and keys, after Dao, "FlashAttention-2", arXiv 2307.08691: scores of a tile live in the cache and
//! are gone when the tile is done. Forward keeps the log of every row's normaliser; backward makes the scores again from it.
//!
//! The query heads that share a key/value head are rows of one product, so keys and values are read once for all of them.

mod backward; // chunks of keys
mod decode; // few rows, a cache
mod dots; // scores of few rows
mod forward; // blocks of rows
mod rows; // who sees what, and passes over scores
mod tile; // products
mod transpose; // rows become lanes

use crate::{isa::Isa, pool::Threads};
use paring_ops::AttnSpec;

/// What backward needs of the forward, and the gradient of its output.
pub(crate) struct Saved<'a> {
    pub(crate) dy: &'a [f32],
    pub(crate) y: &'a [f32],
    pub(crate) lse: &'a [f32],
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

pub(crate) fn forward(
    isa: Isa,
    threads: &Threads,
    y: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    spec: &AttnSpec,
) {
    let rows = spec.n_tokens() * spec.group();
    if spec.head_dim == 0 || rows == 0 {
        return;
    }
    if spec.cu_len.len() == 2 && rows <= decode::FEW {
        decode::decode(isa, threads, y, lse, q, k, v, spec);
    } else {
        forward::forward(isa, threads, y, lse, q, k, v, spec);
    }
}

pub(crate) fn backward(
    isa: Isa,
    threads: &Threads,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    saved: &Saved<'_>,
    spec: &AttnSpec,
) {
    if spec.head_dim == 0 || spec.heads == 0 {
        dk.fill(0.0);
        dv.fill(0.0);
        return;
    }
    backward::backward(isa, threads, dq, dk, dv, saved, spec);
}
