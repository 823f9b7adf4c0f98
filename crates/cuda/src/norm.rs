//! RMSNorm, alone and with the residual stream. What LayerNorm (`layer_norm.rs`) shares with it is here too.
use crate::{
    device::Device,
    driver::Address,
    elementwise,
    grid::{THREADS, aligned, row_threads, size},
    kernel::{Arguments, Launch, Signature, arguments},
    memory::DeviceBuffer,
};
use paring_ops::{Accum, Result, want_2d, want_add_rms_norm, want_elements};
use paring_tensor::{
    DType::{self, BF16, F32},
    Tensor,
};

arguments! {
    /// A block has a row of `x`.
    struct RmsNorm in "norm" for ["rms_norm_f32", "rms_norm_bf16"] {
        x: Address, w: Address, y: Address, rstd: Address, d: u32, vector: u32, keep: u32, eps: f32,
    }
}
arguments! {
    /// The same of `sum = a + b`.
    struct AddRmsNorm in "norm" for ["add_rms_norm_f32", "add_rms_norm_bf16"] {
        a: Address, b: Address, w: Address, sum: Address, y: Address, rstd: Address, d: u32, vector: u32, keep: u32, eps: f32,
    }
}
arguments! {
    /// A block has `rows_per_block` rows, and a row of `dw_parts`.
    struct RmsNormBackward in "norm" for ["rms_norm_backward_f32", "rms_norm_backward_bf16"] {
        dy: Address, x: Address, w: Address, rstd: Address, dx: Address, dw_parts: Address,
        rows: u32, d: u32, rows_per_block: u32, vector: u32, add: u32, keep: u32,
    }
}
arguments! {
    /// Adds the columns of `parts` to `sums`.
    struct AddColumns in "norm" for ["add_columns_f32"] { parts: Address, sums: Address, count: u32, columns: u32 }
}

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] =
    &[RmsNorm::SIGNATURE, AddRmsNorm::SIGNATURE, RmsNormBackward::SIGNATURE, AddColumns::SIGNATURE];

/// Bytes of dynamic shared memory that a block may keep rows in: with the kernel's own below the 48 KiB that leave room for other blocks.
const KEPT_BYTES: usize = 47 << 10;

/// Blocks of a backward at most: each has a row of partial sums, which are added afterwards.
const PARTS: usize = 512;

/// A weight of a norm where kernels can read it: f32 and bf16 where they lie, other types as f32.
pub(crate) struct Weight {
    pub(crate) address: Address,
    pub(crate) bf16: bool,
    /// The values, when they had to be converted.
    _values: Option<Tensor>,
}

impl Weight {
    /// # Errors
    /// Those of [`Device::address`], and of the conversion, which is queued before anything that reads it.
    pub(crate) fn of(device: &Device, op: &'static str, w: &Tensor) -> Result<Weight> {
        if matches!(w.dtype(), F32 | BF16) {
            return Ok(Weight { address: device.address(op, w)?, bf16: w.dtype() == BF16, _values: None });
        }
        let mut values = device.tensor(op, F32, w.shape())?;
        elementwise::convert(device, &mut values, w)?;
        Ok(Weight { address: device.address(op, &values)?, bf16: false, _values: Some(values) })
    }

    /// Whether four of its elements can be read at once.
    pub(crate) fn aligned(&self) -> bool {
        aligned(&[(self.address, if self.bf16 { 8 } else { 16 })])
    }
}

/// A launch of a block for each of `rows` rows of `d`, with `keep` when a row fits in shared memory.
pub(crate) fn forward_launch(entry: &'static str, rows: u32, d: u32, vector: bool) -> (Launch, u32) {
    let row_bytes = DType::F32.bytes(d as usize);
    let keep = row_bytes <= KEPT_BYTES;
    let threads = row_threads(d as usize, if vector { 4 } else { 1 }, THREADS);
    let shared = if keep { row_bytes as u32 } else { 0 };
    (Launch { shared, ..Launch::linear(entry, rows, threads) }, u32::from(keep))
}

/// How a backward is shared out.
pub(crate) struct BackwardPlan {
    pub(crate) launch: Launch,
    pub(crate) rows_per_block: u32,
    /// 0: nothing in shared memory, 1: the sums, 2: the row as well.
    pub(crate) keep: u32,
    /// Rows of partial sums.
    pub(crate) parts: u32,
}

/// Shares out `rows` rows, at least one, of `d`, with `sums` sums a column. It depends on the shape only, and so do the bits of the sums.
pub(crate) fn backward_plan(entry: &'static str, rows: u32, d: u32, vector: bool, sums: usize) -> BackwardPlan {
    let rows_per_block = (rows as usize).div_ceil(PARTS) as u32;
    let parts = rows.div_ceil(rows_per_block.max(1));
    let row_bytes = DType::F32.bytes(d as usize);
    let (keep, shared) = match (sums * row_bytes, (sums + 2) * row_bytes) {
        (_, all) if all <= KEPT_BYTES => (2, all as u32),
        (sums, _) if sums <= KEPT_BYTES => (1, sums as u32),
        _ => (0, 0),
    };
    let threads = row_threads(d as usize, if vector { 4 } else { 1 }, THREADS);
    let launch = Launch { shared, ..Launch::linear(entry, parts, threads) };
    BackwardPlan { launch, rows_per_block, keep, parts }
}

/// `sums += ` the columns of `parts`, `[count, columns]`.
pub(crate) fn add_columns(
    device: &Device,
    op: &'static str,
    sums: Address,
    parts: &DeviceBuffer,
    count: u32,
    columns: u32,
) -> Result<()> {
    let blocks = columns.div_ceil(32);
    let launch = Launch { block: [32, 8, 1], ..Launch::linear("add_columns_f32", blocks, 0) };
    device.launch(op, launch, AddColumns { parts: parts.address(), sums, count, columns })
}

