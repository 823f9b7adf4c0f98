//! A whole model's statistics: scores per axis, merging, and the way to named arrays and back.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use ndarray::Array2;
use paring_importance::{
    Agg, Aggregation, ChannelSums, Error, Geometry, ImportanceSet, LayerGeometry, NamedArray, Norm, RowProducts,
};

/// Two layers that differ in everything that may differ.
fn geometry() -> Geometry {
    let layers = vec![LayerGeometry { ffn: 5, heads: 4, kv_heads: 2 }, LayerGeometry { ffn: 3, heads: 2, kv_heads: 2 }];
    Geometry { hidden: 6, head_dim: 2, layers }
}

fn activations(tokens: usize, channels: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((tokens, channels), |(t, c)| ((t * 13 + c * 7 + seed * 29) as f32).sin())
}

fn observe(set: &mut ImportanceSet, tokens: usize, seed: usize) {
    for (l, layer) in geometry().layers.into_iter().enumerate() {
        let seed = 10 * seed + 3 * l;
        set.observe_norm(l, Norm::Attn, &ChannelSums::of(activations(tokens, 6, seed).view())).unwrap();
        set.observe_norm(l, Norm::Mlp, &ChannelSums::of(activations(tokens, 6, seed + 1).view())).unwrap();
        set.observe_ffn(l, &ChannelSums::of(activations(tokens, layer.ffn, seed + 2).view())).unwrap();
        set.observe_heads(l, &ChannelSums::of(activations(tokens, 2 * layer.heads, seed + 4).view())).unwrap();
        let (x, y) = (activations(tokens, 6, seed + 5), activations(tokens, 6, seed + 6));
        let products: Vec<RowProducts> =
            x.rows().into_iter().zip(y.rows()).map(|(x, y)| RowProducts::of(x, y)).collect();
        set.observe_block(l, &products).unwrap();
    }
    set.count_sequence(tokens);
}

fn observed() -> ImportanceSet {
    let mut set = ImportanceSet::new(geometry()).unwrap();
    observe(&mut set, 4, 0);
    observe(&mut set, 7, 1);
    set
}

/// `sqrt(sum_b (mean_t |x|)^2)` of one channel.
fn default_score(sequences: &[Array2<f32>], channel: usize) -> f64 {
    let mean = |x: &Array2<f32>| x.column(channel).iter().map(|v| f64::from(v.abs())).sum::<f64>() / x.nrows() as f64;
    sequences.iter().map(|x| mean(x).powi(2)).sum::<f64>().sqrt()
}

#[test]
fn every_axis_is_scored_from_its_own_sites() {
    let set = observed();
    assert_eq!((set.tokens(), set.sequences()), (11, 2));
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} and {b}");
    let pair = |channels, site: usize| [activations(4, channels, site), activations(7, channels, 10 + site)];
    for c in 0..6 {
        let want: f64 = [0, 1, 3, 4].into_iter().map(|site| default_score(&pair(6, site), c)).sum();
        close(set.hidden()[c], want);
    }
    close(set.ffn(1).unwrap()[2], default_score(&pair(3, 5), 2));
    let channel = |c| default_score(&pair(8, 4), c);
    close(set.heads(0).unwrap()[3], channel(6).hypot(channel(7)));
    let group: f64 = (4..8).map(|c| channel(c).powi(2)).sum::<f64>().sqrt();
    close(set.kv_groups(0).unwrap()[1], group);
    assert_eq!(set.ffn(2), Err(Error::Layer { got: 2, layers: 2 }));
}

#[test]
fn another_aggregation_gives_other_scores_of_the_same_sums() {
    let set = observed();
    let other = set.clone().with_aggregation(Aggregation { seq: Agg::L2, batch: Agg::Mean });
    assert_ne!(set.hidden(), other.hidden());
    // What is stored does not depend on the aggregation asked for last.
    assert_eq!(set.to_arrays().unwrap(), other.to_arrays().unwrap());
}

