//! Whether the steps of surgery keep what they promise, on the model at hand: what `paring prune --verify` runs.
//!
//! | check | compared | bound |
//! |---|---|---|
//! | keep-all | a plan that keeps everything against the model: every value and every logit | the same bits |
//! | permuted | channels, neurons, heads and groups in another order | [`ROUNDING`] |
//! | masked | a slice against the full-size model with zeros in the places that it cuts ([`crate::Masked`]), axis by axis and all at once | [`ROUNDING`] |
//! | rotated | gains folded, the head untied, the residual stream mirrored, nothing cut | [`ROTATION`] |
//! | saved | the student as a checkpoint directory, opened again, against its values rounded to bf16 | the same bits |
//! | a runtime | [`paring_prune::runtimes`] of what was saved | no refusal |
//!
//! Functions are compared by their logits over windows of tokens: the worst token counts, by `|got - want| / |want|` over its vocabulary.
use crate::{Checkpoint, Cut, Error, Masked, Order, Permuted, Result, Rotated, Weights, model, sizes};
use paring_checkpoint::{DirWriter, Overwrite};
use paring_exec::Ctx;
use paring_model::{Arch, Batch, ParamSpec, open, params, write_model};
use paring_ops::Backend;
use paring_prune::{Basis, Facts, LayerPlan, Plan, Verdict, runtimes};
use paring_sampling::rng::Rng;
use paring_tensor::{DType, round_to};
use serde_json::Value;
use std::path::Path;

/// How far logits may be apart when the same sums are taken in another order. Rounding of f32 is 6e-8 of each sum; SmolLM2-135M, 30 layers, came
/// to at most 2.2e-5 (`paring prune --verify --windows 2 --context 128`).
pub const ROUNDING: f64 = 1e-4;

/// The same for weights that were multiplied by a matrix and rounded to f32 again.
pub const ROTATION: f64 = 1e-3;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As promised.
    Passed,
    /// Not as promised.
    Failed,
    /// There was nothing to check.
    Skipped,
}

/// One check and its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Which.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was found: a distance, or a number of values that differ. `None` where there is no figure.
    pub measured: Option<f64>,
    /// What it may be at most.
    pub bound: Option<f64>,
    /// In words.
    pub what: String,
}

impl Check {
    /// Passes when `measured` is at most `bound`; a measure that is no number fails.
    fn at_most(name: impl Into<String>, measured: f64, bound: f64, what: impl Into<String>) -> Self {
        let outcome = if measured <= bound { Outcome::Passed } else { Outcome::Failed };
        Check { name: name.into(), outcome, measured: Some(measured), bound: Some(bound), what: what.into() }
    }

    fn skipped(name: impl Into<String>, what: impl Into<String>) -> Self {
        Check { name: name.into(), outcome: Outcome::Skipped, measured: None, bound: None, what: what.into() }
    }
}

/// Where checks run, and on which tokens.
#[derive(Clone, Copy)]
pub struct Verify<'a> {
    /// What computes, in f32.
    pub backend: &'a dyn Backend,
    /// Windows of token ids, each a sequence of its own.
    pub windows: &'a [Vec<u32>],
    /// Of the random orders and plans.
    pub seed: u64,
}

/// Logits of every token, behind one another.
struct Logits {
    values: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// The worst token's `|got - want| / |want|`; infinite where a value is not finite.
    fn distance(&self, want: &Logits) -> f64 {
        if self.values.len() != want.values.len() || self.values.iter().any(|v| !v.is_finite()) {
            return f64::INFINITY;
        }
        let vocab = self.vocab.max(1);
        let rows = self.values.chunks_exact(vocab).zip(want.values.chunks_exact(vocab));
        let norm = |row: &mut dyn Iterator<Item = f64>| row.map(|v| v * v).sum::<f64>().sqrt();
        let row = |(got, want): (&[f32], &[f32])| {
            let apart = norm(&mut got.iter().zip(want).map(|(a, b)| f64::from(*a) - f64::from(*b)));
            if apart == 0.0 { 0.0 } else { apart / norm(&mut want.iter().map(|v| f64::from(*v))) }
        };
        rows.map(row).fold(0.0, |worst, d| if worst >= d { worst } else { d })
    }

    fn differing(&self, want: &Logits) -> usize {
        differing(&self.values, &want.values)
    }
}

/// Values whose bits differ; all of them when there are not as many.
fn differing(a: &[f32], b: &[f32]) -> usize {
    if a.len() != b.len() {
        return a.len().max(b.len());
    }
    a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count()
}

