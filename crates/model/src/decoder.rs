//! The decoder: `x + attention(norm(x))`, then `x + mlp(norm(x))`, for every layer. Written once; the context decides what a run is.
use crate::{
    Arch, Batch, Error, LayerArch, ParamSpec, Result, params, params::BEFORE_LAYERS, params::PER_LAYER, rope_table,
};
use paring_checkpoint::TensorSource;
use paring_exec::{Block, Ctx, KvCache, ParamId, Site, Tap, Var, Weight};
use paring_ops::{Activation, AttnSpec, Backend};
use paring_tensor::{DType, HostBuffer, Shape, Tensor};
use std::sync::Arc;

/// Parameters of one block, under Hugging Face's names.
#[derive(Debug)]
pub struct Layer {
    arch: LayerArch,
    input_layernorm: Weight,
    q_proj: Weight,
    k_proj: Weight,
    v_proj: Weight,
    o_proj: Weight,
    post_attention_layernorm: Weight,
    gate_proj: Weight,
    up_proj: Weight,
    down_proj: Weight,
}

/// A decoder with its parameters on a device.
#[derive(Debug)]
pub struct Model {
    arch: Arch,
    specs: Vec<ParamSpec>,
    embed_tokens: Weight,
    layers: Vec<Layer>,
    norm: Weight,
    /// `None` when tied: then the head is the embedding itself, one tensor with one id.
    lm_head: Option<Weight>,
    rope_table: Tensor,
}

/// What becomes of a checkpoint's matrices when a model is loaded. Vectors (the gains of norms) are f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadAs {
    /// Every matrix as it is stored: f32, bf16 and ggml's blocks stay, bit for bit; other types become f32.
    Stored,
    /// All matrices of one type.
    DType(DType),
}

impl From<DType> for LoadAs {
    fn from(dtype: DType) -> Self {
        LoadAs::DType(dtype)
    }
}

impl LoadAs {
    /// The type that a matrix of `source` gets.
    fn dtype(self, source: &dyn TensorSource, name: &str) -> DType {
        match self {
            LoadAs::DType(dtype) => dtype,
            LoadAs::Stored => match source.info(name).and_then(|info| info.storage.dtype()) {
                // No product computes in f16.
                None | Some(DType::F16) => DType::F32,
                Some(dtype) => dtype,
            },
        }
    }
}

/// More positions than this get a table only when a run asks for a longer context: it would be large and never read.
const MAX_TABLE: usize = 1 << 16;

/// What one forward needs in every layer.
#[derive(Clone)]
struct Shared<'m> {
    rope_table: &'m Tensor,
    positions: Arc<[u32]>,
    cu_len: Arc<[usize]>,
    past: usize,
    head_dim: usize,
    eps: f32,
}

impl Model {
    /// A model from one tensor per parameter of [`params`], in that order.
    ///
    /// # Errors
    /// [`Error::TensorShape`] when a tensor does not fit; those of the backend.
    pub fn from_tensors(arch: Arch, backend: &dyn Backend, tensors: Vec<Tensor>) -> Result<Self> {
        let specs = params(&arch);
        if tensors.len() != specs.len() {
            let problem = format!("calls for {} parameters, got {}", specs.len(), tensors.len());
            return Err(Error::Config { key: "num_hidden_layers".into(), problem });
        }
        for (spec, t) in specs.iter().zip(&tensors) {
            if t.shape().dims() != spec.shape {
                let (got, want) = (t.shape().dims().to_vec(), spec.shape.clone());
                return Err(Error::TensorShape { name: spec.name.clone(), file: "memory".into(), got, want });
            }
        }
        let mut weights = tensors.into_iter().enumerate().map(|(i, tensor)| Weight { id: ParamId(i), tensor });
        // The count was checked above, so the iterator cannot end early; the error is there because a panic is not an answer.
        let mut next =
            || weights.next().ok_or(Error::Config { key: "parameters".into(), problem: "are too few".into() });
        let embed_tokens = next()?;
        let mut layers = Vec::with_capacity(arch.layers.len());
        for &layer in &arch.layers {
            layers.push(Layer {
                arch: layer,
                input_layernorm: next()?,
                q_proj: next()?,
                k_proj: next()?,
                v_proj: next()?,
                o_proj: next()?,
                post_attention_layernorm: next()?,
                gate_proj: next()?,
                up_proj: next()?,
                down_proj: next()?,
            });
        }
        let norm = next()?;
        let lm_head = if arch.tied { None } else { Some(next()?) };
        let positions = arch.max_positions.min(MAX_TABLE);
        let shape = Shape::new(&[positions, arch.head_dim]).map_err(paring_ops::Error::in_op("rope_table"))?;
        let rope_table = backend.upload(&rope_table(&arch, positions), DType::F32, shape)?;
        Ok(Model { arch, specs, embed_tokens, layers, norm, lm_head, rope_table })
    }

