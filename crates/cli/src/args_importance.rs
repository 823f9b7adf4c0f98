//! Flags of `paring importance` and of the merge of its shards.
use crate::{
    args::{Common, Data, Work},
    args_depth::DepthFlags,
};
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

fn no(b: &bool) -> bool {
    !b
}

#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Importance {
    #[command(subcommand)]
    #[serde(skip)]
    pub(crate) what: Option<ImportanceCommand>,
    /// A checkpoint directory, a .gguf file, or a name that `paring fetch` knows
    #[arg(long, value_name = "MODEL")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) model: Option<String>,
    /// The importance file, .safetensors
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) measure: Measures,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) data: Data,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) depth: DepthFlags,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) work: Work,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
}

/// What is measured, and on which part of the text.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Measure")]
pub(crate) struct Measures {
    /// Only part I of N of the windows: I, I+N, I+2N, ..., counted from 1; `paring importance merge` adds the parts up, bit for bit
    #[arg(long, value_name = "I/N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) shard: Option<String>,
    /// Taylor scores too, activation times gradient: a backward pass, about three times the time
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) taylor: bool,
    /// What each head adds to the residual stream too: one more product with o_proj per layer
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) contribution: bool,
    /// Hold one block of the model in memory at a time, and the residual streams of all windows: for models that do not fit; the same bytes
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) by_block: bool,
    /// Documents that share a window do not see one another
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) mask_documents: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum ImportanceCommand {
    /// Add up the files of several shards: the bytes of one run over all their windows
    Merge(Merge),
}

#[derive(Clone, Debug, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Merge {
    /// Files that `paring importance --shard` wrote
    #[arg(value_name = "FILE", num_args = 2.., required = true)]
    #[serde(default)]
    pub(crate) files: Vec<PathBuf>,
    /// The importance file of all of them
    #[arg(long, value_name = "FILE")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) out: Option<PathBuf>,
    /// Also add up files of different texts
    #[arg(long)]
    #[serde(default, skip_serializing_if = "no")]
    pub(crate) several_texts: bool,
    #[command(flatten)]
    #[serde(flatten)]
    pub(crate) common: Common,
}
