//! Activations that the backward needs, and the cheap ones among them, which are made again there instead of being kept: outputs of norms
//! and gates, a third of what a decoder's tape would hold, for one or two passes over memory each. The bits are those of the forward.
use crate::Var;
use paring_ops::{Activation, Backend, Error, Result};
use paring_tensor::{DType, Shape, Tensor};
use std::sync::Arc;

/// What an activation is made of.
#[derive(Debug)]
pub(crate) enum Again {
    RmsNorm { x: Tensor, w: Tensor, eps: f32 },
    Gated { act: Activation, gate: Tensor, up: Tensor },
}

impl Again {
    fn make(&self, b: &dyn Backend) -> Result<Tensor> {
        let mut y = b.alloc(DType::F32, self.shape())?;
        match self {
            Again::RmsNorm { x, w, eps } => {
                let rows = Shape::new(&[x.n_rows(), 1]).map_err(Error::in_op("rms_norm"))?;
                b.rms_norm(&mut y, &mut b.alloc(DType::F32, rows)?, x, w, *eps)?;
            }
            Again::Gated { act, gate, up } => b.gated(&mut y, *act, gate, up)?,
        }
        Ok(y)
    }

    fn shape(&self) -> Shape {
        match self {
            Again::RmsNorm { x, .. } => x.shape(),
            Again::Gated { gate, .. } => gate.shape(),
        }
    }
}

/// An activation as a node holds it.
pub(crate) struct Saved {
    pub(crate) id: usize,
    held: Held,
}

enum Held {
    Kept(Tensor),
    Again(Arc<Again>),
}

impl Saved {
    pub(crate) fn of(x: &Var) -> Saved {
        let held = match &x.again {
            Some(again) => Held::Again(again.clone()),
            None => Held::Kept(x.tensor.clone()),
        };
        Saved { id: x.id, held }
    }

    pub(crate) fn shape(&self) -> Shape {
        match &self.held {
            Held::Kept(tensor) => tensor.shape(),
            Held::Again(again) => again.shape(),
        }
    }
}

/// What was made again, by number: for all who need it, until the walk comes to where it was made first.
pub(crate) struct Remade(Vec<Option<Tensor>>);

impl Remade {
    pub(crate) fn new(n_vars: usize) -> Self {
        Remade(vec![None; n_vars + 1])
    }

    /// The values of `x`.
    pub(crate) fn get(&mut self, b: &dyn Backend, x: &Saved) -> Result<Tensor> {
        let again = match &x.held {
            Held::Kept(tensor) => return Ok(tensor.clone()),
            Held::Again(again) => again,
        };
        let place = &mut self.0[x.id];
        Ok(match place {
            Some(tensor) => tensor.clone(),
            None => place.insert(again.make(b)?).clone(),
        })
    }

    /// Nobody needs `id` any more.
    pub(crate) fn forget(&mut self, id: usize) {
        self.0[id] = None;
    }
}
