//! Normalisation, alone and with the residual stream.
use crate::{device::Device, kernel::Signature};
use paring_ops::{Accum, Error, Result};
use paring_tensor::Tensor;

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[];

pub(crate) fn rms_norm(
    _device: &Device,
    _y_td: &mut Tensor,
    _rstd_t: &mut Tensor,
    _x_td: &Tensor,
    _w_d: &Tensor,
    _eps: f32,
) -> Result<()> {
    Err(Error::Unsupported { op: "rms_norm", what: "this operation".into() })
}

pub(crate) fn rms_norm_backward(
    _device: &Device,
    _dx_td: &mut Tensor,
    _accum: Accum,
    _dw_d: &mut Tensor,
    _dy_td: &Tensor,
    _x_td: &Tensor,
    _w_d: &Tensor,
    _rstd_t: &Tensor,
) -> Result<()> {
    Err(Error::Unsupported { op: "rms_norm_backward", what: "this operation".into() })
}

pub(crate) fn add_rms_norm(
    _device: &Device,
    _sum_td: &mut Tensor,
    _y_td: &mut Tensor,
    _rstd_t: &mut Tensor,
    _a_td: &Tensor,
    _b_td: &Tensor,
    _w_d: &Tensor,
    _eps: f32,
) -> Result<()> {
    Err(Error::Unsupported { op: "add_rms_norm", what: "this operation".into() })
}
