//! Matrix products.
use crate::{device::Device, kernel::Signature};
use paring_ops::{Accum, Error, Result};
use paring_tensor::{DType, Tensor};

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[];

pub(crate) fn linear(_device: &Device, _y_tn: &mut Tensor, _x_tk: &Tensor, _w_nk: &Tensor) -> Result<()> {
    Err(Error::Unsupported { op: "linear", what: "this operation".into() })
}

pub(crate) fn linear_dx(
    _device: &Device,
    _dx_tk: &mut Tensor,
    _accum: Accum,
    _dy_tn: &Tensor,
    _w_nk: &Tensor,
) -> Result<()> {
    Err(Error::Unsupported { op: "linear_dx", what: "this operation".into() })
}

pub(crate) fn linear_dw(
    _device: &Device,
    _dw_nk: &mut Tensor,
    _dy_tn: &Tensor,
    _x_tk: &Tensor,
    _compute: DType,
) -> Result<()> {
    Err(Error::Unsupported { op: "linear_dw", what: "this operation".into() })
}
