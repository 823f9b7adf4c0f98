//! What a recorded run consists of, and the walk back through it. The enum is closed: an operation without a backward does not compile.
use crate::{
    Block, Ctx, Grads, Observer, Site, Var, Weight,
    saved::{Remade, Saved},
};
use paring_ops::{Accum, Activation, AttnSpec, Backend, Error, Result};
use paring_tensor::{DType, Shape, Tensor};
use std::sync::Arc;

pub(crate) enum Node<'m> {
    Embed { w: Weight, ids: Vec<u32>, y: usize },
    Linear { x: Saved, w: Weight, y: usize },
    RmsNorm { x: Var, w: Weight, rstd: Tensor, y: usize },
    Add { a: usize, b: usize, y: usize },
    AddRmsNorm { a: usize, b: usize, sum: Var, w: Weight, rstd: Tensor, y: usize },
    Gated { act: Activation, gate: Var, up: Var, y: usize },
    Activation { act: Activation, x: Var, y: usize },
    Rope { x: usize, table: Tensor, positions: Arc<[u32]>, y: usize },
    Attention { q: Var, k: Var, v: Var, lse: Tensor, spec: Arc<AttnSpec>, y: Var },
    Tap { site: Site, x: Saved },
    Recompute { f: Block<'m>, x: Var, y: usize },
}

/// Gradients of activations, by their number; each is dropped as soon as it was used.
///
/// The terms of a sum have one gradient, which both slots share until somebody adds to one of them. By then the other has nearly always
/// been used and dropped; if not, the adder makes a copy.
pub(crate) struct Slots(Vec<Option<Tensor>>);

/// A tensor that may be written: `t`, or a copy of it where another tensor shares it.
pub(crate) fn own(backend: &dyn Backend, t: Tensor) -> Result<Tensor> {
    if !t.is_shared() {
        return Ok(t);
    }
    let mut copy = backend.alloc(t.dtype(), t.shape())?;
    backend.accumulate(&mut copy, Accum::Set, &t)?;
    Ok(copy)
}

impl Slots {
    pub(crate) fn new(n_vars: usize) -> Self {
        Slots(vec![None; n_vars + 1])
    }

    fn take(&mut self, id: usize) -> Option<Tensor> {
        self.0[id].take()
    }

    /// The gradient of `id` as an output, and whether to overwrite it or to add.
    fn output(&mut self, backend: &dyn Backend, id: usize, shape: Shape) -> Result<(&mut Tensor, Accum)> {
        let (dx, accum) = match self.take(id) {
            Some(dx) => (own(backend, dx)?, Accum::Add),
            None => (backend.alloc(DType::F32, shape)?, Accum::Set),
        };
        Ok((self.0[id].insert(dx), accum))
    }

    /// Adds `g` to the gradient of `id`.
    pub(crate) fn put(&mut self, backend: &dyn Backend, id: usize, g: Tensor) -> Result<()> {
        let sum = match self.take(id) {
            None => g,
            Some(old) => {
                // Into the one of the two that nobody shares: the sum has the same bits.
                let (to, term) = if old.is_shared() && !g.is_shared() { (g, old) } else { (old, g) };
                let mut to = own(backend, to)?;
                backend.accumulate(&mut to, Accum::Add, &term)?;
                to
            }
        };
        self.0[id] = Some(sum);
        Ok(())
    }
}

impl Node<'_> {
    /// The number of what it made, where that may be made again.
    fn cheap(&self) -> Option<usize> {
        match self {
            Node::RmsNorm { y, .. } | Node::AddRmsNorm { y, .. } | Node::Gated { y, .. } => Some(*y),
            _ => None,
        }
    }
}

