//! Gradients live outside the model, one per parameter id: a teacher is just a model that nobody made gradients for.
use paring_ops::{Backend, Result};
use paring_tensor::{DType, Shape, Tensor};

/// Number of a parameter inside one model. Two weights with one id are one parameter: a tied head's gradients add by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// One f32 gradient per parameter. Backward adds to them.
///
/// A gradient has memory from the first time that it is added to until it is taken: what comes and goes with the activations of its layer
/// makes no peak on top of theirs.
#[derive(Debug)]
pub struct Grads {
    slots: Vec<Slot>,
    /// Whether backward makes the gradients of matrices.
    matrices: bool,
}

#[derive(Debug)]
struct Slot {
    shape: Shape,
    /// `None` for zero.
    sum: Option<Tensor>,
}

impl Grads {
    /// Zero gradients for parameters of these shapes, in the order of their ids.
    pub fn new(shapes: &[Shape]) -> Self {
        Grads { slots: shapes.iter().map(|&shape| Slot { shape, sum: None }).collect(), matrices: true }
    }

    /// For a backward that is only after the gradients of activations, which observers see: those of matrices, a third of its work, are
    /// not made and stay zero.
    pub fn of_activations(shapes: &[Shape]) -> Self {
        Grads { matrices: false, ..Grads::new(shapes) }
    }

    /// Whether the gradients of matrices are wanted.
    pub(crate) fn matrices(&self) -> bool {
        self.matrices
    }

    /// Sets all gradients to zero, and gives their memory back.
    pub fn clear(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.sum = None);
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// True when there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The gradient of one parameter, to add to.
    ///
    /// # Errors
    /// Those of [`Backend::zeros`].
    ///
    /// # Panics
    /// If the id is not one of this model's.
    pub fn get_mut(&mut self, backend: &dyn Backend, id: ParamId) -> Result<&mut Tensor> {
        let slot = &mut self.slots[id.0];
        Ok(match &mut slot.sum {
            Some(sum) => sum,
            none => none.insert(backend.zeros(DType::F32, slot.shape)?),
        })
    }

    /// Takes the gradient of one parameter out, which is zero then.
    ///
    /// # Errors
    /// Those of [`Backend::zeros`].
    ///
    /// # Panics
    /// If the id is not one of this model's.
    pub fn take(&mut self, backend: &dyn Backend, id: ParamId) -> Result<Tensor> {
        let slot = &mut self.slots[id.0];
        slot.sum.take().map_or_else(|| backend.zeros(DType::F32, slot.shape), Ok)
    }

    /// The Euclidean norm over all parameters.
    ///
    /// # Errors
    /// Those of [`Backend::sum_squares`].
    pub fn norm(&self, backend: &dyn Backend) -> Result<f64> {
        let sums = self.slots.iter().filter_map(|slot| slot.sum.as_ref());
        let sum = sums.map(|g| backend.sum_squares(g)).try_fold(0.0, |sum, g| Ok(sum + g?))?;
        Ok(f64::sqrt(sum))
    }
}
