//! Backward: a task is a chunk of keys of one sequence and key/value head, which walks the blocks of rows that see it. Gradients of keys and
//! values are the task's own. Those of queries are sums over chunks: the first chunk writes them where they belong, every other one into
//! memory beside, which is added in the order of chunks. How keys are cut depends on the length of the sequence alone, so bits do not
//! depend on threads.
use super::{
    Saved,
    forward::{gather, scores},
    rows::{Head, KEYS, ROWS, all_see, capped_gradient_tile, clip, delta_of, gradient_tile, mask, scaled},
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

/// Keys of a chunk, at least: two tiles.
const CHUNK: usize = 2 * KEYS;
/// Chunks of a sequence, at most: each costs memory like the gradient of the queries.
const CHUNKS: usize = 4;

/// Some keys of a head.
struct Chunk<'a> {
    head: Head<'a>,
    keys: Range<usize>,
    /// Rows of the blocks that see some of the keys.
    rows: Range<usize>,
    /// Where its part of the queries' gradient begins in the memory beside; `None` for the first chunk.
    beside: Option<usize>,
}

impl Chunk<'_> {
    /// Pairs of rows and keys, about.
    fn work(&self) -> usize {
        self.rows.len() * self.keys.len()
    }
}

/// All chunks, those of a head in order, and the elements of the memory beside.
fn chunks(spec: &AttnSpec) -> (Vec<Chunk<'_>>, usize) {
    let (mut chunks, mut beside) = (Vec::new(), 0);
    for head in Head::all(spec) {
        let len = CHUNK.max(head.len.div_ceil(CHUNKS).next_multiple_of(KEYS));
        for start in (0..head.len).step_by(len) {
            let keys = start..head.len.min(start + len);
            let (first, end) = (head.rows_of(keys.start).start, head.rows_of(keys.end - 1).end);
            let rows = first / ROWS * ROWS..head.n_rows().min(end.next_multiple_of(ROWS));
            let at = (start > 0).then_some(beside);
            beside += if start > 0 { rows.len() * spec.head_dim } else { 0 };
            chunks.push(Chunk { head, keys, rows, beside: at });
        }
    }
    (chunks, beside)
}

pub(super) fn backward(
    isa: Isa,
    threads: &Threads,
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
    saved: &Saved<'_>,
    spec: &AttnSpec,
) {
    let (chunks, beside) = chunks(spec);
    // The largest first, so that threads end together.
    let mut order: Vec<usize> = (0..chunks.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(chunks[i].work()));
    let (dq, dk, dv) = (Out::new(dq, spec.q_cols()), Out::new(dk, spec.kv_cols()), Out::new(dv, spec.kv_cols()));
    with_scratch(3, beside, |beside| {
        let beside_out = Out::new(beside, spec.head_dim);
        threads.for_each(order.len(), |i| {
            let chunk = &chunks[order[i]];
            let len = (5 * spec.head_dim + 2 * KEYS) * ROWS + 2 * chunk.keys.len() * spec.head_dim;
            with_scratch(2, len, |scratch| chunk_task(isa, scratch, dq, dk, dv, beside_out, saved, chunk));
        });
        add_beside(threads, dq, beside, &chunks);
    });
}

