//! What a model sees: operations that compute, and record or show what they computed if the run wants that.
use crate::{
    Grads, KvCache, Observer, ParamId, Site,
    saved::{Again, Saved},
    tape,
    tape::Node,
};
use paring_ops::{Accum, Activation, AttnSpec, Backend, Error, Result};
use paring_tensor::{DType, Shape, Tensor};
use std::{fmt, sync::Arc};

/// An activation: a tensor and its number on the tape.
#[derive(Clone, Debug)]
pub struct Var {
    /// The values, f32.
    pub tensor: Tensor,
    pub(crate) id: usize,
    /// How the backward may make it again from what the tape keeps anyway.
    pub(crate) again: Option<Arc<Again>>,
}

/// A parameter: its values as the model computes with them, and its number.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Which gradient is this parameter's.
    pub id: ParamId,
    /// f32 or bf16.
    pub tensor: Tensor,
}

/// Part of a model that can be run again in the backward.
pub type Block<'m> = Box<dyn Fn(&mut Ctx<'m, '_>, Var) -> Result<Var> + 'm>;

/// One run of a model. `'m` is the model's and the backend's lifetime, `'o` the observer's.
pub struct Ctx<'m, 'o> {
    backend: &'m dyn Backend,
    tape: Option<Vec<Node<'m>>>,
    observer: Option<&'o mut dyn Observer>,
    next: usize,
    recompute: bool,
}

impl fmt::Debug for Ctx<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.tape.as_ref().map(Vec::len);
        f.debug_struct("Ctx").field("backend", &self.backend).field("nodes", &nodes).field("vars", &self.next).finish()
    }
}

fn shape(op: &'static str, dims: [usize; 2]) -> Result<Shape> {
    Shape::new(&dims).map_err(Error::in_op(op))
}

impl<'m, 'o> Ctx<'m, 'o> {
    /// A run that keeps nothing.
    pub fn infer(backend: &'m dyn Backend) -> Self {
        Ctx { backend, tape: None, observer: None, next: 0, recompute: false }
    }

    /// A run that can be walked backward.
    pub fn record(backend: &'m dyn Backend) -> Self {
        Ctx { tape: Some(Vec::new()), ..Ctx::infer(backend) }
    }

    /// Shows every tap to `observer`.
    pub fn observe(mut self, observer: &'o mut dyn Observer) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Whether blocks keep only their input and run again in the backward.
    pub fn recompute(mut self, on: bool) -> Self {
        self.recompute = on;
        self
    }

    /// The device.
    pub fn backend(&self) -> &'m dyn Backend {
        self.backend
    }

    pub(crate) fn var(&mut self, tensor: Tensor) -> Var {
        self.next += 1;
        Var { tensor, id: self.next, again: None }
    }

    /// A variable that the tape need not keep: passes over memory are cheaper than the memory.
    fn cheap(&mut self, tensor: Tensor, again: impl FnOnce() -> Again) -> Var {
        let again = self.tape.is_some().then(|| Arc::new(again()));
        Var { again, ..self.var(tensor) }
    }

    pub(crate) fn n_vars(&self) -> usize {
        self.next
    }

