//! Residual streams of a text, and one block of a model at a time: how a model is walked layer by layer without ever being whole in memory.
use crate::{Result, Weights};
use paring_exec::{Ctx, Observer, Site, Tap};
use paring_model::{Arch, Batch, Model, ParamSpec, params};
use paring_ops::{Backend, Error as OpsError};
use paring_tensor::{DType, Shape, Tensor};

/// Windows of text in groups that run at once. A group is held out as a whole or not at all.
#[derive(Clone, Debug)]
pub struct Text {
    batches: Vec<Batch>,
    held_out: Vec<bool>,
    longest: usize,
}

/// Every so many windows, one is held out of fits, to choose their ridges by.
const HELD_OUT: usize = 4;

impl Text {
    /// `group` windows at once. Every fourth window is held out; of fewer than four windows the last one is, and of one none.
    pub fn new(windows: &[&[u32]], group: usize) -> Self {
        let held = |i: usize| match windows.len() {
            0 | 1 => false,
            n if n < HELD_OUT => i == n - 1,
            _ => i % HELD_OUT == HELD_OUT - 1,
        };
        let (mut batches, mut held_out) = (Vec::new(), Vec::new());
        for part in [false, true] {
            let list: Vec<&[u32]> = (0..windows.len()).filter(|&i| held(i) == part).map(|i| windows[i]).collect();
            for chunk in list.chunks(group.max(1)) {
                batches.push(Batch::pack(chunk.iter().copied()));
                held_out.push(part);
            }
        }
        Text { batches, held_out, longest: windows.iter().map(|w| w.len()).max().unwrap_or(0) }
    }

    /// Tokens of all windows.
    pub fn tokens(&self) -> u64 {
        self.batches.iter().map(|b| b.n_tokens() as u64).sum()
    }

    /// Tokens of the windows that are held out.
    pub fn held_out_tokens(&self) -> u64 {
        self.batches.iter().zip(&self.held_out).filter(|(_, h)| **h).map(|(b, _)| b.n_tokens() as u64).sum()
    }

    /// Whether there is any token.
    ///
    /// # Errors
    /// [`crate::Error::NoText`].
    pub(crate) fn check(&self) -> Result<()> {
        if self.tokens() == 0 { Err(crate::Error::NoText) } else { Ok(()) }
    }

    /// The groups, and whether each is held out.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (&Batch, bool)> {
        self.batches.iter().zip(self.held_out.iter().copied())
    }

    pub(crate) fn held_out(&self) -> &[bool] {
        &self.held_out
    }

    pub(crate) fn longest(&self) -> usize {
        self.longest
    }
}

/// Block `layer` of `weights` as a model of one block, without embedding and head; sequences of at most `longest` tokens will be run.
///
/// # Errors
/// [`crate::Error::Missing`] for a block that is not there; those of the weights and of the backend.
pub fn block(
    weights: &dyn Weights,
    layer: usize,
    longest: usize,
    backend: &dyn Backend,
    dtype: DType,
) -> Result<Model> {
    let whole = weights.arch();
    let missing = || crate::Error::Missing { name: format!("model.layers.{layer}") };
    let of = *whole.layers.get(layer).ok_or_else(missing)?;
    let arch = Arch { vocab: 1, tied: true, layers: vec![of], max_positions: longest.max(1), ..whole.clone() };
    let mut tensors = Vec::new();
    for spec in params(&arch) {
        let values = match spec.layer {
            Some(_) => weights.read(&renamed(&spec, layer))?,
            None => vec![0.0; spec.elements()],
        };
        crate::weights::fits(&spec, &values)?;
        let shape = Shape::new(&spec.shape).map_err(OpsError::in_op("surgery"))?;
        tensors.push(backend.upload(&values, spec.compute_dtype(dtype), shape)?);
    }
    Ok(Model::from_tensors(arch, backend, tensors)?)
}

/// A parameter of the block of a one-block model under the name that it has in a whole one.
fn renamed(spec: &ParamSpec, layer: usize) -> ParamSpec {
    let name = spec.name.replacen("layers.0.", &format!("layers.{layer}."), 1);
    ParamSpec { name, layer: Some(layer), ..spec.clone() }
}

/// The parameter of `arch` with this name.
pub(crate) fn spec(arch: &Arch, name: &str) -> Result<ParamSpec> {
    let found = params(arch).into_iter().find(|p| p.name == name);
    found.ok_or_else(|| crate::Error::Missing { name: name.into() })
}

/// The parameter of block `layer` whose name ends with `part`, as in `mlp.down_proj`.
pub(crate) fn layer_spec(arch: &Arch, layer: usize, part: &str) -> Result<ParamSpec> {
    spec(arch, &format!("model.layers.{layer}.{part}.weight"))
}

/// A weight on the device.
pub(crate) fn upload(backend: &dyn Backend, values: &[f32], dims: &[usize], dtype: DType) -> Result<Tensor> {
    Ok(backend.upload(values, dtype, Shape::new(dims).map_err(OpsError::in_op("surgery"))?)?)
}

