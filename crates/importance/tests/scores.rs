//! Scores against the formulas written down naively, element by element, on random activations.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use ndarray::{Array2, ArrayView1, ArrayView2, s};
use paring_importance::{Agg, BlockInfluence, Distance, Error, Moments, head_scores, kv_group_scores};
use proptest::prelude::*;

/// Arbitrary enough, reproducible, with signs and outliers.
fn activations(tokens: usize, channels: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((tokens, channels), |(t, c)| {
        let x = ((t * 31 + c * 17 + seed * 101) as f32 * 0.7).sin();
        if (t + c + seed).is_multiple_of(7) { 20.0 * x } else { x + 0.1 * c as f32 }
    })
}

/// One of the three aggregations of the paper, as it is printed.
fn naive(agg: Agg, values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    match agg {
        Agg::Mean => values.iter().map(|v| v.abs()).sum::<f64>() / n,
        Agg::L2 => values.iter().map(|v| v * v).sum::<f64>().sqrt(),
        Agg::Var => values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n,
    }
}

fn close(got: f64, want: f64) -> bool {
    (got - want).abs() <= 1e-9 * want.abs().max(1.0)
}

#[test]
fn all_nine_aggregations_follow_the_printed_formulas() {
    let lengths = [5, 1, 9, 4];
    let sequences: Vec<Array2<f32>> = lengths.iter().enumerate().map(|(b, &t)| activations(t, 6, b)).collect();
    let mut site = Moments::new(6);
    for x in &sequences {
        site.observe_sequence(x.view()).unwrap();
    }
    for seq in Agg::ALL {
        for batch in Agg::ALL {
            let got = site.score(seq, batch);
            for c in 0..6 {
                let per_sequence: Vec<f64> = sequences
                    .iter()
                    .map(|x| naive(seq, &x.column(c).iter().map(|&v| f64::from(v)).collect::<Vec<_>>()))
                    .collect();
                let want = naive(batch, &per_sequence);
                assert!(close(got[c], want), "{seq:?} then {batch:?}, channel {c}: {} and not {want}", got[c]);
            }
        }
    }
}

#[test]
fn the_default_is_not_divided_by_the_number_of_sequences() {
    let mut site = Moments::new(1);
    for _ in 0..4 {
        site.observe_sequence(ArrayView2::from_shape((2, 1), &[3.0, -3.0]).unwrap()).unwrap();
    }
    assert_eq!(site.score(Agg::Mean, Agg::L2), [6.0], "sqrt(4 * 3^2)");
    assert_eq!(site.score(Agg::Var, Agg::Mean), [9.0], "of the signed values, whose mean is 0");
}

#[test]
fn a_large_constant_has_no_variance() {
    let mut site = Moments::new(1);
    site.observe_sequence(Array2::from_elem((1000, 1), 12_345.679f32).view()).unwrap();
    assert_eq!(site.score(Agg::Var, Agg::Mean), [0.0]);
}

#[test]
fn the_memory_layout_of_a_view_does_not_matter() {
    let x = activations(6, 8, 3);
    let (mut rows, mut columns) = (Moments::new(4), Moments::new(4));
    rows.observe_sequence(x.slice(s![.., ..;2]).to_owned().view()).unwrap();
    columns.observe_sequence(x.slice(s![.., ..;2])).unwrap();
    assert_eq!(rows, columns);
}

#[test]
fn a_refused_sequence_leaves_no_trace() {
    let mut site = Moments::new(3);
    site.observe_sequence(activations(4, 3, 0).view()).unwrap();
    let before = site.clone();
    let mut bad = activations(4, 3, 1);
    bad[[2, 1]] = f32::NAN;
    assert_eq!(site.observe_sequence(bad.view()), Err(Error::NotFinite { unit: "channel", index: 1 }));
    assert_eq!(site.observe_sequence(activations(4, 2, 1).view()), Err(Error::Channels { got: 2, want: 3 }));
    assert_eq!(site.observe_sequence(activations(0, 3, 1).view()), Err(Error::EmptySequence));
    assert_eq!(site.merge(&Moments::new(4)), Err(Error::Channels { got: 4, want: 3 }));
    assert_eq!(site, before);
}

#[test]
fn heads_and_groups_are_norms_over_their_channels() {
    let heads = head_scores(&[3.0, 4.0, 0.0, 0.0, 5.0, 12.0, 8.0, 6.0], 2);
    assert_eq!(heads, [5.0, 0.0, 13.0, 10.0]);
    assert_eq!(kv_group_scores(&heads, 2), [5.0, f64::sqrt(269.0)]);
    assert_eq!(kv_group_scores(&heads, 4), heads, "one head per group");
}

