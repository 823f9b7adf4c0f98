//! Attention, forward and backward.
use crate::{device::Device, kernel::Signature};
use paring_ops::{AttnSpec, Error, Result};
use paring_tensor::Tensor;

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[];

pub(crate) fn attention(
    _device: &Device,
    _y: &mut Tensor,
    _lse_tn: &mut Tensor,
    _q: &Tensor,
    _k: &Tensor,
    _v: &Tensor,
    _spec: &AttnSpec,
) -> Result<()> {
    Err(Error::Unsupported { op: "attention", what: "this operation".into() })
}

pub(crate) fn attention_backward(
    _device: &Device,
    _dq: &mut Tensor,
    _dk: &mut Tensor,
    _dv: &mut Tensor,
    _dy: &Tensor,
    _y: &Tensor,
    _lse_tn: &Tensor,
    _q: &Tensor,
    _k: &Tensor,
    _v: &Tensor,
    _spec: &AttnSpec,
) -> Result<()> {
    Err(Error::Unsupported { op: "attention_backward", what: "this operation".into() })
}
