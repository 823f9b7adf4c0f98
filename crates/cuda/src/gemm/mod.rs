//! Matrix products: a weight is multiplied as it is stored. With a bf16 weight both factors are rounded to bf16, with f32 none, with blocks
//! the activations are rounded to 8 bits; sums are f32 in a fixed order.
mod few; // a weight against few rows
mod plan; // which kernel, which tiles
mod product; // any product, with an epilogue
mod quantised; // weights in blocks

pub use plan::{Compute, Layout, Plan, Tile, plan};
pub use product::{Epilogue, Gemm};

use crate::{
    device::Device,
    kernel::{Arguments, Signature},
};
use paring_ops::{Accum, Error, Result, want_2d, want_gradients};
use paring_tensor::{DType, Tensor};
use product::{Operand, Output, product};

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[
    product::TensorCores::SIGNATURE,
    product::Exact::SIGNATURE,
    product::Reduce::SIGNATURE,
    product::CastRows::SIGNATURE,
    few::Gemv::SIGNATURE,
    quantised::QuantiseRows::SIGNATURE,
    quantised::Gemv::SIGNATURE,
];

/// The type that a product with factors of `dtype` computes in.
fn compute_in(op: &'static str, dtype: DType) -> Result<Compute> {
    match dtype {
        DType::F32 => Ok(Compute::F32),
        DType::BF16 => Ok(Compute::Bf16),
        other => Err(Error::Unsupported { op, what: format!("computing in {other}") }),
    }
}

pub(crate) fn linear(device: &Device, y_tn: &mut Tensor, x_tk: &Tensor, w_nk: &Tensor) -> Result<()> {
    let op = "linear";
    let (t, n, k) = (x_tk.n_rows(), w_nk.n_rows(), w_nk.n_cols());
    want_2d(op, "x", x_tk, t, k)?;
    want_2d(op, "y", y_tn, t, n)?;
    let dtype = w_nk.dtype();
    if dtype.is_quantised() {
        let (w, x) = (device.address(op, w_nk)?, device.read(op, x_tk, DType::F32)?);
        let y = device.write(op, y_tn, DType::F32)?;
        return quantised::linear(device, op, dtype, [y, x, w], [t, n, k]);
    }
    let compute = compute_in(op, dtype)?;
    let (x, w, y) =
        (device.read(op, x_tk, DType::F32)?, device.view_address(op, w_nk)?, device.write(op, y_tn, DType::F32)?);
    if w_nk.is_contiguous()
        && let Some(launch) = few::kernel(dtype, w, x, t, n, k)
    {
        return few::launch(device, op, launch, [y, x, w], [t, n, k]);
    }
    let (x, w) = (Operand::of(device, op, x_tk)?, Operand::view(device, op, w_nk)?);
    product(device, op, compute, Layout::Nt, [t, n, k], x, w, Output::new(y, Accum::Set))
}

pub(crate) fn linear_dx(
    device: &Device,
    dx_tk: &mut Tensor,
    accum: Accum,
    dy_tn: &Tensor,
    w_nk: &Tensor,
) -> Result<()> {
    let op = "linear_dx";
    let (t, n, k) = (dy_tn.n_rows(), w_nk.n_rows(), w_nk.n_cols());
    want_2d(op, "dy", dy_tn, t, n)?;
    want_2d(op, "dx", dx_tk, t, k)?;
    want_gradients(op, w_nk.dtype())?;
    let compute = compute_in(op, w_nk.dtype())?;
    device.read(op, dy_tn, DType::F32)?;
    let (dy, w) = (Operand::of(device, op, dy_tn)?, Operand::of(device, op, w_nk)?);
    let dx = device.write(op, dx_tk, DType::F32)?;
    product(device, op, compute, Layout::Nn, [t, k, n], dy, w, Output::new(dx, accum))
}

pub(crate) fn linear_dw(
    device: &Device,
    dw_nk: &mut Tensor,
    dy_tn: &Tensor,
    x_tk: &Tensor,
    compute: DType,
) -> Result<()> {
    let op = "linear_dw";
    let (t, n, k) = (dy_tn.n_rows(), dw_nk.n_rows(), dw_nk.n_cols());
    want_2d(op, "dy", dy_tn, t, n)?;
    want_2d(op, "x", x_tk, t, k)?;
    want_gradients(op, compute)?;
    let compute = compute_in(op, compute)?;
    device.read(op, dy_tn, DType::F32)?;
    device.read(op, x_tk, DType::F32)?;
    let (dy, x) = (Operand::of(device, op, dy_tn)?, Operand::of(device, op, x_tk)?);
    let dw = device.write(op, dw_nk, DType::F32)?;
    product(device, op, compute, Layout::Tn, [n, k, t], dy, x, Output::new(dw, Accum::Add))
}
