//! `paring compress` as a whole.
use crate::lab::{Files, Lab, files};
use serde_json::Value;
use std::sync::LazyLock;

/// A run of 16 steps that takes a second. Paths are relative, so that every lab has the same recipe.
pub(crate) const COMPRESS: &str =
    "compress --model model --text text.txt --params 0.5 --context 64 --budget 4096 --batch 4 --lr 1e-3 --out run";

/// What `paring inspect` says, and with it every command that describes a model.
pub(crate) const INSPECT: [&str; 11] = [
    "family",
    "params",
    "params_non_embedding",
    "layers",
    "hidden",
    "ffn",
    "heads",
    "kv_groups",
    "head_dim",
    "vocab",
    "bytes",
];

/// The one file that times and command lines may be in.
pub(crate) const PROVENANCE: &str = "paring/provenance.json";

/// A finished run.
struct Finished {
    lab: Lab,
    json: Value,
}

/// The run of [`COMPRESS`] on two threads that several tests look at, in a lab of its own.
fn finished() -> Finished {
    static FINISHED: LazyLock<(Files, Value)> = LazyLock::new(|| {
        let lab = Lab::new();
        let json = lab.json(&format!("{COMPRESS} --threads 2"));
        let left: Vec<String> = lab.listing().into_keys().collect();
        assert!(!left.iter().any(|n| n.contains("unfinished") || n.contains("paring-tmp")), "{left:?}");
        (files(&lab.path("run")), json)
    });
    let lab = Lab::new();
    for (name, bytes) in &FINISHED.0 {
        lab.write(&format!("run/{name}"), bytes);
    }
    Finished { lab, json: FINISHED.1.clone() }
}

/// The files of a run without the one that differs from run to run.
pub(crate) fn lasting(lab: &Lab, run: &str) -> Files {
    let mut found = files(&lab.path(run));
    assert!(found.remove(PROVENANCE).is_some(), "{:?}", found.keys());
    found
}

/// The two runs left the same files, byte for byte, or this says which differ.
pub(crate) fn check_same(got: &Files, want: &Files) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (name, bytes) in got {
        assert!(*bytes == want[name], "{name}: {} bytes differ from {} bytes", bytes.len(), want[name].len());
    }
}

fn number(json: &Value, pointer: &str) -> f64 {
    json.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number {pointer} in {json}"))
}

#[test]
fn the_result_says_what_the_specification_lists() {
    let Finished { lab, json } = finished();
    for model in ["teacher", "student"] {
        for field in INSPECT.iter().chain(&["nll"]) {
            assert!(json[model].get(field).is_some_and(|v| !v.is_null()), "{model}.{field} in {json}");
        }
    }
    assert!(json.get("report").is_some() && json["out"] == "run" && 0.0 < number(&json, "/seconds"), "{json}");
    for (model, path) in [("teacher", "model"), ("student", "run")] {
        let inspected = lab.json(&format!("inspect --model {path}"));
        for field in INSPECT {
            assert_eq!(json[model][field], inspected[field], "{model}.{field}");
        }
    }
    let part = number(&json, "/student/params_non_embedding") / number(&json, "/teacher/params_non_embedding");
    assert!((0.45..=0.51).contains(&part), "{part} of the non-embedding parameters");
}

