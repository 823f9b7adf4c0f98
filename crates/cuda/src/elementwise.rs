//! Element-wise operations, conversions and sums.
use crate::{device::Device, kernel::Signature};
use paring_ops::{Accum, Error, Result};
use paring_tensor::Tensor;

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[];

pub(crate) fn convert(_device: &Device, _y: &mut Tensor, _x: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "convert", what: "this operation".into() })
}

pub(crate) fn fill(_device: &Device, _y: &mut Tensor, _value: f32) -> Result<()> {
    Err(Error::Unsupported { op: "fill", what: "this operation".into() })
}

pub(crate) fn write_rows(_device: &Device, _dst: &mut Tensor, _at: usize, _src: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "write_rows", what: "this operation".into() })
}

pub(crate) fn add(_device: &Device, _y: &mut Tensor, _a: &Tensor, _b: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "add", what: "this operation".into() })
}

pub(crate) fn accumulate(_device: &Device, _y: &mut Tensor, _accum: Accum, _x: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "accumulate", what: "this operation".into() })
}

pub(crate) fn scale(_device: &Device, _y: &mut Tensor, _factor: f32) -> Result<()> {
    Err(Error::Unsupported { op: "scale", what: "this operation".into() })
}

pub(crate) fn sum_squares(_device: &Device, _x: &Tensor) -> Result<f64> {
    Err(Error::Unsupported { op: "sum_squares", what: "this operation".into() })
}
