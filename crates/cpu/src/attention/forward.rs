//! Forward: a task is a block of rows, which walks the keys that they see and keeps a running softmax (FlashAttention-2).
use super::{
    rows::{Head, KEYS, ROWS, Running, all_see, cap_scores, clip, mask, rescale, scaled, softmax_tile},
    tile::{Left, Size, product},
    transpose::transpose,
};
use crate::{
    gemm::{Out, with_scratch},
    isa::Isa,
    pool::Threads,
};
use paring_ops::AttnSpec;
use std::ops::Range;

pub(super) fn forward(
    isa: Isa,
    threads: &Threads,
    y: &mut [f32],
    lse: &mut [f32],
    q: &[f32],
    k: &[f32],
    v: &[f32],
    spec: &AttnSpec,
) {
    let (y, lse) = (Out::new(y, spec.q_cols()), Out::new(lse, spec.heads));
    let mut tasks: Vec<(Head<'_>, Range<usize>)> = Vec::new();
    for head in Head::all(spec) {
        let n = head.n_rows();
        tasks.extend((0..n).step_by(ROWS).map(|r| (head, r..n.min(r + ROWS))));
    }
    // Those that see most keys first, so that threads end together.
    tasks.sort_by_key(|(head, rows)| std::cmp::Reverse(head.keys_of(rows.clone()).len()));
    threads.for_each(tasks.len(), |i| {
        let (head, rows) = &tasks[i];
        with_scratch(2, (2 * spec.head_dim + KEYS) * ROWS, |scratch| block(isa, scratch, y, lse, q, k, v, head, rows));
    });
}

#[allow(unsafe_code, reason = "tasks write disjoint columns of interleaved heads")]
fn block(
    isa: Isa,
    scratch: &mut [f32],
    y: Out,
    lse: Out,
    q: &[f32],
    k: &[f32],
    v: &[f32],
    head: &Head<'_>,
    rows: &Range<usize>,
) {
    let (h, kc, n) = (head.spec.head_dim, head.spec.kv_cols(), rows.len());
    let (scale, cap) = head.scales();
    let (q_t, rest) = scratch.split_at_mut(h * ROWS);
    let (s, o) = rest.split_at_mut(KEYS * ROWS);
    gather(isa, o, q, head, rows, scale);
    transpose(isa, q_t, o, h);
    o.fill(0.0);
    let mut running = Running::new();
    let seen = head.keys_of(rows.clone());
    for j in seen.clone().step_by(KEYS) {
        let keys = j..seen.end.min(j + KEYS);
        let s = &mut s[..keys.len() * ROWS];
        let k = Left { data: &k[head.kv_at(j)..], rs: kc, cs: 1 };
        let all = all_see(head, rows, &keys);
        scores(isa, s, k, q_t, head, rows, &keys, all);
        if let Some(cap) = cap {
            cap_scores(isa, s, cap);
        }
        if !all {
            mask(s, f32::NEG_INFINITY, head, rows, keys.clone());
        }
        softmax_tile(isa, s, &mut running);
        if seen.start < j {
            rescale(isa, o, &running.factor, h);
        }
        let p = Left { data: s, rs: 1, cs: ROWS };
        let size = Size { m: n, n: h, k: keys.len() };
        product(isa, o, h, true, size, p, &v[head.kv_at(j)..], kc, |tile, _| match all {
            true => 0..keys.len(),
            false => clip(head.keys_of(rows.start + tile.start..rows.start + tile.end), &keys),
        });
    }
    for (i, r) in rows.clone().enumerate() {
        // SAFETY: the elements of row r: written by this task alone.
        let target = unsafe { y.at(head.q_at(r)).head(h) };
        let inverse = 1.0 / running.sum[i];
        scaled(isa, target, &o[i * h..][..h], inverse);
        // SAFETY: the entry of row r: written by this task alone.
        unsafe { lse.at(head.lse_at(r)).head(1)[0] = running.max[i] + running.sum[i].ln() };
    }
}

/// `to[i] = from[row i] * scale`; lanes beyond the rows become zero.
pub(super) fn gather(isa: Isa, to: &mut [f32], from: &[f32], head: &Head<'_>, rows: &Range<usize>, scale: f32) {
    let h = head.spec.head_dim;
    for (i, to) in to.chunks_exact_mut(h).enumerate() {
        if i < rows.len() {
            scaled(isa, to, &from[head.q_at(rows.start + i)..][..h], scale);
        } else {
            to.fill(0.0);
        }
    }
}

/// `s[j] = k_j . q` for all rows; tiles of which no row sees a key are left out, unless `all` rows see all keys.
pub(super) fn scores(
    isa: Isa,
    s: &mut [f32],
    k: Left<'_>,
    q_t: &[f32],
    head: &Head<'_>,
    rows: &Range<usize>,
    keys: &Range<usize>,
    all: bool,
) {
    let h = head.spec.head_dim;
    product(isa, s, ROWS, false, Size { m: keys.len(), n: ROWS, k: h }, k, q_t, ROWS, |tile, lanes| {
        if all {
            return 0..h;
        }
        let first = head.rows_of(keys.start + tile.start).start;
        let last = head.rows_of(keys.start + tile.end - 1).end;
        let seen = clip(first..last.max(first), rows);
        if seen.start < lanes.end && lanes.start < seen.end { 0..h } else { 0..0 }
    });
}
