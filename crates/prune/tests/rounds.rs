//! Plans of layers that differ, combinations of heads, and plans after plans: against brute force.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{
    Axis, Dims, Error, KvGroups, LayerDims, LayerPlan, Mix, Normalise, Options, Plan, Residual, Scores, Sizes, Spread,
    Target, Uneven, mix_columns, mix_rows, residual_pairs,
};
use proptest::prelude::*;

const TEACHER: Dims =
    Dims { layers: 3, hidden: 12, ffn: 12, heads: 12, kv_groups: 4, head_dim: 2, vocab: 20, tied: true };

/// Reproducible scores, different for every layer, without ties.
fn scores(sizes: &Sizes, seed: usize) -> Scores {
    let list = |n: usize, salt: usize| -> Vec<f64> {
        (0..n).map(|i| (((i + 1) * 7919 + salt * 104_729 + seed * 1_299_709) % 10_007) as f64 + 1.0).collect()
    };
    let layers = |of: fn(&LayerDims) -> usize, salt: usize| {
        sizes.layers.iter().enumerate().map(|(l, d)| list(of(d), salt + l)).collect()
    };
    Scores {
        hidden: list(sizes.hidden, 1),
        ffn: layers(|l| l.ffn, 100),
        heads: layers(|l| l.heads, 200),
        kv_groups: layers(|l| l.kv_groups, 300),
        block_influence: list(sizes.layers.len(), 400),
    }
}

fn spread(total: usize, min: usize, divisor: usize, normalise: Normalise) -> Option<Spread> {
    Some(Spread { total, min, divisor, normalise })
}

#[test]
fn a_total_goes_where_the_scores_are() {
    let sizes = Sizes::from(TEACHER);
    let mut s = scores(&sizes, 0);
    // The second layer is loud, and its neurons are unequal.
    s.ffn = vec![vec![1.0; 12], [[200.0; 4], [150.0; 4], [10.0; 4]].concat(), vec![1.0; 12]];
    let widths = |spread| {
        let options = Options { uneven: Uneven { ffn: spread, ..Uneven::default() }, ..Options::default() };
        let plan = Plan::choose_with(&sizes, &s, &Target::default(), &options)?;
        Ok::<_, Error>(plan.layers().iter().map(|l| l.ffn.len()).collect::<Vec<_>>())
    };
    assert_eq!(widths(spread(24, 4, 4, Normalise::No)).unwrap(), [8, 12, 4], "the loud one takes all it has");
    // By their means: 1 everywhere, against 200, 150 and 10 over 120.
    assert_eq!(widths(spread(20, 4, 4, Normalise::Mean)).unwrap(), [8, 8, 4]);
    // By their maxima: 1 everywhere, against two blocks of 1 and less; equals go to the lower layer.
    assert_eq!(widths(spread(24, 2, 2, Normalise::Max)).unwrap(), [12, 4, 8]);
    assert_eq!(widths(spread(23, 4, 4, Normalise::No)).unwrap(), [4, 12, 4], "what is left over is less than a block");
    assert_eq!(widths(spread(36, 1, 5, Normalise::No)).unwrap(), [12, 12, 12], "the teacher's width needs no multiple");
    let says = |spread| widths(spread).unwrap_err().to_string();
    assert_eq!(
        says(spread(37, 1, 1, Normalise::No)),
        "ffn per layer: a total of 37 was asked for, but the layers that stay have 36"
    );
    assert_eq!(
        says(spread(11, 4, 1, Normalise::No)),
        "ffn per layer: a total of 11, expected at least the 12 of the minimum in every layer"
    );
    assert_eq!(says(spread(11, 0, 1, Normalise::No)), "ffn per layer: divisor 1 and minimum 0, expected at least 1");
}