#[test]
fn the_student_learns() {
    let Finished { lab, json } = finished();
    let (pruned, distilled) = (number(&json, "/pruned/kl"), number(&json, "/student/kl"));
    assert!(0.0 < distilled && distilled < pruned, "KL {distilled} after {pruned}");
    let lines: Vec<Value> =
        lab.read("run/paring/metrics.jsonl").lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let steps: Vec<u64> = lines.iter().map(|l| l["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=16).collect::<Vec<_>>());
    assert!(lines.iter().enumerate().all(|(i, l)| l["tokens"] == 256 * (i + 1)), "{lines:?}");
    assert!(lines.iter().all(|l| l["loss"].is_number() && l["grad_norm"].is_number() && l["lr"].is_number()));
}

#[test]
fn the_run_directory_is_a_checkpoint_that_opens() {
    let Finished { lab, json } = finished();
    let opened = paring_model::open(&lab.path("run")).unwrap();
    assert_eq!(opened.arch.n_params() as f64, number(&json, "/student/params"));
    let tokenizer = paring_text::Tokenizer::from_dir(&lab.path("run")).unwrap();
    tokenizer.check_fits(opened.arch.vocab).unwrap();
    let names: Vec<String> = files(&lab.path("run")).into_keys().collect();
    for name in [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "paring/eval.json",
        "paring/importance.safetensors",
        "paring/metrics.jsonl",
        "paring/plan.json",
        "paring/provenance.json",
        "paring/recipe.toml",
    ] {
        assert!(names.iter().any(|n| n == name), "{name} is not among {names:?}");
    }
    // Readers would otherwise divide the pruned width by the heads.
    assert_eq!(lab.read_json("run/config.json")["head_dim"], 6);
    assert_eq!(lab.read_json("run/generation_config.json")["eos_token_id"], 0);
    let plan = paring_prune::Plan::from_json(&lab.read("run/paring/plan.json")).unwrap();
    assert_eq!(plan.student().unwrap().ffn as f64, number(&json, "/student/ffn"));
    let eval = lab.read_json("run/paring/eval.json");
    assert_eq!((&eval["student"]["nll"], &eval["teacher"]["nll"]), (&json["student"]["nll"], &json["teacher"]["nll"]));
    let provenance = lab.read_json("run/paring/provenance.json");
    for pointer in ["/command", "/written_by", "/inputs/teacher", "/inputs/data", "/expected", "/actual/seconds"] {
        assert!(provenance.pointer(pointer).is_some_and(|v| !v.is_null()), "{pointer} in {provenance}");
    }
}

#[test]
fn the_model_card_has_a_header_and_the_numbers() {
    let Finished { lab, json } = finished();
    let card = lab.read("run/README.md");
    let header = card.strip_prefix("---\n").and_then(|c| c.split_once("\n---\n")).map(|(header, _)| header);
    let header = header.unwrap_or_else(|| panic!("no header: {card}"));
    for line in ["base_model: \"model\"", "library_name: transformers", "- pruned"] {
        assert!(header.lines().any(|l| l == line), "{line}: {header}");
    }
    let perplexity = format!("value: {:.4}", number(&json, "/student/perplexity"));
    assert!(header.contains(&perplexity), "{perplexity}: {header}");
    assert!(card.contains(&lab.read("run/paring/recipe.toml")), "the recipe is in the card");
    assert!(card.contains("KL to the teacher") && card.contains("## Limits"), "{card}");
}

#[test]
fn the_number_of_threads_does_not_change_a_byte() {
    let lab = Lab::new();
    lab.done(&format!("{COMPRESS} --threads 1"));
    check_same(&lasting(&lab, "run"), &lasting(&finished().lab, "run"));
}

#[test]
fn the_recipe_of_a_run_repeats_it_and_flags_win() {
    let lab = Lab::new();
    lab.write("recipe.toml", finished().lab.read("run/paring/recipe.toml"));
    // Numbers are written as they were given.
    assert!(lab.read("recipe.toml").lines().any(|l| l == "lr = 0.001"), "{}", lab.read("recipe.toml"));
    let json = lab.json("compress --recipe recipe.toml --out again");
    assert_eq!(json["out"], "again");
    assert!(!lab.path("run").exists());
    let (got, want) = (lasting(&lab, "again"), lasting(&finished().lab, "run"));
    let differ: Vec<&String> =
        got.iter().filter(|(name, bytes)| want[*name] != **bytes).map(|(name, _)| name).collect();
    assert_eq!(differ, ["README.md", "paring/recipe.toml"], "only these say --out");
}

#[test]
fn evaluation_of_the_files_gives_what_the_run_said() {
    let lab = Lab::new();
    let json = lab.json(&format!("{COMPRESS} --heldout heldout.txt --eval-windows 1000 --calibration-windows 9"));
    for (model, path) in [("teacher", "model"), ("student", "run")] {
        // Training computes in bf16, and measures as it computes. All windows: the run spreads fewer over the text, `eval` takes the first.
        let line = format!("eval --model {path} --text heldout.txt --context 64 --dtype bf16");
        let (got, said) = (number(&lab.json(&line), "/nll"), number(&json[model], "/nll"));
        assert!((got - said).abs() <= 1e-9 * said, "{model}: {got}, the run said {said}");
    }
}

#[test]
fn for_people_there_is_a_table() {
    let lab = Lab::new();
    // Without --out: the first name that is free.
    let line = COMPRESS.replace("--out run", "").replace("--budget 4096", "--budget 256");
    for out in ["runs/compress", "runs/compress-2"] {
        let ran = lab.done(&line);
        for part in ["teacher", "pruned", "distilled", "parameters", "held-out perplexity", "KL to the teacher"] {
            assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
        }
        assert_eq!(ran.stdout.lines().last(), Some(out));
        assert!(lab.path(out).join("config.json").is_file());
    }
}

#[test]
fn a_dry_run_says_what_it_takes_and_writes_nothing() {
    let lab = Lab::new();
    lab.done("importance --model model --text text.txt --context 64 --windows 4 --out importance.safetensors");
    let before = lab.listing();
    for line in [
        COMPRESS,
        "importance --model model --text text.txt --context 64 --out new.safetensors",
        "prune --model model --importance importance.safetensors --ffn 24 --out new",
        "prune --model model --importance importance.safetensors --ffn 24 --compensate least-squares --text text.txt --context 64 --out new",
        "distill --student model --teacher model --text text.txt --context 64 --budget 512 --out new",
    ] {
        let json = lab.json(&format!("{line} --dry-run"));
        for field in ["params", "peak_memory_bytes", "disk_bytes", "tokens", "seconds"] {
            assert!(json[field].is_number(), "{line}: {field} in {json}");
        }
        assert!(json["warnings"].is_array(), "{line}: {json}");
        let text = lab.done(&format!("{line} --dry-run")).stdout;
        assert!(text.contains("peak memory") && text.contains("disk") && text.contains("time"), "{line}: {text}");
    }
    assert_eq!(lab.listing(), before);
    let json = lab.json(&format!("{COMPRESS} --dry-run"));
    assert_eq!(number(&json, "/params"), number(&finished().json, "/student/params"), "the plan is what the run does");
}