    pub(crate) fn take_tape(&mut self) -> Option<Vec<Node<'m>>> {
        self.tape.take()
    }

    fn push(&mut self, node: impl FnOnce() -> Node<'m>) {
        if let Some(tape) = &mut self.tape {
            tape.push(node());
        }
    }

    /// Rows `ids` of the table `w` `[V, D]`: `[T, D]`.
    ///
    /// # Errors
    /// Those of [`Backend::embed`].
    pub fn embed(&mut self, ids: &[u32], w: &Weight) -> Result<Var> {
        let mut y = self.backend.alloc(DType::F32, shape("embed", [ids.len(), w.tensor.n_cols()])?)?;
        self.backend.embed(&mut y, ids, &w.tensor)?;
        let y = self.var(y);
        self.push(|| Node::Embed { w: w.clone(), ids: ids.to_vec(), y: y.id });
        Ok(y)
    }

    /// `x w^T`: `[T, K]` and `[N, K]` give `[T, N]`.
    ///
    /// # Errors
    /// Those of [`Backend::linear`].
    pub fn linear(&mut self, x: &Var, w: &Weight) -> Result<Var> {
        let mut y = self.backend.alloc(DType::F32, shape("linear", [x.tensor.n_rows(), w.tensor.n_rows()])?)?;
        self.backend.linear(&mut y, &x.tensor, &w.tensor)?;
        let y = self.var(y);
        self.push(|| Node::Linear { x: Saved::of(x), w: w.clone(), y: y.id });
        Ok(y)
    }

    /// Root-mean-square norm of every row, times `w` `[D]`.
    ///
    /// # Errors
    /// Those of [`Backend::rms_norm`].
    pub fn rms_norm(&mut self, x: &Var, w: &Weight, eps: f32) -> Result<Var> {
        let mut y = self.backend.alloc(DType::F32, x.tensor.shape())?;
        let mut rstd = self.backend.alloc(DType::F32, shape("rms_norm", [x.tensor.n_rows(), 1])?)?;
        self.backend.rms_norm(&mut y, &mut rstd, &x.tensor, &w.tensor, eps)?;
        let y = self.cheap(y, || Again::RmsNorm { x: x.tensor.clone(), w: w.tensor.clone(), eps });
        self.push(|| Node::RmsNorm { x: x.clone(), w: w.clone(), rstd, y: y.id });
        Ok(y)
    }

    /// `a + b`: into the memory of `a` where nobody else needs it.
    ///
    /// # Errors
    /// Those of [`Backend::add`].
    pub fn add(&mut self, a: Var, b: &Var) -> Result<Var> {
        if self.tape.is_none() && !a.tensor.is_shared() {
            let mut y = a.tensor;
            self.backend.accumulate(&mut y, Accum::Add, &b.tensor)?;
            return Ok(self.var(y));
        }
        let mut y = self.backend.alloc(DType::F32, a.tensor.shape())?;
        self.backend.add(&mut y, &a.tensor, &b.tensor)?;
        let y = self.var(y);
        self.push(|| Node::Add { a: a.id, b: b.id, y: y.id });
        Ok(y)
    }

    /// `a + b`, and its root-mean-square norm times `w` `[D]`.
    ///
    /// # Errors
    /// Those of [`Backend::add_rms_norm`].
    pub fn add_rms_norm(&mut self, a: &Var, b: &Var, w: &Weight, eps: f32) -> Result<(Var, Var)> {
        let mut sum = self.backend.alloc(DType::F32, a.tensor.shape())?;
        let mut y = self.backend.alloc(DType::F32, a.tensor.shape())?;
        let mut rstd = self.backend.alloc(DType::F32, shape("add_rms_norm", [a.tensor.n_rows(), 1])?)?;
        self.backend.add_rms_norm(&mut sum, &mut y, &mut rstd, &a.tensor, &b.tensor, &w.tensor, eps)?;
        let sum = self.var(sum);
        // The same bits: the sum is rounded before it is normed.
        let y = self.cheap(y, || Again::RmsNorm { x: sum.tensor.clone(), w: w.tensor.clone(), eps });
        self.push(|| Node::AddRmsNorm { a: a.id, b: b.id, sum: sum.clone(), w: w.clone(), rstd, y: y.id });
        Ok((sum, y))
    }

    /// `act(gate) * up`.
    ///
    /// # Errors
    /// Those of [`Backend::gated`].
    pub fn gated(&mut self, act: Activation, gate: &Var, up: &Var) -> Result<Var> {
        let mut y = self.backend.alloc(DType::F32, gate.tensor.shape())?;
        self.backend.gated(&mut y, act, &gate.tensor, &up.tensor)?;
        let y = self.cheap(y, || Again::Gated { act, gate: gate.tensor.clone(), up: up.tensor.clone() });
        self.push(|| Node::Gated { act, gate: gate.clone(), up: up.clone(), y: y.id });
        Ok(y)
    }

    /// `act(x)`.
    ///
    /// # Errors
    /// Those of [`Backend::activation`].
    pub fn activation(&mut self, act: Activation, x: &Var) -> Result<Var> {
        let mut y = self.backend.alloc(DType::F32, x.tensor.shape())?;
        self.backend.activation(&mut y, act, &x.tensor)?;
        let y = self.var(y);
        self.push(|| Node::Activation { act, x: x.clone(), y: y.id });
        Ok(y)
    }

    /// Rotary embedding of every head at its token's position, in the memory of `x`; `table` as in [`Backend::rope`].
    ///
    /// # Errors
    /// Those of [`Backend::rope`].
    pub fn rope(&mut self, x: Var, table: &Tensor, positions: &Arc<[u32]>) -> Result<Var> {
        let mut y = tape::own(self.backend, x.tensor)?;
        self.backend.rope(&mut y, table, positions, false)?;
        let y = self.var(y);
        self.push(|| Node::Rope { x: x.id, table: table.clone(), positions: positions.clone(), y: y.id });
        Ok(y)
    }

    /// Causal attention of packed sequences. With a cache, `k` and `v` are appended to it and queries see all of it.
    ///
    /// # Errors
    /// [`Error::NotRecording`] when a cache is given to a run that records; [`Error::Index`] when the cache is full; those of
    /// [`Backend::attention`].
    pub fn attention(
        &mut self,
        layer: usize,
        q: &Var,
        k: &Var,
        v: &Var,
        spec: &Arc<AttnSpec>,
        cache: Option<&mut KvCache>,
    ) -> Result<Var> {
        let b = self.backend;
        let mut y = b.alloc(DType::F32, q.tensor.shape())?;
        let mut lse = b.alloc(DType::F32, shape("attention", [q.tensor.n_rows(), spec.heads])?)?;
        if let Some(cache) = cache {
            if self.tape.is_some() {
                return Err(Error::NotRecording { op: "attention with a cache" });
            }
            let (past, end, capacity) = (cache.len(), cache.len() + k.tensor.n_rows(), cache.capacity());
            if capacity < end {
                return Err(Error::Index { op: "kv_cache", index: end, len: capacity });
            }
            let Some((keys, values)) = cache.layers.get_mut(layer) else {
                return Err(Error::Index { op: "kv_cache", index: layer, len: 0 });
            };
            b.write_rows(keys, past, &k.tensor)?;
            b.write_rows(values, past, &v.tensor)?;
            b.attention(&mut y, &mut lse, &q.tensor, keys, values, spec)?;
            return Ok(self.var(y));
        }
        b.attention(&mut y, &mut lse, &q.tensor, &k.tensor, &v.tensor, spec)?;
        let y = self.var(y);
        self.push(|| Node::Attention {
            q: q.clone(),
            k: k.clone(),
            v: v.clone(),
            lse,
            spec: spec.clone(),
            y: y.clone(),
        });
        Ok(y)
    }

    /// Shows `x` to the observer, now and (its gradient) in the backward.
    ///
    /// Recorded whenever a tape is on, even without an observer now: a recomputed block is recorded without one and walked with one.
    ///
    /// # Errors
    /// The observer's.
    pub fn tap(&mut self, site: Site, x: &Var) -> Result<()> {
        if let Some(observer) = &mut self.observer {
            observer.activation(self.backend, site, &x.tensor)?;
        }
        self.push(|| Node::Tap { site, x: Saved::of(x) });
        Ok(())
    }

    /// An activation that was computed before, by this run or another. Nothing flows further back than here.
    pub fn input(&mut self, tensor: Tensor) -> Var {
        self.var(tensor)
    }

    /// Runs `f` now. When recomputing, the tape keeps only its input and runs it again in the backward.
    ///
    /// # Errors
    /// Those of `f`.
    pub fn block(&mut self, x: Var, f: Block<'m>) -> Result<Var> {
        if !(self.recompute && self.tape.is_some()) {
            return f(self, x);
        }
        let tape = self.tape.take();
        let y = f(self, x.clone());
        self.tape = tape;
        let y = y?;
        self.push(|| Node::Recompute { f, x, y: y.id });
        Ok(y)
    }

    /// Walks the tape from `y`, whose gradient is `dy`, and adds to `grads`.
    ///
    /// # Errors
    /// [`Error::NotRecording`] when this run has no tape; those of the backward operations and of the observer.
    pub fn backward(mut self, y: &Var, dy: Tensor, grads: &mut Grads) -> Result<()> {
        let nodes = self.tape.take().ok_or(Error::NotRecording { op: "backward" })?;
        let mut slots = tape::Slots::new(self.next);
        slots.put(self.backend, y.id, dy)?;
        tape::walk(self.backend, nodes, &mut slots, grads, &mut self.observer)
    }
}
