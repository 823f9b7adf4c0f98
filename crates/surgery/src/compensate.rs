//! Compensation: the maps of a cut model are fitted to the teacher over calibration text, block by block, without any training.
//!
//! Teacher and student are walked side by side over residual streams that stay in memory, one block of each at a time, so that the whole
//! costs about one forward of each. What a map is fitted to, and on which inputs, is [`Mode`] and [`Aim`]; the maths is
//! `paring_prune::fit_held_out`.
use crate::block::{self, Half, Text};
use crate::{Cut, Error, Result, Weights};
use paring_model::{Model, ParamSpec};
use paring_ops::{Backend, Error as OpsError};
use paring_prune::{Fit, Moments, Ridge, fit_held_out, fit_with};
use paring_tensor::{DType, Shape, Tensor};

/// On which inputs a map is fitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// On what the teacher's map reads: every fit stands alone.
    Teacher,
    /// On what the student's map reads when everything before it is cut and fitted already, as in GPTQ.
    Sequential,
}

/// What the maps that write to the residual stream are fitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// The output of the teacher's map.
    Map,
    /// Whatever is missing to the teacher's residual stream: errors of everything before can be made up for. For [`Mode::Sequential`].
    Stream,
}

/// What becomes of the maps that read a norm of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// They are sliced, and nothing more.
    Slice,
    /// They are sliced; the gain of every channel of the norm in front is fitted.
    Gains,
    /// They are fitted: one matrix from the student's norm to the teacher's, multiplied into all maps that read it. A head that is tied to
    /// the embedding cannot be; the gain of the final norm is fitted instead.
    Fit,
}

/// How to compensate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// On which inputs.
    pub mode: Mode,
    /// To what.
    pub aim: Aim,
    /// What becomes of readers.
    pub readers: Readers,
    /// Whether what a removed block adds to the stream is part of the aim of the map in front of it.
    pub block_map: bool,
    /// The ridge of every map; `None` chooses it on held-out tokens, for every map alone.
    pub ridge: Option<Ridge>,
}

impl Default for Options {
    /// Sequential, to the teacher's stream, readers fitted, removed blocks mapped, ridges chosen.
    fn default() -> Self {
        Options { mode: Mode::Sequential, aim: Aim::Stream, readers: Readers::Fit, block_map: true, ridge: None }
    }
}

/// What came of one fit.
#[derive(Clone, Debug, PartialEq)]
pub struct Fitted {
    /// The student's parameter; for readers the norm that they read.
    pub name: String,
    /// Inputs of the map.
    pub inputs: usize,
    /// The ridge; `None` when slicing was no worse.
    pub ridge: Option<Ridge>,
    /// Part of the target's energy that the sliced map misses on held-out tokens.
    pub sliced: f64,
    /// The same of the fitted map.
    pub fitted: f64,
    /// The ridge that was asked for, when it had to be raised.
    pub raised_from: Option<f64>,
}

/// Where to compute, and on what text.
#[derive(Clone, Copy, Debug)]
pub struct Bench<'a> {
    /// The device.
    pub backend: &'a dyn Backend,
    /// Type of matrices in products.
    pub dtype: DType,
    /// Threads for what is solved on the CPU; results do not depend on them.
    pub threads: usize,
    /// Calibration text.
    pub text: &'a Text,
}

