//! What a model is worth and how fast it is, as the tables and `eval.json` say it.
use crate::{data::Windows, describe::count, error::Result, progress::Progress, session::Session};
use paring_engine::{Request, generate};
use paring_eval::{Agreement, Likelihood};
use paring_model::{Arch, Model};
use paring_sampling::Sampler;
use paring_tensor::DType;
use paring_train::micro_windows;
use serde_json::{Map, Value, json};

/// Tokens of the prompt, and of the continuation, that speed is measured with.
const SPEED_TOKENS: (usize, usize) = (128, 32);

/// Likelihood of held-out windows, with a progress bar.
pub(crate) fn likelihood(session: &Session, model: &Model, windows: &Windows) -> Result<Likelihood> {
    let slices = windows.slices();
    let mut progress = Progress::new("evaluate", "windows", slices.len() as u64, 0);
    let batch = batch(model.arch(), windows);
    let result =
        paring_eval::likelihood(session.backend(), model, &slices, batch, &mut |n| progress.set(n as u64, ""))?;
    progress.finish();
    Ok(result)
}

/// A student beside its teacher on held-out windows, with a progress bar.
pub(crate) fn agreement(session: &Session, teacher: &Model, student: &Model, windows: &Windows) -> Result<Agreement> {
    let slices = windows.slices();
    let mut progress = Progress::new("evaluate", "windows", slices.len() as u64, 0);
    let batch = batch(teacher.arch(), windows);
    let result =
        paring_eval::compare(session.backend(), teacher, student, &slices, batch, &mut |n| progress.set(n as u64, ""))?;
    progress.finish();
    Ok(result)
}

fn batch(arch: &Arch, windows: &Windows) -> usize {
    micro_windows(arch, windows.longest())
}

/// Tokens per second of prefill and of greedy decoding, on this machine, now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Speed {
    pub(crate) prefill: f64,
    pub(crate) decode: f64,
}

/// Measures [`Speed`] on the first window: the best of two, because other programs only ever take time away.
pub(crate) fn speed(session: &Session, model: &Model, windows: &Windows) -> Result<Speed> {
    let first = windows.windows.first().map_or(&[][..], Vec::as_slice);
    let prompt = first[..first.len().min(SPEED_TOKENS.0).min(model.arch().max_positions / 2)].to_vec();
    let max_tokens = SPEED_TOKENS.1.min(model.arch().max_positions - prompt.len());
    let mut best = Speed::default();
    for _ in 0..2 {
        let sampler = Sampler::greedy();
        let request = Request { prompt: prompt.clone(), max_tokens, sampler, stop: Vec::new() };
        let made = generate(session.backend(), model, &request, &mut |_| true)?;
        best.prefill = best.prefill.max(made.prefill_tokens_per_second);
        best.decode = best.decode.max(made.decode_tokens_per_second);
    }
    Ok(best)
}

/// One column of the table of a compression.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) params: u64,
    pub(crate) non_embedding: u64,
    pub(crate) bytes: u64,
    pub(crate) nll: f64,
    /// KL to the teacher and top-1 agreement; not of the teacher itself.
    pub(crate) against: Option<(f64, f64)>,
    pub(crate) speed: Speed,
}

impl Column {
    /// `bytes` are those of a bf16 checkpoint.
    pub(crate) fn new(name: &'static str, arch: &Arch, nll: f64, against: Option<(f64, f64)>, speed: Speed) -> Self {
        let params = arch.n_params() as u64;
        Column {
            name,
            params,
            non_embedding: arch.n_params_non_embedding() as u64,
            bytes: 2 * params,
            nll,
            against,
            speed,
        }
    }

    /// What JSON says besides `inspect`'s fields.
    pub(crate) fn add_to(&self, map: &mut Map<String, Value>) {
        map.insert("nll".into(), json!(self.nll));
        map.insert("perplexity".into(), json!(self.nll.exp()));
        if let Some((kl, top1)) = self.against {
            map.insert("kl".into(), json!(kl));
            map.insert("top1_agreement".into(), json!(top1));
        }
    }

    /// Speeds, which belong to this machine and this moment.
    pub(crate) fn add_speed_to(&self, map: &mut Map<String, Value>) {
        map.insert("prefill_tokens_per_second".into(), json!(self.speed.prefill));
        map.insert("decode_tokens_per_second".into(), json!(self.speed.decode));
    }
}

/// The table that `compress` prints; with speeds measured in `dtype`.
pub(crate) fn table(columns: &[Column], speeds: Option<DType>) -> String {
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(columns.iter().map(|c| c.name.to_string()));
    let mut row = |name: &str, f: &dyn Fn(&Column) -> String| {
        rows.push(std::iter::once(name.to_string()).chain(columns.iter().map(f)).collect());
    };
    row("parameters", &|c| count(c.params));
    row("  non-embedding", &|c| count(c.non_embedding));
    row("bytes (bf16)", &|c| count(c.bytes));
    row("held-out perplexity", &|c| format!("{:.2}", c.nll.exp()));
    row("KL to the teacher, nats", &|c| c.against.map_or("-".into(), |(kl, _)| format!("{kl:.4}")));
    row("top-1 agreement", &|c| c.against.map_or("-".into(), |(_, top1)| format!("{:.1} %", 100.0 * top1)));
    if let Some(dtype) = speeds {
        row(&format!("prefill, tokens/s ({dtype})"), &|c| format!("{:.0}", c.speed.prefill));
        row(&format!("decode, tokens/s ({dtype})"), &|c| format!("{:.0}", c.speed.decode));
    }
    crate::describe::table(&rows)
}
