//! One training step, and all that it changes.
use crate::{Error, Result};
use paring_exec::{Ctx, Grads, ParamId};
use paring_model::{Arch, Batch, Model, ParamSpec, params};
use paring_ops::{Backend, HeadGrads};
use paring_optim::{AdamW, Schedule, clip_factor};
use paring_tensor::{DType, Shape, Tensor};

/// What stays the same for a whole run.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// Learning rates.
    pub schedule: Schedule,
    /// The optimizer's constants.
    pub adamw: AdamW,
    /// Whether gains of norms decay too. Usually not: a gain of zero is not a simpler model.
    pub decay_vectors: bool,
    /// The largest norm of a gradient; 0 switches clipping off.
    pub clip: f64,
    /// Type of the matrices in products. Master weights are f32 in any case.
    pub dtype: DType,
    /// Type that AdamW's moments are kept in: f32, or bf16 in half of the memory. Rounding has a dead zone: a moment that should change by
    /// less than 2^-9 of itself stays. At `beta` 0.95 that is a moment within 4 % of where it goes, at 0.999 one that hardly moves.
    pub moments: DType,
    /// Whether blocks are run again in the backward instead of kept.
    pub recompute: bool,
}

/// What the student learns.
#[derive(Clone, Copy, Debug)]
pub enum Objective<'t> {
    /// The teacher's distribution at every position: the mean over positions of KL(teacher || student).
    ForwardKl(&'t Model),
    /// The text itself: the mean over predicted tokens of the cross-entropy.
    NextToken,
}

/// What one step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// The step, counted from 1.
    pub step: u64,
    /// The mean loss, nats.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate.
    pub lr: f32,
    /// Tokens seen in this step.
    pub tokens: u64,
}

/// A model in training: weights, moments and gradients.
#[derive(Debug)]
pub struct Trainer<'b> {
    backend: &'b dyn Backend,
    config: TrainConfig,
    model: Model,
    /// Per parameter what the computing weight lacks of the f32 master ([`Backend::split`]); `None` where it is f32 itself.
    low: Vec<Option<Tensor>>,
    moments: Vec<(Tensor, Tensor)>,
    grads: Grads,
    step: u64,
    tokens: u64,
}

impl<'b> Trainer<'b> {
    /// A trainer at step 0 whose weights `read` gives, one parameter at a time.
    ///
    /// # Errors
    /// Those of `read`, of the model and of the backend.
    pub fn new<E: From<Error>>(
        backend: &'b dyn Backend,
        arch: Arch,
        config: TrainConfig,
        mut read: impl FnMut(&ParamSpec) -> std::result::Result<Vec<f32>, E>,
    ) -> std::result::Result<Self, E> {
        let own = |e: paring_ops::Error| E::from(Error::from(e));
        let (mut weights, mut low, mut moments) = (Vec::new(), Vec::new(), Vec::new());
        for spec in params(&arch) {
            let values = read(&spec)?;
            let shape = Shape::new(&spec.shape).map_err(paring_ops::Error::in_op("trainer")).map_err(own)?;
            let halves = place(backend, &values, spec.compute_dtype(config.dtype), shape).map_err(own)?;
            weights.push(halves.0);
            low.push(halves.1);
            let moment = || backend.zeros(spec.compute_dtype(config.moments), shape);
            moments.push((moment().map_err(own)?, moment().map_err(own)?));
        }
        let model = Model::from_tensors(arch, backend, weights).map_err(Error::from)?;
        let grads = Grads::new(&model.shapes());
        Ok(Trainer { backend, config, model, low, moments, grads, step: 0, tokens: 0 })
    }

    /// The model as it computes now.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The model without its optimizer.
    pub fn into_model(self) -> Model {
        self.model
    }