#[test]
fn block_influence_is_one_minus_the_mean_cosine() {
    let cases: [(&str, [f32; 2], [f32; 2], f64); 5] = [
        ("unchanged", [1.0, 2.0], [1.0, 2.0], 0.0),
        ("scaled", [1.0, 2.0], [3.0, 6.0], 0.0),
        ("orthogonal", [1.0, 0.0], [0.0, 5.0], 1.0),
        ("turned round", [1.0, 1.0], [-1.0, -1.0], 2.0),
        ("zero, as in PyTorch", [0.0, 0.0], [1.0, 1.0], 1.0),
    ];
    let mut all = BlockInfluence::new(2);
    for (name, x, y, want) in cases {
        let mut one = BlockInfluence::new(1);
        let view = |v| Array2::from_shape_vec((1, 2), Vec::from(v)).unwrap();
        one.observe_sequence(0, view(x).view(), view(y).view()).unwrap();
        assert!(close(one.scores(Distance::Cosine)[0], want), "{name}: {:?}", one.scores(Distance::Cosine));
        all.observe_sequence(1, view(x).view(), view(y).view()).unwrap();
    }
    // Shorter sequences weigh as much as long ones: the mean is over tokens first.
    assert!(
        close(all.scores(Distance::Cosine)[1], 4.0 / 5.0) && all.scores(Distance::Cosine)[0] == 0.0,
        "{:?}",
        all.scores(Distance::Cosine)
    );
}

#[test]
fn angles_are_in_half_turns() {
    let mut bi = BlockInfluence::new(1);
    let rows = |v: [f32; 8]| Array2::from_shape_vec((4, 2), v.to_vec()).unwrap();
    // 0, a quarter, a half turn, and 45 degrees.
    let x = rows([1.0, 2.0, 1.0, 0.0, 1.0, 1.0, 3.0, 0.0]);
    let y = rows([2.0, 4.0, 0.0, 5.0, -2.0, -2.0, 7.0, 7.0]);
    bi.observe_sequence(0, x.view(), y.view()).unwrap();
    assert!(close(bi.scores(Distance::Angular)[0], (0.0 + 0.5 + 1.0 + 0.25) / 4.0), "{bi:?}");
    assert!(close(bi.scores(Distance::Cosine)[0], (0.0 + 1.0 + 2.0 + 1.0 - f64::sqrt(0.5)) / 4.0), "{bi:?}");
}

#[test]
fn block_influence_averages_over_tokens_and_then_over_sequences() {
    let (mut bi, mut want) = (BlockInfluence::new(1), 0.0);
    for (b, tokens) in [5, 2].into_iter().enumerate() {
        let (x, y) = (activations(tokens, 4, b), activations(tokens, 4, b + 9));
        bi.observe_sequence(0, x.view(), y.view()).unwrap();
        let dot = |a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>| -> f64 {
            a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
        };
        let cosines = (0..tokens).map(|t| {
            let (x, y) = (x.row(t), y.row(t));
            dot(x, y) / (dot(x, x) * dot(y, y)).sqrt()
        });
        want += (1.0 - cosines.sum::<f64>() / tokens as f64) / 2.0;
    }
    assert!(close(bi.scores(Distance::Cosine)[0], want), "{:?} and not {want}", bi.scores(Distance::Cosine));
}

#[test]
fn block_influence_refuses_what_does_not_fit() {
    let mut bi = BlockInfluence::new(1);
    let (x, y) = (activations(3, 4, 0), activations(3, 5, 0));
    assert_eq!(bi.observe_sequence(1, x.view(), x.view()), Err(Error::Layer { got: 1, layers: 1 }));
    assert_eq!(bi.observe_sequence(0, x.view(), y.view()), Err(Error::Streams { input: [3, 4], output: [3, 5] }));
    let infinite = Array2::from_elem((3, 4), f32::INFINITY);
    assert_eq!(bi.observe_sequence(0, x.view(), infinite.view()), Err(Error::NotFinite { unit: "token", index: 0 }));
    assert_eq!(bi, BlockInfluence::new(1));
}

/// The first `cut` sequences, last to first.
fn left_of(lengths: &[usize], cut: usize) -> Moments {
    let mut left = Moments::new(3);
    for (b, &t) in lengths.iter().enumerate().take(cut).rev() {
        left.observe_sequence(activations(t, 3, b).view()).unwrap();
    }
    left
}

proptest! {
    #[test]
    fn shards_in_any_order_are_the_same_bits(lengths in proptest::collection::vec(1usize..6, 2..8), cut in 0usize..8) {
        let cut = cut.min(lengths.len());
        let (mut whole, mut left, mut right) = (Moments::new(3), Moments::new(3), Moments::new(3));
        for (b, &t) in lengths.iter().enumerate() {
            let x = activations(t, 3, b);
            whole.observe_sequence(x.view()).unwrap();
            if b < cut { &mut left } else { &mut right }.observe_sequence(x.view()).unwrap();
        }
        let mut swapped = right.clone();
        left.merge(&right).unwrap();
        swapped.merge(&left_of(&lengths, cut)).unwrap();
        prop_assert_eq!(&left, &whole);
        prop_assert_eq!(&swapped, &whole);
    }
}
