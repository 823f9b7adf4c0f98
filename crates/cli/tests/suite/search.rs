//! `paring search`: budgets of every kind, the same result whoever interrupts it, and a student that is made of what it chose.
use crate::lab::Lab;
use rustix::process::Signal;
use serde_json::Value;

const SEARCH: &str =
    "search --model model --text text.txt --context 64 --divisor 4 --calibration-windows 8 --eval-windows 4";
const SMALL: &str = "--rungs 30x128,8x512 --finalists 2 --distill-tokens 1024 --lr 1e-3";

/// What does not depend on the clock.
fn timeless(mut json: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, _| {
                    !["seconds", "latency_ms", "latency", "pareto_latency", "device"].contains(&key.as_str())
                });
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    strip(&mut json);
    json
}

#[test]
fn a_search_chooses_a_student_within_the_budget_that_prune_and_compress_take() {
    let lab = Lab::new();
    let json = lab.json(&format!("{SEARCH} {SMALL} --params 0.6 --out search.json"));
    assert_eq!(timeless(json.clone()), timeless(lab.read_json("search.json")));
    assert!(!lab.path("search.json.unfinished").exists());
    let teacher = json["teacher"]["sizes"]["params_non_embedding"].as_f64().unwrap();
    let candidates = json["candidates"].as_array().unwrap();
    assert!(candidates.len() == 30 && 30 < json["candidates_in_budget"].as_u64().unwrap());
    for c in candidates {
        let part = c["sizes"]["params_non_embedding"].as_f64().unwrap() / teacher;
        assert!((0.4..=0.6).contains(&part), "{c}");
        assert!(c["latency_ms"].as_f64().unwrap() > 0.0 && c["scores"]["128 tokens"].is_f64(), "{c}");
    }
    let finalists: Vec<&Value> = candidates.iter().filter(|c| c["finalist"].is_object()).collect();
    assert_eq!(finalists.len(), 2);
    let nll = |c: &Value| c["finalist"]["nll"].as_f64().unwrap();
    assert!(nll(finalists[0]) <= nll(finalists[1]) && std::ptr::eq(finalists[0], &raw const candidates[0]));
    // A thousand tokens at this rate change something; a teacher of random weights need not predict text better for it.
    assert!(nll(finalists[0]) != finalists[0]["finalist"]["zero_shot_nll"].as_f64().unwrap());
    assert_eq!(finalists[0]["finalist"]["tokens"], 1024);
    assert!(
        candidates.iter().any(|c| c["pareto_params"] == true) && json["reason"].as_str().unwrap().contains("held-out")
    );
    assert!(!json["single_axis"].as_array().unwrap().is_empty());

    lab.done("importance --model model --text text.txt --context 64 --windows 8 --out importance");
    lab.done("prune --model model --importance importance --search search.json --out pruned");
    let inspected = lab.json("inspect --model pruned");
    for size in ["layers", "hidden", "ffn", "heads", "kv_groups"] {
        assert_eq!(inspected[size], json["student"][size], "{size}");
    }
    assert_eq!(inspected["params"], json["student"]["sizes"]["params"]);
    let plan = "compress --model model --text text.txt --context 64 --search search.json --dry-run --out run";
    assert_eq!(lab.json(plan)["student"]["ffn"], json["student"]["ffn"]);

    // Of another model, or beside sizes of one's own, it is refused.
    lab.model_with("other", |lab, name| {
        let config = lab.read(&format!("{name}/config.json")).replace("10000.0", "20000.0");
        lab.write(&format!("{name}/config.json"), config);
    });
    lab.done("importance --model other --text text.txt --context 64 --windows 8 --out importance2");
    let line = "prune --model other --importance importance2 --search search.json --out x";
    lab.refused(line, &["search.json", "another model"]);
    lab.refused("prune --model model --importance importance --search search.json --ffn 8 --out x", &["all sizes"]);
    lab.refused(&format!("{SEARCH} --params 0.6 --out search.json"), &["search.json", "exists"]);
}

