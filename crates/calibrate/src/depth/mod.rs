//! How much worse a model gets without some of its layers: single layers, contiguous blocks, greedy sets (arXiv 2407.14679, section 2.2;
//! arXiv 2408.11796, section 3 and figures 8 and 9).
//!
//! What lies in front of the removed layers computes the same as in the whole stack. So the residual stream walks down the stack once, and
//! wherever layers are to be removed, only what is behind them runs, from the stream in front of them. [`cost`] says what that saves.
mod cost; // layer runs, counted
mod error;
mod influence; // how far contiguous blocks turn the residual stream
mod results; // as named arrays

pub use cost::{Cost, cost, greedy_cost};
pub use error::{Error, Result};
pub use results::{Blocks, DepthResults, Greedy};

use influence::Turns;
use paring_eval::Criterion;
use paring_exec::{Ctx, Observer, Var};
use paring_importance::SpanInfluence;
use paring_model::{Arch, Batch, Model};
use paring_ops::Backend;
use paring_tensor::Tensor;
use std::ops::Range;

/// Memory for residual streams and the activations of a forward, unless the caller says otherwise.
pub const MEMORY: u64 = 256 << 20;

/// Units of fewer tokens run alone: backends multiply a few rows in an order of their own, and a result must not depend on what a unit runs
/// together with.
const ALONE: usize = 16;

/// Told the layer runs done so far, one unit at a time ([`Cost::layer_runs`] times units in all); says whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> bool;

/// A model without some of its layers, judged again and again.
pub struct Depth<'a> {
    backend: &'a dyn Backend,
    model: &'a Model,
    criterion: &'a dyn Criterion,
    memory: u64,
    observer: Option<&'a mut dyn Observer>,
    progress: Option<Progress<'a>>,
    done: u64,
}

impl std::fmt::Debug for Depth<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Depth").field("memory", &self.memory).field("done", &self.done).finish_non_exhaustive()
    }
}

/// Scores of one sweep, each as [`Criterion::scores`] gives them.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Of the whole stack, if it was asked for.
    pub baseline: Option<Vec<f64>>,
    /// Of the stack without each of the removals, in the order in which they were given.
    pub removed: Vec<Vec<f64>>,
}

/// What is wanted of a sweep besides its removals.
#[derive(Debug, Default)]
struct Extra<'s> {
    baseline: bool,
    influence: Option<&'s mut SpanInfluence>,
}

impl<'a> Depth<'a> {
    /// Judges `model` by `criterion`.
    pub fn new(backend: &'a dyn Backend, model: &'a Model, criterion: &'a dyn Criterion) -> Self {
        Depth { backend, model, criterion, memory: MEMORY, observer: None, progress: None, done: 0 }
    }

