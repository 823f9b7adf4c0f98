//! LayerNorm (Ba et al., arXiv 1607.06450), alone and with the residual stream: not an operation of `Backend` yet, but its kernels are those
//! of RMSNorm with a mean.
use crate::{
    Cuda,
    driver::Address,
    grid::{aligned, size},
    kernel::{Arguments, Signature, arguments},
    norm::{Weight, add_columns, backward_plan, forward_launch},
};
use paring_ops::{Accum, Result, want_2d, want_elements};
use paring_tensor::{DType::F32, Tensor};

arguments! {
    /// A block has a row of `x`.
    struct LayerNorm in "norm" for ["layer_norm_f32", "layer_norm_bf16"] {
        x: Address, w: Address, bias: Address, y: Address, mean: Address, rstd: Address, d: u32, vector: u32, keep: u32, eps: f32,
    }
}
arguments! {
    /// The same of `sum = a + b`.
    struct AddLayerNorm in "norm" for ["add_layer_norm_f32", "add_layer_norm_bf16"] {
        a: Address, b: Address, w: Address, bias: Address, sum: Address, y: Address, mean: Address, rstd: Address,
        d: u32, vector: u32, keep: u32, eps: f32,
    }
}
arguments! {
    /// A block has `rows_per_block` rows, and a row of either kind of partial sums.
    struct LayerNormBackward in "norm" for ["layer_norm_backward_f32", "layer_norm_backward_bf16"] {
        dy: Address, x: Address, w: Address, mean: Address, rstd: Address, dx: Address, dw_parts: Address, dbias_parts: Address,
        rows: u32, d: u32, rows_per_block: u32, vector: u32, add: u32, keep: u32,
    }
}

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] =
    &[LayerNorm::SIGNATURE, AddLayerNorm::SIGNATURE, LayerNormBackward::SIGNATURE];

impl Cuda {
    /// `y = (x - mean) rstd w + bias`, with `rstd = 1 / sqrt(mean((x - mean)^2) + eps)`.
    ///
    /// # Shapes
    /// - `x_td`, `y_td`: `[T, D]` f32; `mean_t`, `rstd_t`: `T` f32; `w_d`, `bias_d`: `D`, of one type.
    ///
    /// # Errors
    /// [`paring_ops::Error::Shape`], [`paring_ops::Error::Tensor`] or [`paring_ops::Error::Device`].
    pub fn layer_norm(
        &self,
        y_td: &mut Tensor,
        [mean_t, rstd_t]: [&mut Tensor; 2],
        x_td: &Tensor,
        w_d: &Tensor,
        bias_d: &Tensor,
        eps: f32,
    ) -> Result<()> {
        let (op, device) = ("layer_norm", &self.device);
        let (t, d) = (x_td.n_rows(), x_td.n_cols());
        want_2d(op, "y", y_td, t, d)?;
        for (what, x, n) in [("mean", &*mean_t, t), ("rstd", rstd_t, t), ("w", w_d, d), ("bias", bias_d, d)] {
            want_elements(op, what, x, n)?;
        }
        let x = device.read(op, x_td, F32)?;
        device.read(op, bias_d, w_d.dtype())?;
        let y = device.write(op, y_td, F32)?;
        let (mean, rstd) = (device.write(op, mean_t, F32)?, device.write(op, rstd_t, F32)?);
        let (rows, columns) = (size(op, t)?, size(op, d)?);
        let (w, bias) = (Weight::of(device, op, w_d)?, Weight::of(device, op, bias_d)?);
        if d == 0 {
            return Ok(());
        }
        let vector = d.is_multiple_of(4) && aligned(&[(x, 16), (y, 16)]) && w.aligned() && bias.aligned();
        let entry = if w.bf16 { "layer_norm_bf16" } else { "layer_norm_f32" };
        let (launch, keep) = forward_launch(entry, rows, columns, vector);
        let (w, bias, vector) = (w.address, bias.address, u32::from(vector));
        device.launch(op, launch, LayerNorm { x, w, bias, y, mean, rstd, d: columns, vector, keep, eps })
    }

