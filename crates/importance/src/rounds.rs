//! Iterative importance (arXiv 2407.14679v2, section 2.2 and table 14): measure, cut a part, measure again, for `T` rounds.

/// The size after round `round` of `rounds`, counted from 0, on the way from `from` down to `to`: `from - (round + 1) (from - to) / rounds`,
/// rounded up to a multiple of `multiple`, and `to` itself in the last round. Never above `from` nor below `to`.
///
/// A `multiple` of zero counts as one; with `to` above `from` there is nothing to cut, and `from` stays.
pub fn round_size(from: usize, to: usize, round: usize, rounds: usize, multiple: usize) -> usize {
    if rounds <= round + 1 {
        return to.min(from);
    }
    let cut = from.saturating_sub(to) as u128 * (round as u128 + 1) / rounds as u128;
    let exact = from - cut as usize;
    exact.checked_next_multiple_of(multiple.max(1)).unwrap_or(from).min(from)
}

#[cfg(test)]
mod tests {
    use super::round_size;

    #[test]
    fn rounds_go_down_evenly_and_end_at_the_target() {
        let sizes = |from, to, rounds, multiple| -> Vec<usize> {
            (0..rounds).map(|i| round_size(from, to, i, rounds, multiple)).collect()
        };
        // Table 14's embedding axis: 6144 to 4096.
        assert_eq!(sizes(6144, 4096, 1, 1), [4096]);
        assert_eq!(sizes(6144, 4096, 4, 1), [5632, 5120, 4608, 4096]);
        assert_eq!(sizes(576, 450, 4, 9), [549, 513, 486, 450]);
        assert_eq!(sizes(9, 9, 3, 1), [9, 9, 9]);
        assert_eq!(sizes(10, 3, 3, 4), [8, 8, 3]);
        assert_eq!((round_size(4, 8, 0, 2, 1), round_size(7, 3, 5, 2, 0), round_size(7, 3, 0, 0, 0)), (4, 3, 3));
    }
}