#[test]
fn the_result_depends_on_no_threads_and_on_no_interruption() {
    let lab = Lab::new();
    let line = format!("{SEARCH} {SMALL} --params 0.6");
    let whole = timeless(lab.json(&format!("{line} --threads 1 --out one")));
    assert_eq!(timeless(lab.json(&format!("{line} --threads 3 --out three"))), whole);
    // Stopped after some candidates, killed after some more.
    let state = lab.path("two.unfinished/state.json");
    let mut run = lab.start(&format!("{line} --out two"));
    assert!(run.until(|| state.exists()), "{:?}", run.wait());
    run.signal(Signal::INT);
    let ran = run.wait();
    assert!(ran.code == 130 && ran.stderr.contains("the search goes on with the same command"), "{ran:?}");
    let other = format!("{SEARCH} {SMALL} --params 0.7 --out two");
    lab.refused(&other, &["unfinished run with other settings", "`params` was \"0.6\", is \"0.7\""]);
    let before = std::fs::read(&state).unwrap();
    let mut run = lab.start(&format!("{line} --out two"));
    assert!(run.until(|| std::fs::read(&state).is_ok_and(|now| now != before)), "{:?}", run.wait());
    run.kill();
    assert_eq!(timeless(lab.json(&format!("{line} --out two"))), whole);
    assert!(!lab.path("two.unfinished").exists());
}

#[test]
fn a_rotated_basis_is_paid_for_and_taken_over() {
    let lab = Lab::new();
    let run = "--axes hidden,layers --rungs 6x128 --finalists 1 --distill-tokens 512 --params 0.95 --params-kind total";
    let json = lab.json(&format!("{SEARCH} {run} --tolerance 0.5 --basis rotated --out rotated.json"));
    let vocab = crate::tiny::VOCAB as u64;
    let total = |c: &Value| c["sizes"]["params"].as_u64().unwrap();
    let heads = |c: &Value| total(c) - c["sizes"]["params_non_embedding"].as_u64().unwrap();
    let teacher = &json["teacher"];
    assert_eq!((teacher["basis"].as_str(), heads(teacher)), (Some("channels"), vocab * 24));
    let candidates = json["candidates"].as_array().unwrap();
    for c in candidates {
        let (hidden, whole) = (c["hidden"].as_u64().unwrap(), c["hidden"] == teacher["hidden"]);
        let want = if whole { ("channels", vocab * 24) } else { ("rotated", 2 * vocab * hidden) };
        assert_eq!((c["basis"].as_str().unwrap(), heads(c)), want, "{c}");
        assert!(total(c) as f64 <= 0.95 * total(teacher) as f64, "{c}");
    }
    assert!(candidates.iter().any(|c| c["basis"] == "rotated"), "{candidates:?}");

    // Only the width may change: what is chosen is rotated, and prune does it without being told.
    let only = run.replace("hidden,layers", "hidden");
    let json = lab.json(&format!("{SEARCH} {only} --tolerance 0.9 --basis rotated --out hidden.json"));
    assert_eq!(json["chosen"]["basis"], "rotated");
    lab.done("importance --model model --text text.txt --context 64 --windows 8 --out importance");
    let prune = "prune --model model --importance importance --search hidden.json";
    lab.refused(&format!("{prune} --out new"), &["no text; give --text FILE"]);
    lab.done(&format!("{prune} --text text.txt --context 64 --windows 8 --out turned"));
    let (turned, student) = (lab.json("inspect --model turned"), &json["student"]);
    assert_eq!((&turned["params"], &turned["tied"]), (&student["sizes"]["params"], &false.into()));
    lab.done(&format!("{prune} --basis channels --out plain"));
    assert_eq!(lab.json("inspect --model plain")["tied"], true);
}

#[test]
fn memory_latency_and_speed_are_budgets_too() {
    let lab = Lab::new();
    let quick = "--rungs 6x128 --finalists 0 --compensate none";
    let run = |budget: &str, out: &str| lab.json(&format!("{SEARCH} {quick} {budget} --out {out}"));
    let json = run("--memory 40KB --dtype f32 --score kl", "memory.json");
    for c in json["candidates"].as_array().unwrap() {
        assert!(c["sizes"]["memory_bytes"].as_u64().unwrap() <= 40_000, "{c}");
    }
    let json = run("--speedup 1.3", "speed.json");
    let (t, s) = (json["teacher"]["latency_ms"].as_f64().unwrap(), json["student"]["latency_ms"].as_f64().unwrap());
    assert!(s <= t / 1.3 * 1.000_001, "{s} of {t}");
    assert!(json["latency"]["source"].as_str().unwrap().contains("measured on"));
    let ms = 0.8 * run("--params 0.8 --model-gpu a100", "gpu0.json")["teacher"]["latency_ms"].as_f64().unwrap();
    let json = run(&format!("--latency {ms} --model-gpu a100 --latency-of prefill"), "gpu.json");
    assert!(json["latency"]["source"].as_str().unwrap().contains("model, not a measurement"));
    let text =
        lab.done(&format!("{SEARCH} {quick} --params 20k --params-kind total --budget-seconds 0 --out cut.json"));
    assert!(text.stdout.contains("time was up in rung `128 tokens` after 1 of its 6"), "{}", text.stdout);
    assert_eq!(lab.read_json("cut.json")["cut_off"]["scored"], 1);
}