    /// Loads every parameter: matrices as `load_as` says (a [`DType`] will do), vectors (the gains of norms) in f32, all checked to be
    /// finite. With quantised weights a model runs forward only.
    ///
    /// # Errors
    /// Those of the checkpoint and of [`Model::from_tensors`].
    pub fn load(
        arch: &Arch,
        source: &dyn TensorSource,
        backend: &dyn Backend,
        load_as: impl Into<LoadAs>,
    ) -> Result<Self> {
        let (mut tensors, load_as) = (Vec::new(), load_as.into());
        for spec in params(arch) {
            let dtype = spec.compute_dtype(load_as.dtype(source, &spec.name));
            let shape = Shape::new(&spec.shape).map_err(paring_ops::Error::in_op("load"))?;
            let stored = source.info(&spec.name).and_then(|info| info.storage.dtype());
            tensors.push(if stored == Some(dtype) {
                let tensor = source.read_tensor_checked(&spec.name, dtype)?;
                let bytes = HostBuffer::tensor_bytes(&tensor).map_err(paring_ops::Error::in_op("load"))?;
                backend.upload_bytes(bytes, dtype, shape)?
            } else {
                backend.upload(&source.read_checked(&spec.name)?, dtype, shape)?
            });
        }
        Model::from_tensors(arch.clone(), backend, tensors)
    }

    /// Keeps every matrix packed for products with many rows ([`Backend::keep_packed`]): for a model that runs many forwards and is not
    /// trained. Costs about the weights' memory once more.
    ///
    /// # Errors
    /// Those of [`Backend::keep_packed`].
    pub fn keep_packed(&self, backend: &dyn Backend) -> Result<()> {
        let matrices = (0..self.specs.len()).filter(|&i| self.specs[i].shape.len() == 2);
        for i in matrices {
            backend.keep_packed(&self.weight(ParamId(i)).tensor)?;
        }
        Ok(())
    }

    /// What it is made of.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// Its parameters, in the order of their ids.
    pub fn specs(&self) -> &[ParamSpec] {
        &self.specs
    }

    /// Shapes of the parameters, for [`paring_exec::Grads::new`].
    pub fn shapes(&self) -> Vec<Shape> {
        (0..self.specs.len()).map(|i| self.weight(ParamId(i)).tensor.shape()).collect()
    }

    /// The parameter `id`.
    ///
    /// # Panics
    /// If the id is not one of this model's.
    pub fn weight(&self, id: ParamId) -> &Weight {
        let after = BEFORE_LAYERS + self.layers.len() * PER_LAYER;
        if id.0 < BEFORE_LAYERS {
            &self.embed_tokens
        } else if id.0 < after {
            let layer = &self.layers[(id.0 - BEFORE_LAYERS) / PER_LAYER];
            layer.weights()[(id.0 - BEFORE_LAYERS) % PER_LAYER]
        } else if id.0 == after {
            &self.norm
        } else {
            self.head()
        }
    }

    /// The parameter `id`, to update.
    ///
    /// # Panics
    /// If the id is not one of this model's.
    pub fn weight_mut(&mut self, id: ParamId) -> &mut Weight {
        let after = BEFORE_LAYERS + self.layers.len() * PER_LAYER;
        if id.0 < BEFORE_LAYERS {
            &mut self.embed_tokens
        } else if id.0 < after {
            let layer = &mut self.layers[(id.0 - BEFORE_LAYERS) / PER_LAYER];
            layer.weights_mut(id.0 - BEFORE_LAYERS)
        } else if id.0 == after {
            &mut self.norm
        } else {
            self.lm_head.as_mut().unwrap_or(&mut self.embed_tokens)
        }
    }

    /// The vocabulary head `[V, H]`: the embedding when tied.
    pub fn head(&self) -> &Weight {
        self.lm_head.as_ref().unwrap_or(&self.embed_tokens)
    }

