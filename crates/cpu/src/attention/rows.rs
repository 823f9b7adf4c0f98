//! Rows of a product of queries and keys: the queries of all heads that share a key/value head, in blocks; which keys each sees; and the
//! passes over a tile of their scores.
//!
//! Row `r` of a sequence and a key/value head is query `r / group` of head `r % group` of the group. A tile of scores holds keys by rows:
//! every row of queries has a lane of its own in all passes, nothing is summed across lanes, and the queries that do not see a key are a
//! prefix (too early) and a suffix (too late, beyond the window) of its lanes.
use crate::{
    exp::{exp_of, tanh_and_slope},
    isa::vectorised,
    norm::dot,
};
use paring_ops::AttnSpec;
use std::ops::Range;

/// Rows of a block: lanes of a tile of scores.
pub(super) const ROWS: usize = 64;
/// Keys of a tile.
pub(super) const KEYS: usize = 64;

/// The rows of one sequence and one key/value head, and what lies where.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) spec: &'a AttnSpec,
    /// Row of q of the sequence's first query.
    pub(super) query0: usize,
    /// Queries.
    pub(super) len: usize,
    /// Row of k and v of the sequence's first key.
    pub(super) key0: usize,
    /// Key/value head.
    pub(super) kv: usize,
}

impl<'a> Head<'a> {
    /// All sequences that have queries, each with all key/value heads.
    pub(super) fn all(spec: &'a AttnSpec) -> Vec<Head<'a>> {
        let sequences = spec.cu_len.windows(2).filter(|w| w[0] < w[1]);
        let heads = sequences.flat_map(|w| (0..spec.kv_heads).map(move |kv| (w, kv)));
        // With a cache there is one sequence, whose keys begin at row 0 too.
        heads.map(|(w, kv)| Head { spec, query0: w[0], len: w[1] - w[0], key0: w[0], kv }).collect()
    }

    pub(super) fn n_rows(&self) -> usize {
        self.len * self.spec.group()
    }

    /// First element of row `r` in q and y.
    pub(super) fn q_at(&self, r: usize) -> usize {
        let group = self.spec.group();
        (self.query0 + r / group) * self.spec.q_cols() + (self.kv * group + r % group) * self.spec.head_dim
    }

    /// Element of row `r` in lse.
    pub(super) fn lse_at(&self, r: usize) -> usize {
        let group = self.spec.group();
        (self.query0 + r / group) * self.spec.heads + self.kv * group + r % group
    }

    /// First element of the head of key `j` in k and v.
    pub(super) fn kv_at(&self, j: usize) -> usize {
        (self.key0 + j) * self.spec.kv_cols() + self.kv * self.spec.head_dim
    }

    /// Keys that some of `rows` see: from the first one's first to the last one's last.
    pub(super) fn keys_of(&self, rows: Range<usize>) -> Range<usize> {
        let position = |r: usize| self.spec.past + r / self.spec.group();
        self.spec.first_key(position(rows.start))..position(rows.end - 1) + 1
    }

    /// Rows that see key `j`.
    pub(super) fn rows_of(&self, j: usize) -> Range<usize> {
        let row = |position: usize| position.saturating_sub(self.spec.past) * self.spec.group();
        let end = self.spec.window.map_or(usize::MAX, |window| row(j.saturating_add(window)));
        row(j)..end.min(self.n_rows())
    }

    /// What multiplies products of q and k before anything else, and what the soft cap multiplies after its tanh, if there is one.
    pub(super) fn scales(&self) -> (f32, Option<f32>) {
        match self.spec.softcap {
            None => (self.spec.scale, None),
            Some(cap) => (self.spec.scale / cap, Some(cap)),
        }
    }
}

/// The part of `of` that lies in `within`, counted from the start of `within`.
pub(super) fn clip(of: Range<usize>, within: &Range<usize>) -> Range<usize> {
    let clamp = |x: usize| x.clamp(within.start, within.end) - within.start;
    clamp(of.start)..clamp(of.end)
}

/// Whether each of `rows` sees all of `keys`.
pub(super) fn all_see(head: &Head<'_>, rows: &Range<usize>, keys: &Range<usize>) -> bool {
    head.rows_of(keys.end - 1).start <= rows.start && rows.end <= head.rows_of(keys.start).end
}

/// Sets what `rows` have of keys that they do not see to `value`. `s` has a row of lanes for each of `keys`.
pub(super) fn mask(s: &mut [f32], value: f32, head: &Head<'_>, rows: &Range<usize>, keys: Range<usize>) {
    for (lanes, j) in s.chunks_exact_mut(ROWS).zip(keys) {
        let seen = clip(head.rows_of(j), rows);
        lanes[..seen.start].fill(value);
        lanes[seen.end..].fill(value);
    }
}

vectorised! {
    // Scores over the cap become scores under it.
    pub(super) fn cap_scores(s: &mut [f32], cap: f32) {
        for s in s {
            *s = cap * tanh_and_slope(*s).0;
        }
    }
}

/// Lanes that a pass takes at a time: what it sums stays in registers.
const LANES: usize = 16;

/// Exponentials may be as large as that of this before their rows get a new maximum: sums of before are made smaller almost never that way.
const SLACK: f32 = 8.0;

/// What is subtracted from the scores of every row, and the sum of exponentials so far.
pub(super) struct Running {
    /// The maximum of the scores, or at most [`SLACK`] below it.
    pub(super) max: [f32; ROWS],
    pub(super) sum: [f32; ROWS],
    /// By what the last pass made sums of before smaller.
    pub(super) factor: [f32; ROWS],
}

impl Running {
    pub(super) fn new() -> Self {
        Running { max: [f32::NEG_INFINITY; ROWS], sum: [0.0; ROWS], factor: [1.0; ROWS] }
    }
}

vectorised! {
    // Turns a tile of scores into exp(score - running maximum).
    pub(super) fn softmax_tile(s: &mut [f32], running: &mut Running) {
        for at in (0..ROWS).step_by(LANES) {
            let mut max = [f32::NEG_INFINITY; LANES];
            for lanes in s.chunks_exact(ROWS) {
                for (max, &x) in max.iter_mut().zip(&lanes[at..at + LANES]) {
                    *max = if x > *max { x } else { *max };
                }
            }
            // A row that has seen nothing yet has no maximum: its exponentials are those of negative infinity, whatever is subtracted.
            let mut subtract = [0.0f32; LANES];
            for l in 0..LANES {
                let before = running.max[at + l];
                let max = if max[l] > before + SLACK { max[l] } else { before };
                subtract[l] = if max == f32::NEG_INFINITY { 0.0 } else { max };
                running.factor[at + l] = exp_of::<FUSED>(before - subtract[l]);
                running.max[at + l] = max;
            }
            let mut sum = [0.0f32; LANES];
            for lanes in s.chunks_exact_mut(ROWS) {
                for ((x, sum), subtract) in lanes[at..at + LANES].iter_mut().zip(&mut sum).zip(&subtract) {
                    *x = exp_of::<FUSED>(*x - subtract);
                    *sum += *x;
                }
            }
            for l in 0..LANES {
                running.sum[at + l] = running.sum[at + l] * running.factor[at + l] + sum[l];
            }
        }
    }
}

vectorised! {
    // `to = from * factor`.
    pub(super) fn scaled(to: &mut [f32], from: &[f32], factor: f32) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from * factor);
    }
}

