//! Products with quantised weights, multiplied as they lie: activations are rounded to 8 bits in blocks of 32 (`paring_ops::round_block`),
//! the products of a block are integers.
use crate::{
    device::Device,
    driver::Address,
    grid::{THREADS, aligned, size},
    kernel::{Launch, arguments},
};
use paring_ops::{Error, Result};
use paring_tensor::{DType, block};

arguments! {
    /// Activations as blocks of `scale * q`, with the sum of each block's q.
    pub(crate) struct QuantiseRows in "gemv_quantised" for ["quantise_rows_f32"] {
        x: Address, q: Address, scales: Address, blocks: u32, vector: u32,
    }
}
arguments! {
    /// `y[t, n] = sum_k x[t, k] w[n, k]`.
    pub(crate) struct Gemv in "gemv_quantised" for [
        "gemv_q8_0_t1", "gemv_q8_0_t8", "gemv_q4_0_t1", "gemv_q4_0_t8", "gemv_q4_1_t1", "gemv_q4_1_t8",
    ] { w: Address, x: Address, scales: Address, y: Address, n: u32, blocks: u32, tokens: u32, late: u32 }
}

/// Rows of w of a block of threads: a warp has one.
const ROWS: usize = 8;
/// Rows of x that are multiplied with a row of w while it is there.
const TOKENS: usize = 8;

/// `y[t, n] = sum_k x[t, k] w[n, k]` with blocks of `dtype` at `w`; shapes were checked.
pub(crate) fn linear(
    device: &Device,
    op: &'static str,
    dtype: DType,
    [y, x, w]: [Address; 3],
    [tokens, n, k]: [usize; 3],
) -> Result<()> {
    if tokens == 0 || n == 0 {
        return Ok(());
    }
    if k == 0 {
        return device.zero(op, y, tokens * n * 4);
    }
    let entry = match (dtype, tokens) {
        (DType::Q8_0, 1) => "gemv_q8_0_t1",
        (DType::Q8_0, _) => "gemv_q8_0_t8",
        (DType::Q4_0, 1) => "gemv_q4_0_t1",
        (DType::Q4_0, _) => "gemv_q4_0_t8",
        (DType::Q4_1, 1) => "gemv_q4_1_t1",
        (DType::Q4_1, _) => "gemv_q4_1_t8",
        (dtype, _) => return Err(Error::Unsupported { op, what: format!("weights of {dtype}") }),
    };
    let row = k / block::LEN;
    // Kernels count the bytes of a row, and up to 15 before it.
    size(op, dtype.bytes(k).saturating_add(15))?;
    let (q, scales) = (device.scratch(op, tokens * k)?, device.scratch(op, tokens * row * 8)?);
    let rounded = QuantiseRows {
        x,
        q: q.address(),
        scales: scales.address(),
        blocks: size(op, tokens * row)?,
        vector: u32::from(aligned(&[(x, 16)])),
    };
    device.launch(op, Launch::over("quantise_rows_f32", tokens * k, 4, THREADS, u32::MAX), rounded)?;
    let groups = if tokens == 1 { 1 } else { tokens.div_ceil(TOKENS) };
    let blocks = [size(op, n.div_ceil(ROWS))?, size(op, groups)?, 1];
    let launch = Launch { grid: blocks, ..Launch::linear(entry, 0, THREADS) };
    // Copies are of aligned pieces of 16 bytes. What lies before the weight in its piece belongs to the same buffer, and is not used.
    let late = w.0 % 16;
    let product = Gemv {
        w: Address(w.0 - late),
        x: q.address(),
        scales: scales.address(),
        y,
        n: size(op, n)?,
        blocks: size(op, row)?,
        tokens: size(op, tokens)?,
        late: late as u32,
    };
    device.launch(op, launch, product)
}