    /// An empty cache for one sequence of at most `capacity` tokens.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn kv_cache(&self, backend: &dyn Backend, capacity: usize) -> Result<KvCache> {
        Ok(KvCache::new(backend, &self.arch.kv_cols(), capacity)?)
    }

    /// The forward up to and including the final norm: `[T, H]`. Logits are this times the head; losses take the two apart so that
    /// logits of a whole batch never exist.
    ///
    /// With a cache, `batch` has to be one sequence that continues it.
    ///
    /// # Errors
    /// [`Error::TooLong`]; those of the operations.
    pub fn hidden<'m>(&'m self, cx: &mut Ctx<'m, '_>, batch: &Batch, cache: Option<&mut KvCache>) -> Result<Var> {
        match cache {
            None => {
                let x = self.embed(cx, batch)?;
                let x = self.blocks(cx, batch, 0..self.layers.len(), x)?;
                self.finish(cx, &x)
            }
            Some(cache) => {
                let shared = self.shared(batch, cache.len())?;
                let mut x = cx.embed(&batch.ids, &self.embed_tokens)?;
                for (l, layer) in self.layers.iter().enumerate() {
                    x = layer.forward(cx, l, x, &shared, Some(cache))?;
                }
                cache.advance(batch.n_tokens());
                self.finish(cx, &x)
            }
        }
    }

    /// The residual stream into the first block: `[T, H]`.
    ///
    /// # Errors
    /// Those of [`Ctx::embed`].
    pub fn embed<'m>(&'m self, cx: &mut Ctx<'m, '_>, batch: &Batch) -> Result<Var> {
        Ok(cx.embed(&batch.ids, &self.embed_tokens)?)
    }

    /// Some blocks, in the order given: `x` is the residual stream into the first of them, the result the one out of the last. With
    /// [`Model::embed`] before and [`Model::finish`] after, a run may leave out blocks, or share the ones in front of those that it changes.
    ///
    /// # Errors
    /// [`Error::NoBlock`], [`Error::TooLong`]; those of the operations.
    pub fn blocks<'m>(
        &'m self,
        cx: &mut Ctx<'m, '_>,
        batch: &Batch,
        layers: impl IntoIterator<Item = usize>,
        mut x: Var,
    ) -> Result<Var> {
        let shared = self.shared(batch, 0)?;
        for l in layers {
            let layer = self.layer(l)?;
            let shared = shared.clone();
            let block: Block<'m> = Box::new(move |cx, x| layer.forward(cx, l, x, &shared, None));
            x = cx.block(x, block)?;
        }
        Ok(x)
    }

    /// The attention half of a block: what it adds to the residual stream `x`, before it is added.
    ///
    /// # Errors
    /// [`Error::NoBlock`], [`Error::TooLong`]; those of the operations.
    pub fn attention<'m>(&'m self, cx: &mut Ctx<'m, '_>, batch: &Batch, block: usize, x: &Var) -> Result<Var> {
        Ok(self.layer(block)?.attention(cx, block, x, &self.shared(batch, 0)?, None)?)
    }

    /// The MLP half of a block: what it adds to the residual stream `x`, before it is added. The two halves together are the bits of
    /// [`Model::blocks`].
    ///
    /// # Errors
    /// [`Error::NoBlock`]; those of the operations.
    pub fn mlp<'m>(&'m self, cx: &mut Ctx<'m, '_>, block: usize, x: &Var) -> Result<Var> {
        let layer = self.layer(block)?;
        let h = cx.rms_norm(x, &layer.post_attention_layernorm, self.arch.rms_eps)?;
        Ok(layer.mlp(cx, block, &h)?)
    }

    fn layer(&self, block: usize) -> Result<&Layer> {
        self.layers.get(block).ok_or(Error::NoBlock { got: block, blocks: self.layers.len() })
    }

    /// The final norm of the residual stream out of the last block: `[T, H]`.
    ///
    /// # Errors
    /// Those of [`Ctx::rms_norm`].
    pub fn finish<'m>(&'m self, cx: &mut Ctx<'m, '_>, x: &Var) -> Result<Var> {
        let x = cx.rms_norm(x, &self.norm, self.arch.rms_eps)?;
        cx.tap(Site { layer: self.layers.len(), tap: Tap::FinalNorm }, &x)?;
        Ok(x)
    }

    /// What the blocks of one forward share. `past` tokens lie in a cache.
    fn shared(&self, batch: &Batch, past: usize) -> Result<Shared<'_>> {
        let longest = batch.positions.iter().max().map_or(0, |&p| p as usize + 1);
        if self.rope_table.n_rows() < longest {
            return Err(Error::TooLong { tokens: longest, max: self.rope_table.n_rows() });
        }
        Ok(Shared {
            rope_table: &self.rope_table,
            positions: batch.positions.clone(),
            cu_len: batch.cu_len.clone().into(),
            past,
            head_dim: self.arch.head_dim,
            eps: self.arch.rms_eps,
        })
    }

    /// Logits of the rows `x` of [`Model::hidden`]: `[T, V]`. For a few rows; losses have their own fused way.
    ///
    /// # Errors
    /// Those of [`Backend::linear`].
    pub fn logits(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        let shape = Shape::new(&[x.n_rows(), self.arch.vocab]).map_err(paring_ops::Error::in_op("logits"))?;
        let mut y = backend.alloc(DType::F32, shape)?;
        backend.linear(&mut y, x, &self.head().tensor)?;
        Ok(y)
    }
}

