//! Plans: what is chosen, what is refused and how, and that no plan can be made which does not fit together.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{Axis, Dims, Error, LayerPlan, Params, Plan, Scores, Target, count_params, good_hidden, warnings};
use proptest::prelude::*;

const TEACHER: Dims =
    Dims { layers: 3, hidden: 12, ffn: 10, heads: 6, kv_groups: 2, head_dim: 2, vocab: 20, tied: true };

/// Reproducible scores with ties.
fn scores(dims: &Dims, seed: usize) -> Scores {
    let list =
        |n: usize, salt: usize| (0..n).map(|i| ((i * 31 + salt * 17 + seed * 13) % 7) as f64).collect::<Vec<_>>();
    let layers = |n: usize, salt: usize| (0..dims.layers).map(|l| list(n, salt + l)).collect();
    Scores {
        hidden: list(dims.hidden, 1),
        ffn: layers(dims.ffn, 2),
        heads: layers(dims.heads, 30),
        kv_groups: layers(dims.kv_groups, 60),
        block_influence: list(dims.layers, 90),
    }
}

fn choose(target: Target) -> Result<Plan, Error> {
    Plan::choose(&TEACHER, &scores(&TEACHER, 0), &target)
}

#[test]
fn the_best_are_kept_in_ascending_order_and_ties_go_to_the_lower_index() {
    let mut s = scores(&TEACHER, 0);
    s.hidden = vec![5.0, 0.0, 5.0, -0.0, 9.0, 0.0, 1.0, 5.0, 5.0, 0.0, 5.0, 5.0];
    s.ffn[2] = vec![1.0; 10];
    s.heads[2] = vec![1.0, 3.0, 2.0, 9.0, 8.0, 10.0];
    s.block_influence = vec![0.2, 0.1, 0.3];
    let target = Target { hidden: Some(8), ffn: Some(4), heads: Some(4), layers: Some(2), ..Target::default() };
    let plan = Plan::choose(&TEACHER, &s, &target).unwrap();
    assert_eq!(plan.hidden(), [0, 2, 4, 6, 7, 8, 10, 11]);
    let last = &plan.layers()[1];
    assert_eq!(last.layer, 2, "layer 1 has the lowest block influence");
    assert_eq!(last.ffn, [0, 1, 2, 3], "equal scores");
    assert_eq!(last.heads, [1, 2, 3, 5], "two of each group, although group 1 has the three best");
    assert_eq!(last.kv_groups, [0, 1], "nobody asked for fewer groups");
    assert_eq!(plan.student().unwrap(), Dims { layers: 2, hidden: 8, ffn: 4, heads: 4, ..TEACHER });
    assert_eq!((plan.student_layer(2), plan.student_layer(1), plan.dropped_layers()), (Some(1), None, vec![1]));
}

#[test]
fn whole_groups_go_with_their_heads() {
    let mut s = scores(&TEACHER, 0);
    s.kv_groups = vec![vec![1.0, 2.0], vec![2.0, 1.0], vec![1.0, 1.0]];
    let plan = Plan::choose(&TEACHER, &s, &Target { kv_groups: Some(1), ..Target::default() }).unwrap();
    let kept: Vec<(&[usize], &[usize])> =
        plan.layers().iter().map(|l| (l.kv_groups.as_slice(), l.heads.as_slice())).collect();
    assert_eq!(kept, [(&[1][..], &[3, 4, 5][..]), (&[0], &[0, 1, 2]), (&[0], &[0, 1, 2])]);
    assert_eq!((plan.student().unwrap().heads, plan.student().unwrap().kv_groups), (3, 1));
    let both = Target { kv_groups: Some(1), heads: Some(2), ..Target::default() };
    let plan = Plan::choose(&TEACHER, &s, &both).unwrap();
    assert!(plan.layers().iter().all(|l| l.heads.len() == 2 && l.heads.iter().all(|h| h / 3 == l.kv_groups[0])));
}

#[test]
fn layers_go_by_name_or_by_influence() {
    let plan = choose(Target { drop_layers: Some(vec![2, 0]), ..Target::default() }).unwrap();
    assert_eq!(plan.layers().iter().map(|l| l.layer).collect::<Vec<_>>(), [1]);
    assert_eq!(plan.dropped_layers(), [0, 2]);
    assert_eq!(choose(Target::default()).unwrap(), Plan::everything(TEACHER).unwrap());
    let none = Target { drop_layers: Some(vec![]), ..Target::default() };
    assert_eq!(choose(none).unwrap(), Plan::everything(TEACHER).unwrap());
}

