//! Values of a model's parameters, one at a time, wherever they come from.
use crate::{Error, Result};
use paring_model::{Arch, Model, Opened, ParamSpec, params};
use paring_ops::Backend;
use paring_tensor::{DType, Shape};
use std::collections::HashMap;

/// An architecture and the values of its parameters. Steps of surgery wrap one another: each is weights made of other weights.
pub trait Weights: Sync {
    /// What the parameters make up: `params(self.arch())` can be read, and nothing else.
    fn arch(&self) -> &Arch;

    /// The values of one parameter of [`Weights::arch`], f32, row-major in `spec.shape`.
    ///
    /// # Errors
    /// [`Error::Missing`], and whatever the step cannot do.
    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>>;
}

impl<W: Weights + ?Sized> Weights for &W {
    fn arch(&self) -> &Arch {
        (**self).arch()
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        (**self).read(spec)
    }
}

/// The tensors of a checkpoint, every value checked to be finite.
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint<'a>(pub &'a Opened);

impl Weights for Checkpoint<'_> {
    fn arch(&self) -> &Arch {
        &self.0.arch
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        Ok(self.0.source().read_checked(&spec.name)?)
    }
}

/// Values in memory, by the parameter's name.
#[derive(Clone, Debug)]
pub struct Memory {
    arch: Arch,
    values: HashMap<String, Vec<f32>>,
}

impl Memory {
    /// `read` gives the values of every parameter of `arch`, in the order of [`params`].
    ///
    /// # Errors
    /// [`Error::Values`] when they do not fit; those of `read`.
    pub fn new(arch: Arch, mut read: impl FnMut(&ParamSpec) -> Result<Vec<f32>>) -> Result<Self> {
        let mut values = HashMap::new();
        for spec in params(&arch) {
            let v = read(&spec)?;
            fits(&spec, &v)?;
            values.insert(spec.name, v);
        }
        Ok(Memory { arch, values })
    }

    /// All of `weights`.
    ///
    /// # Errors
    /// Those of [`Weights::read`].
    pub fn of(weights: &dyn Weights) -> Result<Self> {
        Memory::new(weights.arch().clone(), |spec| weights.read(spec))
    }
}

impl Weights for Memory {
    fn arch(&self) -> &Arch {
        &self.arch
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        self.values.get(&spec.name).cloned().ok_or_else(|| Error::Missing { name: spec.name.clone() })
    }
}

/// A runnable model of `weights`: matrices in `dtype`, gains of norms in f32.
///
/// # Errors
/// Those of [`Weights::read`] and of the backend.
pub fn model(weights: &dyn Weights, backend: &dyn Backend, dtype: DType) -> Result<Model> {
    let arch = weights.arch();
    let tensor = |spec: ParamSpec| -> Result<_> {
        let values = weights.read(&spec)?;
        fits(&spec, &values)?;
        let shape = Shape::new(&spec.shape).map_err(paring_ops::Error::in_op("surgery"))?;
        Ok(backend.upload(&values, spec.compute_dtype(dtype), shape)?)
    };
    let tensors = params(arch).into_iter().map(tensor).collect::<Result<_>>()?;
    Ok(Model::from_tensors(arch.clone(), backend, tensors)?)
}

/// As many values as the parameter has.
pub(crate) fn fits(spec: &ParamSpec, values: &[f32]) -> Result<()> {
    match values.len() == spec.elements() {
        true => Ok(()),
        false => Err(Error::Values { name: spec.name.clone(), got: values.len(), want: spec.elements() }),
    }
}
