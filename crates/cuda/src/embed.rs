//! Rows of a table, and their gradients.
use crate::{
    device::Device,
    driver::Address,
    grid::{THREADS, aligned, row_threads, size},
    kernel::{Arguments, Launch, Signature, arguments},
};
use paring_ops::{Error, Result, want_2d, want_indices};
use paring_tensor::{DType, Tensor};

arguments! {
    /// `y[t] = w[ids[t]]`.
    struct Embed in "embed" for ["embed_f32", "embed_bf16", "embed_q8_0", "embed_q4_0", "embed_q4_1"] {
        w: Address, ids: Address, y: Address, d: u32, vector: u32,
    }
}
arguments! {
    /// `dw[ids[g]] += dy[t]` for the tokens t of group g: `tokens[starts[g]..starts[g + 1]]`.
    struct EmbedBackward in "embed" for ["embed_backward_f32"] {
        dy: Address, tokens: Address, starts: Address, ids: Address, dw: Address, d: u32, vector: u32,
    }
}

/// The kernels that are launched from here.
pub(crate) const SIGNATURES: &[Signature] = &[Embed::SIGNATURE, EmbedBackward::SIGNATURE];

pub(crate) fn embed(device: &Device, y_td: &mut Tensor, ids: &[u32], w_vd: &Tensor) -> Result<()> {
    let op = "embed";
    let (d, dtype) = (w_vd.n_cols(), w_vd.dtype());
    want_2d(op, "y", y_td, ids.len(), d)?;
    want_indices(op, ids, w_vd.n_rows(), false)?;
    let (entry, bytes) = match dtype {
        DType::F32 => ("embed_f32", 16),
        DType::BF16 => ("embed_bf16", 8),
        DType::F16 => return Err(Error::Unsupported { op, what: "an f16 table".into() }),
        // Blocks are read word by word.
        DType::Q8_0 => ("embed_q8_0", 2),
        DType::Q4_0 => ("embed_q4_0", 2),
        DType::Q4_1 => ("embed_q4_1", 2),
    };
    let (mut w, y) = (device.view_address(op, w_vd)?, device.write(op, y_td, DType::F32)?);
    let (tokens, columns) = (size(op, ids.len())?, size(op, d)?);
    if tokens == 0 || d == 0 {
        return Ok(());
    }
    // The kernels read rows without gaps: of a view of columns the rows that are named are copied together first, in the order of tokens.
    let mut ids = std::borrow::Cow::Borrowed(ids);
    let _rows = if w_vd.is_contiguous() {
        None
    } else {
        let (row, stride) = (dtype.bytes(d), dtype.bytes(w_vd.row_stride()));
        let rows = device.scratch(op, ids.len() * row)?;
        for (t, &id) in ids.iter().enumerate() {
            device.copy(op, rows.address().add(t * row), w.add(id as usize * stride), row)?;
        }
        w = rows.address();
        ids = (0..tokens).collect();
        Some(rows)
    };
    let vector = d.is_multiple_of(4) && aligned(&[(w, bytes), (y, 16)]);
    let each = if vector || dtype.is_quantised() { 4 } else { 1 };
    let ids = device.upload_slice(op, &ids)?;
    let launch = Launch::linear(entry, tokens, row_threads(d, each, THREADS));
    device.launch(op, launch, Embed { w, ids: ids.address(), y, d: columns, vector: u32::from(vector) })
}

/// Tokens in the order of their ids, in their own order among equals; where each distinct id's tokens begin, and the end; the distinct ids.
fn grouped(ids: &[u32]) -> [Vec<u32>; 3] {
    let mut tokens: Vec<u32> = (0..ids.len() as u32).collect();
    tokens.sort_by_key(|&t| ids[t as usize]);
    let (mut starts, mut distinct) = (Vec::new(), Vec::new());
    for (i, &t) in tokens.iter().enumerate() {
        let id = ids[t as usize];
        if distinct.last() != Some(&id) {
            starts.push(i as u32);
            distinct.push(id);
        }
    }
    starts.push(tokens.len() as u32);
    [tokens, starts, distinct]
}

pub(crate) fn embed_backward(device: &Device, dw_vd: &mut Tensor, dy_td: &Tensor, ids: &[u32]) -> Result<()> {
    let op = "embed_backward";
    let d = dw_vd.n_cols();
    want_2d(op, "dy", dy_td, ids.len(), d)?;
    want_indices(op, ids, dw_vd.n_rows(), false)?;
    let (dy, dw) = (device.read(op, dy_td, DType::F32)?, device.write(op, dw_vd, DType::F32)?);
    let columns = size(op, d)?;
    size(op, ids.len())?;
    if ids.is_empty() || d == 0 {
        return Ok(());
    }
    let vector = d.is_multiple_of(4) && aligned(&[(dy, 16), (dw, 16)]);
    let each = if vector { 4 } else { 1 };
    let [tokens, starts, distinct] = grouped(ids);
    let lists = device.upload_slice(op, &[&tokens[..], &starts, &distinct].concat())?;
    let list = |before: usize| lists.address().add(before * size_of::<u32>());
    let threads = row_threads(d, each, THREADS);
    let parts = d.div_ceil(each * threads as usize);
    let launch = Launch {
        grid: [size(op, distinct.len())?, size(op, parts)?, 1],
        ..Launch::linear("embed_backward_f32", 0, threads)
    };
    let (starts, ids) = (list(tokens.len()), list(tokens.len() + starts.len()));
    let vector = u32::from(vector);
    device.launch(op, launch, EmbedBackward { dy, tokens: list(0), starts, ids, dw, d: columns, vector })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_keep_their_order_within_an_id() {
        assert_eq!(grouped(&[7, 2, 7, 0, 2, 7]), [vec![3, 1, 4, 0, 2, 5], vec![0, 1, 3, 6], vec![0, 2, 7]]);
        assert_eq!(grouped(&[]), [vec![], vec![0], vec![]]);
    }
}