/// Adds what the later chunks left beside, in their order, to what the first wrote.
#[allow(unsafe_code, reason = "tasks write disjoint columns of interleaved heads")]
fn add_beside(threads: &Threads, dq: Out, beside: &[f32], chunks: &[Chunk<'_>]) {
    let starts: Vec<usize> = (0..chunks.len()).filter(|&i| chunks[i].beside.is_none()).collect();
    let later = |start: usize| chunks[start + 1..].iter().take_while(|chunk| chunk.beside.is_some());
    let starts: Vec<usize> = starts.into_iter().filter(|&start| later(start).next().is_some()).collect();
    threads.for_each(starts.len(), |i| {
        for chunk in later(starts[i]) {
            let (head, h) = (&chunk.head, chunk.head.spec.head_dim);
            let Some(at) = chunk.beside else { continue };
            for (r, part) in chunk.rows.clone().zip(beside[at..].chunks_exact(h)) {
                // SAFETY: the elements of row r of this head: read and written by this task alone.
                let target = unsafe { dq.at(head.q_at(r)).head(h) };
                target.iter_mut().zip(part).for_each(|(dq, part)| *dq += part);
            }
        }
    });
}

#[allow(unsafe_code, reason = "tasks write disjoint columns of interleaved heads")]
fn chunk_task(
    isa: Isa,
    scratch: &mut [f32],
    dq: Out,
    dk: Out,
    dv: Out,
    beside: Out,
    saved: &Saved<'_>,
    chunk: &Chunk<'_>,
) {
    let head = &chunk.head;
    let (h, kc) = (head.spec.head_dim, head.spec.kv_cols());
    let (scale, cap) = head.scales();
    let (dk_sum, rest) = scratch.split_at_mut(chunk.keys.len() * h);
    let (dv_sum, rest) = rest.split_at_mut(chunk.keys.len() * h);
    let (s, rest) = rest.split_at_mut(KEYS * ROWS);
    let (dp, rest) = rest.split_at_mut(KEYS * ROWS);
    let [q, q_t, dy, dy_t, dq_sum] = split(rest, h * ROWS);
    dk_sum.fill(0.0);
    dv_sum.fill(0.0);
    if chunk.beside.is_none() {
        // Rows whose window begins after the first chunk have nothing of it.
        for r in (0..chunk.rows.start).chain(chunk.rows.end..head.n_rows()) {
            // SAFETY: the elements of row r of this head: written by its first chunk alone until all chunks are done.
            unsafe { dq.at(head.q_at(r)).head(h) }.fill(0.0);
        }
    }
    for start in chunk.rows.clone().step_by(ROWS) {
        let rows = start..chunk.rows.end.min(start + ROWS);
        gather(isa, q, saved.q, head, &rows, scale);
        gather(isa, dy, saved.dy, head, &rows, 1.0);
        transpose(isa, q_t, q, h);
        transpose(isa, dy_t, dy, h);
        let (mut lse, mut delta) = ([0.0f32; ROWS], [0.0f32; ROWS]);
        for (i, r) in rows.clone().enumerate() {
            lse[i] = saved.lse[head.lse_at(r)];
            delta[i] = delta_of(isa, &dy[i * h..][..h], &saved.y[head.q_at(r)..][..h]);
        }
        dq_sum.fill(0.0);
        let seen = head.keys_of(rows.clone());
        let seen = seen.start.max(chunk.keys.start)..seen.end.min(chunk.keys.end);
        for j in seen.clone().step_by(KEYS) {
            let keys = j..seen.end.min(j + KEYS);
            let at = head.kv_at(j);
            let (s, dp) = (&mut s[..keys.len() * ROWS], &mut dp[..keys.len() * ROWS]);
            let of = |data| Left { data, rs: kc, cs: 1 };
            let all = all_see(head, &rows, &keys);
            scores(isa, s, of(&saved.k[at..]), q_t, head, &rows, &keys, all);
            scores(isa, dp, of(&saved.v[at..]), dy_t, head, &rows, &keys, all);
            if !all {
                mask(s, f32::NEG_INFINITY, head, &rows, keys.clone());
                // Tiles that were left out hold anything.
                mask(dp, 0.0, head, &rows, keys.clone());
            }
            match cap {
                None => gradient_tile(isa, s, dp, &lse, &delta),
                Some(cap) => capped_gradient_tile(isa, s, dp, &lse, &delta, cap),
            }
            // Rows that see the keys of a tile of dk and dv.
            let seeing = |tile: Range<usize>, _| {
                if all {
                    return 0..rows.len();
                }
                let (first, last) = (keys.start + tile.start, keys.start + tile.end - 1);
                clip(head.rows_of(first).start..head.rows_of(last).end, &rows)
            };
            let into = (j - chunk.keys.start) * h;
            let size = Size { m: keys.len(), n: h, k: rows.len() };
            let of = |data| Left { data, rs: ROWS, cs: 1 };
            product(isa, &mut dv_sum[into..], h, true, size, of(s), dy, h, seeing);
            product(isa, &mut dk_sum[into..], h, true, size, of(dp), q, h, seeing);
            let ds = Left { data: dp, rs: 1, cs: ROWS };
            let size = Size { m: rows.len(), n: h, k: keys.len() };
            product(isa, dq_sum, h, true, size, ds, &saved.k[at..], kc, |tile, _| match all {
                true => 0..keys.len(),
                false => clip(head.keys_of(rows.start + tile.start..rows.start + tile.end), &keys),
            });
        }
        for (i, r) in rows.enumerate() {
            let target = match chunk.beside {
                None => dq.at(head.q_at(r)),
                Some(at) => beside.at(at + (r - chunk.rows.start) * h),
            };
            // SAFETY: row r of this head, or of this chunk's memory beside: written by this task alone until all chunks are done.
            let target = unsafe { target.head(h) };
            scaled(isa, target, &dq_sum[i * h..][..h], scale);
        }
    }
    for (i, j) in chunk.keys.clone().enumerate() {
        for (out, sum) in [(dk, &*dk_sum), (dv, &*dv_sum)] {
            // SAFETY: key j of this head: written by this task alone.
            unsafe { out.at(head.kv_at(j)).head(h) }.copy_from_slice(&sum[i * h..][..h]);
        }
    }
}

/// Five pieces of `len` values each.
fn split(scratch: &mut [f32], len: usize) -> [&mut [f32]; 5] {
    let (a, rest) = scratch.split_at_mut(len);
    let (b, rest) = rest.split_at_mut(len);
    let (c, rest) = rest.split_at_mut(len);
    let (d, e) = rest.split_at_mut(len);
    [a, b, c, d, &mut e[..len]]
}
