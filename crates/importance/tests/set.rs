//! A whole model's statistics: scores per axis and definition, merging, and the way to named arrays and back.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use ndarray::Array2;
use paring_importance::{
    Agg, Aggregation, Arrays, ChannelSums, Distance, Error, Extras, FfnBy, Geometry, HeadsBy, HiddenBy, ImportanceSet,
    LayerGeometry, NamedArray, RawArray, RowProducts, ScoreOptions, Stat, TaylorSequence,
};

/// Two layers that differ in everything that may differ.
fn geometry() -> Geometry {
    let layers = vec![LayerGeometry { ffn: 5, heads: 4, kv_heads: 2 }, LayerGeometry { ffn: 3, heads: 2, kv_heads: 2 }];
    Geometry { hidden: 6, head_dim: 2, layers }
}

const ALL: Extras = Extras { contribution: true, taylor: true };

fn activations(tokens: usize, channels: usize, seed: usize) -> Array2<f32> {
    Array2::from_shape_fn((tokens, channels), |(t, c)| ((t * 13 + c * 7 + seed * 29) as f32).sin())
}

fn channels(stat: Stat, layer: usize) -> usize {
    let LayerGeometry { ffn, heads, kv_heads } = geometry().layers[layer];
    match stat {
        Stat::AttnNorm | Stat::MlpNorm => 6,
        Stat::Ffn | Stat::FfnGate => ffn,
        Stat::Heads => 2 * heads,
        Stat::HeadNorms | Stat::HeadOutputs => heads,
        Stat::GroupNorms | Stat::GroupOutputs => kv_heads,
    }
}

/// What the `seed`th sequence has at a site: no site has what another has.
fn at(stat: Stat, layer: usize, tokens: usize, seed: usize) -> Array2<f32> {
    activations(tokens, channels(stat, layer), 100 * seed + 20 * layer + stat as usize)
}

fn norms() -> Vec<Vec<f64>> {
    vec![vec![1.0, 2.0, 0.5, 0.0, 3.0], vec![0.25, 4.0, 1.5]]
}

fn taylor(seed: usize) -> TaylorSequence {
    let value = |i: usize| ((i * 37 + seed * 11) as f64).cos() / 64.0;
    TaylorSequence {
        hidden: (0..6).map(value).collect(),
        ffn: vec![(10..15).map(value).collect(), (20..23).map(value).collect()],
        heads: vec![(30..34).map(value).collect(), (40..42).map(value).collect()],
    }
}

fn observe(set: &mut ImportanceSet, tokens: usize, seed: usize) {
    let extras = set.extras();
    for l in 0..2 {
        for stat in Stat::ALL.into_iter().filter(|s| s.measured(extras)) {
            set.observe(l, stat, &ChannelSums::of(at(stat, l, tokens, seed).view())).unwrap();
        }
        let (x, y) = (activations(tokens, 6, seed + 5), activations(tokens, 6, seed + 6));
        let products: Vec<RowProducts> =
            x.rows().into_iter().zip(y.rows()).map(|(x, y)| RowProducts::of(x, y)).collect();
        set.observe_block(l, &products).unwrap();
    }
    if extras.taylor {
        set.observe_taylor(&taylor(seed)).unwrap();
    }
    set.count_sequence(tokens);
}

fn new(extras: Extras) -> ImportanceSet {
    let mut set = ImportanceSet::new(geometry(), extras).unwrap();
    set.set_down_norms(norms()).unwrap();
    set
}

/// Sequences of these lengths, each with its number.
fn seen(extras: Extras, sequences: &[(usize, usize)]) -> ImportanceSet {
    let mut set = new(extras);
    sequences.iter().for_each(|&(tokens, seed)| observe(&mut set, tokens, seed));
    set
}

