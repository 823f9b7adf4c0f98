//! From parameter budgets to sizes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{
    Dims, Error, Mutable, ParamTarget, Plan, Scores, SearchOptions, Target, choose_shape, count_params,
};
use proptest::prelude::*;

const SMOL: Dims =
    Dims { layers: 30, hidden: 576, ffn: 1536, heads: 9, kv_groups: 3, head_dim: 64, vocab: 49_152, tied: true };
const LLAMA_8B: Dims =
    Dims { layers: 32, hidden: 4096, ffn: 14_336, heads: 32, kv_groups: 8, head_dim: 128, vocab: 128_256, tied: false };
const TINY: Dims =
    Dims { layers: 4, hidden: 48, ffn: 56, heads: 6, kv_groups: 3, head_dim: 8, vocab: 300, tied: false };

fn half(teacher: &Dims) -> Dims {
    choose_shape(teacher, ParamTarget::Fraction(0.5), &SearchOptions::default()).unwrap().student(teacher).unwrap()
}

#[test]
fn the_default_halves_the_non_embedding_parameters_in_width_and_depth() {
    for teacher in [SMOL, LLAMA_8B, TINY] {
        let student = half(&teacher);
        let share = count_params(&student).non_embedding as f64 / count_params(&teacher).non_embedding as f64;
        assert!((0.475..=0.505).contains(&share), "{share} of {teacher:?}: {student:?}");
        assert!(student.layers < teacher.layers && student.ffn < teacher.ffn, "{student:?}");
        assert_eq!((student.heads, student.kv_groups), (teacher.heads, teacher.kv_groups));
        assert_eq!(student.hidden % student.heads, 0);
    }
    // Written down so that a change of the rule is seen.
    assert_eq!(half(&SMOL), Dims { layers: 24, ffn: 768, ..SMOL });
}

#[test]
fn absolute_budgets_count_everything() {
    let options = SearchOptions::default();
    let target = choose_shape(&LLAMA_8B, ParamTarget::Absolute(4_500_000_000), &options).unwrap();
    let total = count_params(&target.student(&LLAMA_8B).unwrap()).total as f64 / 4.5e9;
    assert!((0.95..=1.01).contains(&total), "{total}: {target:?}");
    let all = count_params(&SMOL).total;
    assert_eq!(choose_shape(&SMOL, ParamTarget::Absolute(all), &options), Ok(Target::default()));
    assert_eq!(choose_shape(&SMOL, ParamTarget::Fraction(1.0), &options), Ok(Target::default()));
}

#[test]
fn only_axes_that_may_change_do() {
    let none = Mutable { layers: false, hidden: false, ffn: false, heads: false };
    let choose = |mutable, part| {
        let options = SearchOptions { mutable, divisor: 64 };
        choose_shape(&SMOL, ParamTarget::Fraction(part), &options)
    };
    assert_eq!(choose(Mutable { layers: true, ..none }, 0.5), Ok(Target { layers: Some(15), ..Target::default() }));
    assert_eq!(choose(Mutable { ffn: true, ..none }, 0.75), Ok(Target { ffn: Some(1024), ..Target::default() }));
    let heads = choose(Mutable { heads: true, ..none }, 0.95).unwrap();
    // 576 is a multiple of 9 and of 3 heads, but not of 6 x 64: six heads of 64 channels still divide it.
    assert_eq!(heads, Target { heads: Some(6), ..Target::default() });
    assert!(matches!(choose(none, 0.5), Err(Error::Budget { .. })));
}

#[test]
fn widths_stay_on_the_divisor_as_far_as_the_model_allows() {
    let student = half(&LLAMA_8B);
    assert_eq!((student.hidden % 128, student.ffn % 128), (0, 0), "{student:?}");
    let wide = SearchOptions { divisor: 512, ..SearchOptions::default() };
    let target = choose_shape(&LLAMA_8B, ParamTarget::Fraction(0.6), &wide).unwrap();
    let student = target.student(&LLAMA_8B).unwrap();
    assert_eq!((student.hidden % 512, student.ffn % 512), (0, 0), "{student:?}");
    // 576 channels and nine heads: nothing on multiples of 64 is left, so 288 is the only other width, and far too dear.
    assert_eq!(half(&SMOL).hidden, 576);
}

#[test]
fn impossible_budgets_are_explained() {
    let choose = |target| choose_shape(&TINY, target, &SearchOptions::default()).unwrap_err().to_string();
    for part in [0.0, -1.0, 1.5, f64::NAN] {
        assert_eq!(
            choose(ParamTarget::Fraction(part)),
            format!("a part of {part} of the teacher's parameters, expected above 0 and at most 1")
        );
    }
    let have = count_params(&TINY).total;
    assert_eq!(
        choose(ParamTarget::Absolute(have + 1)),
        format!("{} parameters were asked for, but the teacher has only {have}", have + 1)
    );
    let text = choose(ParamTarget::Absolute(10));
    assert!(text.starts_with("10 parameters are below the ") && text.contains("smallest candidate"), "{text}");
    let broken = Dims { heads: 5, ..TINY };
    let error = choose_shape(&broken, ParamTarget::Fraction(0.5), &SearchOptions::default());
    assert!(matches!(error, Err(Error::Dims { .. })));
}

proptest! {
    #[test]
    fn every_shape_is_within_the_budget_and_loads(
        layers in 1usize..9, multiple in 1usize..12, ffn in 1usize..200, kv_groups in 1usize..4, per_group in 1usize..4,
        part in 0.05f64..1.0, heads_too in any::<bool>(), divisor in 1usize..200,
    ) {
        let heads = kv_groups * per_group;
        let teacher = Dims { layers, hidden: heads * multiple, ffn, heads, kv_groups, head_dim: 4, vocab: 50, tied: true };
        let options = SearchOptions { mutable: Mutable { heads: heads_too, ..Mutable::default() }, divisor };
        match choose_shape(&teacher, ParamTarget::Fraction(part), &options) {
            Ok(target) => {
                let student = target.student(&teacher).unwrap();
                let share = count_params(&student).non_embedding as f64 / count_params(&teacher).non_embedding as f64;
                prop_assert!(share <= part * 1.01, "{share} of {part}");
                let ones = |n: usize, len: usize| vec![vec![1.0; len]; n];
                let scores = Scores {
                    hidden: vec![1.0; teacher.hidden], ffn: ones(layers, ffn), heads: ones(layers, heads),
                    kv_groups: ones(layers, kv_groups), block_influence: vec![1.0; layers],
                };
                prop_assert_eq!(Plan::choose(&teacher, &scores, &target).unwrap().student().unwrap(), student);
                prop_assert_eq!(choose_shape(&teacher, ParamTarget::Fraction(part), &options), Ok(target));
            }
            Err(error) => prop_assert!(matches!(error, Error::Budget { .. }), "{error}"),
        }
    }
}