#[test]
fn heads_and_groups_may_differ_by_layer_and_stay_equal_per_group() {
    let sizes = Sizes::from(TEACHER);
    for seed in 0..20 {
        let s = scores(&sizes, seed);
        let uneven = Uneven {
            heads: spread(16, 1, 1, Normalise::Mean),
            kv_groups: spread(8, 1, 1, Normalise::Max),
            ffn: spread(20, 2, 2, Normalise::Mean),
        };
        let target = Target { hidden: Some(6), layers: Some(3), ..Target::default() };
        let plan = Plan::choose_with(&sizes, &s, &target, &Options { uneven, ..Options::default() }).unwrap();
        let sum = |of: fn(&LayerDims) -> usize| plan.sizes().layers.iter().map(of).sum::<usize>();
        assert_eq!((sum(|l| l.ffn), sum(|l| l.kv_groups)), (20, 8));
        assert!((13..=16).contains(&sum(|l| l.heads)), "{:?}", plan.sizes());
        assert!(plan.layers().iter().all(|l| l.heads.len() % l.kv_groups.len() == 0 && l.ffn.len() % 2 == 0));
        let text = plan.to_json().unwrap();
        assert_eq!(Plan::from_json(&text).unwrap(), plan);
        // A second round on the uneven student.
        let next = plan.sizes();
        let (two, all) = (Target { ffn: Some(2), ..Target::default() }, Options::default());
        let again = Plan::choose_with(&next, &scores(&next, seed), &two, &all).unwrap();
        assert_eq!(Plan::from_json(&again.to_json().unwrap()).unwrap(), again);
        assert!(plan.then(&again).unwrap().layers().iter().all(|l| l.ffn.len() == 2));
    }
    let s = scores(&sizes, 0);
    let both = Uneven { ffn: spread(20, 2, 2, Normalise::Mean), ..Uneven::default() };
    let target = Target { ffn: Some(4), ..Target::default() };
    let error = Plan::choose_with(&sizes, &s, &target, &Options { uneven: both, ..Options::default() }).unwrap_err();
    assert!(error.to_string().starts_with("ffn per layer: both a size for every layer and a total"), "{error}");
}

#[test]
fn an_uneven_student_has_no_one_shape_and_says_where() {
    let mut layers = Plan::everything(TEACHER).unwrap().layers().to_vec();
    layers[2].ffn.truncate(5);
    let plan = Plan::new(TEACHER, (0..12).collect(), layers).unwrap();
    assert_eq!(
        plan.student().unwrap_err().to_string(),
        "layer 2 differs from layer 0 in neurons, heads or groups, expected all layers alike"
    );
    assert_eq!(plan.sizes().layers.iter().map(|l| l.ffn).collect::<Vec<_>>(), [12, 12, 5]);
    let cut = plan.selection("up_proj", &[12, 12], &[Axis::Ffn, Axis::Hidden], Some(2)).unwrap();
    assert_eq!(cut.shape(), [5, 12]);
    // The next round's teacher is uneven: every layer has its own shape.
    let next = Plan::everything(plan.sizes()).unwrap();
    let wrong = next.selection("up_proj", &[12, 12], &[Axis::Ffn, Axis::Hidden], Some(2)).unwrap_err();
    assert_eq!(wrong.to_string(), "`up_proj` has shape [12, 12], expected [5, 12]");
}

#[test]
fn pairs_are_those_of_the_paper_and_use_every_pruned_head_once() {
    let sorted = [7, 3, 5, 1, 0, 2];
    assert_eq!(residual_pairs(&sorted, 6).unwrap(), []);
    // L = 6, K = 4: i in 3..=4, partners 6 and 5.
    assert_eq!(residual_pairs(&sorted, 4).unwrap(), [(5, 2), (1, 0)]);
    assert_eq!(residual_pairs(&sorted, 3).unwrap(), [(7, 2), (3, 0), (5, 1)]);
    let error = residual_pairs(&sorted, 2).unwrap_err().to_string();
    assert!(
        error.starts_with("4 of 6 query heads of a group go and 2 stay") && error.contains("at least 3"),
        "{error}"
    );
    for l in 1..9usize {
        let sorted: Vec<usize> = (0..l).collect();
        for k in l.div_ceil(2)..=l {
            let pairs = residual_pairs(&sorted, k).unwrap();
            let mut pruned: Vec<usize> = pairs.iter().map(|p| p.1).collect();
            pruned.sort_unstable();
            assert_eq!(pruned, (k..l).collect::<Vec<_>>());
            assert!(pairs.iter().all(|&(kept, pruned)| kept < k && kept + pruned + 1 == 2 * k));
        }
    }
}

