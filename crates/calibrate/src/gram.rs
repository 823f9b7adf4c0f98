//! Gram matrices `x^T x` of MLP activations, for least-squares compensation of `down_proj`.
use paring_exec::{Observer, Site, Tap};
use paring_model::Arch;
use paring_ops::{Backend, Error, Result};
use paring_tensor::{DType, Shape, Tensor};

/// Sums `x^T x` of the input of `down_proj` for some layers, f32 on the device.
///
/// A matrix of F x F per layer is large (F = 14336: 822 MB): give it as many layers at a time as there is memory for.
#[derive(Debug)]
pub struct Gram {
    first: usize,
    sums: Vec<Tensor>,
}

impl Gram {
    /// Sums for `layers`.
    ///
    /// # Errors
    /// Those of the backend's allocation.
    pub fn new(backend: &dyn Backend, arch: &Arch, layers: std::ops::Range<usize>) -> Result<Self> {
        let make = |l: &paring_model::LayerArch| {
            backend.zeros(DType::F32, Shape::new(&[l.ffn, l.ffn]).map_err(Error::in_op("gram"))?)
        };
        Ok(Gram { first: layers.start, sums: arch.layers[layers].iter().map(make).collect::<Result<_>>()? })
    }

    /// The sum of one layer, row-major `[F, F]`; `None` when the layer is not among those asked for.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn layer(&self, backend: &dyn Backend, layer: usize) -> Result<Option<Vec<f32>>> {
        match layer.checked_sub(self.first).and_then(|i| self.sums.get(i)) {
            Some(sum) => Ok(Some(backend.download(sum)?)),
            None => Ok(None),
        }
    }
}

impl Observer for Gram {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> Result<()> {
        if site.tap != Tap::MlpHidden {
            return Ok(());
        }
        match site.layer.checked_sub(self.first).and_then(|i| self.sums.get_mut(i)) {
            Some(sum) => backend.linear_dw(sum, x, x, DType::F32),
            None => Ok(()),
        }
    }
}