#[test]
fn impossible_targets_are_refused_in_words() {
    let t = Target::default;
    let cases = [
        (Target { ffn: Some(0), ..t() }, "ffn 0 leaves nothing, expected at least 1"),
        (Target { hidden: Some(18), ..t() }, "hidden 18 is more than the teacher has, expected at most 12"),
        (Target { kv_groups: Some(3), ..t() }, "kv_groups 3 is more than the teacher has, expected at most 2"),
        (Target { heads: Some(3), ..t() }, "3 query heads do not divide among 2 KV groups, expected a multiple of 2"),
        (
            Target { heads: Some(4), kv_groups: Some(1), ..t() },
            "heads 4 is more than the teacher has, expected at most 3",
        ),
        (Target { layers: Some(0), ..t() }, "all 3 layers would be dropped, expected at least 1 to stay"),
        (Target { layers: Some(4), ..t() }, "layers 4 is more than the teacher has, expected at most 3"),
        (
            Target { drop_layers: Some(vec![1, 0, 2]), ..t() },
            "all 3 layers would be dropped, expected at least 1 to stay",
        ),
        (Target { drop_layers: Some(vec![3]), ..t() }, "layer 3 does not exist, expected 0 to 2"),
        (Target { drop_layers: Some(vec![1, 1]), ..t() }, "layer 1 is named twice"),
        (
            Target { drop_layers: Some(vec![1]), layers: Some(2), ..t() },
            "both a number of layers and layers to drop were given, expected one of them",
        ),
        (
            Target { hidden: Some(8), ..t() },
            "hidden 8 with 6 query heads will not load: Transformers demands a multiple of 6 even where head_dim is given; \
             take 6 or 12",
        ),
        (
            Target { hidden: Some(3), heads: Some(4), ..t() },
            "hidden 3 with 4 query heads will not load: Transformers demands a multiple of 4 even where head_dim is given; \
             take 4",
        ),
    ];
    for (target, want) in cases {
        assert_eq!(choose(target).unwrap_err().to_string(), want);
    }
}

#[test]
fn scores_that_do_not_fit_are_refused_by_name() {
    type Damage = fn(&mut Scores);
    let cases: [(Damage, &str); 5] = [
        (|s| s.hidden.truncate(3), "3 hidden scores, expected 12"),
        (|s| s.ffn[1].truncate(3), "3 ffn (layer 1) scores, expected 10"),
        (|s| s.heads.truncate(2), "2 layers of head scores, expected 3"),
        (|s| s.kv_groups[2][1] = f64::NAN, "KV group (layer 2) score 1 is not a finite number; calibrate again"),
        (|s| s.block_influence[0] = f64::INFINITY, "block influence score 0 is not a finite number; calibrate again"),
    ];
    for (damage, want) in cases {
        let mut s = scores(&TEACHER, 0);
        damage(&mut s);
        assert_eq!(Plan::choose(&TEACHER, &s, &Target::default()).unwrap_err().to_string(), want);
    }
}

#[test]
fn the_rule_of_widths_spares_teachers_that_break_it() {
    // Not a multiple of its heads: a family without the rule.
    let free = Dims { hidden: 13, ..TEACHER };
    let s = scores(&free, 0);
    assert!(Plan::choose(&free, &s, &Target { hidden: Some(7), ..Target::default() }).is_ok());
    // SmolLM2-135M: nine heads.
    assert_eq!(good_hidden(512, 9, 576), (Some(504), Some(513)));
    assert_eq!(good_hidden(576, 9, 576), (Some(576), Some(576)));
    assert_eq!(good_hidden(580, 9, 576), (Some(576), None));
    assert_eq!(good_hidden(3, 9, 576), (None, Some(9)));
    assert_eq!(good_hidden(usize::MAX, 9, 576), (Some(576), None));
}

#[test]
fn only_lost_formats_are_warned_of() {
    let teacher =
        Dims { layers: 2, hidden: 576, ffn: 1536, heads: 9, kv_groups: 3, head_dim: 64, vocab: 9, tied: true };
    assert_eq!(warnings(&teacher, &teacher), Vec::<String>::new(), "576 is no multiple of 256, but it never was");
    assert_eq!(warnings(&teacher, &Dims { ffn: 1024, heads: 6, ..teacher }), Vec::<String>::new());
    let got = warnings(&teacher, &Dims { hidden: 567, ffn: 800, ..teacher });
    let want = [
        "hidden 567 is not a multiple of 32: llama.cpp's quantised formats (q8_0, q4_0) will not take it",
        "hidden 567 is not a multiple of 64: matrix products on GPUs will be slower",
        "ffn 800 is not a multiple of 256: llama.cpp's k-quants will fall back to larger formats",
        "ffn 800 is not a multiple of 64: matrix products on GPUs will be slower",
    ];
    assert_eq!(got, want);
}

