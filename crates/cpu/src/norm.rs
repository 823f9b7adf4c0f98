//! RMSNorm and rotary embeddings: whole rows, shared out by rows.
#![allow(unsafe_code, reason = "pieces write disjoint rows of one buffer")]
use crate::{
    gemm::{Out, with_scratch},
    isa::{Isa, vectorised},
    pool::Threads,
};

/// Rows of a piece. Sums over rows are made piece by piece and then added in order, so this number is part of the result.
const ROWS: usize = 32;

/// Sum of `a[i] * b[i]` in sixteen lanes, which are added by halves: that vectorises, in turn they would not.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let ((a_head, a_tail), (b_head, b_tail)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a_head.iter().zip(b_head) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    let mut half = 8;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0] + tail
}

vectorised! {
    fn forward_rows(y: &mut [f32], rstd: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
        let d = w.len();
        for ((y, rstd), x) in y.chunks_exact_mut(d).zip(rstd).zip(x.chunks_exact(d)) {
            let r = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            *rstd = r;
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = x * r * w;
            }
        }
    }
}

pub(crate) fn rms_norm(isa: Isa, threads: &Threads, y: &mut [f32], rstd: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    if w.is_empty() {
        return;
    }
    threads.rows(rstd.len(), ROWS, (y, rstd, x), |_, (y, rstd, x)| forward_rows(isa, y, rstd, x, w, eps));
}

vectorised! {
    fn add_forward_rows(sum: &mut [f32], y: &mut [f32], rstd: &mut [f32], a: &[f32], b: &[f32], w: &[f32], eps: f32) {
        let d = w.len();
        let outputs = sum.chunks_exact_mut(d).zip(y.chunks_exact_mut(d)).zip(rstd);
        for (((sum, y), rstd), (a, b)) in outputs.zip(a.chunks_exact(d).zip(b.chunks_exact(d))) {
            for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
                *sum = a + b;
            }
            let r = 1.0 / (dot(sum, sum) / d as f32 + eps).sqrt();
            *rstd = r;
            for ((y, x), w) in y.iter_mut().zip(sum.iter()).zip(w) {
                *y = x * r * w;
            }
        }
    }
}

/// The bits of an addition and a norm after it.
pub(crate) fn add_rms_norm(
    isa: Isa,
    threads: &Threads,
    sum: &mut [f32],
    y: &mut [f32],
    rstd: &mut [f32],
    a: &[f32],
    b: &[f32],
    w: &[f32],
    eps: f32,
) {
    if w.is_empty() {
        return;
    }
    threads.rows(rstd.len(), ROWS, (sum, y, rstd, a, b), |_, (sum, y, rstd, a, b)| {
        add_forward_rows(isa, sum, y, rstd, a, b, w, eps);
    });
}

vectorised! {
    // With n = x * rstd: dx = rstd * (dy w - n * mean(dy w n)), dw = sum over rows of dy n.
    fn backward_rows(dx: &mut [f32], add: bool, dw: &mut [f32], scratch: &mut [f32], dy: &[f32], x: &[f32], w: &[f32], rstd: &[f32]) {
        let d = w.len();
        for (((dx, dy), x), &r) in dx.chunks_exact_mut(d).zip(dy.chunks_exact(d)).zip(x.chunks_exact(d)).zip(rstd) {
            for (((s, dw), (dy, x)), w) in scratch.iter_mut().zip(dw.iter_mut()).zip(dy.iter().zip(x)).zip(w) {
                *s = dy * w;
                *dw += dy * x * r;
            }
            let c = dot(scratch, x) * r * r / d as f32;
            for ((dx, s), x) in dx.iter_mut().zip(scratch.iter()).zip(x) {
                let g = r * (s - x * c);
                *dx = if add { *dx + g } else { g };
            }
        }
    }
}

pub(crate) fn rms_norm_backward(
    isa: Isa,
    threads: &Threads,
    dx: &mut [f32],
    add: bool,
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
) {
    let (d, rows) = (w.len(), rstd.len());
    if d == 0 {
        return;
    }
    // A part of dw for every piece, and a row for its own use.
    with_scratch(2, 2 * rows.div_ceil(ROWS) * d, |parts| {
        let (parts, scratch) = parts.split_at_mut(rows.div_ceil(ROWS) * d);
        let (all, one) = (Out::new(parts, d), Out::new(scratch, d));
        threads.rows(rows, ROWS, (dx, dy, x, rstd), |i, (dx, dy, x, rstd)| {
            // SAFETY: row i of either: piece i alone has it.
            let (part, scratch) = unsafe { (all.at(i * d).head(d), one.at(i * d).head(d)) };
            part.fill(0.0);
            backward_rows(isa, dx, add, part, scratch, dy, x, w, rstd);
        });
        for part in parts.chunks_exact(d) {
            dw.iter_mut().zip(part).for_each(|(dw, p)| *dw += p);
        }
    });
}

vectorised! {
    fn rope_rows(x: &mut [f32], table: &[f32], positions: &[u32], cols: usize, h: usize, sign: f32) {
        for (x, &position) in x.chunks_exact_mut(cols).zip(positions) {
            let (cos, sin) = table[position as usize * h..][..h].split_at(h / 2);
            for x in x.chunks_exact_mut(h) {
                let (x0, x1) = x.split_at_mut(h / 2);
                for (((x0, x1), cos), sin) in x0.iter_mut().zip(x1).zip(cos).zip(sin) {
                    let (a, b, s) = (*x0, *x1, sign * sin);
                    *x0 = a * cos - b * s;
                    *x1 = b * cos + a * s;
                }
            }
        }
    }
}

pub(crate) fn rope(
    isa: Isa,
    threads: &Threads,
    x: &mut [f32],
    table: &[f32],
    positions: &[u32],
    h: usize,
    inverse: bool,
) {
    let cols = x.len().checked_div(positions.len()).unwrap_or(0);
    if cols == 0 {
        return;
    }
    let sign = if inverse { -1.0 } else { 1.0 };
    threads.rows(positions.len(), ROWS, (x, positions), |_, (x, positions)| {
        rope_rows(isa, x, table, positions, cols, h, sign);
    });
}
