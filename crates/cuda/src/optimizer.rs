//! AdamW, and masters as two halves.
use crate::{device::Device, kernel::Signature};
use paring_ops::{AdamWStep, Error, Result};
use paring_tensor::Tensor;

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[];

pub(crate) fn split(_device: &Device, _high: &mut Tensor, _low: &mut Tensor, _w: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "split", what: "this operation".into() })
}

pub(crate) fn join(_device: &Device, _w: &mut Tensor, _high: &Tensor, _low: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "join", what: "this operation".into() })
}

pub(crate) fn adamw(
    _device: &Device,
    _w: &mut Tensor,
    _m: &mut Tensor,
    _v: &mut Tensor,
    _grad: &Tensor,
    _step: &AdamWStep,
) -> Result<()> {
    Err(Error::Unsupported { op: "adamw", what: "this operation".into() })
}

pub(crate) fn adamw_split(
    _device: &Device,
    _high: &mut Tensor,
    _low: &mut Tensor,
    _m: &mut Tensor,
    _v: &mut Tensor,
    _grad: &Tensor,
    _step: &AdamWStep,
) -> Result<()> {
    Err(Error::Unsupported { op: "adamw_split", what: "this operation".into() })
}