pub(crate) fn walk<'m>(
    b: &'m dyn Backend,
    nodes: Vec<Node<'m>>,
    slots: &mut Slots,
    grads: &mut Grads,
    observer: &mut Option<&mut dyn Observer>,
) -> Result<()> {
    // By value and in reverse: the activations of a node are freed as soon as its gradients are made.
    let mut remade = Remade::new(slots.0.len());
    for node in nodes.into_iter().rev() {
        // From here back nobody used it.
        node.cheap().into_iter().for_each(|y| remade.forget(y));
        match node {
            Node::Embed { w, ids, y } => {
                if let Some(dy) = slots.take(y).filter(|_| grads.matrices()) {
                    b.embed_backward(grads.get_mut(b, w.id)?, &dy, &ids)?;
                }
            }
            Node::Linear { x, w, y } => {
                if let Some(dy) = slots.take(y) {
                    if grads.matrices() {
                        b.linear_dw(grads.get_mut(b, w.id)?, &dy, &remade.get(b, &x)?, w.tensor.dtype())?;
                    }
                    let (dx, accum) = slots.output(b, x.id, x.shape())?;
                    b.linear_dx(dx, accum, &dy, &w.tensor)?;
                }
            }
            Node::RmsNorm { x, w, rstd, y } => {
                if let Some(dy) = slots.take(y) {
                    let (dx, accum) = slots.output(b, x.id, x.tensor.shape())?;
                    b.rms_norm_backward(dx, accum, grads.get_mut(b, w.id)?, &dy, &x.tensor, &w.tensor, &rstd)?;
                }
            }
            Node::Add { a, b: c, y } => {
                if let Some(dy) = slots.take(y) {
                    slots.put(b, a, dy.clone())?;
                    slots.put(b, c, dy)?;
                }
            }
            Node::AddRmsNorm { a, b: c, sum, w, rstd, y } => {
                if let Some(dy) = slots.take(y) {
                    let (dx, accum) = slots.output(b, sum.id, sum.tensor.shape())?;
                    b.rms_norm_backward(dx, accum, grads.get_mut(b, w.id)?, &dy, &sum.tensor, &w.tensor, &rstd)?;
                }
                if let Some(dsum) = slots.take(sum.id) {
                    slots.put(b, a, dsum.clone())?;
                    slots.put(b, c, dsum)?;
                }
            }
            Node::Gated { act, gate, up, y } => {
                if let Some(dy) = slots.take(y) {
                    let mut dgate = b.alloc(DType::F32, dy.shape())?;
                    let mut dup = b.alloc(DType::F32, dy.shape())?;
                    b.gated_backward(&mut dgate, &mut dup, act, &dy, &gate.tensor, &up.tensor)?;
                    slots.put(b, gate.id, dgate)?;
                    slots.put(b, up.id, dup)?;
                }
            }
            Node::Activation { act, x, y } => {
                if let Some(dy) = slots.take(y) {
                    let mut dx = b.alloc(DType::F32, dy.shape())?;
                    b.activation_backward(&mut dx, act, &dy, &x.tensor)?;
                    slots.put(b, x.id, dx)?;
                }
            }
            Node::Rope { x, table, positions, y } => {
                if let Some(dy) = slots.take(y) {
                    let mut dx = own(b, dy)?;
                    b.rope(&mut dx, &table, &positions, true)?;
                    slots.put(b, x, dx)?;
                }
            }
            Node::Attention { q, k, v, lse, spec, y } => {
                if let Some(dy) = slots.take(y.id) {
                    let mut dq = b.alloc(DType::F32, q.tensor.shape())?;
                    let mut dk = b.alloc(DType::F32, k.tensor.shape())?;
                    let mut dv = b.alloc(DType::F32, v.tensor.shape())?;
                    b.attention_backward(
                        &mut dq, &mut dk, &mut dv, &dy, &y.tensor, &lse, &q.tensor, &k.tensor, &v.tensor, &spec,
                    )?;
                    slots.put(b, q.id, dq)?;
                    slots.put(b, k.id, dk)?;
                    slots.put(b, v.id, dv)?;
                }
            }
            Node::Tap { site, x } => {
                if let Some(observer) = observer.as_deref_mut() {
                    // A tap that the loss does not reach has no gradient yet; the observer may still start one.
                    let (dx, accum) = slots.output(b, x.id, x.shape())?;
                    if accum == Accum::Set {
                        b.fill(dx, 0.0)?;
                    }
                    observer.gradient(b, site, &remade.get(b, &x)?, dx)?;
                }
            }
            Node::Recompute { f, x, y } => {
                if let Some(dy) = slots.take(y) {
                    let mut cx = Ctx::record(b);
                    let input = cx.var(x.tensor.clone());
                    let output = f(&mut cx, input.clone())?;
                    let mut inner = Slots::new(cx.n_vars());
                    inner.put(b, output.id, dy)?;
                    let nodes = cx.take_tape().ok_or(Error::NotRecording { op: "recompute" })?;
                    walk(b, nodes, &mut inner, grads, observer)?;
                    if let Some(dx) = inner.take(input.id) {
                        slots.put(b, x.id, dx)?;
                    }
                }
            }
        }
    }
    Ok(())
}