fn observed() -> ImportanceSet {
    seen(ALL, &[(4, 0), (7, 1)])
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

/// The score of one channel of a site over the two sequences of [`observed`].
fn want(stat: Stat, layer: usize, channel: usize, Aggregation { seq, batch }: Aggregation) -> f64 {
    let one = |(tokens, seed)| {
        naive(seq, &at(stat, layer, tokens, seed).column(channel).iter().map(|&v| f64::from(v)).collect::<Vec<_>>())
    };
    naive(batch, &[(4, 0), (7, 1)].map(one))
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{a} and {b}");
}

fn nine() -> impl Iterator<Item = Aggregation> {
    Agg::ALL.into_iter().flat_map(|seq| Agg::ALL.into_iter().map(move |batch| Aggregation { seq, batch }))
}

#[test]
fn every_axis_and_definition_has_all_nine_aggregations_from_its_own_sites() {
    let set = observed();
    assert_eq!((set.tokens(), set.sequences()), (11, 2));
    for aggregation in nine() {
        let scores = |change: fn(&mut ScoreOptions)| {
            let mut options = ScoreOptions { aggregation, ..ScoreOptions::default() };
            change(&mut options);
            set.scores(&options).unwrap()
        };
        let default = scores(|_| ());
        for c in 0..6 {
            let sites = [(Stat::AttnNorm, 0), (Stat::MlpNorm, 0), (Stat::AttnNorm, 1), (Stat::MlpNorm, 1)];
            close(default.hidden[c], sites.into_iter().map(|(stat, l)| want(stat, l, c, aggregation)).sum());
        }
        let (paper, weights) = (scores(|o| o.ffn = FfnBy::Paper), scores(|o| o.ffn = FfnBy::WeightAware));
        let (by_norm, by_output) = (scores(|o| o.heads = HeadsBy::Paper), scores(|o| o.heads = HeadsBy::Contribution));
        for l in 0..2 {
            for c in 0..channels(Stat::Ffn, l) {
                close(default.ffn[l][c], want(Stat::Ffn, l, c, aggregation));
                close(paper.ffn[l][c], want(Stat::FfnGate, l, c, aggregation));
                close(weights.ffn[l][c], norms()[l][c] * want(Stat::Ffn, l, c, aggregation));
            }
            let head = |h: usize| {
                let channel = |c| want(Stat::Heads, l, c, aggregation);
                channel(2 * h).hypot(channel(2 * h + 1))
            };
            let (heads, groups) = (channels(Stat::HeadNorms, l), 2);
            for h in 0..heads {
                close(default.heads[l][h], head(h));
                close(by_norm.heads[l][h], want(Stat::HeadNorms, l, h, aggregation));
                close(by_output.heads[l][h], want(Stat::HeadOutputs, l, h, aggregation));
            }
            for g in 0..groups {
                let per = heads / groups;
                close(default.kv_groups[l][g], (g * per..(g + 1) * per).map(|h| head(h).powi(2)).sum::<f64>().sqrt());
                close(by_norm.kv_groups[l][g], want(Stat::GroupNorms, l, g, aggregation));
                close(by_output.kv_groups[l][g], want(Stat::GroupOutputs, l, g, aggregation));
            }
        }
        let batch = aggregation.batch;
        let both =
            |value: &dyn Fn(&TaylorSequence) -> f64| naive(batch, &[0, 1].map(|seed| value(&taylor(seed)).abs()));
        let taylor = scores(|o| (o.hidden, o.ffn, o.heads) = (HiddenBy::Taylor, FfnBy::Taylor, HeadsBy::Taylor));
        close(taylor.hidden[3], both(&|t| t.hidden[3]));
        close(taylor.ffn[1][2], both(&|t| t.ffn[1][2]));
        close(taylor.heads[0][3], both(&|t| t.heads[0][3]));
        close(taylor.kv_groups[0][1], both(&|t| t.heads[0][2] + t.heads[0][3]));
    }
    assert_eq!(set.ffn(2), Err(Error::Layer { got: 2, layers: 2 }));
}

#[test]
fn the_default_is_modelopts() {
    let set = observed();
    let scores = set.scores(&ScoreOptions::default()).unwrap();
    let mean_l2 = Aggregation { seq: Agg::Mean, batch: Agg::L2 };
    close(scores.ffn[1][2], want(Stat::Ffn, 1, 2, mean_l2));
    assert_eq!(
        (scores.hidden, &scores.ffn[0], &scores.heads[1]),
        (set.hidden(), &set.ffn(0).unwrap(), &set.heads(1).unwrap())
    );
    assert_eq!((&scores.kv_groups[0], scores.block_influence), (&set.kv_groups(0).unwrap(), set.block_influence()));
    let angular = set.scores(&ScoreOptions { depth: Distance::Angular, ..ScoreOptions::default() }).unwrap();
    assert_ne!(angular.block_influence, set.block_influence());
}

#[test]
fn what_was_not_measured_is_asked_for() {
    let set = seen(Extras::default(), &[(4, 0)]);
    let refusal = |options: ScoreOptions| set.scores(&options).unwrap_err().to_string();
    let d = ScoreOptions::default;
    let says = "these statistics hold no Taylor sums; measure them with `paring importance --taylor`";
    assert_eq!(refusal(ScoreOptions { hidden: HiddenBy::Taylor, ..d() }), says);
    assert_eq!(refusal(ScoreOptions { ffn: FfnBy::Taylor, ..d() }), says);
    assert_eq!(refusal(ScoreOptions { heads: HeadsBy::Taylor, ..d() }), says);
    let says = "these statistics hold no contributions of heads to the residual stream; measure them with `paring importance --contribution`";
    assert_eq!(refusal(ScoreOptions { heads: HeadsBy::Contribution, ..d() }), says);
    let bare = ImportanceSet::new(geometry(), Extras::default()).unwrap();
    let error = bare.scores(&ScoreOptions { ffn: FfnBy::WeightAware, ..d() }).unwrap_err();
    assert!(matches!(error, Error::NotMeasured { .. }), "{error}");
    let mut set = set;
    assert!(matches!(set.observe_taylor(&taylor(0)), Err(Error::NotMeasured { .. })));
    let sums = ChannelSums::of(activations(3, 2, 0).view());
    assert!(matches!(set.observe(0, Stat::GroupOutputs, &sums), Err(Error::NotMeasured { .. })));
}

#[test]
fn errors_name_the_place() {
    let mut set = new(ALL);
    let mut bad = at(Stat::Ffn, 1, 4, 0);
    bad[[2, 1]] = f32::NAN;
    let mut says = |layer, stat, x: &Array2<f32>, want: &str| {
        assert_eq!(set.observe(layer, stat, &ChannelSums::of(x.view())).unwrap_err().to_string(), want);
    };
    says(
        1,
        Stat::Ffn,
        &bad,
        "layer 1, input of down_proj: channel 1 is infinite or not a number; check the checkpoint, or calibrate in a wider type",
    );
    says(
        0,
        Stat::AttnNorm,
        &bad,
        "layer 0, output of the norm before attention: an activation of 3 channels, expected 6",
    );
    says(
        0,
        Stat::FfnGate,
        &Array2::from_elem((1, 5), 2f32.powi(46)),
        "layer 0, output of gate_proj: the statistic 4.951760157141521e27 at 0 is larger than sums hold; check the checkpoint for weights out of all proportion",
    );
    let products = [RowProducts { xy: 1.0, xx: f64::INFINITY, yy: 1.0 }];
    let error = set.observe_block(1, &products).unwrap_err().to_string();
    assert!(error.starts_with("layer 1, residual stream: token 0 is infinite"), "{error}");
    let mut sequence = taylor(0);
    sequence.heads[1][1] = f64::NAN;
    let error = set.observe_taylor(&sequence).unwrap_err().to_string();
    assert!(error.starts_with("layer 1, gradient of the input of o_proj: channel 1"), "{error}");
    assert_eq!(set, new(ALL), "nothing was added");
    assert!(set.set_down_norms(vec![vec![1.0; 5]]).is_err());
    assert!(set.set_down_norms(vec![vec![1.0; 5], vec![f64::NAN; 3]]).is_err());
}

#[test]
fn arrays_bring_everything_back_bit_for_bit() {
    for extras in [Extras::default(), Extras { contribution: true, taylor: false }, ALL] {
        let set = seen(extras, &[(4, 0), (7, 1)]);
        let arrays = set.to_arrays().unwrap();
        assert_eq!(ImportanceSet::from_arrays(arrays.clone()).unwrap(), set);
        // Scores may be stored shorter: they are not checked against the sums more closely than f32 allows.
        let shorter = |mut a: NamedArray| {
            if !a.name.starts_with("weights") {
                a.values.iter_mut().for_each(|v| *v = f64::from(*v as f32));
            }
            a
        };
        let scores = arrays.scores.into_iter().map(shorter).collect();
        assert_eq!(ImportanceSet::from_arrays(Arrays { scores, raw: arrays.raw }).unwrap(), set);
    }
    let Arrays { scores, raw } = observed().to_arrays().unwrap();
    let names: Vec<&str> =
        scores.iter().map(|a| &a.name).chain(raw.iter().map(|a| &a.name)).map(String::as_str).collect();
    for name in ["hidden", "ffn.1", "heads.0", "kv_groups.0", "block_influence", "raw.ffn_gate.1", "raw.taylor.heads.1"]
    {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
}

#[test]
fn shards_in_any_order_are_the_whole_bit_for_bit() {
    let all = [(4, 0), (7, 1), (3, 2), (9, 3), (5, 4)];
    let whole = seen(ALL, &all);
    for parts in [[vec![0, 3], vec![1, 4], vec![2]], [vec![4], vec![2, 0, 1], vec![3]]] {
        let mut shards = parts.iter().map(|p| seen(ALL, &p.iter().map(|&i| all[i]).collect::<Vec<_>>()));
        let mut sum = shards.next().unwrap();
        shards.for_each(|s| sum.merge(&s).unwrap());
        assert_eq!(sum, whole);
        assert_eq!(sum.to_arrays().unwrap(), whole.to_arrays().unwrap());
    }
}

#[test]
fn what_does_not_belong_together_is_not_merged() {
    let mut set = observed();
    let mut other = ImportanceSet::new(Geometry { hidden: 7, ..geometry() }, ALL).unwrap();
    other.set_down_norms(norms()).unwrap();
    let mut weights = seen(ALL, &[(4, 2)]);
    weights.set_down_norms(vec![vec![9.0; 5], vec![9.0; 3]]).unwrap();
    for (other, says) in
        [(other, "hidden: 7"), (seen(Extras::default(), &[(4, 2)]), "taylor: false"), (weights, "down_proj")]
    {
        let error = set.merge(&other).unwrap_err();
        assert!(matches!(error, Error::Different { .. }) && error.to_string().contains(says), "{error}");
        assert_eq!(set, observed());
    }
}

#[test]
fn what_was_not_observed_evenly_is_not_stored() {
    let mut set = new(ALL);
    assert_eq!(set.to_arrays(), Err(Error::NoSequences));
    observe(&mut set, 3, 0);
    let mut more = set.clone();
    more.observe(1, Stat::Ffn, &ChannelSums::of(activations(3, 3, 0).view())).unwrap();
    assert_eq!(more.to_arrays(), Err(Error::Uneven { site: "ffn.1".into(), got: 2, want: 1 }));
    set.observe_taylor(&taylor(1)).unwrap();
    assert_eq!(set.to_arrays(), Err(Error::Uneven { site: "taylor".into(), got: 2, want: 1 }));
}

#[test]
fn damaged_arrays_are_refused_by_name() {
    type Damage = fn(&mut Arrays);
    fn find<'a>(arrays: &'a mut Arrays, name: &str) -> &'a mut NamedArray {
        arrays.scores.iter_mut().find(|a| a.name == name).unwrap()
    }
    fn raw<'a>(arrays: &'a mut Arrays, name: &str) -> &'a mut RawArray {
        arrays.raw.iter_mut().find(|a| a.name == name).unwrap()
    }
    let cases: [(Damage, &str); 12] = [
        (
            |a| a.scores.retain(|x| x.name != "heads.1"),
            "importance array `heads.1` is missing; write the file again with `paring importance`",
        ),
        (
            |a| a.raw.retain(|x| x.name != "raw.kv_group_outputs.1"),
            "importance array `raw.kv_group_outputs.1` is missing; write the file again with `paring importance`",
        ),
        (|a| a.scores.push(a.scores[0].clone()), "importance array `hidden` occurs twice"),
        (|a| find(a, "ffn.0").shape = vec![4], "importance array `ffn.0` has 5 values for shape [4]"),
        (|a| find(a, "ffn.0").shape = vec![1, 5], "importance array `ffn.0` has shape [1, 5], expected [5]"),
        (
            |a| {
                *raw(a, "raw.mlp_norm.1") =
                    RawArray { name: "raw.mlp_norm.1".into(), shape: vec![2], values: vec![0; 2] }
            },
            "importance array `raw.mlp_norm.1` has shape [2], expected [3, 2, 6, 3]",
        ),
        (
            |a| find(a, "block_influence").values[1] = f64::INFINITY,
            "importance array `block_influence` holds inf at 1, expected a finite number",
        ),
        (
            |a| raw(a, "raw.ffn.1").values[2] = i64::MIN,
            "importance array `raw.ffn.1` holds -154742504910672530000000000 at 0, expected a number that is not negative",
        ),
        (
            |a| raw(a, "raw.counts").values[1] = 0,
            "importance array `raw.counts` holds 0 at 1, expected a whole number above zero",
        ),
        (
            |a| find(a, "kv_groups.1").values[1] = 99.0,
            "importance array `kv_groups.1` holds 99 at 1, expected the score that the file's raw sums give",
        ),
        (
            |a| find(a, "weights.down_proj.1").values[1] = f64::NAN,
            "importance array `weights.down_proj.1` holds NaN at 1, expected a finite number",
        ),
        (
            |a| raw(a, "raw.taylor.ffn.0").shape = vec![5, 2, 3],
            "importance array `raw.taylor.ffn.0` has shape [5, 2, 3], expected [2, 5, 3]",
        ),
    ];
    for (damage, want) in cases {
        let mut arrays = observed().to_arrays().unwrap();
        damage(&mut arrays);
        assert_eq!(ImportanceSet::from_arrays(arrays).unwrap_err().to_string(), want);
    }
    assert_eq!(
        ImportanceSet::from_arrays(Arrays::default()).unwrap_err(),
        Error::Missing { name: "raw.counts".into() }
    );
}

#[test]
fn impossible_geometries_are_refused() {
    for (heads, kv_heads, ffn) in [(3, 2, 4), (0, 2, 4), (4, 0, 4), (4, 2, 0)] {
        let geometry = Geometry { layers: vec![LayerGeometry { ffn, heads, kv_heads }], ..geometry() };
        assert!(matches!(ImportanceSet::new(geometry, ALL), Err(Error::Geometry { .. })), "{heads} {kv_heads} {ffn}");
    }
    assert!(ImportanceSet::new(Geometry { layers: vec![], ..geometry() }, ALL).is_err());
}
