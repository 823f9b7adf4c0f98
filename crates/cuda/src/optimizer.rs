//! AdamW, and masters as two halves.
use crate::{
    device::Device,
    driver::Address,
    grid::{aligned, groups},
    kernel::{Arguments, Signature, arguments},
};
use paring_ops::{AdamWStep, Result, want_halves, want_moments};
use paring_tensor::{
    DType::{self, BF16, F32},
    Tensor,
};

arguments! {
    /// Weights to halves.
    struct Split in "optimizer" for ["split_f32"] { w: Address, high: Address, low: Address, n: u64, groups: u64 }
}
arguments! {
    /// Halves to weights.
    struct Join in "optimizer" for ["join_f32"] { high: Address, low: Address, w: Address, n: u64, groups: u64 }
}
arguments! {
    /// An update of weights; the names of constants are those of `AdamWStep`, and of what `paring_optim::adamw_update` makes of them.
    struct AdamW in "optimizer" for ["adamw_f32", "adamw_bf16"] {
        grad: Address, w: Address, m: Address, v: Address, n: u64, groups: u64,
        beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32, decay: f32, size: f32, bias2_sqrt: f32, grad_scale: f32,
    }
}
arguments! {
    /// The same of halves.
    struct AdamWSplit in "optimizer" for ["adamw_split_f32", "adamw_split_bf16"] {
        grad: Address, high: Address, low: Address, m: Address, v: Address, n: u64, groups: u64,
        beta1: f32, rest1: f32, beta2: f32, rest2: f32, eps: f32, decay: f32, size: f32, bias2_sqrt: f32, grad_scale: f32,
    }
}

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] =
    &[Split::SIGNATURE, Join::SIGNATURE, AdamW::SIGNATURE, AdamWSplit::SIGNATURE];

pub(crate) fn split(device: &Device, high: &mut Tensor, low: &mut Tensor, w: &Tensor) -> Result<()> {
    let (op, n) = ("split", w.elements());
    want_halves(op, high, low, n)?;
    let (w, high, low) = (device.read(op, w, F32)?, device.write(op, high, BF16)?, device.write(op, low, BF16)?);
    let (launch, groups) = groups("split_f32", n, 4, aligned(&[(w, 16), (high, 8), (low, 8)]));
    device.launch(op, launch, Split { w, high, low, n: n as u64, groups })
}

pub(crate) fn join(device: &Device, w: &mut Tensor, high: &Tensor, low: &Tensor) -> Result<()> {
    let (op, n) = ("join", w.elements());
    want_halves(op, high, low, n)?;
    let (high, low, w) = (device.read(op, high, BF16)?, device.read(op, low, BF16)?, device.write(op, w, F32)?);
    let (launch, groups) = groups("join_f32", n, 4, aligned(&[(w, 16), (high, 8), (low, 8)]));
    device.launch(op, launch, Join { high, low, w, n: n as u64, groups })
}

/// The bytes of four moments, and the suffix of the kernels for them.
fn moments(dtype: DType) -> (u64, bool) {
    if dtype == F32 { (16, true) } else { (8, false) }
}

pub(crate) fn adamw(
    device: &Device,
    w: &mut Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    grad: &Tensor,
    step: &AdamWStep,
) -> Result<()> {
    let (op, n, dtype) = ("adamw", w.elements(), m.dtype());
    want_moments(op, m, v, grad, n)?;
    let (grad, w) = (device.read(op, grad, F32)?, device.write(op, w, F32)?);
    let (m, v) = (device.write(op, m, dtype)?, device.write(op, v, dtype)?);
    let (bytes, wide) = moments(dtype);
    let entry = if wide { "adamw_f32" } else { "adamw_bf16" };
    let (launch, groups) = groups(entry, n, 4, aligned(&[(grad, 16), (w, 16), (m, bytes), (v, bytes)]));
    let AdamWStep { beta1, beta2, eps, bias2_sqrt, grad_scale, .. } = *step;
    let (decay, size) = (1.0 - step.lr * step.weight_decay, step.lr / step.bias1);
    let (rest1, rest2, n) = (1.0 - beta1, 1.0 - beta2, n as u64);
    let arguments =
        AdamW { grad, w, m, v, n, groups, beta1, rest1, beta2, rest2, eps, decay, size, bias2_sqrt, grad_scale };
    device.launch(op, launch, arguments)
}

pub(crate) fn adamw_split(
    device: &Device,
    high: &mut Tensor,
    low: &mut Tensor,
    m: &mut Tensor,
    v: &mut Tensor,
    grad: &Tensor,
    step: &AdamWStep,
) -> Result<()> {
    let (op, n, dtype) = ("adamw_split", grad.elements(), m.dtype());
    want_halves(op, high, low, n)?;
    want_moments(op, m, v, grad, n)?;
    let (grad, high, low) = (device.read(op, grad, F32)?, device.write(op, high, BF16)?, device.write(op, low, BF16)?);
    let (m, v) = (device.write(op, m, dtype)?, device.write(op, v, dtype)?);
    let (bytes, wide) = moments(dtype);
    let entry = if wide { "adamw_split_f32" } else { "adamw_split_bf16" };
    let aligned = aligned(&[(grad, 16), (high, 8), (low, 8), (m, bytes), (v, bytes)]);
    let (launch, groups) = groups(entry, n, 4, aligned);
    let AdamWStep { beta1, beta2, eps, bias2_sqrt, grad_scale, .. } = *step;
    let (decay, size) = (1.0 - step.lr * step.weight_decay, step.lr / step.bias1);
    let (rest1, rest2, n) = (1.0 - beta1, 1.0 - beta2, n as u64);
    let arguments = AdamWSplit {
        grad,
        high,
        low,
        m,
        v,
        n,
        groups,
        beta1,
        rest1,
        beta2,
        rest2,
        eps,
        decay,
        size,
        bias2_sqrt,
        grad_scale,
    };
    device.launch(op, launch, arguments)
}
