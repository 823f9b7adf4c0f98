//! Rotary embeddings.
use crate::{device::Device, kernel::Signature};
use paring_ops::{Error, Result};
use paring_tensor::Tensor;

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[];

pub(crate) fn rope(
    _device: &Device,
    _x: &mut Tensor,
    _table: &Tensor,
    _positions: &[u32],
    _inverse: bool,
) -> Result<()> {
    Err(Error::Unsupported { op: "rope", what: "this operation".into() })
}