vectorised! {
    // A row's gradient of its normaliser: the product of its output and the gradient of that.
    pub(super) fn delta_of(dy: &[f32], y: &[f32]) -> f32 {
        dot(dy, y)
    }
}

vectorised! {
    // Rows of `h` values times the factor of each, where it is not 1.
    pub(super) fn rescale(o: &mut [f32], factor: &[f32; ROWS], h: usize) {
        for (o, &factor) in o.chunks_exact_mut(h).zip(factor) {
            if factor != 1.0 {
                o.iter_mut().for_each(|o| *o *= factor);
            }
        }
    }
}

vectorised! {
    // Scores become probabilities p, and dp becomes the gradient p * (dp - delta).
    pub(super) fn gradient_tile(s: &mut [f32], dp: &mut [f32], lse: &[f32; ROWS], delta: &[f32; ROWS]) {
        for (s, dp) in s.chunks_exact_mut(ROWS).zip(dp.chunks_exact_mut(ROWS)) {
            for (((s, dp), lse), delta) in s.iter_mut().zip(dp).zip(lse).zip(delta) {
                *s = exp_of::<FUSED>(*s - lse);
                *dp = *s * (*dp - delta);
            }
        }
    }
}

vectorised! {
    // The same for scores that are capped: the gradient is that of the argument of cap * tanh.
    pub(super) fn capped_gradient_tile(s: &mut [f32], dp: &mut [f32], lse: &[f32; ROWS], delta: &[f32; ROWS], cap: f32) {
        for (s, dp) in s.chunks_exact_mut(ROWS).zip(dp.chunks_exact_mut(ROWS)) {
            for (((s, dp), lse), delta) in s.iter_mut().zip(dp).zip(lse).zip(delta) {
                let (tanh, slope) = tanh_and_slope(*s);
                // Scores that were masked are not.
                let score = if *s == f32::NEG_INFINITY { *s } else { cap * tanh };
                *s = exp_of::<FUSED>(score - lse);
                *dp = *s * (*dp - delta) * slope * cap;
            }
        }
    }
}