impl<'a> Verify<'a> {
    /// All checks that need no file, of a model and one plan of it.
    ///
    /// # Errors
    /// What could not be done at all; what was done and came out wrong is a failed [`Check`].
    pub fn run(&self, teacher: &dyn Weights, plan: &Plan) -> Result<Vec<Check>> {
        let mut checks = Vec::new();
        let arch = teacher.arch();
        let everything = Plan::everything(sizes(arch))?;
        checks.push(self.same_bits("keep-all", teacher, &Cut::new(teacher, &everything))?);
        let order = Order::random(arch, self.seed);
        checks.push(self.same_function("permuted", teacher, &Permuted::new(teacher, order)?, ROUNDING)?);
        for (name, axes) in AXES {
            let name = format!("masked: {name}");
            match only(plan, axes)? {
                Some(plan) => checks.push(self.masked(&name, teacher, &plan, &Cut::new(teacher, &plan))?),
                None => checks.push(Check::skipped(name, "the plan keeps all of it")),
            }
        }
        checks.push(self.masked("masked: everything", teacher, plan, &Cut::new(teacher, plan))?);
        let rng = Rng::new(self.seed);
        let normal: Vec<f64> = (0..arch.hidden as u64).map(|i| rng.normal(0x0707, i)).collect();
        let rotated = Rotated::new(teacher, &Basis::reflection(&normal)?, self.backend)?;
        checks.push(self.same_function("rotated", teacher, &rotated, ROTATION)?);
        Ok(checks)
    }

    /// Whether two models are the same to the bit: parameters, and logits.
    ///
    /// # Errors
    /// Those of the weights and of the backend.
    pub fn same_bits(&self, name: &str, want: &dyn Weights, got: &dyn Weights) -> Result<Check> {
        if want.arch() != got.arch() {
            let what = "the models are not of one architecture: sizes, rope, eps or the tie of the head differ";
            return Ok(Check::at_most(name, f64::INFINITY, 0.0, what));
        }
        let specs = params(want.arch());
        let (mut values, mut first) = (0, None);
        for spec in &specs {
            let n = differing(&want.read(spec)?, &got.read(spec)?);
            values += n;
            first = first.or((n > 0).then(|| spec.name.clone()));
        }
        let logits = self.logits(got)?.differing(&self.logits(want)?);
        let total: usize = specs.iter().map(ParamSpec::elements).sum();
        let at = first.map_or(String::new(), |name| format!(", the first in `{name}`"));
        let what = format!("{values} of {total} values differ{at}; {logits} logits differ");
        Ok(Check::at_most(name, (values + logits) as f64, 0.0, what))
    }

    /// Whether two models compute the same function, to rounding.
    ///
    /// # Errors
    /// Those of the weights and of the backend.
    pub fn same_function(&self, name: &str, want: &dyn Weights, got: &dyn Weights, bound: f64) -> Result<Check> {
        let distance = self.logits(got)?.distance(&self.logits(want)?);
        Ok(Check::at_most(name, distance, bound, "logits of the worst token apart, relative"))
    }

    /// Whether `student` computes what its teacher does with zeros where `plan` cuts.
    ///
    /// # Errors
    /// Those of the weights and of the backend.
    pub fn masked(&self, name: &str, teacher: &dyn Weights, plan: &Plan, student: &dyn Weights) -> Result<Check> {
        self.same_function(name, &Masked::new(teacher, plan), student, ROUNDING)
    }

    /// Writes `student` into the new directory `dir` as any student is written, opens it again and compares. Also says which runtimes will
    /// load what was written; `tokens` is the number of the tokenizer's, `config` that of the teacher. The directory stays.
    ///
    /// # Errors
    /// Those of the writer, of the weights and of the backend. A student whose layers differ cannot be written: that is skipped, and said.
    pub fn saved(
        &self,
        student: &dyn Weights,
        teacher: &Arch,
        config: &Value,
        tokens: Option<usize>,
        dir: &Path,
    ) -> Result<Vec<Check>> {
        let (of, from) = (sizes(student.arch()), sizes(teacher));
        let flight = |head_dim| flight(&Facts { sizes: &of, teacher: Some(&from), head_dim, tokens });
        if let Err(e) = student.arch().to_config(config, "bfloat16") {
            let mut checks = vec![Check::skipped("saved", e.to_string())];
            checks.extend(flight(Some(student.arch().head_dim)));
            return Ok(checks);
        }
        let mut writer = DirWriter::create(dir, Overwrite::Refuse)?;
        write_model::<Error>(&mut writer, student.arch(), config, |spec| student.read(spec))?;
        writer.commit()?;
        let opened = open(dir)?;
        let mut checks = vec![self.same_bits("saved", &Rounded(student), &Checkpoint(&opened))?];
        let written = opened.config.get("head_dim").and_then(Value::as_u64).and_then(|d| usize::try_from(d).ok());
        checks.extend(flight(written));
        Ok(checks)
    }

