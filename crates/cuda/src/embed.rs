//! Rows of a table, and their gradients.
use crate::{device::Device, kernel::Signature};
use paring_ops::{Error, Result};
use paring_tensor::Tensor;

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[];

pub(crate) fn embed(_device: &Device, _y_td: &mut Tensor, _ids: &[u32], _w_vd: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "embed", what: "this operation".into() })
}

pub(crate) fn embed_backward(_device: &Device, _dw_vd: &mut Tensor, _dy_td: &Tensor, _ids: &[u32]) -> Result<()> {
    Err(Error::Unsupported { op: "embed_backward", what: "this operation".into() })
}