/// The embedding of `weights` on the device, `[V, H]`.
///
/// # Errors
/// Those of the weights and of the backend.
pub fn embedding(weights: &dyn Weights, backend: &dyn Backend, dtype: DType) -> Result<Tensor> {
    let spec = spec(weights.arch(), "model.embed_tokens.weight")?;
    upload(backend, &weights.read(&spec)?, &spec.shape, spec.compute_dtype(dtype))
}

/// The residual stream into the first block, for every group.
pub(crate) fn embed(weights: &dyn Weights, text: &Text, backend: &dyn Backend) -> Result<Vec<Tensor>> {
    let table = embedding(weights, backend, DType::F32)?;
    let one = |(batch, _): (&Batch, bool)| -> Result<Tensor> {
        let dims = [batch.n_tokens(), table.n_cols()];
        let mut x = backend.alloc(DType::F32, Shape::new(&dims).map_err(OpsError::in_op("embed"))?)?;
        backend.embed(&mut x, &batch.ids, &table)?;
        Ok(x)
    };
    text.groups().map(one).collect()
}

/// `x rstd gain`, as a model's norm computes it.
pub(crate) fn norm(backend: &dyn Backend, x: &Tensor, gain: &Tensor, eps: f32) -> Result<Tensor> {
    let mut y = backend.alloc(DType::F32, x.shape())?;
    let mut rstd = backend.alloc(DType::F32, Shape::new(&[x.n_rows(), 1]).map_err(OpsError::in_op("norm"))?)?;
    backend.rms_norm(&mut y, &mut rstd, x, gain, eps)?;
    Ok(y)
}

/// `x w^T`.
pub(crate) fn linear(backend: &dyn Backend, x: &Tensor, w: &Tensor) -> Result<Tensor> {
    let dims = [x.n_rows(), w.n_rows()];
    let mut y = backend.alloc(DType::F32, Shape::new(&dims).map_err(OpsError::in_op("linear"))?)?;
    backend.linear(&mut y, x, w)?;
    Ok(y)
}

/// `a + b`.
pub(crate) fn sum(backend: &dyn Backend, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut y = backend.alloc(DType::F32, a.shape())?;
    backend.add(&mut y, a, b)?;
    Ok(y)
}

/// `a - b`.
pub(crate) fn difference(backend: &dyn Backend, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let mut y = backend.alloc(DType::F32, b.shape())?;
    backend.accumulate(&mut y, paring_ops::Accum::Set, b)?;
    backend.scale(&mut y, -1.0)?;
    backend.accumulate(&mut y, paring_ops::Accum::Add, a)?;
    Ok(y)
}

/// The columns `kept` of `x`.
pub(crate) fn columns(backend: &dyn Backend, x: &Tensor, kept: &[usize]) -> Result<Tensor> {
    if kept.len() == x.n_cols() {
        return Ok(x.clone());
    }
    let (width, values) = (x.n_cols(), backend.download(x)?);
    let picked: Vec<f32> = values.chunks_exact(width).flat_map(|row| kept.iter().map(move |&c| row[c])).collect();
    upload(backend, &picked, &[x.n_rows(), kept.len()], DType::F32)
}

/// Keeps what one tap shows.
pub(crate) struct Catch {
    tap: Tap,
    pub(crate) caught: Option<Tensor>,
}

impl Catch {
    pub(crate) fn new(tap: Tap) -> Self {
        Catch { tap, caught: None }
    }
}

impl Observer for Catch {
    fn activation(&mut self, _: &dyn Backend, site: Site, x: &Tensor) -> paring_ops::Result<()> {
        if site.tap == self.tap {
            self.caught = Some(x.clone());
        }
        Ok(())
    }
}

/// The two halves of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    Attention,
    Mlp,
}

impl Half {
    pub(crate) const BOTH: [Half; 2] = [Half::Attention, Half::Mlp];

    /// The norm in front.
    pub(crate) fn norm(self) -> &'static str {
        match self {
            Half::Attention => "input_layernorm",
            Half::Mlp => "post_attention_layernorm",
        }
    }

    /// The maps that read the norm.
    pub(crate) fn readers(self) -> &'static [&'static str] {
        match self {
            Half::Attention => &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            Half::Mlp => &["mlp.gate_proj", "mlp.up_proj"],
        }
    }

    /// The map that writes to the residual stream.
    pub(crate) fn writer(self) -> &'static str {
        match self {
            Half::Attention => "self_attn.o_proj",
            Half::Mlp => "mlp.down_proj",
        }
    }

    /// What the writing map reads.
    pub(crate) fn tap(self) -> Tap {
        match self {
            Half::Attention => Tap::AttnOut,
            Half::Mlp => Tap::MlpHidden,
        }
    }

    /// What this half of `model`'s only block adds to the stream `x`, and what its writing map read.
    pub(crate) fn run(
        self,
        model: &Model,
        backend: &dyn Backend,
        batch: &Batch,
        x: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let mut catch = Catch::new(self.tap());
        let added = {
            let mut cx = Ctx::infer(backend).observe(&mut catch);
            let x = cx.input(x.clone());
            match self {
                Half::Attention => model.attention(&mut cx, batch, 0, &x)?,
                Half::Mlp => model.mlp(&mut cx, 0, &x)?,
            }
        };
        let unseen = || OpsError::Observer { message: "a block did not show its activations".into() };
        Ok((added.tensor, catch.caught.ok_or_else(unseen)?))
    }
}
