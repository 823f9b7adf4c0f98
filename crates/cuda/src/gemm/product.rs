//! A product of two matrices with what becomes of its sums: operands are brought into the form that the kernels read, the plan is carried
//! out, and parts of k are added up.
use crate::{
    backend::Cuda,
    device::Device,
    driver::Address,
    gemm::plan::{Compute, Layout, Plan, plan},
    grid::{THREADS, aligned, size},
    kernel::{Launch, arguments},
    memory::DeviceBuffer,
};
use paring_ops::{Accum, Activation, Error, Result, want_2d, want_contiguous, want_elements};
use paring_tensor::{DType, Tensor};

arguments! {
    /// A product of bf16 with rows padded to 16 bytes.
    pub(crate) struct TensorCores in "gemm_bf16" for [
        "gemm_nt_bf16_128x256", "gemm_nn_bf16_128x256", "gemm_tn_bf16_128x256",
        "gemm_nt_bf16_128x128", "gemm_nn_bf16_128x128", "gemm_tn_bf16_128x128",
        "gemm_nt_bf16_64x64", "gemm_nn_bf16_64x64", "gemm_tn_bf16_64x64",
    ] {
        a: Address, b: Address, c: Address, c_bf16: Address, bias: Address, residual: Address,
        m: u32, n: u32, k: u32, lda: u32, ldb: u32, k_split: u32, split_bits: u32, flags: u32,
    }
}
arguments! {
    /// A product of f32.
    pub(crate) struct Exact in "gemm_f32" for [
        "gemm_nt_f32_128x128", "gemm_nn_f32_128x128", "gemm_tn_f32_128x128",
        "gemm_nt_f32_64x64", "gemm_nn_f32_64x64", "gemm_tn_f32_64x64",
    ] {
        a: Address, b: Address, c: Address, c_bf16: Address, bias: Address, residual: Address,
        m: u32, n: u32, k: u32, lda: u32, ldb: u32, k_split: u32, split_bits: u32, flags: u32,
    }
}
arguments! {
    /// The sum of parts of k.
    pub(crate) struct Reduce in "gemm_passes" for ["gemm_reduce_f32"] {
        parts: Address, c: Address, c_bf16: Address, bias: Address, residual: Address, size: u64, n: u32, splits: u32, flags: u32,
    }
}
arguments! {
    /// Rows as bf16, padded to 16 bytes with zeros.
    pub(crate) struct CastRows in "gemm_passes" for ["cast_rows_f32", "cast_rows_bf16"] {
        x: Address, y: Address, chunks: u32, columns: u32, padded: u32, vector: u32,
    }
}

/// Bits of `flags` in `kernels/include/epilogue.cuh` and `kernels/gemm_f32.cu`; the lowest three are the activation.
const ADD: u32 = 8;
const ALIGNED: u32 = 16;
const A_VECTOR: u32 = 32;
const B_VECTOR: u32 = 64;

/// What becomes of the sums: `c = act(sum + bias) + residual`, or that added to `c`.
#[derive(Clone, Copy, Debug)]
pub struct Epilogue<'a> {
    /// `[n]`, f32.
    pub bias: Option<&'a Tensor>,
    /// After the bias.
    pub activation: Option<Activation>,
    /// `[m, n]`, f32, after the activation.
    pub residual: Option<&'a Tensor>,
    /// Whether the f32 output is overwritten or added to.
    pub accum: Accum,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Epilogue { bias: None, activation: None, residual: None, accum: Accum::Set }
    }
}

/// A product `c[m, n] = sum_k a(m, k) b(k, n)` with its epilogue. Operands are f32 or bf16.
#[derive(Clone, Copy, Debug)]
pub struct Gemm<'a> {
    /// How `a` and `b` lie.
    pub layout: Layout,
    /// What factors are rounded to.
    pub compute: Compute,
    /// The left factor.
    pub a: &'a Tensor,
    /// The right factor.
    pub b: &'a Tensor,
    /// What becomes of the sums.
    pub epilogue: Epilogue<'a>,
}

