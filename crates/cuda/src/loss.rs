//! Losses over rows of logits.
use crate::{device::Device, kernel::Signature};
use paring_ops::{Compared, Error, Result};
use paring_tensor::Tensor;

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[];

pub(crate) fn cross_entropy_rows(
    _device: &Device,
    _logits_tv: &mut Tensor,
    _targets: &[u32],
    _scale: f32,
) -> Result<f64> {
    Err(Error::Unsupported { op: "cross_entropy_rows", what: "this operation".into() })
}

pub(crate) fn kl_rows(_device: &Device, _student_tv: &mut Tensor, _teacher_tv: &Tensor, _scale: f32) -> Result<f64> {
    Err(Error::Unsupported { op: "kl_rows", what: "this operation".into() })
}

pub(crate) fn compare_rows(
    _device: &Device,
    _student_tv: &Tensor,
    _teacher_tv: &Tensor,
    _targets: &[u32],
) -> Result<Compared> {
    Err(Error::Unsupported { op: "compare_rows", what: "this operation".into() })
}