    /// The device.
    pub fn backend(&self) -> &'b dyn Backend {
        self.backend
    }

    /// Steps taken.
    pub fn step_count(&self) -> u64 {
        self.step
    }

    /// Tokens seen.
    pub fn token_count(&self) -> u64 {
        self.tokens
    }

    /// The master values of one parameter.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn values(&self, id: ParamId) -> Result<Vec<f32>> {
        let (b, weight) = (self.backend, &self.model.weight(id).tensor);
        let Some(low) = &self.low[id.0] else { return Ok(b.download(weight)?) };
        let mut master = b.alloc(DType::F32, weight.shape())?;
        b.join(&mut master, weight, low)?;
        Ok(b.download(&master)?)
    }

    /// First and second moment of one parameter.
    pub(crate) fn moments(&self, id: ParamId) -> [&Tensor; 2] {
        let (m, v) = &self.moments[id.0];
        [m, v]
    }

    /// Takes over a saved state.
    pub(crate) fn restore(&mut self, id: ParamId, master: &[f32], m: &[f32], v: &[f32]) -> Result<()> {
        let (b, weight) = (self.backend, &mut self.model.weight_mut(id).tensor);
        let shape = weight.shape();
        (*weight, self.low[id.0]) = place(b, master, weight.dtype(), shape)?;
        let dtype = self.moments[id.0].0.dtype();
        self.moments[id.0] = (b.upload(m, dtype, shape)?, b.upload(v, dtype, shape)?);
        Ok(())
    }

    pub(crate) fn set_counts(&mut self, step: u64, tokens: u64) {
        (self.step, self.tokens) = (step, tokens);
    }

    /// Adds one batch's gradient and returns its loss. `rows` is the number of positions that the whole step averages over.
    fn accumulate(&mut self, batch: &Batch, objective: Objective<'_>, rows: usize) -> Result<f64> {
        let b = self.backend;
        let scale = 1.0 / rows.max(1) as f32;
        // First the teacher: its activations are gone before the student's are kept.
        let teacher_x = match objective {
            Objective::ForwardKl(teacher) => Some((teacher, teacher.hidden(&mut Ctx::infer(b), batch, None)?.tensor)),
            Objective::NextToken => None,
        };
        let mut cx = Ctx::record(b).recompute(self.config.recompute);
        let x = self.model.hidden(&mut cx, batch, None)?;
        let mut dx = b.alloc(DType::F32, x.tensor.shape())?;
        let head = self.model.head();
        let grads = Some(HeadGrads { dx_td: &mut dx, dw_vd: Some(self.grads.get_mut(b, head.id)?) });
        let loss = match &teacher_x {
            Some((teacher, tx)) => b.head_kl(grads, &x.tensor, &head.tensor, tx, &teacher.head().tensor, scale)?,
            None => b.head_cross_entropy(grads, &x.tensor, &head.tensor, &batch.next_tokens(), scale)?,
        };
        drop(teacher_x);
        cx.backward(&x, dx, &mut self.grads)?;
        Ok(loss / rows.max(1) as f64)
    }

    /// One step over `batches`, whose gradients are summed before the update.
    ///
    /// # Errors
    /// [`Error::Diverged`] before anything changed; those of the model.
    pub fn train_step(&mut self, batches: &[Batch], objective: Objective<'_>) -> Result<StepReport> {
        let rows = batches.iter().map(|batch| match objective {
            Objective::ForwardKl(_) => batch.n_tokens(),
            Objective::NextToken => batch.n_targets(),
        });
        let rows = rows.sum();
        self.grads.clear();
        let mut loss = 0.0;
        for batch in batches {
            loss += self.accumulate(batch, objective, rows)?;
        }
        let number = self.step + 1;
        let grad_norm = self.grads.norm(self.backend)?;
        for (what, value) in [("loss", loss), ("norm of the gradient", grad_norm)] {
            if !value.is_finite() {
                return Err(Error::Diverged { step: number, what, value });
            }
        }
        let lr = self.config.schedule.at(self.step);
        self.update(lr, number, clip_factor(grad_norm, self.config.clip))?;
        let tokens = batches.iter().map(|b| b.n_tokens() as u64).sum();
        self.step = number;
        self.tokens += tokens;
        Ok(StepReport { step: number, loss, grad_norm, lr, tokens })
    }

    fn update(&mut self, lr: f32, number: u64, grad_scale: f32) -> Result<()> {
        let mut step = self.config.adamw.step(lr, number);
        step.grad_scale = grad_scale;
        for i in 0..self.moments.len() {
            let id = ParamId(i);
            let weight = self.model.weight_mut(id);
            let mut step = step;
            if weight.tensor.shape().dims().len() == 1 && !self.config.decay_vectors {
                step.weight_decay = 0.0;
            }
            let (m, v) = &mut self.moments[i];
            // Its memory is free after the update, for the next activations.
            let grad = self.grads.take(self.backend, id)?;
            match &mut self.low[i] {
                Some(low) => self.backend.adamw_split(&mut weight.tensor, low, m, v, &grad, &step)?,
                None => self.backend.adamw(&mut weight.tensor, m, v, &grad, &step)?,
            }
        }
        Ok(())
    }
}

/// f32 `values` as a weight to compute with in `dtype`, and what it lacks of them.
fn place(b: &dyn Backend, values: &[f32], dtype: DType, shape: Shape) -> paring_ops::Result<(Tensor, Option<Tensor>)> {
    let whole = b.upload(values, DType::F32, shape)?;
    if dtype == DType::F32 {
        return Ok((whole, None));
    }
    let (mut high, mut low) = (b.alloc(dtype, shape)?, b.alloc(dtype, shape)?);
    b.split(&mut high, &mut low, &whole)?;
    Ok((high, Some(low)))
}

/// How many windows of `context` tokens run at once: as many as keep the tape under about 250 MB, at most 16.
///
/// A function of the architecture alone, so that the same recipe sums gradients in the same order on every machine.
pub fn micro_windows(arch: &Arch, context: usize) -> usize {
    (250_000_000 / activation_bytes(arch, context).max(1)).clamp(1, 16)
}

/// Bytes of what the tape keeps of `tokens` tokens, all f32: of a layer the residual stream before attention and before the MLP, q, k, v, the
/// heads' outputs, gate and up. What is normed or gated is made again.
pub fn activation_bytes(arch: &Arch, tokens: usize) -> usize {
    let layer = |l: &paring_model::LayerArch| 2 * (arch.hidden + l.ffn + (l.heads + l.kv_heads) * arch.head_dim);
    4 * arch.layers.iter().map(layer).sum::<usize>() * tokens
}