impl Cuda {
    /// Carries out `gemm` into `c` (f32), and its result rounded to bf16 into `c_bf16` where that is wanted; both `[m, n]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when shapes do not fit, [`Error::Tensor`] for other types, [`Error::Device`] from the device.
    pub fn gemm(&self, c: &mut Tensor, c_bf16: Option<&mut Tensor>, gemm: &Gemm<'_>) -> Result<()> {
        let (op, device) = ("gemm", &self.device);
        let (a, b) = (Operand::of(device, op, gemm.a)?, Operand::of(device, op, gemm.b)?);
        let (m, k) = match gemm.layout {
            Layout::Nt | Layout::Nn => (a.rows, a.columns),
            Layout::Tn => (a.columns, a.rows),
        };
        let (rows, columns, n) = match gemm.layout {
            Layout::Nt => (b.rows, k, b.rows),
            Layout::Nn | Layout::Tn => (k, b.columns, b.columns),
        };
        want_2d(op, "b", gemm.b, rows, columns)?;
        want_2d(op, "c", c, m, n)?;
        let Epilogue { bias, activation, residual, accum } = gemm.epilogue;
        let mut out = Output { activation, ..Output::new(device.write(op, c, DType::F32)?, accum) };
        if let Some(bias) = bias {
            want_elements(op, "bias", bias, n)?;
            out.bias = device.read(op, bias, DType::F32)?;
        }
        if let Some(residual) = residual {
            want_2d(op, "residual", residual, m, n)?;
            out.residual = device.read(op, residual, DType::F32)?;
        }
        if let Some(c_bf16) = c_bf16 {
            want_2d(op, "c_bf16", c_bf16, m, n)?;
            out.c_bf16 = device.write(op, c_bf16, DType::BF16)?;
        }
        product(device, op, gemm.compute, gemm.layout, [m, n, k], a, b, out)
    }
}

/// A factor as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    address: Address,
    dtype: DType,
    rows: usize,
    columns: usize,
    /// Elements from row to row: more than columns in a view of columns.
    stride: usize,
}

impl Operand {
    /// # Errors
    /// [`Error::Tensor`] when it is not on this device; [`Error::Unsupported`] when it is neither f32 nor bf16.
    pub(crate) fn of(device: &Device, op: &'static str, t: &Tensor) -> Result<Operand> {
        want_contiguous(op, t)?;
        Operand::view(device, op, t)
    }

    /// As [`Operand::of`], also of a view of columns.
    pub(crate) fn view(device: &Device, op: &'static str, t: &Tensor) -> Result<Operand> {
        let (address, dtype) = (device.view_address(op, t)?, t.dtype());
        let (rows, columns) = (t.n_rows(), t.n_cols());
        let stride = if t.is_contiguous() { columns } else { t.row_stride() };
        match dtype {
            DType::F32 | DType::BF16 => Ok(Operand { address, dtype, rows, columns, stride }),
            dtype => Err(Error::Unsupported { op, what: format!("{dtype} in a product") }),
        }
    }
}

/// Where sums go. [`NONE`] is the address of what is left out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    c: Address,
    c_bf16: Address,
    bias: Address,
    residual: Address,
    activation: Option<Activation>,
    accum: Accum,
}

const NONE: Address = Address(0);

impl Output {
    pub(crate) fn new(c: Address, accum: Accum) -> Output {
        Output { c, c_bf16: NONE, bias: NONE, residual: NONE, activation: None, accum }
    }

    /// What the kernels are told, for rows of `n`.
    fn flags(&self, n: usize) -> u32 {
        let activation = match self.activation {
            None => 0,
            Some(Activation::Silu) => 1,
            Some(Activation::Gelu) => 2,
            Some(Activation::GeluTanh) => 3,
            Some(Activation::Relu2) => 4,
        };
        let add = if self.accum == Accum::Add { ADD } else { 0 };
        let places = [(self.c, 16), (self.c_bf16, 8), (self.bias, 16), (self.residual, 16)];
        activation | add | if n.is_multiple_of(4) && aligned(&places) { ALIGNED } else { 0 }
    }
}

/// A factor in the form that a kernel reads: where, how far rows are apart, and what memory it needs meanwhile.
struct Prepared {
    address: Address,
    ld: u32,
    /// Whether rows begin at multiples of 16 bytes.
    vector: bool,
    _scratch: Option<DeviceBuffer>,
}