#[test]
fn parameters_of_published_models() {
    let minitron = Dims {
        layers: 32,
        hidden: 3072,
        ffn: 9216,
        heads: 32,
        kv_groups: 8,
        head_dim: 128,
        vocab: 128_256,
        tied: false,
    };
    assert_eq!(count_params(&minitron), Params { total: 4_512_746_496, non_embedding: 3_724_741_632 });
    let mistral = Dims {
        layers: 40,
        hidden: 4096,
        ffn: 11_520,
        heads: 32,
        kv_groups: 8,
        head_dim: 128,
        vocab: 131_072,
        tied: false,
    };
    assert_eq!(count_params(&mistral).total / 1_000_000, 8_414);
    let smol =
        Dims { layers: 30, hidden: 576, ffn: 1536, heads: 9, kv_groups: 3, head_dim: 64, vocab: 49_152, tied: true };
    assert_eq!(count_params(&smol), Params { total: 134_515_008, non_embedding: 106_203_456 });
}

#[test]
fn json_brings_plans_back_and_refuses_everything_else() {
    let plan =
        choose(Target { hidden: Some(6), ffn: Some(3), heads: Some(2), layers: Some(2), ..Target::default() }).unwrap();
    let text = plan.to_json().unwrap();
    assert_eq!(Plan::from_json(&text).unwrap(), plan);
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan, "as a part of other documents too");

    let edit = |f: &dyn Fn(&mut serde_json::Value)| {
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        f(&mut value);
        Plan::from_json(&value.to_string()).unwrap_err().to_string()
    };
    let newer =
        "plan of version 3, expected 1 to 2; use the program that made it, or make it again with `paring prune`";
    assert_eq!(edit(&|v| v["version"] = 3.into()), newer);
    assert!(edit(&|v| v["hidde"] = 2.into()).contains("unknown field `hidde`"));
    let experts = edit(&|v| v["layers"][0]["experts"] = serde_json::json!([0, 2]));
    assert!(
        experts.contains("the plan says `experts` of layer 0, which this program does not know: expected ffn, heads"),
        "{experts}"
    );
    assert_eq!(
        edit(&|v| v["hidden"] = vec![0, 2, 1].into()),
        "not a valid plan: hidden channels are not ascending: 2 is followed by 1"
    );
    assert_eq!(
        edit(&|v| v["hidden"] = vec![0, 12].into()),
        "not a valid plan: hidden channels end with 12, expected less than 12"
    );
    assert_eq!(
        edit(&|v| v["layers"] = serde_json::json!([])),
        "not a valid plan: no layers are kept, expected at least 1"
    );
    assert!(edit(&|v| v["teacher"]["ffn"] = 0.into()).contains("ffn is 0"));
    assert!(edit(&|v| v["teacher"]["vocab"] = u64::MAX.into()).contains("vocab is 18446744073709551615"));
    assert!(Plan::from_json("{").is_err() && Plan::from_json("[]").is_err());
}

#[test]
fn parts_that_do_not_fit_together_make_no_plan() {
    let layer = |layer, heads: &[usize], kv_groups: &[usize]| LayerPlan {
        layer,
        ffn: vec![1, 2],
        heads: heads.to_vec(),
        kv_groups: kv_groups.to_vec(),
        ..LayerPlan::default()
    };
    let cases = [
        (vec![layer(0, &[0, 1, 3], &[0, 1])], "3 query heads of layer 0, expected a multiple of its 2 KV groups"),
        (
            vec![layer(0, &[0, 1, 2, 3], &[0, 1])],
            "query head 2 of layer 0 is not in KV group 1, expected 2 heads in each kept group",
        ),
        (
            vec![layer(0, &[4], &[0])],
            "query head 4 of layer 0 is not in KV group 0, expected 1 heads in each kept group",
        ),
        (vec![layer(1, &[0], &[0]), layer(1, &[0], &[0])], "layers are not ascending: 1 is followed by 1"),
        (vec![layer(0, &[], &[0])], "no query heads of layer 0 are kept, expected at least 1"),
    ];
    for (layers, want) in cases {
        let error = Plan::new(TEACHER, vec![0], layers).unwrap_err();
        assert_eq!(error.to_string(), format!("not a valid plan: {want}"));
    }
}

