//! Rotary embeddings.
use crate::{
    device::Device,
    driver::Address,
    grid::{THREADS, aligned, size},
    kernel::{Arguments, Launch, Signature, arguments},
};
use paring_ops::{Result, want_rope};
use paring_tensor::{DType::F32, Tensor};

arguments! {
    /// Turns each row by the angles of its position.
    struct Rope in "rope" for ["rope_f32"] {
        x: Address, table: Address, positions: Address, heads: u32, half: u32, vector: u32, sign: f32,
    }
}

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[Rope::SIGNATURE];

pub(crate) fn rope(device: &Device, x: &mut Tensor, table: &Tensor, positions: &[u32], inverse: bool) -> Result<()> {
    let op = "rope";
    want_rope(op, x, table, positions)?;
    let half = table.n_cols() / 2;
    let heads = x.n_cols() / table.n_cols();
    let (table, x) = (device.read(op, table, F32)?, device.write(op, x, F32)?);
    let (rows, heads, half) = (size(op, positions.len())?, size(op, heads)?, size(op, half)?);
    if rows == 0 || heads == 0 {
        return Ok(());
    }
    let vector = half.is_multiple_of(4) && aligned(&[(x, 16), (table, 16)]);
    let pairs = (if vector { half / 4 } else { half }).min(THREADS);
    let block = [pairs, (THREADS / pairs).clamp(1, heads), 1];
    let positions = device.upload_slice(op, positions)?;
    let sign = if inverse { -1.0 } else { 1.0 };
    let launch = Launch { block, ..Launch::linear("rope_f32", rows, THREADS) };
    let vector = u32::from(vector);
    device.launch(op, launch, Rope { x, table, positions: positions.address(), heads, half, vector, sign })
}
