//! Statistics of activations for calibration, made where the activations are, so that only sums come back: of channels over a sequence
//! (arXiv 2407.14679, section 2.2), and of the residual stream on both sides of a layer (block influence, arXiv 2403.03853).
use crate::{
    device::Device,
    driver::Address,
    grid::{THREADS, aligned, row_threads, size},
    kernel::{Arguments, Launch, Signature, arguments},
};
use paring_ops::{ChannelSums, Result, RowProducts, want_2d};
use paring_tensor::{DType::F32, Tensor};

arguments! {
    /// Sums of columns for each part of the rows: `parts` is `[gridDim.y, 4, columns]`, f64.
    struct ColumnParts in "statistics" for ["column_statistics_f32"] { x: Address, parts: Address, rows: u32, columns: u32, rows_per_block: u32 }
}
arguments! {
    /// Adds the rows of `parts`, f64.
    struct SumColumns in "statistics" for ["sum_columns_f64"] { parts: Address, sums: Address, count: u32, columns: u32 }
}
arguments! {
    /// Products of rows: `sums` is `[rows, 3]`, f64.
    struct RowProductSums in "statistics" for ["row_products_f32"] { x: Address, y: Address, sums: Address, d: u32, vector: u32 }
}

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[ColumnParts::SIGNATURE, SumColumns::SIGNATURE, RowProductSums::SIGNATURE];

/// Rows that a block adds at least: then partial sums are a small part of what is read.
const ROWS: u32 = 256;

/// Sums of each column in one pass.
pub(crate) fn channel_sums(device: &Device, x_tc: &Tensor) -> Result<ChannelSums> {
    let op = "channel_sums";
    let (t, c) = (x_tc.n_rows(), x_tc.n_cols());
    let x = device.read(op, x_tc, F32)?;
    let (rows, columns) = (size(op, t)?, size(op, c)?);
    let width = size(op, 4 * c)?;
    if t == 0 || c == 0 {
        let zeros = || vec![0.0; c];
        let (absolute, square) = (zeros(), zeros());
        return Ok(ChannelSums { tokens: t, absolute, square, deviation: zeros(), deviation_square: zeros() });
    }
    // A grid has at most 65535 blocks along y.
    let rows_per_block = ROWS.max(rows.div_ceil(32_768));
    let count = rows.div_ceil(rows_per_block);
    let bytes = 4 * c * size_of::<f64>();
    let parts = device.scratch(op, count as usize * bytes)?;
    let sums = device.scratch(op, bytes)?;
    let launch =
        Launch { entry: "column_statistics_f32", grid: [columns.div_ceil(32), count, 1], block: [32, 8, 1], shared: 0 };
    device.launch(op, launch, ColumnParts { x, parts: parts.address(), rows, columns, rows_per_block })?;
    let launch = Launch::linear("sum_columns_f64", width.div_ceil(THREADS), THREADS);
    let arguments = SumColumns { parts: parts.address(), sums: sums.address(), count, columns: width };
    device.launch(op, launch, arguments)?;
    let sums: Vec<f64> = device.download_slice(op, sums.address(), 4 * c)?;
    let part = |i: usize| sums[i * c..][..c].to_vec();
    Ok(ChannelSums { tokens: t, deviation: part(0), absolute: part(1), square: part(2), deviation_square: part(3) })
}

/// Products of each row of `x_td` and `y_td`.
pub(crate) fn row_products(device: &Device, x_td: &Tensor, y_td: &Tensor) -> Result<Vec<RowProducts>> {
    let op = "row_products";
    let (t, d) = (x_td.n_rows(), x_td.n_cols());
    want_2d(op, "y", y_td, t, d)?;
    let (x, y) = (device.read(op, x_td, F32)?, device.read(op, y_td, F32)?);
    let (rows, columns) = (size(op, t)?, size(op, d)?);
    if t == 0 || d == 0 {
        return Ok(vec![RowProducts::default(); t]);
    }
    let vector = d.is_multiple_of(4) && aligned(&[(x, 16), (y, 16)]);
    let threads = row_threads(d, if vector { 4 } else { 1 }, THREADS);
    let sums = device.scratch(op, t * 3 * size_of::<f64>())?;
    let arguments = RowProductSums { x, y, sums: sums.address(), d: columns, vector: u32::from(vector) };
    device.launch(op, Launch::linear("row_products_f32", rows, threads), arguments)?;
    let sums: Vec<[f64; 3]> = device.download_slice(op, sums.address(), t)?;
    Ok(sums.into_iter().map(|[xy, xx, yy]| RowProducts { xy, xx, yy }).collect())
}