    fn logits(&self, weights: &dyn Weights) -> Result<Logits> {
        let model = model(weights, self.backend, DType::F32)?;
        let (mut values, vocab) = (Vec::new(), weights.arch().vocab);
        // A window at a time: logits are the largest thing here.
        for window in self.windows {
            let batch = Batch::pack([window.as_slice()]);
            let x = model.hidden(&mut Ctx::infer(self.backend), &batch, None)?;
            values.extend(self.backend.download(&model.logits(self.backend, &x.tensor)?)?);
        }
        Ok(Logits { values, vocab })
    }
}

/// What every runtime says, as checks: refusing is failing.
fn flight(facts: &Facts<'_>) -> Vec<Check> {
    let check = |f: paring_prune::Finding| {
        let why = if f.why.is_empty() { String::new() } else { format!(": {}", f.why.join("; ")) };
        let outcome = if f.verdict == Verdict::Refuses { Outcome::Failed } else { Outcome::Passed };
        let (name, what) = (f.runtime.to_string(), format!("{}{why}", f.verdict));
        Check { name, outcome, measured: None, bound: None, what }
    };
    runtimes(facts).into_iter().map(check).collect()
}

/// Values as a bf16 file holds them.
struct Rounded<'a>(&'a dyn Weights);

impl Weights for Rounded<'_> {
    fn arch(&self) -> &Arch {
        self.0.arch()
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        Ok(self.0.read(spec)?.into_iter().map(|v| round_to(v, DType::BF16)).collect())
    }
}

/// What a partial plan cuts.
#[derive(Clone, Copy, PartialEq)]
enum Axes {
    Neurons,
    Heads,
    Channels,
    Layers,
}

const AXES: [(&str, Axes); 4] = [
    ("neurons", Axes::Neurons),
    ("heads and groups", Axes::Heads),
    ("channels", Axes::Channels),
    ("layers", Axes::Layers),
];

/// The part of a plan that cuts one axis; `None` when it cuts nothing of it.
fn only(plan: &Plan, axes: Axes) -> Result<Option<Plan>> {
    let all = Plan::everything(plan.teacher().clone())?;
    let hidden = if axes == Axes::Channels { plan.hidden() } else { all.hidden() }.to_vec();
    let kept = |full: &LayerPlan| plan.student_layer(full.layer).map(|l| &plan.layers()[l]);
    let layer = |full: &LayerPlan| match (axes, kept(full)) {
        (Axes::Layers, None) => None,
        (Axes::Neurons, Some(l)) => Some(LayerPlan { ffn: l.ffn.clone(), ..full.clone() }),
        (Axes::Heads, Some(l)) => Some(LayerPlan { ffn: full.ffn.clone(), ..l.clone() }),
        _ => Some(full.clone()),
    };
    let part = Plan::new(plan.teacher().clone(), hidden, all.layers().iter().filter_map(layer).collect())?;
    Ok((part != all).then_some(part))
}

/// A plan that cuts something of every axis that has something to spare, at random: what is checked when no plan is given. Its student can be
/// written, and Transformers loads it if it loads the teacher.
///
/// # Errors
/// [`paring_prune::Error::Dims`] for a model that is none.
pub fn trial_plan(arch: &Arch, seed: u64) -> Result<Plan> {
    let rng = Rng::new(seed);
    let some = |stream: u64, of: usize, n: usize| {
        let mut kept = rng.permutation(stream, of);
        kept.truncate(n.max(1));
        kept.sort_unstable();
        kept
    };
    let layers = some(1, arch.layers.len(), arch.layers.len() - usize::from(arch.layers.len() > 1));
    let layer = |&l: &usize| {
        let (of, stream) = (arch.layers[l], 16 * (l as u64 + 1));
        let kv_groups = some(stream, of.kv_heads, of.kv_heads - usize::from(of.kv_heads > 1));
        let per_group = of.heads / of.kv_heads.max(1);
        let inside = |&g: &usize| {
            let kept = some((stream + 2) << 32 | g as u64, per_group, per_group - usize::from(per_group > 1));
            kept.into_iter().map(move |h| g * per_group + h)
        };
        let heads = kv_groups.iter().flat_map(inside).collect();
        LayerPlan { layer: l, ffn: some(stream + 1, of.ffn, of.ffn * 2 / 3), heads, kv_groups, ..LayerPlan::default() }
    };
    let layers: Vec<LayerPlan> = layers.iter().map(layer).collect();
    let heads = layers.first().map_or(1, |l| l.heads.len());
    // A multiple of the heads near three quarters: other widths would not load.
    let width = (arch.hidden * 3 / 4 / heads * heads).max(heads);
    let width = if width <= arch.hidden { width } else { arch.hidden };
    Ok(Plan::new(sizes(arch), some(0, arch.hidden, width), layers)?)
}
