//! The pre-flight of runtimes, and widths that load.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{
    Dims, Facts, Finding, Plan, Runtime, Sizes, Target, Verdict, check_loadable, round_widths, runtimes,
};
use proptest::prelude::*;

const LLAMA: Dims =
    Dims { layers: 4, hidden: 4096, ffn: 14_336, heads: 32, kv_groups: 8, head_dim: 128, vocab: 128_256, tied: false };
const SMOL: Dims =
    Dims { layers: 30, hidden: 576, ffn: 1536, heads: 9, kv_groups: 3, head_dim: 64, vocab: 49_152, tied: true };

fn says(sizes: &Sizes, teacher: Option<&Sizes>, head_dim: Option<usize>, tokens: Option<usize>) -> [Finding; 3] {
    runtimes(&Facts { sizes, teacher, head_dim, tokens })
}

fn verdicts(findings: &[Finding; 3]) -> [Verdict; 3] {
    [&findings[0], &findings[1], &findings[2]].map(|f| f.verdict)
}

#[test]
fn every_rule_speaks_for_its_runtime() {
    use Verdict::{Loads, LoadsWithALoss as Loss, Refuses};
    let teacher = Sizes::from(LLAMA);
    type Edit = fn(&mut Sizes);
    let cases: [(Edit, [Verdict; 3], &str); 9] = [
        (|_| (), [Loads, Loads, Loads], ""),
        // Llama-3.1-Minitron-4B-Width: head_dim is 128, not 3072 / 32.
        (|s| s.hidden = 3072, [Loads, Loss, Loads], "head_dim 128 is not hidden 3072 / 32 heads"),
        (
            |s| s.hidden = 3080,
            [Refuses, Loss, Refuses],
            "hidden 3080 is not a multiple of 32 query heads; good widths: 3072, 3104",
        ),
        (
            |s| s.layers.iter_mut().for_each(|l| l.ffn = 9248),
            [Loads, Loss, Loss],
            "ffn 9248 is not a multiple of 256: k-quants fall back",
        ),
        (
            |s| s.layers.iter_mut().for_each(|l| l.ffn = 9217),
            [Loads, Loss, Loss],
            "ffn 9217 is not a multiple of 32: quantised formats",
        ),
        (|s| s.layers[2].ffn = 8192, [Refuses, Refuses, Refuses], "layer 2 differs from layer 0"),
        (|s| s.head_dim = 127, [Refuses, Refuses, Refuses], "head_dim 127 is odd"),
        (
            |s| s.vocab = 128_000,
            [Refuses, Refuses, Refuses],
            "the tokenizer has 128256 tokens, the embedding only 128000 rows",
        ),
        (|s| s.layers.clear(), [Refuses, Refuses, Refuses], "layers is 0"),
    ];
    for (edit, want, part) in cases {
        let mut s = teacher.clone();
        edit(&mut s);
        let findings = says(&s, Some(&teacher), Some(s.head_dim), Some(128_256));
        assert_eq!(verdicts(&findings), want, "{findings:?}");
        assert!(
            part.is_empty() || findings.iter().any(|f| f.why.iter().any(|w| w.contains(part))),
            "{part}: {findings:?}"
        );
        // The worst comes first, and without a reason nothing is lost.
        assert!(findings.iter().all(|f| f.verdict == Loads || !f.why.is_empty()));
    }
    assert_eq!(
        says(&teacher, None, Some(128), None).map(|f| f.runtime),
        [Runtime::Transformers, Runtime::LlamaCpp, Runtime::Vllm]
    );
}

#[test]
fn a_config_has_to_say_head_dim_where_nothing_else_does() {
    let narrow = Sizes::from(Dims { hidden: 3072, ..LLAMA });
    let findings = says(&narrow, None, None, None);
    assert_eq!(findings[0].verdict, Verdict::Refuses);
    assert_eq!(findings[0].why[0], "the config does not say head_dim 128, and hidden / heads is another number");
    assert_eq!(says(&Sizes::from(LLAMA), None, None, None)[0].verdict, Verdict::Loads, "4096 / 32 is 128");
    let wrong = says(&narrow, None, Some(96), None);
    assert_eq!(wrong[0].why[0], "head_dim of the config is 96, the heads have 128");
}

#[test]
fn what_the_teacher_lacked_as_well_is_called_so() {
    let smol = Sizes::from(SMOL);
    let findings = says(&smol, Some(&smol), Some(64), Some(49_152));
    assert_eq!(verdicts(&findings), [Verdict::Loads, Verdict::LoadsWithALoss, Verdict::Loads]);
    let want = "hidden 576 is not a multiple of 256, as in the teacher: k-quants fall back to larger formats";
    assert_eq!(findings[1].why[0], want);
    let untied = Sizes::from(Dims { tied: false, ..SMOL });
    assert_eq!(
        says(&untied, Some(&smol), Some(64), None)[0].why,
        ["the head is no longer the embedding: 28311552 parameters more"]
    );
    let json = serde_json::to_value(&findings).unwrap();
    assert_eq!((&json[1]["runtime"], &json[1]["verdict"]), (&"llama.cpp".into(), &"loads-with-a-loss".into()));
}

#[test]
fn widths_are_rounded_to_the_next_good_one() {
    let target = |hidden, ffn, heads| Target { hidden, ffn, heads, ..Target::default() };
    let rounded = |t: &Dims, hidden, ffn, heads| {
        let r = round_widths(t, &target(hidden, ffn, heads), 128).unwrap();
        (r.hidden, r.ffn, r.heads)
    };
    // lcm(9, 32) = 288 is too coarse, so a multiple of the heads has to do.
    assert_eq!(rounded(&SMOL, Some(512), Some(1000), None), (Some(513), Some(1024), None));
    assert_eq!(rounded(&SMOL, Some(450), None, Some(5)), (Some(480), None, Some(6)));
    assert_eq!(rounded(&LLAMA, Some(3000), Some(9200), Some(20)), (Some(2944), Some(9216), Some(16)));
    assert_eq!(rounded(&LLAMA, None, None, None), (None, None, None));
    assert_eq!(rounded(&LLAMA, Some(4096), Some(14_336), Some(32)), (Some(4096), Some(14_336), Some(32)));
    let error = round_widths(&SMOL, &target(Some(577), None, None), 128).unwrap_err().to_string();
    assert_eq!(error, "hidden 577 is more than the teacher has, expected at most 576");
    assert!(round_widths(&SMOL, &target(None, Some(0), None), 128).is_err());
    assert!(round_widths(&SMOL, &Target { layers: Some(0), ..Target::default() }, 128).is_err());
}

proptest! {
    #[test]
    fn rounded_targets_always_load(
        hidden in 1usize..=4096, ffn in 1usize..=14_336, heads in 1usize..=32, divisor in 0usize..300, smol: bool,
    ) {
        let teacher = if smol { SMOL } else { LLAMA };
        let target = Target {
            hidden: Some(hidden.min(teacher.hidden)),
            ffn: Some(ffn.min(teacher.ffn)),
            heads: Some(heads.min(teacher.heads)),
            ..Target::default()
        };
        let student = round_widths(&teacher, &target, divisor).unwrap().student(&teacher).unwrap();
        prop_assert!(check_loadable(&teacher, &student).is_ok(), "{:?}", student);
        let plan = Plan::everything(student).unwrap();
        let findings = says(plan.teacher(), None, Some(student.head_dim), None);
        prop_assert!(findings[0].verdict == Verdict::Loads, "{:?}", findings);
    }
}
