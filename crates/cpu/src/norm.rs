//! RMSNorm and rotary embeddings: whole rows, shared out by rows.
use crate::isa::{Isa, vectorised};
use rayon::prelude::*;

/// Rows of a piece. Sums over rows are made piece by piece and then added in order, so this number is part of the result.
const ROWS: usize = 32;

/// Sum of `a[i] * b[i]` in sixteen lanes.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let ((a_head, a_tail), (b_head, b_tail)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a_head.iter().zip(b_head) {
        for i in 0..16 {
            lanes[i] += a[i] * b[i];
        }
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + tail
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

pub(crate) fn rms_norm(isa: Isa, y: &mut [f32], rstd: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
    let d = w.len();
    if d == 0 {
        return;
    }
    y.par_chunks_mut(ROWS * d)
        .zip(rstd.par_chunks_mut(ROWS))
        .zip(x.par_chunks(ROWS * d))
        .for_each(|((y, rstd), x)| forward_rows(isa, y, rstd, x, w, eps));
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
    dx: &mut [f32],
    add: bool,
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    w: &[f32],
    rstd: &[f32],
) {
    let d = w.len();
    if d == 0 {
        return;
    }
    let parts: Vec<Vec<f32>> = dx
        .par_chunks_mut(ROWS * d)
        .zip(dy.par_chunks(ROWS * d))
        .zip(x.par_chunks(ROWS * d))
        .zip(rstd.par_chunks(ROWS))
        .map(|(((dx, dy), x), rstd)| {
            let (mut part, mut scratch) = (vec![0.0; d], vec![0.0; d]);
            backward_rows(isa, dx, add, &mut part, &mut scratch, dy, x, w, rstd);
            part
        })
        .collect();
    for part in parts {
        dw.iter_mut().zip(part).for_each(|(dw, p)| *dw += p);
    }
}

vectorised! {
    fn rope_rows(y: &mut [f32], x: &[f32], table: &[f32], positions: &[u32], cols: usize, h: usize, sign: f32) {
        for ((y, x), &position) in y.chunks_exact_mut(cols).zip(x.chunks_exact(cols)).zip(positions) {
            let (cos, sin) = table[position as usize * h..][..h].split_at(h / 2);
            for (y, x) in y.chunks_exact_mut(h).zip(x.chunks_exact(h)) {
                let ((y0, y1), (x0, x1)) = (y.split_at_mut(h / 2), x.split_at(h / 2));
                for i in 0..cos.len() {
                    let s = sign * sin[i];
                    y0[i] = x0[i] * cos[i] - x1[i] * s;
                    y1[i] = x1[i] * cos[i] + x0[i] * s;
                }
            }
        }
    }
}

pub(crate) fn rope(
    isa: Isa,
    y: &mut [f32],
    x: &[f32],
    table: &[f32],
    positions: &[u32],
    cols: usize,
    h: usize,
    inverse: bool,
) {
    if cols == 0 {
        return;
    }
    let sign = if inverse { -1.0 } else { 1.0 };
    y.par_chunks_mut(ROWS * cols)
        .zip(x.par_chunks(ROWS * cols))
        .zip(positions.par_chunks(ROWS))
        .for_each(|((y, x), positions)| rope_rows(isa, y, x, table, positions, cols, h, sign));
}
