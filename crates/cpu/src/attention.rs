//! Causal attention in tiles of queries and keys, after Dao, "FlashAttention-2", arXiv 2307.08691: scores of a tile live in the cache and
//! are gone when the tile is done. Forward keeps the log of every row's normaliser; backward makes the scores again from it.
//!
//! Tasks are (sequence, query block, head) forward and (sequence, key/value head) backward: there all query heads of a group add to one
//! dk and dv, so one task walks them in a fixed order.
#![allow(unsafe_code, reason = "tasks write disjoint columns of interleaved heads")]
use crate::{
    exp::exp,
    gemm::{Mat, Out, Scratch, small},
    isa::{Isa, vectorised},
};
use paring_ops::AttnSpec;
use rayon::prelude::*;

/// Queries of a tile: a multiple of every kernel's rows, nearly.
const QUERIES: usize = 60;
/// Keys of a tile.
const KEYS: usize = 64;

vectorised! {
    // Turns a tile of scores into exp(score - new maximum), updates each row's maximum and sum, and gives the factor for what was summed.
    fn softmax_tile(s: &mut [f32], keys: usize, visible: &[usize], scale: f32, max: &mut [f32], sum: &mut [f32], factor: &mut [f32]) {
        for (i, row) in s.chunks_exact_mut(keys).enumerate() {
            let (seen, hidden) = row.split_at_mut(visible[i]);
            hidden.fill(0.0);
            let mut m = max[i];
            for x in seen.iter_mut() {
                *x *= scale;
                m = if *x > m { *x } else { m };
            }
            factor[i] = if m == f32::NEG_INFINITY { 1.0 } else { exp(max[i] - m) };
            let mut lanes = [0.0f32; 8];
            let (head, tail) = seen.as_chunks_mut::<8>();
            for x in head {
                for l in 0..8 {
                    x[l] = exp(x[l] - m);
                    lanes[l] += x[l];
                }
            }
            let mut total = lanes.iter().sum::<f32>();
            for x in tail {
                *x = exp(*x - m);
                total += *x;
            }
            sum[i] = sum[i] * factor[i] + total;
            max[i] = m;
        }
    }
}

vectorised! {
    fn scale_rows(o: &mut [f32], h: usize, factor: &[f32]) {
        for (o, &f) in o.chunks_exact_mut(h).zip(factor) {
            o.iter_mut().for_each(|o| *o *= f);
        }
    }
}

/// Blocks of queries of all sequences: (first key row, first query row, queries, first query's position in its sequence).
fn query_blocks(spec: &AttnSpec) -> Vec<(usize, usize, usize, usize)> {
    let mut blocks = Vec::new();
    for w in spec.cu_len.windows(2) {
        // With a cache there is one sequence, whose keys begin at row 0 and whose first query is `past` tokens in.
        let key0 = if spec.past == 0 { w[0] } else { 0 };
        for q0 in (w[0]..w[1]).step_by(QUERIES) {
            blocks.push((key0, q0, QUERIES.min(w[1] - q0), spec.past + q0 - w[0]));
        }
    }
    blocks
}

pub(crate) fn forward(isa: Isa, y: &mut [f32], lse: &mut [f32], q: &[f32], k: &[f32], v: &[f32], spec: &AttnSpec) {
    let (h, qc, kc) = (spec.head_dim, spec.q_cols(), spec.kv_cols());
    if h == 0 {
        return;
    }
    let (y, lse) = (Out::new(y, qc), Out::new(lse, spec.heads));
    let blocks = query_blocks(spec);
    (0..blocks.len() * spec.heads).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let ((key0, q0, nq, position), head) = (blocks[task / spec.heads], task % spec.heads);
        let kv = head / spec.group();
        let q = Mat::rows(&q[q0 * qc + head * h..], qc, false);
        let (mut max, mut sum, mut factor) = ([f32::NEG_INFINITY; QUERIES], [0.0f32; QUERIES], [0.0f32; QUERIES]);
        let (mut s, mut o) = (vec![0.0; nq * KEYS], vec![0.0; nq * h]);
        let last = position + nq;
        for j0 in (0..last).step_by(KEYS) {
            let nk = KEYS.min(last - j0);
            let start = (key0 + j0) * kc + kv * h;
            let visible: Vec<usize> = (0..nq).map(|i| (position + i + 1).saturating_sub(j0).min(nk)).collect();
            let s = &mut s[..nq * nk];
            small(isa, scratch, Out::new(s, nk), false, nq, nk, h, q, Mat::rows(&k[start..], kc, false).t());
            softmax_tile(isa, s, nk, &visible, spec.scale, &mut max, &mut sum, &mut factor);
            scale_rows(isa, &mut o, h, &factor);
            small(
                isa,
                scratch,
                Out::new(&mut o, h),
                true,
                nq,
                h,
                nk,
                Mat::rows(s, nk, false),
                Mat::rows(&v[start..], kc, false),
            );
        }
        for i in 0..nq {
            // SAFETY: row q0 + i, columns of `head`: written by this task alone.
            let target = unsafe { y.at((q0 + i) * qc + head * h).head(h) };
            let inverse = 1.0 / sum[i];
            target.iter_mut().zip(&o[i * h..]).for_each(|(y, o)| *y = o * inverse);
            // SAFETY: entry (q0 + i, head): written by this task alone.
            unsafe { lse.at((q0 + i) * spec.heads + head).head(1)[0] = max[i] + sum[i].ln() };
        }
    });
}