pub(crate) fn rms_norm(
    device: &Device,
    y_td: &mut Tensor,
    rstd_t: &mut Tensor,
    x_td: &Tensor,
    w_d: &Tensor,
    eps: f32,
) -> Result<()> {
    let op = "rms_norm";
    let (t, d) = (x_td.n_rows(), x_td.n_cols());
    want_2d(op, "y", y_td, t, d)?;
    want_elements(op, "rstd", rstd_t, t)?;
    want_elements(op, "w", w_d, d)?;
    let x = device.read(op, x_td, F32)?;
    let (y, rstd) = (device.write(op, y_td, F32)?, device.write(op, rstd_t, F32)?);
    let (rows, columns) = (size(op, t)?, size(op, d)?);
    let w = Weight::of(device, op, w_d)?;
    if d == 0 {
        return Ok(());
    }
    let vector = d.is_multiple_of(4) && aligned(&[(x, 16), (y, 16)]) && w.aligned();
    let entry = if w.bf16 { "rms_norm_bf16" } else { "rms_norm_f32" };
    let (launch, keep) = forward_launch(entry, rows, columns, vector);
    let (w, vector) = (w.address, u32::from(vector));
    device.launch(op, launch, RmsNorm { x, w, y, rstd, d: columns, vector, keep, eps })
}

pub(crate) fn add_rms_norm(
    device: &Device,
    sum_td: &mut Tensor,
    y_td: &mut Tensor,
    rstd_t: &mut Tensor,
    a_td: &Tensor,
    b_td: &Tensor,
    w_d: &Tensor,
    eps: f32,
) -> Result<()> {
    let op = "add_rms_norm";
    want_add_rms_norm(sum_td, y_td, rstd_t, a_td, b_td, w_d)?;
    let (t, d) = (a_td.n_rows(), a_td.n_cols());
    let (a, b) = (device.read(op, a_td, F32)?, device.read(op, b_td, F32)?);
    let (sum, y) = (device.write(op, sum_td, F32)?, device.write(op, y_td, F32)?);
    let rstd = device.write(op, rstd_t, F32)?;
    let (rows, columns) = (size(op, t)?, size(op, d)?);
    let w = Weight::of(device, op, w_d)?;
    if d == 0 {
        return Ok(());
    }
    let vector = d.is_multiple_of(4) && aligned(&[(a, 16), (b, 16), (sum, 16), (y, 16)]) && w.aligned();
    let entry = if w.bf16 { "add_rms_norm_bf16" } else { "add_rms_norm_f32" };
    let (launch, keep) = forward_launch(entry, rows, columns, vector);
    let (w, vector) = (w.address, u32::from(vector));
    device.launch(op, launch, AddRmsNorm { a, b, w, sum, y, rstd, d: columns, vector, keep, eps })
}

pub(crate) fn rms_norm_backward(
    device: &Device,
    dx_td: &mut Tensor,
    accum: Accum,
    dw_d: &mut Tensor,
    dy_td: &Tensor,
    x_td: &Tensor,
    w_d: &Tensor,
    rstd_t: &Tensor,
) -> Result<()> {
    let op = "rms_norm_backward";
    let (t, d) = (x_td.n_rows(), x_td.n_cols());
    want_2d(op, "dx", dx_td, t, d)?;
    want_2d(op, "dy", dy_td, t, d)?;
    want_elements(op, "rstd", rstd_t, t)?;
    want_elements(op, "w", w_d, d)?;
    want_elements(op, "dw", dw_d, d)?;
    let (dy, x, rstd) = (device.read(op, dy_td, F32)?, device.read(op, x_td, F32)?, device.read(op, rstd_t, F32)?);
    let (dx, dw) = (device.write(op, dx_td, F32)?, device.write(op, dw_d, F32)?);
    let (rows, columns) = (size(op, t)?, size(op, d)?);
    let w = Weight::of(device, op, w_d)?;
    if t == 0 || d == 0 {
        return Ok(());
    }
    let vector = d.is_multiple_of(4) && aligned(&[(dy, 16), (x, 16), (dx, 16)]) && w.aligned();
    let entry = if w.bf16 { "rms_norm_backward_bf16" } else { "rms_norm_backward_f32" };
    let plan = backward_plan(entry, rows, columns, vector, 1);
    let parts = device.scratch(op, plan.parts as usize * F32.bytes(d))?;
    let arguments = RmsNormBackward {
        dy,
        x,
        w: w.address,
        rstd,
        dx,
        dw_parts: parts.address(),
        rows,
        d: columns,
        rows_per_block: plan.rows_per_block,
        vector: u32::from(vector),
        add: u32::from(accum == Accum::Add),
        keep: plan.keep,
    };
    device.launch(op, plan.launch, arguments)?;
    add_columns(device, op, dw, &parts, plan.parts, columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shared_out_in_whole_and_kept_where_they_fit() {
        let plan = backward_plan("e", 1025, 4000, true, 1);
        assert_eq!((plan.rows_per_block, plan.parts, plan.keep, plan.launch.shared), (3, 342, 2, 48_000));
        assert_eq!(backward_plan("e", 1, 12_000, true, 1).keep, 1);
        assert_eq!(backward_plan("e", 1, 12_100, true, 1).keep, 0);
        assert_eq!(backward_plan("e", 1, 6017, false, 2).keep, 0);
        assert_eq!(forward_launch("e", 7, 12_033, false).1, 0);
    }
}