/// Fits the maps of `cut`, and leaves them in it. `progress` is told the number of the student's blocks that are done, and may end the work
/// with an error.
///
/// # Errors
/// Those of the weights, the backend and the fits, with the tensor's name; those of `progress`.
pub fn compensate<W: Weights>(
    cut: &mut Cut<'_, W>,
    bench: &Bench<'_>,
    options: &Options,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<Fitted>> {
    bench.text.check()?;
    let mut walk = Walk::new(cut, bench, options)?;
    let layers = walk.cut.plan().layers().len();
    for layer in 0..layers {
        walk.block(layer)?;
        progress(layer + 1)?;
    }
    walk.finish(layers)?;
    Ok(walk.report)
}

/// Both models between two blocks.
struct Walk<'w, 'a, W> {
    cut: &'w mut Cut<'a, W>,
    bench: Bench<'w>,
    options: Options,
    /// Residual streams, a tensor per group of windows.
    teacher: Vec<Tensor>,
    student: Vec<Tensor>,
    /// The teacher's next block.
    next: usize,
    report: Vec<Fitted>,
}

/// Second moments on the device.
struct Sums {
    gram: Tensor,
    residual: Tensor,
    missing: f64,
    energy: f64,
}

impl<'w, 'a, W: Weights> Walk<'w, 'a, W> {
    fn new(cut: &'w mut Cut<'a, W>, bench: &Bench<'w>, options: &Options) -> Result<Self> {
        let teacher = block::embed(cut.teacher(), bench.text, bench.backend)?;
        let student = match options.mode {
            Mode::Sequential => block::embed(&*cut, bench.text, bench.backend)?,
            Mode::Teacher => Vec::new(),
        };
        let mut walk = Walk { cut, bench: *bench, options: *options, teacher, student, next: 0, report: Vec::new() };
        let first = walk.cut.plan().layers()[0].layer;
        walk.skip_to(first)?;
        Ok(walk)
    }

    fn sequential(&self) -> bool {
        self.options.mode == Mode::Sequential
    }

    /// Runs the teacher's blocks in front of `end`, which the student lacks.
    fn skip_to(&mut self, end: usize) -> Result<()> {
        while self.next < end {
            let model = self.model_of(self.cut.teacher(), self.next)?;
            for half in Half::BOTH {
                self.teacher = self.through(half, &model)?;
            }
            self.next += 1;
        }
        Ok(())
    }

    fn model_of(&self, weights: &dyn Weights, layer: usize) -> Result<Model> {
        block::block(weights, layer, self.bench.text.longest(), self.bench.backend, self.bench.dtype)
    }

    /// The teacher's streams after a half of `model`.
    fn through(&self, half: Half, model: &Model) -> Result<Vec<Tensor>> {
        let b = self.bench.backend;
        let groups = self.bench.text.groups().zip(&self.teacher);
        groups.map(|((batch, _), x)| block::sum(b, x, &half.run(model, b, batch, x)?.0)).collect()
    }

    /// Fits the maps of the student's block `layer`.
    fn block(&mut self, layer: usize) -> Result<()> {
        let teacher_layer = self.cut.plan().layers()[layer].layer;
        let teacher = self.model_of(self.cut.teacher(), teacher_layer)?;
        let after = self.cut.plan().layers().get(layer + 1).map_or(self.cut.plan().teacher().layers.len(), |l| l.layer);
        for half in Half::BOTH {
            if self.sequential() {
                self.readers(layer, teacher_layer, half)?;
            }
            self.writer(layer, half, &teacher, after)?;
        }
        Ok(())
    }

    /// Fits the map that writes what `half` adds, and takes both streams past it.
    fn writer(&mut self, layer: usize, half: Half, teacher: &Model, after: usize) -> Result<()> {
        let b = self.bench.backend;
        let spec = block::layer_spec(self.cut.arch(), layer, half.writer())?;
        // What the teacher's half reads and adds.
        let groups = self.bench.text.groups().zip(&self.teacher);
        let mut read = Vec::new();
        let mut after_half = Vec::new();
        for ((batch, _), x) in groups {
            let (added, inputs) = half.run(teacher, b, batch, x)?;
            after_half.push(block::sum(b, x, &added)?);
            // In sequential mode nobody asks for them, and they are large.
            if !self.sequential() {
                read.push(inputs);
            }
        }
        let before = std::mem::replace(&mut self.teacher, after_half);
        if half == Half::Mlp {
            self.next = self.cut.plan().layers()[layer].layer + 1;
            if self.options.block_map {
                self.skip_to(after)?;
            }
        }

        // What the student's half reads, and adds as it is sliced.
        let slice = self.cut.read(&spec)?;
        let kept = self.cut.kept_inputs(&spec)?;
        let whole = self.cut.teacher_spec(&spec)?.shape.last() == Some(&kept.len());
        if !self.sequential()
            && whole
            && self.next == self.cut.plan().layers()[layer].layer + usize::from(half == Half::Mlp)
        {
            // It reads what it read, and adds what it added.
            return self.skip_to(if half == Half::Mlp { after } else { 0 });
        }
        let of_student: Vec<(Tensor, Tensor)> = if self.sequential() {
            let student = self.model_of(&*self.cut, layer)?;
            let groups = self.bench.text.groups().zip(&self.student);
            groups.map(|((batch, _), x)| half.run(&student, b, batch, x)).collect::<Result<_>>()?
        } else {
            let w = block::upload(b, &slice, &spec.shape, self.bench.dtype)?;
            let one = |inputs: Tensor| {
                let inputs = block::columns(b, &inputs, &kept)?;
                Ok((block::linear(b, &inputs, &w)?, inputs))
            };
            read.into_iter().map(one).collect::<Result<_>>()?
        };
        let targets = self.targets(&before)?;
        let missing: Vec<(Tensor, f64)> = targets
            .iter()
            .zip(&of_student)
            .map(|(t, (added, _))| Ok((block::difference(b, t, added)?, b.sum_squares(t)?)))
            .collect::<Result<_>>()?;
        drop((targets, before));
        let inputs: Vec<&Tensor> = of_student.iter().map(|(_, inputs)| inputs).collect();
        let fit = self.fit(&spec.name, &inputs, &missing, &slice)?;
        if self.sequential() {
            let w = block::upload(b, &fit.w, &spec.shape, self.bench.dtype)?;
            let streams = self.student.iter().zip(&of_student);
            self.student = streams
                .map(|(x, (added, inputs))| match fit.ridge {
                    None => block::sum(b, x, added),
                    Some(_) => block::sum(b, x, &block::linear(b, inputs, &w)?),
                })
                .collect::<Result<_>>()?;
        }
        if fit.ridge.is_some() {
            self.cut.set(&spec, fit.w)?;
        }
        if half == Half::Mlp {
            self.skip_to(after)?;
        }
        Ok(())
    }

    /// What the map is to add, in the student's channels. `before` is the teacher's stream before the half that the map ends.
    fn targets(&self, before: &[Tensor]) -> Result<Vec<Tensor>> {
        let (b, kept) = (self.bench.backend, self.cut.plan().hidden());
        let from = |i: usize| -> Result<Tensor> {
            match (self.options.mode, self.options.aim) {
                (Mode::Sequential, Aim::Stream) => Ok(self.student[i].clone()),
                _ => block::columns(b, &before[i], kept),
            }
        };
        let one = |(i, x): (usize, &Tensor)| block::difference(b, &block::columns(b, x, kept)?, &from(i)?);
        self.teacher.iter().enumerate().map(one).collect()
    }

    /// Fits what reads the norm of `half`.
    fn readers(&mut self, layer: usize, teacher_layer: usize, half: Half) -> Result<()> {
        if self.options.readers == Readers::Slice {
            return Ok(());
        }
        let name = |layer: usize| format!("model.layers.{layer}.{}.weight", half.norm());
        let (student, teacher) = (name(layer), name(teacher_layer));
        if self.options.readers == Readers::Gains {
            return self.gains(&student, &teacher);
        }
        let readers: Vec<ParamSpec> =
            half.readers().iter().map(|r| block::layer_spec(self.cut.arch(), layer, r)).collect::<Result<_>>()?;
        self.fit_readers(&student, &teacher, &readers)
    }

    /// The final norm and the head.
    fn finish(&mut self, layers: usize) -> Result<()> {
        debug_assert!(layers <= self.next);
        if !self.sequential() || self.options.readers == Readers::Slice {
            return Ok(());
        }
        let norm = "model.norm.weight";
        if self.cut.arch().tied || self.options.readers == Readers::Gains {
            return self.gains(norm, norm);
        }
        let head = block::spec(self.cut.arch(), "lm_head.weight")?;
        self.fit_readers(norm, norm, &[head])
    }

    /// Outputs of a norm in both models: the student's and the teacher's, by group.
    fn norms(&self, student: &str, teacher: &str) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let b = self.bench.backend;
        let normed = |weights: &dyn Weights, name: &str, streams: &[Tensor]| -> Result<Vec<Tensor>> {
            let spec = block::spec(weights.arch(), name)?;
            let gain = block::upload(b, &weights.read(&spec)?, &spec.shape, DType::F32)?;
            streams.iter().map(|x| block::norm(b, x, &gain, weights.arch().rms_eps)).collect()
        };
        Ok((normed(&*self.cut, student, &self.student)?, normed(self.cut.teacher(), teacher, &self.teacher)?))
    }

    /// Per channel, the factor that brings the student's norm nearest to the teacher's.
    fn gains(&mut self, student: &str, teacher: &str) -> Result<()> {
        let (ours, theirs) = self.norms(student, teacher)?;
        let kept = self.cut.plan().hidden();
        let (mut both, mut own) = (vec![0f64; kept.len()], vec![0f64; kept.len()]);
        for (x, y) in ours.iter().zip(&theirs) {
            let (x, y) = (self.bench.backend.download(x)?, self.bench.backend.download(y)?);
            let width = self.cut.plan().teacher().hidden;
            for (x, y) in x.chunks_exact(kept.len()).zip(y.chunks_exact(width)) {
                for (i, &c) in kept.iter().enumerate() {
                    both[i] += f64::from(x[i]) * f64::from(y[c]);
                    own[i] += f64::from(x[i]).powi(2);
                }
            }
        }
        let spec = block::spec(self.cut.arch(), student)?;
        let mut gain = self.cut.read(&spec)?;
        for ((g, both), own) in gain.iter_mut().zip(&both).zip(&own) {
            // A channel that is always zero has nothing to scale.
            if 0.0 < *own {
                *g = (f64::from(*g) * both / own) as f32;
            }
        }
        if let Some(index) = gain.iter().position(|v| !v.is_finite()) {
            let source = paring_prune::Error::NotFinite { matrix: "gain", index };
            return Err(Error::Tensor { name: student.into(), source });
        }
        self.cut.set(&spec, gain)
    }

    /// One matrix from the student's norm to the teacher's, multiplied into every map that reads it.
    fn fit_readers(&mut self, student: &str, teacher: &str, readers: &[ParamSpec]) -> Result<()> {
        let b = self.bench.backend;
        let (ours, theirs) = self.norms(student, teacher)?;
        let kept = self.cut.plan().hidden();
        let (k, width) = (kept.len(), self.cut.plan().teacher().hidden);
        // Slicing is the map that puts kept channels where they were and nothing in the others.
        let mut slice = vec![0f32; width * k];
        kept.iter().enumerate().for_each(|(i, &c)| slice[c * k + i] = 1.0);
        let placed = block::upload(b, &slice, &[width, k], DType::F32)?;
        let missing = ours
            .iter()
            .zip(&theirs)
            .map(|(x, y)| Ok((block::difference(b, y, &block::linear(b, x, &placed)?)?, b.sum_squares(y)?)))
            .collect::<Result<Vec<_>>>()?;
        let inputs: Vec<&Tensor> = ours.iter().collect();
        let fit = self.fit(student, &inputs, &missing, &slice)?;
        if fit.ridge.is_none() {
            return Ok(());
        }
        // [k, H]: a row per channel of the student, as a weight of `linear`.
        let mut turned = vec![0f32; width * k];
        (0..width * k).for_each(|at| turned[at % k * width + at / k] = fit.w[at]);
        let map = block::upload(b, &turned, &[k, width], DType::F32)?;
        for spec in readers {
            let rows = self.cut.rows(spec)?;
            let w = block::upload(b, &rows, &[spec.shape[0], width], DType::F32)?;
            let fitted = b.download(&block::linear(b, &w, &map)?)?;
            self.cut.set(spec, fitted)?;
        }
        Ok(())
    }

    /// The fit of one map: `missing` is what the slice misses of the target, and the target's energy, by group.
    fn fit(&mut self, name: &str, inputs: &[&Tensor], missing: &[(Tensor, f64)], slice: &[f32]) -> Result<Fit> {
        let (k, n) = (inputs[0].n_cols(), missing[0].0.n_cols());
        let b = self.bench.backend;
        let shape = |dims: [usize; 2]| Shape::new(&dims).map_err(OpsError::in_op("compensate"));
        let sums = || -> Result<Sums> {
            let (gram, residual) = (b.zeros(DType::F32, shape([k, k])?)?, b.zeros(DType::F32, shape([n, k])?)?);
            Ok(Sums { gram, residual, missing: 0.0, energy: 0.0 })
        };
        let (mut fit, mut held) = (sums()?, sums()?);
        for ((x, (t, energy)), &is_held) in inputs.iter().zip(missing).zip(self.bench.text.held_out()) {
            let sums = if is_held { &mut held } else { &mut fit };
            b.linear_dw(&mut sums.gram, x, x, DType::F32)?;
            b.linear_dw(&mut sums.residual, t, x, DType::F32)?;
            sums.missing += b.sum_squares(t)?;
            sums.energy += energy;
        }
        let at = |source: paring_prune::Error| Error::Tensor { name: name.into(), source };
        let moments = |s: Sums| -> Result<Moments> {
            let (gram, residual) = (b.download(&s.gram)?, b.download(&s.residual)?);
            Moments::new(k, &gram, &residual, s.missing, s.energy).map_err(at)
        };
        let (fit, held) = (moments(fit)?, moments(held)?);
        let done = match self.options.ridge {
            None => fit_held_out(&fit, &held, slice, self.bench.threads),
            Some(ridge) => fit.plus(&held).and_then(|all| fit_with(&all, slice, &ridge, self.bench.threads)),
        };
        let done = done.map_err(at)?;
        self.report.push(Fitted {
            name: name.into(),
            inputs: k,
            ridge: done.ridge,
            sliced: done.sliced,
            fitted: done.fitted,
            raised_from: done.raised_from,
        });
        Ok(done)
    }
}