/// As bf16 in rows of whole pieces of 16 bytes: as it lies, or a copy.
///
/// Of a view of columns the rows are taken whole: what lies behind the view's columns meets the zeros that pad the other factor's.
fn for_tensor_cores(device: &Device, op: &'static str, x: Operand) -> Result<Prepared> {
    let padded = x.stride.next_multiple_of(8);
    let ld = size(op, padded)?;
    if x.dtype == DType::BF16 && padded == x.stride && aligned(&[(x.address, 16)]) {
        return Ok(Prepared { address: x.address, ld, vector: true, _scratch: None });
    }
    let copy = device.scratch(op, x.rows * padded * 2)?;
    let (entry, bytes) = match x.dtype {
        DType::BF16 => ("cast_rows_bf16", 16),
        _ => ("cast_rows_f32", 16),
    };
    let chunks = x.rows * padded / 8;
    let vector = padded == x.stride && aligned(&[(x.address, bytes)]);
    let cast = CastRows {
        x: x.address,
        y: copy.address(),
        chunks: size(op, chunks)?,
        columns: size(op, x.stride)?,
        padded: ld,
        vector: u32::from(vector),
    };
    device.launch(op, Launch::over(entry, chunks, 1, THREADS, u32::MAX), cast)?;
    Ok(Prepared { address: copy.address(), ld, vector: true, _scratch: Some(copy) })
}

/// As f32: as it lies, or a copy of bf16.
fn for_f32(op: &'static str, x: Operand) -> Result<Prepared> {
    if x.dtype != DType::F32 {
        let what = format!("{} in a product of f32", x.dtype);
        return Err(Error::Unsupported { op, what });
    }
    let vector = x.columns.is_multiple_of(4) && x.stride.is_multiple_of(4) && aligned(&[(x.address, 16)]);
    Ok(Prepared { address: x.address, ld: size(op, x.stride)?, vector, _scratch: None })
}

/// `c[m, n] = sum_k a(m, k) b(k, n)`; shapes were checked.
pub(crate) fn product(
    device: &Device,
    op: &'static str,
    compute: Compute,
    layout: Layout,
    [m, n, k]: [usize; 3],
    a: Operand,
    b: Operand,
    out: Output,
) -> Result<()> {
    if m == 0 || n == 0 {
        return Ok(());
    }
    let plan = plan(compute, layout, m, n, k, device.limits().processors);
    let (a, b) = match compute {
        Compute::Bf16 => (for_tensor_cores(device, op, a)?, for_tensor_cores(device, op, b)?),
        Compute::F32 => (for_f32(op, a)?, for_f32(op, b)?),
    };
    // k is counted in bytes by i32 in the kernels.
    if (i32::MAX as usize) / 4 < k {
        return Err(Error::Unsupported { op, what: format!("an inner dimension of {k}") });
    }
    if plan.splits() == 1 {
        return launch(device, op, compute, &plan, [m, n, k], &a, &b, out);
    }
    let parts = device.scratch(op, plan.splits() * m * n * 4)?;
    launch(device, op, compute, &plan, [m, n, k], &a, &b, Output::new(parts.address(), Accum::Set))?;
    let flags = out.flags(n);
    let reduce = Reduce {
        parts: parts.address(),
        c: out.c,
        c_bf16: out.c_bf16,
        bias: out.bias,
        residual: out.residual,
        size: (m * n) as u64,
        n: size(op, n)?,
        splits: 1 << plan.split_bits,
        flags,
    };
    let each = if flags & ALIGNED == 0 { 1 } else { 4 };
    device.launch(op, Launch::over("gemm_reduce_f32", m * n, each, THREADS, u32::MAX), reduce)
}

fn launch(
    device: &Device,
    op: &'static str,
    compute: Compute,
    plan: &Plan,
    [m, n, k]: [usize; 3],
    a: &Prepared,
    b: &Prepared,
    out: Output,
) -> Result<()> {
    let tile = plan.tile;
    let launch = Launch { entry: plan.entry, grid: plan.grid, block: [tile.threads, 1, 1], shared: tile.shared };
    let Output { c, c_bf16, bias, residual, .. } = out;
    let vectors = if a.vector { A_VECTOR } else { 0 } | if b.vector { B_VECTOR } else { 0 };
    let (a, b, lda, ldb, flags) = (a.address, b.address, a.ld, b.ld, out.flags(n));
    let [m, n, k] = [size(op, m)?, size(op, n)?, size(op, k)?];
    let (k_split, split_bits) = (size(op, plan.k_split)?, plan.split_bits);
    match compute {
        Compute::Bf16 => {
            let product =
                TensorCores { a, b, c, c_bf16, bias, residual, m, n, k, lda, ldb, k_split, split_bits, flags };
            device.launch(op, launch, product)
        }
        Compute::F32 => {
            let flags = flags | vectors;
            let product = Exact { a, b, c, c_bf16, bias, residual, m, n, k, lda, ldb, k_split, split_bits, flags };
            device.launch(op, launch, product)
        }
    }
}
