//! Flags of `paring search`.
use crate::{
    args::{Basis, Common, Compensate, Data, Work},
    args_scores::ScoreFlags,
};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which parameters a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ParamsKind {
    /// All; a tied head counts once
    Total,
    /// All but the embedding and an untied head
    NonEmbedding,
}

/// What a latency is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LatencyOf {
    /// One more token for one sequence, --context tokens in the cache
    Decode,
    /// A prompt of --context tokens
    Prefill,
}

/// What candidates are scored by before they learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Score {
    /// Negative log-likelihood of the text
    Nll,
    /// KL divergence from the teacher
    Kl,
}

/// What the student may take: one of them.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Budget")]
pub(crate) struct Budget {
    /// Parameters: a part (0.6), or a number (4.5B, 90M)
    #[arg(long, value_name = "BUDGET")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<String>,
    /// What --params counts [default: non-embedding for a part, total for a number]
    #[arg(long, value_enum, requires = "params")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) params_kind: Option<ParamsKind>,
    /// Bytes of weights in --dtype and of the f32 cache of --context tokens: 150MB, 2GiB
    #[arg(long, value_name = "BYTES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<String>,
    /// Milliseconds of --latency-of, by a cost model that is measured on this machine
    #[arg(long, value_name = "MS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency: Option<f64>,
    /// So many times as fast as the teacher, by the same cost model
    #[arg(long, value_name = "FACTOR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) speedup: Option<f64>,
    /// As many parameters as a published student has: llama-3.1-minitron-4b-width
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preset: Option<String>,
    /// What --latency and --speedup are of [default: decode]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) latency_of: Option<LatencyOf>,
    /// Take latencies from the model of a GPU (a100, h100, rtx4090) instead: a model, not a measurement
    #[arg(long, value_name = "GPU")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) model_gpu: Option<String>,
}

/// Which candidates there are, and how they are scored.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Search")]
pub(crate) struct Searching {
    /// Axes that may change [default: hidden,ffn,heads,kv-groups,layers]
    #[arg(long, value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) axes: Option<String>,
    /// Widths are multiples of this, or of a half, a quarter ... where an axis would have too few [default: 128]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) divisor: Option<usize>,
    /// Part of the budget that a candidate may leave unused [default: 0.05]
    #[arg(long, value_name = "PART")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tolerance: Option<f64>,
    /// How many candidates are scored on how many tokens, round after round [default: 512x512,128x2048,32x8192]
    #[arg(long, value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rungs: Option<String>,
    /// What candidates are scored by before they learn [default: nll]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<Score>,
    /// How candidates are repaired before they are scored [default: least-squares]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compensate: Option<Compensate>,
    /// In which basis the residual stream is cut [default: channels]; a rotated one unties the head, which candidates of another width pay for
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) basis: Option<Basis>,
    /// Layers in the order in which they go, as 12,3,...; those that are not listed follow by block influence
    #[arg(long, value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drop_order: Option<String>,
    /// Candidates that are really cut and learn for a while [default: 4]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) finalists: Option<usize>,
    /// Tokens that each finalist learns on; 0 for none [default: 32768]
    #[arg(long, value_name = "TOKENS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) distill_tokens: Option<u64>,
    /// Highest learning rate of finalists [default: 0.0001]
    #[arg(long, value_name = "RATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lr: Option<f32>,
    /// End the search after so many seconds, with what is known by then
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) budget_seconds: Option<u64>,
}

/// `paring search`.
#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Search {
    /// A checkpoint directory, a .gguf file, or a name that `paring fetch` knows [default: the embedded teacher]
    #[arg(long, value_name = "MODEL")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// What `paring importance` wrote [default: measured here]
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) importance: Option<PathBuf>,
    /// The result, which `paring prune --search` takes [default: search.json]
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) out: Option<PathBuf>,
    /// Text to measure finalists on [default: the last twentieth of --text, kept out of everything else]
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) heldout: Option<PathBuf>,
    /// Windows of calibration, evenly from the text [default: 64]
    #[arg(long, value_name = "N")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) calibration_windows: Option<usize>,
    /// Windows of the held-out text that finalists are measured on [default: 24]
    #[arg(long, value_name = "N")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) eval_windows: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) budget: Budget,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) searching: Searching,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) scores: ScoreFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) work: Work,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
}
