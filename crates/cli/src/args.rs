//! Flags. Every flag is a recipe key of the same name, so every struct here can also be read from TOML.
use crate::{args_depth::DropBy, args_importance::Importance, args_scores::ScoreFlags, commands::bench::Bench};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Makes small language models out of large ones: measure what matters, cut the rest, let the small one learn from the large one.
#[derive(Debug, Parser)]
#[command(name = "paring", version, max_term_width = 110, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The whole job: calibrate, prune, distil, evaluate, write the student. Without arguments: the embedded teacher on the embedded text
    Compress(Compress),
    /// Measure which channels, neurons, heads and layers matter
    Importance(Importance),
    /// Cut a model down to what an importance file says matters
    Prune(Prune),
    /// Let a student learn from a teacher's output distribution
    Distill(Distill),
    /// Perplexity of a model on a text, accuracy on multiple-choice tasks
    Eval(Eval),
    /// Continue a prompt
    Generate(Generate),
    /// What a checkpoint is
    Inspect(Inspect),
    /// Get a named model, with its checksum
    Fetch(Fetch),
    /// How long a model would take on a GPU, by a model of the GPU
    Bench(Bench),
    /// Candidates under a budget, scored; a few of them learn for a while
    Search(Box<crate::args_search::Search>),
    /// Not built yet: teacher correction
    Correct(NotBuilt),
    /// Not built yet: teacher against student as a gate
    Compare(NotBuilt),
    /// Not built yet: GGUF out
    Export(NotBuilt),
    /// Not built yet: the HTML report
    Report(NotBuilt),
    /// Not built yet: what this machine has
    Doctor(NotBuilt),
}

/// A command that exists in the plan only: it takes anything, so that it can say so.
#[derive(Debug, Args)]
pub(crate) struct NotBuilt {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) rest: Vec<String>,
}

/// Type of matrices in products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dtype {
    F32,
    Bf16,
    /// As the file has them, Q8_0, Q4_0 and Q4_1 among them: generate and eval only
    Stored,
}

