//! Gradients live outside the model, one per parameter id: a teacher is just a model that nobody made gradients for.
use paring_ops::{Backend, Result};
use paring_tensor::{DType, Shape, Tensor};

/// Number of a parameter inside one model. Two weights with one id are one parameter: a tied head's gradients add by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParamId(pub usize);

/// One f32 gradient per parameter. Backward adds to them.
#[derive(Debug)]
pub struct Grads(Vec<Tensor>);

impl Grads {
    /// Zero gradients for parameters of these shapes, in the order of their ids.
    ///
    /// # Errors
    /// Those of the backend's allocation.
    pub fn zeros(backend: &dyn Backend, shapes: &[Shape]) -> Result<Self> {
        shapes.iter().map(|&s| backend.zeros(DType::F32, s)).collect::<Result<_>>().map(Grads)
    }

    /// Sets all gradients to zero.
    ///
    /// # Errors
    /// Those of [`Backend::fill`].
    pub fn zero(&mut self, backend: &dyn Backend) -> Result<()> {
        self.0.iter_mut().try_for_each(|g| backend.fill(g, 0.0))
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The gradient of one parameter.
    ///
    /// # Panics
    /// If the id is not one of this model's.
    pub fn get(&self, id: ParamId) -> &Tensor {
        &self.0[id.0]
    }

    /// The gradient of one parameter, to add to.
    ///
    /// # Panics
    /// If the id is not one of this model's.
    pub fn get_mut(&mut self, id: ParamId) -> &mut Tensor {
        &mut self.0[id.0]
    }

    /// The Euclidean norm over all parameters.
    ///
    /// # Errors
    /// Those of [`Backend::sum_squares`].
    pub fn norm(&self, backend: &dyn Backend) -> Result<f64> {
        let sum = self.0.iter().try_fold(0.0, |sum, g| Ok(sum + backend.sum_squares(g)?))?;
        Ok(f64::sqrt(sum))
    }
}
