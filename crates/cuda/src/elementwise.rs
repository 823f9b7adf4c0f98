//! Element-wise operations, conversions and sums.
use crate::{
    device::Device,
    driver::Address,
    grid::{THREADS, aligned, groups},
    kernel::{Arguments, Launch, Signature, arguments},
};
use paring_ops::{Accum, Error, Result, want_2d, want_elements};
use paring_tensor::{DType, Tensor, block};

arguments! {
    /// One short float or f32 to another.
    struct Convert in "elementwise" for [
        "convert_f32_bf16", "convert_f32_f16", "convert_bf16_f32", "convert_bf16_f16", "convert_f16_f32", "convert_f16_bf16",
    ] { x: Address, y: Address, n: u64, groups: u64 }
}
arguments! {
    /// Blocks to f32: `groups` of four elements.
    struct Dequantise in "elementwise" for ["dequantise_q8_0", "dequantise_q4_0", "dequantise_q4_1"] {
        blocks: Address, y: Address, groups: u64, vector: u32,
    }
}
arguments! {
    /// f32 to blocks.
    struct Quantise in "elementwise" for ["quantise_q8_0", "quantise_q4_0", "quantise_q4_1"] { x: Address, blocks: Address, n: u64 }
}
arguments! {
    /// `y = value`.
    struct Fill in "elementwise" for ["fill_f32"] { y: Address, n: u64, groups: u64, value: f32 }
}
arguments! {
    /// `y = a + b`.
    struct Add in "elementwise" for ["add_f32"] { a: Address, b: Address, y: Address, n: u64, groups: u64 }
}
arguments! {
    /// `y += x`.
    struct Accumulate in "elementwise" for ["accumulate_f32"] { x: Address, y: Address, n: u64, groups: u64 }
}
arguments! {
    /// `y *= factor`.
    struct Scale in "elementwise" for ["scale_f32"] { y: Address, n: u64, groups: u64, factor: f32 }
}
arguments! {
    /// A sum of squares for each block, f64.
    struct SumSquares in "elementwise" for ["sum_squares_f32"] { x: Address, parts: Address, n: u64, vector: u32 }
}
arguments! {
    /// The sum of f64.
    struct SumParts in "elementwise" for ["sum_parts_f64"] { parts: Address, total: Address, count: u32 }
}

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[
    Convert::SIGNATURE,
    Dequantise::SIGNATURE,
    Quantise::SIGNATURE,
    Fill::SIGNATURE,
    Add::SIGNATURE,
    Accumulate::SIGNATURE,
    Scale::SIGNATURE,
    SumSquares::SIGNATURE,
    SumParts::SIGNATURE,
];

pub(crate) fn convert(device: &Device, y: &mut Tensor, x: &Tensor) -> Result<()> {
    let op = "convert";
    want_elements(op, "x", x, y.elements())?;
    let (n, from, to) = (x.elements(), x.dtype(), y.dtype());
    let (source, target) = (device.read(op, x, from)?, device.write(op, y, to)?);
    if from == to && !to.is_quantised() {
        return device.copy(op, target, source, to.bytes(n));
    }
    if from != DType::F32 && to != DType::F32 && (from.is_quantised() || to.is_quantised()) {
        // Blocks have f32 on the other side.
        let wide = device.scratch(op, DType::F32.bytes(n))?;
        convert_values(device, wide.address(), DType::F32, source, from, n)?;
        return convert_values(device, target, to, wide.address(), DType::F32, n);
    }
    convert_values(device, target, to, source, from, n)
}

/// `n` values of two types that differ, of which one is f32 when the other has blocks.
fn convert_values(device: &Device, y: Address, to: DType, x: Address, from: DType, n: usize) -> Result<()> {
    use DType::{BF16, F16, F32, Q4_0, Q4_1, Q8_0};
    let op = "convert";
    let entry = match (from, to) {
        (F32, BF16) => "convert_f32_bf16",
        (F32, F16) => "convert_f32_f16",
        (BF16, F32) => "convert_bf16_f32",
        (BF16, F16) => "convert_bf16_f16",
        (F16, F32) => "convert_f16_f32",
        (F16, BF16) => "convert_f16_bf16",
        (Q8_0, F32) => "dequantise_q8_0",
        (Q4_0, F32) => "dequantise_q4_0",
        (Q4_1, F32) => "dequantise_q4_1",
        (F32, Q8_0) => "quantise_q8_0",
        (F32, Q4_0) => "quantise_q4_0",
        (F32, Q4_1) => "quantise_q4_1",
        _ => return Err(Error::Unsupported { op, what: format!("{from} to {to}") }),
    };
    if from.is_quantised() {
        // Rows are whole blocks.
        let (launch, groups) = groups(entry, n, 4, true);
        let vector = u32::from(aligned(&[(y, 16)]));
        return device.launch(op, launch, Dequantise { blocks: x, y, groups, vector });
    }
    if to.is_quantised() {
        let elements = n.next_multiple_of(block::LEN);
        let launch = Launch::over(entry, elements, 1, THREADS, u32::MAX);
        return device.launch(op, launch, Quantise { x, blocks: y, n: n as u64 });
    }
    // A group is 16 bytes of the wider type.
    let each = if from == F32 || to == F32 { 4 } else { 8 };
    let bytes = |dtype: DType| dtype.bytes(each) as u64;
    let (launch, groups) = groups(entry, n, each, aligned(&[(x, bytes(from)), (y, bytes(to))]));
    device.launch(op, launch, Convert { x, y, n: n as u64, groups })
}

