//! `paring bench`: predicted times, each line and each object labelled as a model.
use crate::lab::Lab;
use serde_json::Value;

const LABEL: &str = "model, not a measurement";

/// Every line of the output starts with the label, and all of `says` is in it.
fn labelled(lab: &Lab, line: &str, says: &[&str]) -> String {
    let out = lab.done(line).stdout;
    for l in out.lines() {
        assert!(l.starts_with(LABEL), "{line}: {l}");
    }
    for part in says {
        assert!(out.contains(part), "{line}: `{part}` is not in\n{out}");
    }
    out
}

#[test]
fn every_line_is_labelled() {
    let lab = Lab::new();
    labelled(&lab, "bench --model-gpu a100 --model model", &["prefill 1 x 2048", "decode 1 after 2048", "distil step"]);
    labelled(
        &lab,
        "bench --model-gpu H100 --model model --kernels --explain",
        &["gate_proj", "limit", "65.3 %", "arXiv"],
    );
    let preset = "bench --model-gpu rtx4090 --preset llama-3.1-8b --dtype q8_0 --batch 4 --context 512 --tokens 64";
    let out = labelled(&lab, preset, &["8 030 261 248 parameters in q8_0", "prefill 4 x 512", "prompt and 64 tokens"]);
    // Quantised weights have no gradient.
    assert!(!out.contains("distil step"), "{out}");
    labelled(&lab, "bench --model-gpu h100 --compare-papers", &["1.8", "2.7", "TensorRT-LLM", "published"]);
    // Without a model it is the embedded teacher.
    labelled(&lab, "bench --model-gpu h100", &["the embedded teacher"]);
}

#[test]
fn what_does_not_fit_is_said() {
    let lab = Lab::new();
    let line = "bench --model-gpu h100 --preset llama-3.1-minitron-4b-depth --teacher llama-3.1-8b --batch 8";
    labelled(&lab, line, &["distil step 8 x 2048, 1 at once does not fit: it takes", "the h100 has 80.0 GiB"]);
    let p = lab.json(line);
    let fits: Vec<bool> = p["predictions"].as_array().unwrap().iter().map(|p| p["fits"].as_bool().unwrap()).collect();
    assert_eq!(fits, [true, true, false]);
}

#[test]
fn objects_are_labelled_and_add_up() {
    let lab = Lab::new();
    let answer = lab.json("bench --model-gpu a100 --preset minitron-4b --teacher minitron-8b --batch 2 --context 256");
    assert_eq!(answer["label"], LABEL);
    assert_eq!((&answer["params"], &answer["teacher"]), (&Value::from(4_190_309_376u64), &Value::from("minitron-8b")));
    for p in answer["predictions"].as_array().unwrap() {
        assert_eq!(p["label"], LABEL);
        let sum = |key: &str| p["kernels"].as_array().unwrap().iter().map(|k| k[key].as_f64().unwrap()).sum::<f64>();
        let whole = sum("seconds") + p["gap_seconds"].as_f64().unwrap();
        assert!((whole / p["gpu_seconds"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{p}");
        assert!((sum("flops") / p["flops"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{p}");
        assert_eq!(p["layer_seconds"].as_array().unwrap().len(), 32);
        assert_eq!(sum("launches"), p["launches"].as_f64().unwrap());
    }
    let papers = lab.json("bench --model-gpu h100 --compare-papers");
    assert_eq!(papers["label"], LABEL);
    assert!(papers["rows"].as_array().unwrap().iter().all(|r| r["label"] == LABEL));
    assert_eq!(papers["published"][1]["speed_up"], 2.7);
}

#[test]
fn what_cannot_be_predicted_is_refused() {
    let lab = Lab::new();
    for (flags, says) in [
        ("", &["--model-gpu a100, h100, rtx4090", "cargo xtask bench"][..]),
        ("--model-gpu v100", &["--model-gpu v100: expected a100, h100, rtx4090"]),
        ("--model-gpu a100 --preset llama", &["--preset llama: expected one of llama-3.1-8b, "]),
        ("--model-gpu a100 --preset minitron-4b --model model", &["--preset", "cannot be used with", "--model"]),
        ("--model-gpu a100 --preset minitron-4b --teacher llama-3.1-8b", &["128256", "256000", "expected the same"]),
        ("--model-gpu a100 --model nowhere", &["nowhere", "no such file"]),
        ("--model-gpu a100 --model model --teacher nowhere", &["--teacher: nowhere"]),
        ("--model-gpu a100 --model model --batch 0", &["the batch is 0, expected 1 to"]),
        ("--model-gpu a100 --model model --micro-batch 0", &["the batch is 0, expected 1 to"]),
        ("--model-gpu a100 --model model --context 0", &["tokens is 0"]),
        ("--model-gpu a100 --model model --context 4294967295", &["4294967295"]),
        ("--model-gpu a100 --model model --tokens 0", &["--tokens 0: expected at least 1"]),
        ("--model-gpu a100 --model model --dtype q5_0", &["--dtype", "q5_0", "q4_0"]),
    ] {
        lab.refused(&format!("bench {flags}"), says);
    }
}