    /// `sum = a + b`, then [`Cuda::layer_norm`] of the sum.
    ///
    /// # Shapes
    /// - `sum_td`, `y_td`, `a_td`, `b_td`: `[T, D]` f32; the others as there.
    ///
    /// # Errors
    /// As there.
    pub fn add_layer_norm(
        &self,
        [sum_td, y_td]: [&mut Tensor; 2],
        [mean_t, rstd_t]: [&mut Tensor; 2],
        [a_td, b_td]: [&Tensor; 2],
        w_d: &Tensor,
        bias_d: &Tensor,
        eps: f32,
    ) -> Result<()> {
        let (op, device) = ("add_layer_norm", &self.device);
        let (t, d) = (a_td.n_rows(), a_td.n_cols());
        for (what, x) in [("sum", &*sum_td), ("y", y_td), ("b", b_td)] {
            want_2d(op, what, x, t, d)?;
        }
        for (what, x, n) in [("mean", &*mean_t, t), ("rstd", rstd_t, t), ("w", w_d, d), ("bias", bias_d, d)] {
            want_elements(op, what, x, n)?;
        }
        let (a, b) = (device.read(op, a_td, F32)?, device.read(op, b_td, F32)?);
        device.read(op, bias_d, w_d.dtype())?;
        let (sum, y) = (device.write(op, sum_td, F32)?, device.write(op, y_td, F32)?);
        let (mean, rstd) = (device.write(op, mean_t, F32)?, device.write(op, rstd_t, F32)?);
        let (rows, columns) = (size(op, t)?, size(op, d)?);
        let (w, bias) = (Weight::of(device, op, w_d)?, Weight::of(device, op, bias_d)?);
        if d == 0 {
            return Ok(());
        }
        let operands = aligned(&[a, b, sum, y].map(|address| (address, 16)));
        let vector = d.is_multiple_of(4) && operands && w.aligned() && bias.aligned();
        let entry = if w.bf16 { "add_layer_norm_bf16" } else { "add_layer_norm_f32" };
        let (launch, keep) = forward_launch(entry, rows, columns, vector);
        let (w, bias, vector) = (w.address, bias.address, u32::from(vector));
        device.launch(op, launch, AddLayerNorm { a, b, w, bias, sum, y, mean, rstd, d: columns, vector, keep, eps })
    }

    /// Gradients of [`Cuda::layer_norm`]: `dx` by `accum`, `dw` and `dbias` accumulate.
    ///
    /// # Shapes
    /// - `dx_td`, `dy_td`, `x_td`: `[T, D]` f32; `mean_t`, `rstd_t`: `T` f32; `dw_d`, `dbias_d`: `D` f32; `w_d`: `D`.
    ///
    /// # Errors
    /// [`paring_ops::Error::Shape`], [`paring_ops::Error::Tensor`] or [`paring_ops::Error::Device`].
    pub fn layer_norm_backward(
        &self,
        dx_td: &mut Tensor,
        accum: Accum,
        [dw_d, dbias_d]: [&mut Tensor; 2],
        dy_td: &Tensor,
        x_td: &Tensor,
        w_d: &Tensor,
        [mean_t, rstd_t]: [&Tensor; 2],
    ) -> Result<()> {
        let (op, device) = ("layer_norm_backward", &self.device);
        let (t, d) = (x_td.n_rows(), x_td.n_cols());
        want_2d(op, "dx", dx_td, t, d)?;
        want_2d(op, "dy", dy_td, t, d)?;
        let vectors =
            [("mean", mean_t, t), ("rstd", rstd_t, t), ("w", w_d, d), ("dw", &*dw_d, d), ("dbias", dbias_d, d)];
        for (what, x, n) in vectors {
            want_elements(op, what, x, n)?;
        }
        let (dy, x) = (device.read(op, dy_td, F32)?, device.read(op, x_td, F32)?);
        let (mean, rstd) = (device.read(op, mean_t, F32)?, device.read(op, rstd_t, F32)?);
        let dx = device.write(op, dx_td, F32)?;
        let (dw, dbias) = (device.write(op, dw_d, F32)?, device.write(op, dbias_d, F32)?);
        let (rows, columns) = (size(op, t)?, size(op, d)?);
        let w = Weight::of(device, op, w_d)?;
        if t == 0 || d == 0 {
            return Ok(());
        }
        let vector = d.is_multiple_of(4) && aligned(&[(dy, 16), (x, 16), (dx, 16)]) && w.aligned();
        let entry = if w.bf16 { "layer_norm_backward_bf16" } else { "layer_norm_backward_f32" };
        let plan = backward_plan(entry, rows, columns, vector, 2);
        let part = || device.scratch(op, plan.parts as usize * F32.bytes(d));
        let (dw_parts, dbias_parts) = (part()?, part()?);
        let arguments = LayerNormBackward {
            dy,
            x,
            w: w.address,
            mean,
            rstd,
            dx,
            dw_parts: dw_parts.address(),
            dbias_parts: dbias_parts.address(),
            rows,
            d: columns,
            rows_per_block: plan.rows_per_block,
            vector: u32::from(vector),
            add: u32::from(accum == Accum::Add),
            keep: plan.keep,
        };
        device.launch(op, plan.launch, arguments)?;
        add_columns(device, op, dw, &dw_parts, plan.parts, columns)?;
        add_columns(device, op, dbias, &dbias_parts, plan.parts, columns)
    }
}
