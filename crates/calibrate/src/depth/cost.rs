//! What a sweep costs, in runs of one layer over all units, against running each stack from its embedding.
use std::ops::Range;

/// Layer runs of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Runs of one layer with what lies in front of a removal run once.
    pub layer_runs: u64,
    /// Runs of one layer if every stack ran from its embedding.
    pub naive_layer_runs: u64,
    /// Runs of the final norm and what judges its output: as many either way.
    pub judged: u64,
}

impl std::ops::AddAssign for Cost {
    fn add_assign(&mut self, other: Cost) {
        self.layer_runs += other.layer_runs;
        self.naive_layer_runs += other.naive_layer_runs;
        self.judged += other.judged;
    }
}

/// The cost of `removals` from a stack of `layers`, with the score of the whole stack if `baseline`.
///
/// Layers in front of the last removal run once, all of them for the whole stack; for each removal run the layers behind it. For every
/// single layer that is `L + L (L - 1) / 2` with the baseline, where the naive way takes `L + L (L - 1)`.
pub fn cost(layers: usize, removals: &[Range<usize>], baseline: bool) -> Cost {
    let n = layers as u64;
    let walk = if baseline { n } else { removals.iter().map(|r| r.start as u64).max().unwrap_or(0) };
    let behind = |r: &Range<usize>| n.saturating_sub(r.end as u64);
    let left = |r: &Range<usize>| n.saturating_sub(r.len() as u64);
    Cost {
        layer_runs: walk + removals.iter().map(behind).sum::<u64>(),
        naive_layer_runs: u64::from(baseline) * n + removals.iter().map(left).sum::<u64>(),
        judged: u64::from(baseline) + removals.len() as u64,
    }
}

/// The cost of removing `n` of `layers` layers greedily; the first step is free when the scores without each single layer are known.
pub fn greedy_cost(layers: usize, n: usize, first_is_known: bool) -> Cost {
    let mut sum = Cost::default();
    for stack in (1..=layers).rev().take(n).skip(usize::from(first_is_known)) {
        let each: Vec<Range<usize>> = (0..stack).map(|i| i..i + 1).collect();
        sum += cost(stack, &each, false);
    }
    sum
}
