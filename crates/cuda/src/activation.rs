//! Activations of the MLP, gated and not.
use crate::{device::Device, kernel::Signature};
use paring_ops::{Activation, Error, Result};
use paring_tensor::Tensor;

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[];

pub(crate) fn gated(_device: &Device, _y: &mut Tensor, _act: Activation, _gate: &Tensor, _up: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "gated", what: "this operation".into() })
}

pub(crate) fn gated_backward(
    _device: &Device,
    _dgate: &mut Tensor,
    _dup: &mut Tensor,
    _act: Activation,
    _dy: &Tensor,
    _gate: &Tensor,
    _up: &Tensor,
) -> Result<()> {
    Err(Error::Unsupported { op: "gated_backward", what: "this operation".into() })
}

pub(crate) fn activation(_device: &Device, _y: &mut Tensor, _act: Activation, _x: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "activation", what: "this operation".into() })
}

pub(crate) fn activation_backward(
    _device: &Device,
    _dx: &mut Tensor,
    _act: Activation,
    _dy: &Tensor,
    _x: &Tensor,
) -> Result<()> {
    Err(Error::Unsupported { op: "activation_backward", what: "this operation".into() })
}