/// What backward needs of the forward, and the gradient of its output.
pub(crate) struct Saved<'a> {
    pub(crate) dy: &'a [f32],
    pub(crate) y: &'a [f32],
    pub(crate) lse: &'a [f32],
    pub(crate) q: &'a [f32],
    pub(crate) k: &'a [f32],
    pub(crate) v: &'a [f32],
}

vectorised! {
    // Scores become probabilities p, and dp becomes ds = p * (dp - delta) * scale.
    fn gradient_tile(p: &mut [f32], dp: &mut [f32], keys: usize, visible: &[usize], scale: f32, lse: &[f32], delta: &[f32]) {
        for (i, (p, dp)) in p.chunks_exact_mut(keys).zip(dp.chunks_exact_mut(keys)).enumerate() {
            p[visible[i]..].fill(0.0);
            dp[visible[i]..].fill(0.0);
            for (p, dp) in p[..visible[i]].iter_mut().zip(&mut dp[..visible[i]]) {
                *p = exp(*p * scale - lse[i]);
                *dp = *p * (*dp - delta[i]) * scale;
            }
        }
    }
}

pub(crate) fn backward(isa: Isa, dq: &mut [f32], dk: &mut [f32], dv: &mut [f32], saved: &Saved<'_>, spec: &AttnSpec) {
    let (h, qc, kc) = (spec.head_dim, spec.q_cols(), spec.kv_cols());
    if h == 0 {
        return;
    }
    dq.fill(0.0);
    dk.fill(0.0);
    dv.fill(0.0);
    let (dq, dk, dv) = (Out::new(dq, qc), Out::new(dk, kc), Out::new(dv, kc));
    let sequences: Vec<(usize, usize)> = spec.cu_len.windows(2).map(|w| (w[0], w[1])).collect();
    (0..sequences.len() * spec.kv_heads).into_par_iter().for_each_init(Scratch::default, |scratch, task| {
        let ((first, end), kv) = (sequences[task / spec.kv_heads], task % spec.kv_heads);
        let (mut p, mut dp) = (vec![0.0; QUERIES * KEYS], vec![0.0; QUERIES * KEYS]);
        for head in kv * spec.group()..(kv + 1) * spec.group() {
            for q0 in (first..end).step_by(QUERIES) {
                let nq = QUERIES.min(end - q0);
                let at_q = q0 * qc + head * h;
                let (q, dy) = (Mat::rows(&saved.q[at_q..], qc, false), Mat::rows(&saved.dy[at_q..], qc, false));
                let row = |x: &'_ [f32], i: usize| -> Vec<f32> { x[(q0 + i) * qc + head * h..][..h].to_vec() };
                let delta: Vec<f32> =
                    (0..nq).map(|i| row(saved.dy, i).iter().zip(row(saved.y, i)).map(|(a, b)| a * b).sum()).collect();
                let lse: Vec<f32> = (0..nq).map(|i| saved.lse[(q0 + i) * spec.heads + head]).collect();
                let last = q0 - first + nq;
                for j0 in (0..last).step_by(KEYS) {
                    let nk = KEYS.min(last - j0);
                    let at_k = (first + j0) * kc + kv * h;
                    let (k, v) = (Mat::rows(&saved.k[at_k..], kc, false), Mat::rows(&saved.v[at_k..], kc, false));
                    let visible: Vec<usize> =
                        (0..nq).map(|i| (q0 - first + i + 1).saturating_sub(j0).min(nk)).collect();
                    let (p, dp) = (&mut p[..nq * nk], &mut dp[..nq * nk]);
                    small(isa, scratch, Out::new(p, nk), false, nq, nk, h, q, k.t());
                    small(isa, scratch, Out::new(dp, nk), false, nq, nk, h, dy, v.t());
                    gradient_tile(isa, p, dp, nk, &visible, spec.scale, &lse, &delta);
                    let (p, ds) = (Mat::rows(p, nk, false), Mat::rows(dp, nk, false));
                    // Columns of key/value head `kv` and of its query heads, rows of this sequence: this task's alone.
                    let (dv, dk, dq) = (dv.at(at_k), dk.at(at_k), dq.at(at_q));
                    small(isa, scratch, dv, true, nk, h, nq, p.t(), dy);
                    small(isa, scratch, dk, true, nk, h, nq, ds.t(), q);
                    small(isa, scratch, dq, true, nq, h, nk, ds, k);
                }
            }
        }
    });
}
