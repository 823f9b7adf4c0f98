//! What is timed: the cases of a table row each, as the lines that describe them to a side.
use crate::{
    Result,
    roofline::{Cost, Sizes},
    side::Side,
};
use serde_json::{Value, json};
use std::path::Path;

/// One row.
pub(crate) struct Case {
    /// What `--cases` looks in.
    pub(crate) name: String,
    /// Work of one run, in units of `unit` times a second.
    pub(crate) work: f64,
    pub(crate) unit: &'static str,
    /// The line that describes it.
    pub(crate) line: Value,
    /// The format of its model, which decides who can run it; `None` for those that everybody who multiplies matrices can.
    pub(crate) format: Option<&'static str>,
    /// What it costs at least.
    pub(crate) cost: Cost,
}

/// A model that cases run.
pub(crate) struct Model {
    path: String,
    /// `directory` or `gguf`.
    format: &'static str,
    /// The type that most of its weights are stored in.
    stored: String,
    sizes: Sizes,
}

impl Model {
    /// What our side sees in `path`.
    pub(crate) fn of(ours: &mut Side, path: &Path) -> Result<Model> {
        let path = std::path::absolute(path)?.display().to_string();
        let answer = ours.ask(&json!({"do": "describe", "model": path}))?;
        let stored = answer["stored"].as_str().unwrap_or("unknown").to_owned();
        let format = if answer["gguf"] == true { "gguf" } else { "directory" };
        Ok(Model { path, format, stored, sizes: Sizes::of(&answer) })
    }
}

/// (M, N, K) of `y[M,N] = x[M,K] w[N,K]^T`: two squares, SmolLM2-135M's products for 512 tokens, one row.
const PRODUCTS: [(usize, usize, usize); 6] =
    [(1024, 1024, 1024), (2048, 2048, 2048), (512, 1536, 576), (512, 576, 1536), (512, 49152, 576), (1, 4096, 4096)];

/// All cases that the given models allow.
pub(crate) fn all(models: &[Model]) -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in ["f32", "bf16"] {
        // A weight that is multiplied again and again may be kept packed.
        for (form, packed) in [("forward", false), ("forward", true), ("dx", false), ("dw", false)] {
            let many_rows = |&(m, _, _): &(usize, usize, usize)| (form == "forward" && !packed) || 1 < m;
            cases.extend(PRODUCTS.iter().filter(|p| many_rows(p)).map(|&(m, n, k)| {
                let line =
                    json!({"kind": "gemm", "form": form, "packed": packed, "dtype": dtype, "m": m, "n": n, "k": k});
                let kept = if packed { ", kept packed" } else { "" };
                let (name, work) = (format!("gemm {form} {dtype} {m}x{n}x{k}{kept}"), 2.0 * (m * n * k) as f64 / 1e9);
                let cost = Cost::of(&line, &Sizes::default());
                Case { name, work, unit: "GFLOP/s", line, format: None, cost }
            }));
        }
    }
    for model in models.iter() {
        cases.extend(of_model(model));
    }
    cases
}

fn of_model(model: &Model) -> Vec<Case> {
    let case = |name: String, tokens: usize, mut line: Value| {
        line["model"] = model.path.as_str().into();
        // Two files may hold the same type.
        let name = format!("{name}, {}", model.path.rsplit('/').next().unwrap_or_default());
        let cost = Cost::of(&line, &model.sizes);
        Case { name, work: tokens as f64, unit: "tokens/s", line, format: Some(model.format), cost }
    };
    let run = |dtype: &str, logits: &str| {
        let prefill = json!({"kind": "prefill", "dtype": dtype, "tokens": 512, "logits": logits});
        let decode = json!({"kind": "decode", "dtype": dtype, "prompt": 64, "tokens": 64});
        [
            case(format!("prefill {dtype} 512 {logits} logits"), 512, prefill),
            case(format!("decode {dtype} 64 after 64"), 64, decode),
        ]
    };
    if model.format == "gguf" {
        return run(&model.stored.to_lowercase(), "last").into();
    }
    let learn = |kind: &str, dtype: &str| {
        let line = json!({"kind": kind, "dtype": dtype, "windows": 4, "context": 256});
        case(format!("{kind} {dtype} 4x256"), 4 * 256, line)
    };
    let mut cases: Vec<Case> = ["f32", "bf16"].iter().flat_map(|dtype| run(dtype, "all")).collect();
    cases.extend([learn("train", "f32"), learn("train", "bf16"), learn("distil", "bf16")]);
    cases
}

/// Distillation steps whose memory is looked at: windows and context.
const STEPS: [(usize, usize); 3] = [(4, 256), (4, 512), (8, 512)];

/// Our ways to spend less memory, as options in a case's line.
pub(crate) const SAVINGS: [(&str, &[&str]); 3] =
    [("", &[]), ("recompute", &["recompute"]), ("recompute, bf16 moments", &["recompute", "bf16 moments"])];

/// One case for each size of step.
pub(crate) fn memory(models: &[Model]) -> Vec<Case> {
    let directories = models.iter().filter(|model| model.format != "gguf");
    let cases = directories.flat_map(|model| {
        STEPS.map(|(windows, context)| {
            let name =
                format!("distil bf16 {windows}x{context}, {}", model.path.rsplit('/').next().unwrap_or_default());
            let line =
                json!({"kind": "distil", "dtype": "bf16", "windows": windows, "context": context, "model": model.path});
            let (work, cost) = ((windows * context) as f64, Cost::of(&line, &model.sizes));
            Case { name, work, unit: "tokens/s", line, format: Some(model.format), cost }
        })
    });
    cases.collect()
}