fn no(b: &bool) -> bool {
    !b
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Common")]
pub(crate) struct Common {
    /// Where to compute: cpu, cuda, or cuda:N for device N [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    /// Type of matrices in products [default: bf16 for training, stored for generate, f32 otherwise]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dtype: Option<Dtype>,
    /// Threads [default: as many as processors]; results do not depend on it
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) threads: Option<usize>,
    /// Seed of everything random [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) json: bool,
    /// Say more on stderr
    #[arg(short, long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) verbose: bool,
    /// Read flags from a TOML file; flags given here win
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) recipe: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Work")]
pub(crate) struct Work {
    /// Print what would be done, and what it takes, without doing it
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) dry_run: bool,
    /// Go on although memory or disk look too small
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) force: bool,
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Text")]
pub(crate) struct Data {
    /// Texts: .txt (form feeds separate documents), .jsonl with a `text` field, each also .gz or .zst
    #[arg(long, value_name = "FILE", num_args = 1..)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) text: Vec<PathBuf>,
    /// Windows as token ids instead: a .jsonl of arrays
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<PathBuf>,
    /// Tokens of a window [default: 512]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) context: Option<usize>,
    /// Only the first windows
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) windows: Option<usize>,
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Tasks")]
pub(crate) struct Tasks {
    /// Multiple choice by log-likelihood: .jsonl of {ctx, choices, gold}, each also .gz or .zst
    #[arg(long, value_name = "FILE", num_args = 1..)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) task: Vec<PathBuf>,
    /// Only the first rows of each task
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) task_rows: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compensate {
    /// Slice, as in Minitron
    None,
    /// Fit the maps around the cut to the teacher on the calibration text
    LeastSquares,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Basis {
    /// Keep channels of the residual stream as they are
    #[default]
    Channels,
    /// Keep the principal directions of the residual stream on the calibration text; unties the head
    Rotated,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MergeHeads {
    /// They go
    None,
    /// A kept head becomes 2 head - pruned head, as the Minitron paper prints it
    Paper,
    /// A kept head becomes the pruned head: LaCo's sign
    Laco,
    /// A kept head's output columns get those of a pruned head of its group added
    Sum,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum MergeKv {
    /// Groups go with their query heads
    Drop,
    /// Neighbouring groups become their mean and all query heads stay
    Mean,
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Target")]
pub(crate) struct Target {
    /// Channels of the residual stream to keep
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hidden: Option<usize>,
    /// Neurons of every MLP to keep
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ffn: Option<usize>,
    /// Query heads of every layer to keep: as many in every group
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) heads: Option<usize>,
    /// Key/value groups of every layer to keep, with their query heads
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kv_groups: Option<usize>,
    /// Layers to keep: those with the lowest block influence go
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layers: Option<usize>,
    /// Layers to drop, counted from 0: 12..=17,20
    #[arg(long, value_name = "LIST", conflicts_with = "layers")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) drop_layers: Option<String>,
    /// Choose the shape: a part of the non-embedding parameters (0.5), or a number of parameters (4.5B, 90M)
    #[arg(long, value_name = "BUDGET")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<String>,
    /// What --params counts [default: non-embedding for a part, total for a number]
    #[arg(long, value_enum, requires = "params")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) params_kind: Option<crate::args_search::ParamsKind>,
    /// Sizes of a published student, such as llama-3.1-minitron-4b-width
    #[arg(long, value_name = "NAME", conflicts_with_all = ["params", "search"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) preset: Option<String>,
    /// The student that `paring search` chose
    #[arg(long, value_name = "FILE", conflicts_with = "params")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) search: Option<PathBuf>,
    /// How to repair what a cut broke, before any training [default: none for prune, least-squares for compress]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compensate: Option<Compensate>,
    /// Fit on what the cut model computes, layer by layer, and to the teacher's residual stream; `false` fits every down_proj and o_proj
    /// alone, on what the teacher computes [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sequential: Option<bool>,
    /// Ridge of least squares, as a part of the mean diagonal of the Gram matrix; auto chooses it for every map on held-out windows
    /// [default: auto]
    #[arg(long, value_name = "auto|NUMBER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ridge: Option<String>,
    /// Whether least squares lets the layer in front of dropped ones add what they added [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) block_map: Option<bool>,
    /// What becomes of pruned query heads [default: none]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) merge_heads: Option<MergeHeads>,
    /// What becomes of key/value groups when there are to be fewer [default: drop]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) merge_kv: Option<MergeKv>,
    /// In which basis to cut the residual stream [default: channels]
    #[arg(long, value_enum)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) basis: Option<Basis>,
    /// Take the nearest --hidden, --ffn and --heads that load, multiples of 128 where there are any near
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) round_widths: bool,
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Self-tests")]
pub(crate) struct SelfTests {
    /// Cut nothing, but test on this model that cutting keeps its promises, and which runtimes load the student; exit code 1 if one fails
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) verify: bool,
    /// The plan to verify: a plan.json [default: what --importance and the target choose, or a random one]
    #[arg(long, value_name = "FILE", requires = "verify")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Distillation")]
pub(crate) struct Training {
    /// Tokens to train on
    #[arg(long, value_name = "TOKENS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) budget: Option<u64>,
    /// Windows of a step
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch: Option<usize>,
    /// Windows that run at once; gradients of a step's windows are summed [default: what keeps activations under 600 MB]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) micro_batch: Option<usize>,
    /// Highest learning rate
    #[arg(long, value_name = "RATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lr: Option<f32>,
    /// Learning rate of the last step, as a part of the highest [default: 0.1]
    #[arg(long, value_name = "PART")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) lr_floor: Option<f32>,
    /// Steps of warm-up [default: a twentieth of all, at most 100]
    #[arg(long, value_name = "STEPS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) warmup: Option<u64>,
    /// Decoupled weight decay of matrices [default: 0.1]
    #[arg(long, value_name = "RATE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) weight_decay: Option<f32>,
    /// Largest norm of a gradient, 0 for any [default: 1]
    #[arg(long, value_name = "NORM")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clip: Option<f64>,
    /// Run blocks again in the backward instead of keeping their activations
    #[arg(long)]
    #[serde(skip_serializing_if = "no")]
    pub(crate) recompute: bool,
    /// Steps between checkpoints [default: 200]
    #[arg(long, value_name = "STEPS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checkpoint_every: Option<u64>,
}

macro_rules! command {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty),* $(,)? } $($part:ident: $pty:ty),*) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Args, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) struct $name {
            $($(#[$fmeta])* #[serde(default, skip_serializing_if = "Option::is_none")] pub(crate) $field: Option<$ty>,)*
            $(#[command(flatten)] #[serde(flatten)] pub(crate) $part: $pty,)*
        }
    };
}

command! { Compress {
    /// A checkpoint directory, a .gguf file, or a name that `paring fetch` knows [default: the embedded teacher]
    #[arg(long, value_name = "MODEL")] model: String,
    /// Directory of the student [default: runs/compress]
    #[arg(long, value_name = "DIR")] out: PathBuf,
    /// Text to evaluate on [default: the last twentieth of --text, kept out of training]
    #[arg(long, value_name = "FILE")] heldout: PathBuf,
    /// Windows of calibration, evenly from the text [default: 64]
    #[arg(long, value_name = "N")] calibration_windows: usize,
    /// Windows of evaluation, evenly from the held-out text [default: 64]
    #[arg(long, value_name = "N")] eval_windows: usize
} data: Data, target: Target, scores: ScoreFlags, training: Training, work: Work, common: Common }

command! { Prune {
    /// A checkpoint directory, a .gguf file, or a name that `paring fetch` knows
    #[arg(long, value_name = "MODEL")] model: String,
    /// What `paring importance` wrote
    #[arg(long, value_name = "FILE")] importance: PathBuf,
    /// Directory of the pruned model
    #[arg(long, value_name = "DIR")] out: PathBuf,
    /// Cut in so many rounds, each after the first by what the model of the one before shows on --text [default: 1]
    #[arg(long, value_name = "N")] rounds: usize
} data: Data, target: Target, drop: DropBy, scores: ScoreFlags, tests: SelfTests, work: Work, common: Common }

command! { Distill {
    /// Directory of the student
    #[arg(long, value_name = "DIR")] student: String,
    /// The teacher
    #[arg(long, value_name = "MODEL")] teacher: String,
    /// Directory of the trained student
    #[arg(long, value_name = "DIR")] out: PathBuf,
    /// Go on from the newest checkpoint in --out; an error if there is none
    #[arg(long, num_args = 0..=1, default_missing_value = "true")] resume: bool
} data: Data, training: Training, work: Work, common: Common }

command! { Eval {
    /// A checkpoint directory, a .gguf file, or a name that `paring fetch` knows
    #[arg(long, value_name = "MODEL")] model: String
} data: Data, tasks: Tasks, common: Common }

command! { Generate {
    /// A checkpoint directory, a .gguf file, or a name that `paring fetch` knows [default: the embedded teacher]
    #[arg(long, value_name = "MODEL")] model: String,
    /// What to continue
    #[arg(long, value_name = "TEXT")] prompt: String,
    /// At most this many new tokens [default: 100]
    #[arg(long, value_name = "N")] max_tokens: usize,
    /// 0 takes the most probable token [default: 0]
    #[arg(long, value_name = "T")] temperature: f32,
    /// Smallest set of tokens that reaches this probability [default: 1]
    #[arg(long, value_name = "P")] top_p: f32,
    /// Only so many most probable tokens [default: all]
    #[arg(long, value_name = "N")] top_k: usize,
    /// Only tokens with this part of the highest probability [default: 0]
    #[arg(long, value_name = "P")] min_p: f32
} common: Common }

command! { Inspect {
    /// A checkpoint directory, a .gguf file, or a name that `paring fetch` knows [default: the embedded teacher]
    #[arg(long, value_name = "MODEL")] model: String
} common: Common }

command! { Fetch {
    /// What to get: smollm2-135m-instruct
    #[arg(value_name = "NAME")] name: String
} common: Common }