impl Layer {
    fn weights(&self) -> [&Weight; PER_LAYER] {
        [
            &self.input_layernorm,
            &self.q_proj,
            &self.k_proj,
            &self.v_proj,
            &self.o_proj,
            &self.post_attention_layernorm,
            &self.gate_proj,
            &self.up_proj,
            &self.down_proj,
        ]
    }

    fn weights_mut(&mut self, i: usize) -> &mut Weight {
        match i % PER_LAYER {
            0 => &mut self.input_layernorm,
            1 => &mut self.q_proj,
            2 => &mut self.k_proj,
            3 => &mut self.v_proj,
            4 => &mut self.o_proj,
            5 => &mut self.post_attention_layernorm,
            6 => &mut self.gate_proj,
            7 => &mut self.up_proj,
            _ => &mut self.down_proj,
        }
    }

    fn forward<'m>(
        &'m self,
        cx: &mut Ctx<'m, '_>,
        layer: usize,
        x: Var,
        shared: &Shared<'m>,
        cache: Option<&mut KvCache>,
    ) -> paring_ops::Result<Var> {
        let o = self.attention(cx, layer, &x, shared, cache)?;
        let (x, h) = cx.add_rms_norm(&x, &o, &self.post_attention_layernorm, shared.eps)?;
        let down = self.mlp(cx, layer, &h)?;
        let x = cx.add(x, &down)?;
        cx.tap(Site { layer, tap: Tap::BlockOut }, &x)?;
        Ok(x)
    }

    /// What attention adds to the residual stream `x`.
    fn attention<'m>(
        &'m self,
        cx: &mut Ctx<'m, '_>,
        layer: usize,
        x: &Var,
        shared: &Shared<'m>,
        cache: Option<&mut KvCache>,
    ) -> paring_ops::Result<Var> {
        let site = |tap| Site { layer, tap };
        let spec = Arc::new(AttnSpec {
            past: shared.past,
            // As precise as the products around it.
            compute: if self.q_proj.tensor.dtype() == DType::F32 { DType::F32 } else { DType::BF16 },
            ..AttnSpec::packed(self.arch.heads, self.arch.kv_heads, shared.head_dim, shared.cu_len.to_vec())
        });
        cx.tap(site(Tap::BlockIn), x)?;

        let h = cx.rms_norm(x, &self.input_layernorm, shared.eps)?;
        cx.tap(site(Tap::AttnNorm), &h)?;
        let q = cx.linear(&h, &self.q_proj)?;
        let k = cx.linear(&h, &self.k_proj)?;
        let v = cx.linear(&h, &self.v_proj)?;
        let q = cx.rope(q, shared.rope_table, &shared.positions)?;
        let k = cx.rope(k, shared.rope_table, &shared.positions)?;
        let a = cx.attention(layer, &q, &k, &v, &spec, cache)?;
        cx.tap(site(Tap::AttnOut), &a)?;
        cx.linear(&a, &self.o_proj)
    }

    /// What the MLP adds to the residual stream, of which `h` is the norm.
    fn mlp<'m>(&'m self, cx: &mut Ctx<'m, '_>, layer: usize, h: &Var) -> paring_ops::Result<Var> {
        let site = |tap| Site { layer, tap };
        cx.tap(site(Tap::MlpNorm), h)?;
        let gate = cx.linear(h, &self.gate_proj)?;
        cx.tap(site(Tap::MlpGate), &gate)?;
        let up = cx.linear(h, &self.up_proj)?;
        let m = cx.gated(Activation::Silu, &gate, &up)?;
        cx.tap(site(Tap::MlpHidden), &m)?;
        cx.linear(&m, &self.down_proj)
    }
}