#[test]
fn combinations_of_rows_and_columns_are_the_sums_they_say() {
    // Three heads of two rows; three columns each.
    let rows: Vec<f32> = (0..18).map(|i| (i * i) as f32).collect();
    let at = |m: &[f32], head: usize, d: usize, c: usize| m[(2 * head + d) * 3 + c];
    let mixes =
        [Mix { to: 0, of: vec![(0, 2), (2, -1)], over: 1 }, Mix { to: 1, of: vec![(0, 1), (1, 1), (2, 1)], over: 3 }];
    let mut mixed = rows.clone();
    mix_rows(&mut mixed, 3, 2, &mixes).unwrap();
    let mut columns: Vec<f32> =
        (0..3).flat_map(|c| (0..6).map(move |r| (r, c))).map(|(r, c)| rows[r * 3 + c]).collect();
    mix_columns(&mut columns, 3, 2, &mixes).unwrap();
    for (d, c) in (0..2).flat_map(|d| (0..3).map(move |c| (d, c))) {
        let [a, b, e] = [0, 1, 2].map(|h| f64::from(at(&rows, h, d, c)));
        let want = [(2.0 * a - e) as f32, ((a + b + e) / 3.0) as f32, e as f32];
        for (head, want) in want.into_iter().enumerate() {
            assert_eq!(at(&mixed, head, d, c), want);
            assert_eq!(columns[c * 6 + 2 * head + d], want, "the transposed matrix");
        }
    }
    let mut short = vec![0f32; 17];
    assert!(matches!(mix_rows(&mut short, 3, 2, &mixes), Err(Error::Matrix { .. })));
    assert!(matches!(mix_columns(&mut short, 3, 2, &mixes), Err(Error::Matrix { .. })));
    let far = [Mix { to: 3, of: vec![(0, 1)], over: 1 }];
    assert_eq!(mix_rows(&mut rows.clone(), 3, 2, &far), Err(Error::Index { got: 3, len: 3 }));
}

#[test]
fn residuals_and_means_go_into_the_plan() {
    let sizes = Sizes::from(TEACHER);
    let s = scores(&sizes, 3);
    let options = |residual, kv_groups| Options { residual, kv_groups, ..Options::default() };
    let choose = |target: &Target, options: &Options| Plan::choose_with(&sizes, &s, target, options);
    let two = Target { heads: Some(8), ..Target::default() };
    for residual in [Residual::Paper, Residual::Laco, Residual::Sum] {
        let plan = choose(&two, &options(residual, KvGroups::Drop)).unwrap();
        for l in plan.layers() {
            assert_eq!(l.mixed_outputs.len(), 4, "one pair in each group of 3 heads of which 2 stay");
            assert_eq!(l.mixed_queries.len(), if residual == Residual::Sum { 0 } else { 4 });
            for (group, mix) in l.mixed_outputs.iter().enumerate() {
                let mut sorted: Vec<usize> = (3 * group..3 * group + 3).collect();
                sorted.sort_by(|&a, &b| s.heads[l.layer][b].total_cmp(&s.heads[l.layer][a]));
                let (kept, pruned) = (sorted[1], sorted[2]);
                let mut want = match residual {
                    Residual::Paper => vec![(kept, 2), (pruned, -1)],
                    Residual::Sum => vec![(kept, 1), (pruned, 1)],
                    _ => vec![(pruned, 1)],
                };
                want.sort_unstable();
                assert_eq!(*mix, Mix { to: kept, of: want, over: 1 });
            }
        }
        assert_eq!(Plan::from_json(&plan.to_json().unwrap()).unwrap(), plan);
        assert!(plan.mixes());
    }
    let one = Target { heads: Some(4), ..Target::default() };
    assert_eq!(
        choose(&one, &options(Residual::Paper, KvGroups::Drop)).unwrap_err(),
        Error::ResidualHeads { have: 3, kept: 1 }
    );
    // Means: every query head stays, and reads the mean of its group and the neighbour.
    let merged = Target { kv_groups: Some(2), ..Target::default() };
    let plan = choose(&merged, &options(Residual::None, KvGroups::Mean)).unwrap();
    let l = &plan.layers()[0];
    assert_eq!((l.heads.len(), &*l.kv_groups, l.members(1)), (12, &[0, 2][..], vec![2, 3]));
    assert_eq!(l.mixed_kv_groups[1], Mix { to: 2, of: vec![(2, 1), (3, 1)], over: 2 });
    let fewer = Target { heads: Some(8), ..merged.clone() };
    let plan = choose(&fewer, &options(Residual::Sum, KvGroups::Mean)).unwrap();
    let l = &plan.layers()[0];
    assert!(l.heads.len() == 8 && l.heads[..4].iter().all(|h| h / 3 < 2) && l.heads[4..].iter().all(|h| h / 3 >= 2));
    let error = choose(&Target { kv_groups: Some(3), ..Target::default() }, &options(Residual::None, KvGroups::Mean));
    assert_eq!(
        error.unwrap_err().to_string(),
        "the 4 KV groups of layer 0 cannot be merged into 3, expected a number that divides 4"
    );
}

