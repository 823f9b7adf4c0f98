//! `paring prune --verify`: passes on a whole model, with a plan and without; says what is wrong; leaves nothing behind.
use crate::lab::Lab;

const IMPORTANCE: &str = "importance --model model --text text.txt --context 64 --windows 16 --out importance";

fn outcomes(json: &serde_json::Value) -> Vec<(String, String)> {
    let text = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_string();
    json["checks"].as_array().unwrap().iter().map(|c| (text(&c["name"]), text(&c["outcome"]))).collect()
}

#[test]
fn a_whole_model_passes_with_a_plan_and_without() {
    let lab = Lab::new();
    let before = lab.listing();
    let json = lab.json("prune --model model --verify");
    assert_eq!(lab.listing(), before, "the student that was saved is gone");
    assert_eq!((&json["passed"], &json["tokens"]), (&true.into(), &256.into()));
    let got = outcomes(&json);
    let names: Vec<&str> = got.iter().map(|(n, _)| n.as_str()).collect();
    let want = [
        "keep-all",
        "permuted",
        "masked: neurons",
        "masked: heads and groups",
        "masked: channels",
        "masked: layers",
        "masked: everything",
        "rotated",
        "saved",
        "Transformers",
        "llama.cpp",
        "vLLM",
    ];
    assert_eq!(names, want);
    assert!(got.iter().all(|(_, o)| o == "passed"), "{json}");
    assert!(json["checks"][1]["measured"].as_f64().unwrap() <= json["checks"][1]["bound"].as_f64().unwrap());
    // The plan that an importance file and a target choose, on text.
    lab.done(IMPORTANCE);
    let json = lab.json("prune --model model --importance importance --ffn 20 --verify --text text.txt --context 64");
    assert_eq!((&json["passed"], &json["plan"]), (&true.into(), &"importance".into()));
    let skipped: Vec<_> = outcomes(&json).into_iter().filter(|(_, o)| o == "skipped").map(|(n, _)| n).collect();
    assert_eq!(skipped, ["masked: heads and groups", "masked: channels", "masked: layers"]);
    // A plan from a file.
    lab.done("prune --model model --importance importance --hidden 20 --layers 3 --out pruned");
    let ran = lab.done("prune --model model --verify --plan pruned/paring/plan.json");
    assert!(ran.stdout.contains("masked: channels") && ran.stdout.contains("Transformers: loads"), "{}", ran.stdout);
}

#[test]
fn a_student_that_no_runtime_loads_fails_with_1() {
    let lab = Lab::new();
    lab.done(IMPORTANCE);
    lab.done("prune --model model --importance importance --ffn 24 --out pruned");
    let mut plan = lab.read_json("pruned/paring/plan.json");
    plan["layers"][2]["ffn"] = serde_json::json!([1, 2, 3]);
    lab.write("uneven.json", plan.to_string());
    let ran = lab.run("prune --model model --verify --plan uneven.json");
    assert!(ran.stdout.contains("layer 2 differs from layer 0") && ran.stdout.contains("skipped"), "{}", ran.stdout);
    ran.check_refusal("uneven", 1, &["3 of 12 checks failed: Transformers, llama.cpp, vLLM"]);
}

#[test]
fn what_cannot_be_verified_is_refused() {
    let lab = Lab::new();
    lab.done(IMPORTANCE);
    lab.done("prune --model model --importance importance --ffn 24 --out pruned");
    lab.refused("prune --model model --verify --ffn 20", &["a target needs --importance"]);
    lab.refused("prune --model model --verify --plan none.json", &["none.json"]);
    lab.refused("prune --model model --plan pruned/paring/plan.json --out x", &["--verify"]);
    lab.refused(
        "prune --model pruned --verify --plan pruned/paring/plan.json",
        &["a plan for another model than pruned"],
    );
    let mut plan = lab.read_json("pruned/paring/plan.json");
    plan["layers"][0]["experts"] = serde_json::json!([0]);
    lab.write("experts.json", plan.to_string());
    lab.refused("prune --model model --verify --plan experts.json", &["experts.json", "`experts`", "layer 0"]);
    lab.refused(
        "prune --model model --verify --importance importance --ffn 99",
        &["ffn 99 is more than the teacher has"],
    );
    assert!(lab.done("prune --model model --verify --dry-run").stdout.contains("peak memory"));
}
