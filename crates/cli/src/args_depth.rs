//! Flags about depth: which layers to measure a model without, and by what to drop some.
use clap::{Args, ValueEnum};
use paring_importance::DepthRanking;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A sweep over layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DepthSweep {
    /// How far contiguous blocks turn the residual stream: one forward
    Influence,
    /// Loss without each layer
    LmLoss,
    /// Loss without each contiguous block
    Blocks,
    /// Loss while layers go one by one, each time the least missed
    Greedy,
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Depth")]
pub(crate) struct DepthFlags {
    /// What to measure of layers besides block influence
    #[arg(long, value_enum, value_name = "SWEEPS", value_delimiter = ',')]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) depth: Vec<DepthSweep>,
    /// Sizes of contiguous blocks: 1..=8,16 [default: every size]
    #[arg(long, value_name = "LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) block_sizes: Option<String>,
    /// Layers that greedy search removes [default: half of them]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) depth_greedy: Option<usize>,
    /// Windows of the sweeps, evenly from those of the calibration [default: 16]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) depth_windows: Option<usize>,
    /// Accuracy on this task without each contiguous block: a .jsonl of {ctx, choices, gold}
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) depth_task: Option<PathBuf>,
    /// Only the first rows of --depth-task
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) depth_task_rows: Option<usize>,
    /// All that was measured of layers as JSON: what the papers' figures 8 and 9 are drawn from
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) depth_out: Option<PathBuf>,
}

/// By what layers are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum DropRule {
    /// Single layers that turn the residual stream least
    BlockInfluence,
    /// The contiguous block over which it turns least
    Angular,
    /// Single layers without which the loss is lowest
    LmLoss,
    /// The contiguous block without which the loss is lowest
    Blocks,
    /// As greedy search removed them
    Greedy,
    /// The contiguous block without which the accuracy on the task is highest
    Task,
}

impl From<DropRule> for DepthRanking {
    fn from(rule: DropRule) -> Self {
        match rule {
            DropRule::BlockInfluence => DepthRanking::BlockInfluence,
            DropRule::Angular => DepthRanking::Angular,
            DropRule::LmLoss => DepthRanking::LmLoss,
            DropRule::Blocks => DepthRanking::Blocks,
            DropRule::Greedy => DepthRanking::Greedy,
            DropRule::Task => DepthRanking::Task,
        }
    }
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Target")]
pub(crate) struct DropBy {
    /// By what --layers chooses [default: block-influence]; what it needs has to be in the importance file
    #[arg(long, value_enum, value_name = "RULE", conflicts_with = "drop_layers")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drop_by: Option<DropRule>,
}