#[test]
fn combinations_that_leave_their_group_make_no_plan() {
    let refused = |edit: &dyn Fn(&mut LayerPlan)| {
        let mut layers = Plan::everything(TEACHER).unwrap().layers().to_vec();
        edit(&mut layers[1]);
        Plan::new(TEACHER, (0..12).collect(), layers).unwrap_err().to_string()
    };
    let mix = |to: usize, of: &[(usize, i64)], over: i64| vec![Mix { to, of: of.to_vec(), over }];
    let cases = [
        (
            refused(&|l| l.mixed_queries = mix(0, &[(0, 1), (3, 1)], 1)),
            "mixed out of head 3, expected heads of KV group 0",
        ),
        (refused(&|l| l.mixed_outputs = mix(0, &[(99, 1)], 1)), "mixed out of head 99"),
        (refused(&|l| l.mixed_outputs = mix(99, &[(0, 1)], 1)), "mixed outputs of layer 1: 99 is not kept"),
        (refused(&|l| l.mixed_queries = mix(0, &[(1, 1), (0, 1)], 1)), "ascending order"),
        (refused(&|l| l.mixed_queries = mix(0, &[(0, 0)], 1)), "weight of 0"),
        (refused(&|l| l.mixed_queries = mix(0, &[(0, i64::MIN)], 1)), "weight of 0 or beyond"),
        (refused(&|l| l.mixed_queries = mix(0, &[(0, 1)], 0)), "divided by less than 1"),
        (refused(&|l| l.mixed_kv_groups = mix(0, &[(0, 1), (1, 1)], 2)), "KV group 1 of layer 1 is merged out of [1]"),
        (refused(&|l| l.mixed_kv_groups = mix(3, &[(3, 1), (4, 1)], 2)), "merged out of [3, 4]"),
        (refused(&|l| l.mixed_kv_groups = mix(1, &[(1, -1)], 1)), "a weight is negative"),
    ];
    for (got, want) in cases {
        assert!(got.contains(want), "`{got}` does not say `{want}`");
    }
}

#[test]
fn version_1_is_read_and_knows_no_combinations() {
    let plan = Plan::everything(TEACHER).unwrap();
    let text = plan.to_json().unwrap();
    let old = text.replacen("\"version\":2", "\"version\":1", 1);
    assert_eq!(Plan::from_json(&old).unwrap(), plan);
    let s = Sizes::from(TEACHER);
    let options = Options { residual: Residual::Sum, ..Options::default() };
    let mixed =
        Plan::choose_with(&s, &scores(&s, 0), &Target { heads: Some(8), ..Target::default() }, &options).unwrap();
    let text = mixed.to_json().unwrap().replacen("\"version\":2", "\"version\":1", 1);
    assert!(Plan::from_json(&text).unwrap_err().to_string().contains("in a plan of version 1"));
    let bad = plan.to_json().unwrap().replacen("\"vocab\":20", "\"vocab\":20,\"experts\":8", 1);
    assert!(Plan::from_json(&bad).unwrap_err().to_string().contains("teacher: unknown field `experts`"));
}

/// One matrix of each kind through a plan: mixed, then sliced.
fn through(plan: &Plan, layer: usize, q: &[f64], k: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (l, d) = (&plan.layers()[layer], plan.teacher().head_dim);
    let mixed = |m: &[f64], mixes: &[Mix], kept: &[usize]| -> Vec<f64> {
        let head = |h: usize| -> Vec<f64> {
            let own = Mix { to: h, of: vec![(h, 1)], over: 1 };
            let mix = mixes.iter().find(|m| m.to == h).unwrap_or(&own);
            let at = |i: usize| mix.of.iter().map(|&(s, w)| w as f64 * m[s * d + i]).sum::<f64>() / mix.over as f64;
            (0..d).map(at).collect()
        };
        kept.iter().flat_map(|&h| head(h)).collect()
    };
    (mixed(q, &l.mixed_queries, &l.heads), mixed(k, &l.mixed_kv_groups, &l.kv_groups))
}

