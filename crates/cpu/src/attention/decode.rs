//! Few rows against many keys: decoding. The cache is read once, as it lies; a task is a piece of it with all its key/value heads, and the
//! pieces' softmaxes are merged in order (Dao et al., "Flash-Decoding", 2023).
use super::{
    dots::scores,
    rows::{Head, clip},
    tile::{Left, Size, product},
};
use crate::{
    exp::{exp, tanh_and_slope},
    gemm::{Out, with_scratch},
    isa::{Isa, vectorised},
    pool::Threads,
};
use paring_ops::AttnSpec;

/// Rows of a key/value head that this way is good for: those of a block would have most of its lanes idle.
pub(super) const FEW: usize = 16;
/// Keys of a task: two of them stay in the second-level cache.
const PIECE: usize = 128;
/// Elements of k and v below which waking a thread takes longer than reading them.
const ALONE: usize = 1 << 14;

vectorised! {
    // Scores become exponentials; answers with their maximum and their sum.
    fn softmax(s: &mut [f32], cap: f32) -> (f32, f32) {
        if cap != 0.0 {
            s.iter_mut().for_each(|s| *s = cap * tanh_and_slope(*s).0);
        }
        let mut max = [f32::NEG_INFINITY; 8];
        for s in s.chunks(8) {
            max.iter_mut().zip(s).for_each(|(max, &s)| *max = if s > *max { s } else { *max });
        }
        let max = max.into_iter().fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max });
        let subtract = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let mut sum = [0.0f32; 8];
        for s in s.chunks_mut(8) {
            for (s, sum) in s.iter_mut().zip(&mut sum) {
                *s = exp(*s - subtract);
                *sum += *s;
            }
        }
        (max, sum.iter().sum())
    }
}

#[allow(unsafe_code, reason = "tasks write disjoint parts of one buffer")]
pub(super) fn decode(
    isa: Isa,
    threads: &Threads,
    y: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    spec: &AttnSpec,
) {
    let (h, kc, rows) = (spec.head_dim, spec.kv_cols(), spec.n_tokens() * spec.group());
    let head = |kv: usize| Head { spec, query0: 0, len: spec.n_tokens(), key0: 0, kv };
    let seen = head(0).keys_of(0..rows);
    let (pieces, all_rows) = (seen.len().div_ceil(PIECE), spec.kv_heads * rows);
    let (scale, cap) = head(0).scales();
    // What a piece leaves for each row: its output, its maximum, its sum.
    let left = h + 2;
    with_scratch(3, pieces * all_rows * left, |partial| {
        let out = Out::new(partial, left);
        let task = |piece: usize| {
            let keys = seen.start + piece * PIECE..seen.end.min(seen.start + (piece + 1) * PIECE);
            // SAFETY: the entries of this piece: written by this task alone.
            let partial = unsafe { out.at(piece * all_rows * left).head(all_rows * left) };
            with_scratch(2, all_rows * (PIECE + h) + rows * h, |scratch| {
                let (s, rest) = scratch.split_at_mut(all_rows * PIECE);
                let (q_rows, o) = rest.split_at_mut(all_rows * h);
                for (i, to) in q_rows.chunks_exact_mut(h).enumerate() {
                    let at = head(i / rows).q_at(i % rows);
                    to.iter_mut().zip(&q[at..][..h]).for_each(|(to, q)| *to = q * scale);
                }
                let piece = keys.start * kc..keys.end * kc;
                scores(isa, s, PIECE, q_rows, &k[piece.clone()], &v[piece], rows, h);
                for (kv, left_of) in partial.chunks_exact_mut(rows * left).enumerate() {
                    let (head, s) = (head(kv), &mut s[kv * rows * PIECE..][..rows * PIECE]);
                    for (r, left_of) in left_of.chunks_exact_mut(left).enumerate() {
                        let row = &mut s[r * PIECE..][..keys.len()];
                        let mine = clip(head.keys_of(r..r + 1), &keys);
                        row[..mine.start].fill(0.0);
                        row[mine.end..].fill(0.0);
                        (left_of[h], left_of[h + 1]) = softmax(isa, &mut row[mine], cap.unwrap_or(0.0));
                    }
                    let p = Left { data: s, rs: PIECE, cs: 1 };
                    let size = Size { m: rows, n: h, k: keys.len() };
                    product(isa, o, h, false, size, p, &v[head.kv_at(keys.start)..], kc, |_, _| 0..PIECE);
                    left_of.chunks_exact_mut(left).zip(o.chunks_exact(h)).for_each(|(l, o)| l[..h].copy_from_slice(o));
                }
            });
        };
        if seen.len() * kc < ALONE {
            (0..pieces).for_each(task)
        } else {
            threads.for_each(pieces, task)
        }
        for i in 0..all_rows {
            let (head, r) = (head(i / rows), i % rows);
            let parts = || partial.chunks_exact(left).skip(i).step_by(all_rows);
            let max = parts().fold(f32::NEG_INFINITY, |max, p| if p[h] > max { p[h] } else { max });
            let subtract = if max == f32::NEG_INFINITY { 0.0 } else { max };
            let y = &mut y[head.q_at(r)..][..h];
            y.fill(0.0);
            let mut sum = 0.0;
            for part in parts() {
                let weight = exp(part[h] - subtract);
                sum += weight * part[h + 1];
                y.iter_mut().zip(part).for_each(|(y, o)| *y += weight * o);
            }
            let inverse = 1.0 / sum;
            y.iter_mut().for_each(|y| *y *= inverse);
            lse[head.lse_at(r)] = max + sum.ln();
        }
    });
}