/// Teachers and targets within them; some targets are still refused, for their widths.
fn cases() -> impl Strategy<Value = (Dims, Target, usize)> {
    let teacher = (1usize..6, 1usize..9, 1usize..20, 1usize..4, 1usize..4, 1usize..5).prop_map(
        |(layers, multiple, ffn, kv_groups, per_group, head_dim)| {
            let heads = kv_groups * per_group;
            Dims { layers, hidden: heads * multiple, ffn, heads, kv_groups, head_dim, vocab: 5, tied: false }
        },
    );
    teacher.prop_flat_map(|d| {
        let target = (1..=d.hidden, 1..=d.ffn, 1..=d.kv_groups, 1..=d.heads_per_group(), 1..=d.layers).prop_map(
            |(hidden, ffn, kv_groups, per_group, layers)| Target {
                hidden: Some(hidden),
                ffn: Some(ffn),
                heads: Some(kv_groups * per_group),
                kv_groups: Some(kv_groups),
                layers: Some(layers),
                drop_layers: None,
            },
        );
        (Just(d), target, 0usize..1000)
    })
}

proptest! {
    #[test]
    fn every_plan_is_sorted_in_range_and_equal_per_group((teacher, target, seed) in cases()) {
        let scores = scores(&teacher, seed);
        let plan = match Plan::choose(&teacher, &scores, &target) {
            Err(Error::Hidden { hidden, heads, below, above }) => {
                prop_assert!(!hidden.is_multiple_of(heads));
                for good in [below, above].into_iter().flatten() {
                    prop_assert!(good.is_multiple_of(heads) && good <= teacher.hidden);
                    let target = Target { hidden: Some(good), ..target.clone() };
                    prop_assert!(Plan::choose(&teacher, &scores, &target).is_ok());
                }
                return Ok(());
            }
            plan => plan.unwrap(),
        };
        let sound = |list: &[usize], scores: &[f64], keep: Option<usize>| {
            let kept = |i: &usize| list.contains(i);
            // No dropped one has a higher score than a kept one.
            let best_dropped = (0..scores.len()).filter(|i| !kept(i)).map(|i| scores[i]).fold(f64::MIN, f64::max);
            list.len() == keep.unwrap()
                && list.windows(2).all(|w| w[0] < w[1])
                && list.iter().all(|&i| i < scores.len() && scores[i] >= best_dropped)
        };
        prop_assert!(sound(plan.hidden(), &scores.hidden, target.hidden));
        let layers: Vec<usize> = plan.layers().iter().map(|l| l.layer).collect();
        prop_assert!(sound(&layers, &scores.block_influence, target.layers));
        for l in plan.layers() {
            prop_assert!(sound(&l.ffn, &scores.ffn[l.layer], target.ffn));
            prop_assert!(sound(&l.kv_groups, &scores.kv_groups[l.layer], target.kv_groups));
            let per_group = teacher.heads_per_group();
            for &g in &l.kv_groups {
                let range = g * per_group..(g + 1) * per_group;
                let inside: Vec<usize> = l.heads.iter().filter(|h| range.contains(h)).map(|h| h - range.start).collect();
                let keep = target.heads.unwrap() / target.kv_groups.unwrap();
                prop_assert!(sound(&inside, &scores.heads[l.layer][range], Some(keep)));
            }
            prop_assert_eq!(Some(l.heads.len()), target.heads);
            let rows = plan.indices(Axis::QHeads, Some(l.layer)).unwrap().unwrap();
            prop_assert_eq!(rows.len(), l.heads.len() * teacher.head_dim);
            prop_assert!(rows.windows(2).all(|w| w[0] < w[1]) && rows.iter().all(|r| l.heads.contains(&(r / teacher.head_dim))));
        }
        prop_assert_eq!(plan.student().unwrap(), target.student(&teacher).unwrap());
        prop_assert_eq!(Plan::from_json(&plan.to_json().unwrap()).unwrap(), plan);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,60}", cut in 0usize..400) {
        let json = Plan::everything(TEACHER).unwrap().to_json().unwrap();
        let _ = Plan::from_json(&text);
        prop_assert!(Plan::from_json(&json[..cut.min(json.len() - 1)]).is_err());
    }
}