#[test]
fn arrays_bring_everything_back_bit_for_bit() {
    let set = observed();
    let arrays = set.to_arrays().unwrap();
    assert_eq!(ImportanceSet::from_arrays(arrays.clone()).unwrap(), set);
    let names: Vec<&str> = arrays.iter().map(|a| a.name.as_str()).collect();
    for name in ["hidden", "ffn.1", "heads.0", "kv_groups.0", "block_influence", "raw.ffn.1.mean.sum_abs"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    // Scores may be stored shorter; sums may not, and are not checked against the scores more closely than f32 allows.
    let rounded = arrays
        .into_iter()
        .map(|mut a| {
            if !a.name.starts_with("raw.") {
                a.values.iter_mut().for_each(|v| *v = f64::from(*v as f32));
            }
            a
        })
        .collect();
    assert_eq!(ImportanceSet::from_arrays(rounded).unwrap(), set);
}

#[test]
fn merged_halves_are_the_whole() {
    let (mut left, mut right) = (ImportanceSet::new(geometry()).unwrap(), ImportanceSet::new(geometry()).unwrap());
    observe(&mut left, 4, 0);
    observe(&mut right, 7, 1);
    left.merge(&right).unwrap();
    assert_eq!(left, observed(), "sums of two terms are exact in either order");
    let other = Geometry { hidden: 7, ..geometry() };
    let error = left.merge(&ImportanceSet::new(other).unwrap()).unwrap_err();
    assert!(matches!(error, Error::Different { .. }), "{error}");
    assert_eq!(left, observed());
}

#[test]
fn what_was_not_observed_evenly_is_not_stored() {
    let mut set = ImportanceSet::new(geometry()).unwrap();
    assert_eq!(set.to_arrays(), Err(Error::NoSequences));
    observe(&mut set, 3, 0);
    set.observe_ffn(1, &ChannelSums::of(activations(3, 3, 0).view())).unwrap();
    assert_eq!(set.to_arrays(), Err(Error::Uneven { site: "ffn.1".into(), got: 2, want: 1 }));
}

#[test]
fn damaged_arrays_are_refused_by_name() {
    type Damage = fn(&mut Vec<NamedArray>);
    fn find<'a>(arrays: &'a mut [NamedArray], name: &str) -> &'a mut NamedArray {
        arrays.iter_mut().find(|a| a.name == name).unwrap()
    }
    let cases: [(Damage, &str); 9] = [
        (
            |a| a.retain(|x| x.name != "heads.1"),
            "importance array `heads.1` is missing; write the file again with `paring importance`",
        ),
        (|a| a.push(a[0].clone()), "importance array `hidden` occurs twice"),
        (|a| find(a, "ffn.0").shape = vec![4], "importance array `ffn.0` has 5 values for shape [4]"),
        (|a| find(a, "ffn.0").shape = vec![1, 5], "importance array `ffn.0` has shape [1, 5], expected [5]"),
        (
            |a| {
                *find(a, "raw.mlp_norm.1.var.sum_sq") =
                    NamedArray { name: "raw.mlp_norm.1.var.sum_sq".into(), shape: vec![2], values: vec![0.0; 2] }
            },
            "importance array `raw.mlp_norm.1.var.sum_sq` has shape [2], expected [6]",
        ),
        (
            |a| find(a, "raw.heads.0.l2.sum_abs").values[3] = f64::INFINITY,
            "importance array `raw.heads.0.l2.sum_abs` holds inf at 3, expected a finite number",
        ),
        (
            |a| find(a, "raw.ffn.1.mean.sum_sq").values[0] = -1.0,
            "importance array `raw.ffn.1.mean.sum_sq` holds -1 at 0, expected a number that is not negative",
        ),
        (
            |a| find(a, "raw.counts").values[1] = 0.5,
            "importance array `raw.counts` holds 0.5 at 1, expected a whole number above zero",
        ),
        (
            |a| find(a, "kv_groups.1").values[1] = 99.0,
            "importance array `kv_groups.1` holds 99 at 1, expected the score that the file's raw sums give",
        ),
    ];
    for (damage, want) in cases {
        let mut arrays = observed().to_arrays().unwrap();
        damage(&mut arrays);
        assert_eq!(ImportanceSet::from_arrays(arrays).unwrap_err().to_string(), want);
    }
    assert_eq!(ImportanceSet::from_arrays(Vec::new()).unwrap_err(), Error::Missing { name: "raw.counts".into() });
}

#[test]
fn impossible_geometries_are_refused() {
    for (heads, kv_heads, ffn) in [(3, 2, 4), (0, 2, 4), (4, 0, 4), (4, 2, 0)] {
        let geometry = Geometry { layers: vec![LayerGeometry { ffn, heads, kv_heads }], ..geometry() };
        assert!(matches!(ImportanceSet::new(geometry), Err(Error::Geometry { .. })), "{heads} {kv_heads} {ffn}");
    }
    assert!(ImportanceSet::new(Geometry { layers: vec![], ..geometry() }).is_err());
}