proptest! {
    #[test]
    fn one_plan_after_another_is_pruning_twice(
        seed in 0usize..1000, residuals in (0usize..4, 0usize..4), means in (any::<bool>(), any::<bool>()),
        (hidden, ffn, layers) in (4usize..=12, 4usize..=12, 2usize..=3), (hidden2, ffn2) in (1usize..=4, 1usize..=4),
    ) {
        let residual = |i: usize| [Residual::None, Residual::Paper, Residual::Laco, Residual::Sum][i];
        let kv = |mean: bool| if mean { KvGroups::Mean } else { KvGroups::Drop };
        let options = |i, mean| Options { residual: residual(i), kv_groups: kv(mean), ..Options::default() };
        let sizes = Sizes::from(TEACHER);
        // 12 heads on 4 groups, 8 on 2, 4 on 1 (or 2 on 1 when groups go with their heads).
        let heads = |mean: bool, groups: usize, per_group: usize| Some(groups * if mean { 2 * per_group } else { per_group });
        let first = Target { hidden: Some(hidden), ffn: Some(ffn), layers: Some(layers), kv_groups: Some(2),
            heads: heads(means.0, 2, 2), ..Target::default() };
        let a = Plan::choose_with(&sizes, &scores(&sizes, seed), &first, &options(residuals.0, means.0)).unwrap();
        let student = a.sizes();
        let per_group = student.layers[0].heads_per_group();
        let second = Target { hidden: Some(hidden2), ffn: Some(ffn2), layers: Some(2), kv_groups: Some(1),
            heads: heads(means.1, 1, per_group.div_ceil(2)), ..Target::default() };
        let b = Plan::choose_with(&student, &scores(&student, seed + 1), &second, &options(residuals.1, means.1)).unwrap();
        let both = a.then(&b).unwrap();
        prop_assert_eq!(both.sizes(), b.sizes());
        prop_assert_eq!(both.teacher(), a.teacher());
        prop_assert_eq!(&Plan::from_json(&both.to_json().unwrap()).unwrap(), &both);
        // Slices: the same indices.
        let hidden: Vec<usize> = b.hidden().iter().map(|&i| a.hidden()[i]).collect();
        prop_assert_eq!(both.hidden(), &hidden[..]);
        for (i, l) in both.layers().iter().enumerate() {
            let (lb, number) = (&b.layers()[i], b.layers()[i].layer);
            prop_assert_eq!(l.layer, a.layers()[number].layer);
            prop_assert_eq!(&l.ffn, &lb.ffn.iter().map(|&f| a.layers()[number].ffn[f]).collect::<Vec<_>>());
            // Combinations: the same numbers.
            let values = |n: usize| -> Vec<f64> { (0..2 * n).map(|v| ((v * 37 + seed) % 101) as f64 / 7.0).collect() };
            let (q, k) = (values(12), values(4));
            let (q1, k1) = through(&a, number, &q, &k);
            let (want_q, want_k) = through(&b, i, &q1, &k1);
            let (got_q, got_k) = through(&both, i, &q, &k);
            for (got, want) in got_q.iter().zip(&want_q).chain(got_k.iter().zip(&want_k)) {
                prop_assert!((got - want).abs() < 1e-10, "{got_q:?} {want_q:?} {got_k:?} {want_k:?}");
            }
            prop_assert_eq!((got_q.len(), got_k.len()), (want_q.len(), want_k.len()));
        }
        // Keeping everything before or after changes nothing.
        prop_assert_eq!(&Plan::everything(TEACHER).unwrap().then(&a).unwrap(), &a);
        prop_assert_eq!(&a.then(&Plan::everything(a.sizes()).unwrap()).unwrap(), &a);
        let wrong = b.then(&a).unwrap_err().to_string();
        prop_assert!(wrong.starts_with("the second plan is for another model: it cuts 3 layers of 12 channels"), "{}", wrong);
    }
}