pub(crate) fn fill(device: &Device, y: &mut Tensor, value: f32) -> Result<()> {
    let op = "fill";
    let (n, y) = (y.elements(), device.write(op, y, DType::F32)?);
    let (launch, groups) = groups("fill_f32", n, 4, aligned(&[(y, 16)]));
    device.launch(op, launch, Fill { y, n: n as u64, groups, value })
}

pub(crate) fn write_rows(device: &Device, dst: &mut Tensor, at: usize, src: &Tensor) -> Result<()> {
    let op = "write_rows";
    let (cols, rows, total) = (dst.n_cols(), src.n_rows(), dst.n_rows());
    want_2d(op, "src", src, rows, cols)?;
    match at.checked_add(rows) {
        Some(end) if end <= total => {}
        _ => return Err(Error::Index { op, index: at.saturating_add(rows), len: total }),
    }
    let (src, dst) = (device.read(op, src, DType::F32)?, device.write(op, dst, DType::F32)?);
    device.copy(op, dst.add(DType::F32.bytes(at * cols)), src, DType::F32.bytes(rows * cols))
}

pub(crate) fn add(device: &Device, y: &mut Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
    let (op, n) = ("add", y.elements());
    want_elements(op, "a", a, n)?;
    want_elements(op, "b", b, n)?;
    let (a, b) = (device.read(op, a, DType::F32)?, device.read(op, b, DType::F32)?);
    let y = device.write(op, y, DType::F32)?;
    let (launch, groups) = groups("add_f32", n, 4, aligned(&[(a, 16), (b, 16), (y, 16)]));
    device.launch(op, launch, Add { a, b, y, n: n as u64, groups })
}

pub(crate) fn accumulate(device: &Device, y: &mut Tensor, accum: Accum, x: &Tensor) -> Result<()> {
    let (op, n) = ("accumulate", y.elements());
    want_elements(op, "x", x, n)?;
    let (x, y) = (device.read(op, x, DType::F32)?, device.write(op, y, DType::F32)?);
    match accum {
        Accum::Set => device.copy(op, y, x, DType::F32.bytes(n)),
        Accum::Add => {
            let (launch, groups) = groups("accumulate_f32", n, 4, aligned(&[(x, 16), (y, 16)]));
            device.launch(op, launch, Accumulate { x, y, n: n as u64, groups })
        }
    }
}

pub(crate) fn scale(device: &Device, y: &mut Tensor, factor: f32) -> Result<()> {
    let op = "scale";
    let (n, y) = (y.elements(), device.write(op, y, DType::F32)?);
    let (launch, groups) = groups("scale_f32", n, 4, aligned(&[(y, 16)]));
    device.launch(op, launch, Scale { y, n: n as u64, groups, factor })
}

/// Elements that a thread of `sum_squares_f32` adds at least, as long as there are blocks to be had: the grid, and with it the order of the
/// sum, depends on the number of elements only.
const SQUARES_EACH: usize = 16;
const SQUARES_BLOCKS: u32 = 1024;

pub(crate) fn sum_squares(device: &Device, x: &Tensor) -> Result<f64> {
    let op = "sum_squares";
    let (n, x) = (x.elements(), device.read(op, x, DType::F32)?);
    if n == 0 {
        return Ok(0.0);
    }
    let launch = Launch::over("sum_squares_f32", n, SQUARES_EACH, THREADS, SQUARES_BLOCKS);
    let count = launch.grid[0];
    let sums = device.scratch(op, (count as usize + 1) * size_of::<f64>())?;
    let (total, parts) = (sums.address(), sums.address().add(size_of::<f64>()));
    let vector = u32::from(aligned(&[(x, 16)]));
    device.launch(op, launch, SumSquares { x, parts, n: n as u64, vector })?;
    device.launch(op, Launch::linear("sum_parts_f64", 1, THREADS), SumParts { parts, total, count })?;
    device.download_slice(op, total, 1)?.first().copied().ok_or(Error::Device { op, message: "no sum".into() })
}
