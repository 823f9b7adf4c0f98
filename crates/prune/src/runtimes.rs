//! The pre-flight: which runtimes will take a model, and what it loses there.
//!
//! - **Transformers** (5): a Llama config has one size for all layers, `hidden_size` has to be a multiple of `num_attention_heads`, and `head_dim` has
//!   to be explicit where it is not their quotient.
//! - **llama.cpp**: `attention.key_length` has to say what `head_dim` says; quantised formats take rows that are multiples of 32, k-quants of 256.
//!   Its architecture `llama` has one size for all layers, `deci` has one for each.
//! - **vLLM** reads the same config as Transformers and runs on GPUs, which want multiples of 64.
//!
//! All need as many rows of the embedding as the tokenizer has tokens, and heads of even width, as rotary embeddings turn pairs.
use crate::{Sizes, good_hidden, loadable::rows};
use serde::{Serialize, Serializer};
use std::fmt;

/// A program that runs models.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Hugging Face Transformers, from the checkpoint directory.
    Transformers,
    /// llama.cpp and what is built on it, from a GGUF made of the directory.
    LlamaCpp,
    /// vLLM, from the checkpoint directory.
    Vllm,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Runtime::Transformers => "Transformers",
            Runtime::LlamaCpp => "llama.cpp",
            Runtime::Vllm => "vLLM",
        })
    }
}

impl Serialize for Runtime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Whether a runtime takes a model, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it is.
    Loads,
    /// A format, speed, or an older release is lost.
    LoadsWithALoss,
    /// Not at all.
    Refuses,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Loads => "loads",
            Verdict::LoadsWithALoss => "loads with a loss",
            Verdict::Refuses => "refuses",
        })
    }
}

/// What a runtime says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Who.
    pub runtime: Runtime,
    /// The worst of what is to be said.
    pub verdict: Verdict,
    /// Everything that is to be said, the worst first.
    pub why: Vec<String>,
}

/// What a runtime sees of a model.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Its sizes.
    pub sizes: &'a Sizes,
    /// Sizes of the model that it descends from, if it is a student.
    pub teacher: Option<&'a Sizes>,
    /// `head_dim` of its config, if it says so itself; what Paring writes always does.
    pub head_dim: Option<usize>,
    /// Tokens of its tokenizer: the highest id and one; `None` if that is not known.
    pub tokens: Option<usize>,
}

/// What every runtime says to a model.
pub fn runtimes(facts: &Facts<'_>) -> [Finding; 3] {
    [Runtime::Transformers, Runtime::LlamaCpp, Runtime::Vllm].map(|runtime| {
        let mut said = Vec::new();
        everywhere(facts, &mut said);
        layers(facts, runtime, &mut said);
        heads(facts, runtime, &mut said);
        widths(facts, runtime, &mut said);
        said.sort_by_key(|(verdict, _)| std::cmp::Reverse(*verdict));
        let verdict = said.first().map_or(Verdict::Loads, |(verdict, _)| *verdict);
        Finding { runtime, verdict, why: said.into_iter().map(|(_, why)| why).collect() }
    })
}

type Said = Vec<(Verdict, String)>;

/// What no runtime can do.
fn everywhere(facts: &Facts<'_>, said: &mut Said) {
    let s = facts.sizes;
    if let Err(e) = s.check() {
        said.push((Verdict::Refuses, e.to_string()));
    }
    if !s.head_dim.is_multiple_of(2) {
        let why = format!("head_dim {} is odd, but rotary embeddings turn pairs", s.head_dim);
        said.push((Verdict::Refuses, why));
    }
    if let Some(tokens) = facts.tokens.filter(|&n| n > s.vocab) {
        let why = format!("the tokenizer has {tokens} tokens, the embedding only {} rows", s.vocab);
        said.push((Verdict::Refuses, why));
    }
    if facts.teacher.is_some_and(|t| t.tied && !s.tied) {
        let more = s.vocab.saturating_mul(s.hidden);
        said.push((Verdict::Loads, format!("the head is no longer the embedding: {more} parameters more")));
    }
}

fn layers(facts: &Facts<'_>, runtime: Runtime, said: &mut Said) {
    if let Err(uneven @ crate::Error::Uneven { .. }) = facts.sizes.uniform() {
        let why = match runtime {
            Runtime::Transformers => "a Llama config has one size for all",
            Runtime::LlamaCpp => "its architecture llama has one size for all, only deci has one for each",
            Runtime::Vllm => "without a fork it has one size for all (vllm#36512)",
        };
        said.push((Verdict::Refuses, format!("{uneven}: {why}")));
    }
}

fn heads(facts: &Facts<'_>, runtime: Runtime, said: &mut Said) {
    let s = facts.sizes;
    // Layers that differ are another refusal already; the first one stands for all.
    let Some(heads) = s.layers.first().map(|l| l.heads).filter(|&n| n > 0) else { return };
    let divides = s.hidden.is_multiple_of(heads);
    let quotient = divides && s.hidden / heads == s.head_dim;
    if runtime == Runtime::LlamaCpp {
        if !quotient {
            let why = format!(
                "head_dim {} is not hidden {} / {heads} heads: the GGUF has to say so as attention.key_length and value_length, and releases \
                 that do not read them refuse",
                s.head_dim, s.hidden
            );
            said.push((Verdict::LoadsWithALoss, why));
        }
        return;
    }
    // A teacher that breaks the rule belongs to a family without it.
    let ruled = facts
        .teacher
        .and_then(|t| Some((t.hidden, t.layers.first()?.heads)))
        .is_none_or(|(hidden, heads)| heads > 0 && hidden.is_multiple_of(heads));
    if !divides && ruled {
        let (below, above) = good_hidden(s.hidden, heads, facts.teacher.map_or(usize::MAX, |t| t.hidden));
        let good: Vec<String> = [below, above].into_iter().flatten().map(|n| n.to_string()).collect();
        let why =
            format!("hidden {} is not a multiple of {heads} query heads; good widths: {}", s.hidden, good.join(", "));
        said.push((Verdict::Refuses, why));
    }
    match facts.head_dim {
        Some(written) if written != s.head_dim => {
            let why = format!("head_dim of the config is {written}, the heads have {}", s.head_dim);
            said.push((Verdict::Refuses, why));
        }
        None if !quotient => {
            let why = format!("the config does not say head_dim {}, and hidden / heads is another number", s.head_dim);
            said.push((Verdict::Refuses, why));
        }
        _ => {}
    }
}

fn widths(facts: &Facts<'_>, runtime: Runtime, said: &mut Said) {
    let losses: &[(usize, &str)] = match runtime {
        Runtime::Transformers => &[],
        Runtime::LlamaCpp => {
            &[(32, "quantised formats (q8_0, q4_0) do not take it"), (256, "k-quants fall back to larger formats")]
        }
        Runtime::Vllm => &[(64, "matrix products on GPUs are slower")],
    };
    let had = facts.teacher.map(rows);
    for (i, (name, has)) in rows(facts.sizes).into_iter().enumerate() {
        for &(multiple, consequence) in losses {
            let Some(width) = has.iter().find(|n| !n.is_multiple_of(multiple)) else { continue };
            let known = had.as_ref().is_some_and(|had| had[i].1.iter().any(|n| !n.is_multiple_of(multiple)));
            let known = if known { ", as in the teacher" } else { "" };
            said.push((
                Verdict::LoadsWithALoss,
                format!("{name} {width} is not a multiple of {multiple}{known}: {consequence}"),
            ));
        }
    }
}