    /// Bytes that residual streams and activations may take: as many units run at once as fit, at least one. No result depends on it: on the
    /// CPU to the bit.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Shows every layer run to `observer`.
    pub fn observe(mut self, observer: &'a mut dyn Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Tells `progress`, which may end the work with [`Error::Stopped`].
    pub fn progress(mut self, progress: Progress<'a>) -> Self {
        self.progress = Some(progress);
        self
    }

    fn layers(&self) -> usize {
        self.model.arch().layers.len()
    }

    /// The scores of the whole model, and of the model without each of `removals`: ranges of layers, counted from 0.
    ///
    /// # Errors
    /// [`Error::Removal`], [`Error::NoUnits`], [`Error::NotFinite`], [`Error::Stopped`]; those of the model.
    pub fn removals(&mut self, removals: &[Range<usize>]) -> Result<Scores> {
        let stack: Vec<usize> = (0..self.layers()).collect();
        self.sweep(&stack, removals, Extra { baseline: true, influence: None })
    }

    /// Every contiguous block of every one of `sizes`. `influence` is shown the same residual streams on the way, if it is there.
    ///
    /// # Errors
    /// [`Error::Size`]; those of [`Depth::removals`].
    pub fn blocks(&mut self, sizes: &[usize], influence: Option<&mut SpanInfluence>) -> Result<Blocks> {
        let layers = self.layers();
        let mut sizes = sizes.to_vec();
        sizes.sort_unstable();
        sizes.dedup();
        let removals = block_removals(layers, &sizes)?;
        let stack: Vec<usize> = (0..layers).collect();
        let scores = self.sweep(&stack, &removals, Extra { baseline: true, influence })?;
        Ok(Blocks::new(layers, &sizes, scores))
    }

    /// Shows the residual streams of one forward to `influence`. The criterion is not asked, only what it runs on.
    ///
    /// # Errors
    /// As [`Depth::removals`].
    pub fn influence(&mut self, influence: &mut SpanInfluence) -> Result<()> {
        let stack: Vec<usize> = (0..self.layers()).collect();
        self.sweep(&stack, &[], Extra { baseline: false, influence: Some(influence) })?;
        Ok(())
    }

    /// Removes the layer without which the model does best, and again from what is left, until `n` are gone. `single` are the scores without
    /// each single layer, if they are known: they are the first step.
    ///
    /// # Errors
    /// [`Error::Size`] unless `n` leaves a layer; those of [`Depth::removals`].
    pub fn greedy(&mut self, n: usize, single: Option<&[Vec<f64>]>) -> Result<Greedy> {
        if n == 0 || self.layers() <= n {
            return Err(Error::Size { got: n, layers: self.layers() });
        }
        let mut stack: Vec<usize> = (0..self.layers()).collect();
        let mut greedy = Greedy::default();
        for step in 0..n {
            let known = single.filter(|s| step == 0 && s.len() == stack.len());
            let scores = match known {
                Some(scores) => scores.to_vec(),
                None => {
                    let each: Vec<Range<usize>> = (0..stack.len()).map(|i| i..i + 1).collect();
                    self.sweep(&stack, &each, Extra::default())?.removed
                }
            };
            // The first of equals.
            let best = (0..stack.len())
                .fold(0, |best, i| if self.criterion.better(&scores[i], &scores[best]) { i } else { best });
            greedy.order.push(stack.remove(best));
            greedy.scores.push(scores[best].clone());
        }
        Ok(greedy)
    }

    /// Walks down `stack` once per chunk of units. Removals are ranges of places in the stack.
    fn sweep(&mut self, stack: &[usize], removals: &[Range<usize>], mut extra: Extra<'_>) -> Result<Scores> {
        for r in removals {
            if r.is_empty() || stack.len() < r.end || r.len() == stack.len() {
                return Err(Error::Removal { first: r.start, end: r.end, layers: stack.len() });
            }
        }
        if self.criterion.units() == 0 {
            return Err(Error::NoUnits);
        }
        let whole = extra.baseline || extra.influence.is_some();
        // Place behind which nothing has to run any more.
        let last = if whole { stack.len() } else { removals.iter().map(|r| r.start).max().unwrap_or(0) };
        let mut sums = vec![Vec::new(); removals.len()];
        let mut baseline = Vec::new();
        let kept = 1 + extra.influence.as_ref().map_or(0, |s| s.longest());
        for units in self.chunks(kept) {
            let batch = Batch::pack(units.clone().flat_map(|unit| self.criterion.sequences(unit)));
            let rows = self.rows(&units);
            let mut turns = extra.influence.as_deref_mut().map(|spans| Turns::new(spans, &batch));
            let mut x = {
                let mut cx = Ctx::infer(self.backend);
                self.model.embed(&mut cx, &batch)?.tensor
            };
            for place in 0..=last {
                if let Some(turns) = &mut turns {
                    turns.stream(self.backend, place, &x)?;
                }
                for (r, sums) in removals.iter().zip(&mut sums).filter(|(r, _)| r.start == place) {
                    let x = self.run(&batch, &stack[r.end..], x.clone())?;
                    let removed = || stack[r.clone()].to_vec();
                    self.judge(&x, &units, &rows, sums, &removed)?;
                    self.tell((stack.len() - r.end) * units.len())?;
                }
                if place < last {
                    x = self.run(&batch, &stack[place..=place], x)?;
                    self.tell(units.len())?;
                }
            }
            if extra.baseline {
                self.judge(&x, &units, &rows, &mut baseline, &Vec::new)?;
            }
        }
        Ok(Scores {
            baseline: extra.baseline.then(|| self.criterion.scores(&baseline)),
            removed: sums.iter().map(|s| self.criterion.scores(s)).collect(),
        })
    }

    /// Units that run at once, in order: as many as fit into the memory with `kept` residual streams, short ones alone.
    fn chunks(&self, kept: usize) -> Vec<Range<usize>> {
        let bytes = bytes_per_token(self.model.arch(), kept);
        let tokens = |unit| self.criterion.sequences(unit).iter().map(|s| s.len()).sum::<usize>();
        let mut chunks: Vec<Range<usize>> = Vec::new();
        let (mut filled, mut closed) = (0u64, true);
        for unit in 0..self.criterion.units() {
            let (alone, need) = (tokens(unit) <= ALONE, tokens(unit) as u64 * bytes);
            match chunks.last_mut().filter(|_| !closed && !alone && filled.saturating_add(need) <= self.memory) {
                Some(chunk) => chunk.end = unit + 1,
                None => {
                    chunks.push(unit..unit + 1);
                    filled = 0;
                }
            }
            filled = filled.saturating_add(need);
            closed = alone;
        }
        chunks
    }

    /// Rows of every unit in the packed batch of `units`.
    fn rows(&self, units: &Range<usize>) -> Vec<Range<usize>> {
        let mut at = 0;
        let mut next = |unit| {
            let start = at;
            at += self.criterion.sequences(unit).iter().map(|s| s.len()).sum::<usize>();
            start..at
        };
        units.clone().map(&mut next).collect()
    }

    /// The residual stream after `layers`, from the one before them.
    fn run(&mut self, batch: &Batch, layers: &[usize], x: Tensor) -> Result<Tensor> {
        let mut cx = Ctx::infer(self.backend);
        if let Some(observer) = &mut self.observer {
            cx = cx.observe(&mut **observer);
        }
        let x = cx.input(x);
        Ok(self.model.blocks(&mut cx, batch, layers.iter().copied(), x)?.tensor)
    }

    /// Adds what the criterion says of every unit's rows of the residual stream `x` out of the last layer.
    fn judge(
        &self,
        x: &Tensor,
        units: &Range<usize>,
        rows: &[Range<usize>],
        sums: &mut Vec<f64>,
        removed: &dyn Fn() -> Vec<usize>,
    ) -> Result<()> {
        let mut cx = Ctx::infer(self.backend);
        let x: Var = cx.input(x.clone());
        let x = self.model.finish(&mut cx, &x)?.tensor;
        for (unit, rows) in units.clone().zip(rows) {
            let x = x.rows(rows.clone()).map_err(paring_ops::Error::in_op("depth"))?;
            let values = self.criterion.measure(self.backend, self.model, unit, &x)?;
            if let Some(&got) = values.iter().find(|v| !v.is_finite()) {
                return Err(Error::NotFinite { removed: removed(), unit, got });
            }
            sums.resize(values.len(), 0.0);
            sums.iter_mut().zip(values).for_each(|(sum, v)| *sum += v);
        }
        Ok(())
    }

    fn tell(&mut self, runs: usize) -> Result<()> {
        self.done += runs as u64;
        let go_on = self.progress.as_mut().is_none_or(|progress| progress(self.done));
        if go_on { Ok(()) } else { Err(Error::Stopped) }
    }
}

/// Every contiguous block of every one of `sizes`: by size in the order given, then by first layer.
///
/// # Errors
/// [`Error::Size`] for a size of zero or of all layers.
pub fn block_removals(layers: usize, sizes: &[usize]) -> Result<Vec<Range<usize>>> {
    if let Some(&got) = sizes.iter().find(|&&n| n == 0 || layers <= n) {
        return Err(Error::Size { got, layers });
    }
    Ok(sizes.iter().flat_map(|&n| (0..=layers - n).map(move |first| first..first + n)).collect())
}

/// Bytes of a token in a sweep: `kept` residual streams and one in the making, and the widest activations of a layer, f32.
fn bytes_per_token(arch: &Arch, kept: usize) -> u64 {
    let layer = |l: &paring_model::LayerArch| 3 * l.ffn + 2 * arch.hidden + 2 * (l.heads + l.kv_heads) * arch.head_dim;
    let widest = arch.layers.iter().map(layer).max().unwrap_or(0);
    4 * ((kept + 1) * arch.hidden + widest) as u64
}