#[test]
fn what_cannot_be_searched_is_refused() {
    let lab = Lab::new();
    for (flags, says) in [
        ("", &["--params 0.6", "--speedup 2"][..]),
        ("--params 0.6 --memory 1MB", &["give one of them"]),
        ("--params 1.0", &["leaves nothing to cut"]),
        ("--params 9B", &["leaves nothing to cut"]),
        ("--params 0.0001", &["cannot be reached", "smallest candidate"]),
        ("--params zero", &["--params zero", "a part like 0.5"]),
        ("--memory lots", &["--memory lots", "150MB"]),
        ("--memory 1KiB", &["cannot be reached"]),
        ("--latency 0", &["--latency 0", "above 0"]),
        ("--latency 1e9", &["leaves nothing to cut"]),
        ("--speedup 1", &["--speedup 1", "above 1"]),
        ("--speedup 1000000", &["cannot be reached"]),
        ("--preset nothing", &["--preset nothing", "minitron-4b"]),
        ("--preset minitron-4b", &["leaves nothing to cut"]),
        ("--params 0.6 --model-gpu abacus", &["--model-gpu abacus", "h100"]),
        ("--params 0.6 --axes width", &["--axes", "`width`"]),
        ("--params 0.6 --rungs 5", &["--rungs", "512x512"]),
        ("--params 0.6 --rungs 5x10,9x20", &["--rungs", "no more candidates"]),
        ("--params 0.6 --tolerance 1", &["--tolerance 1"]),
        ("--params 0.6 --lr 7", &["--lr 7"]),
        ("--params 0.6 --drop-order 1,9", &["--drop-order", "`9`"]),
        ("--params 0.6 --importance text.txt", &["text.txt"]),
    ] {
        // What is found out only after the place was taken leaves nothing in it.
        lab.refused(&format!("{SEARCH} {flags} --out x.json"), says);
    }
    lab.refused("search --model model --params 0.6 --out x.json", &["no text"]);
    let line = "search --model model --text text.txt --context 64 --params 0.6 --divisor 0 --out x.json";
    lab.refused(line, &["--divisor 0"]);
    let json = lab.json(&format!("{SEARCH} --params 0.6 --out x.json --dry-run"));
    assert!(json["candidates_in_budget"].as_u64().unwrap() > 10 && json["peak_memory_bytes"].is_u64(), "{json}");
    assert!(!lab.path("x.json").exists() && !lab.path("x.json.unfinished").exists());
}

#[test]
fn layers_go_in_the_order_that_was_measured_or_asked_for() {
    let lab = Lab::new();
    let greedy = "--depth greedy --depth-greedy 2 --depth-windows 3";
    let json = lab
        .json(&format!("importance --model model --text text.txt --context 64 --windows 8 {greedy} --out importance"));
    let mut gone: Vec<u64> = (0..2).map(|i| json["depth"]["greedy"][i]["layer"].as_u64().unwrap()).collect();
    gone.sort_unstable();
    // Half of the layers is all that is left within the budget.
    let line = format!("{SEARCH} --importance importance --axes layers --params 0.6 --rungs 1x64 --finalists 0");
    let dropped = |flags: &str, out: &str| {
        lab.json(&format!("{line} {flags} --out {out}"))["chosen"]["target"]["drop_layers"].clone()
    };
    assert_eq!(dropped("", "measured"), serde_json::json!(gone));
    assert_eq!(dropped("--drop-order 3,0", "asked"), serde_json::json!([0, 3]));
}
