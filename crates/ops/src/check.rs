//! Shape checks that every backend makes before it touches memory, written once so that all refuse alike.
use crate::{AttnSpec, Error, IGNORE, Result};
use paring_tensor::{DType, Tensor};

/// `tensor` must have `rows` x `cols` elements as (outermost, rest).
///
/// # Errors
/// [`Error::Shape`].
pub fn want_2d(op: &'static str, what: &'static str, tensor: &Tensor, rows: usize, cols: usize) -> Result<()> {
    let got = [tensor.n_rows(), tensor.n_cols()];
    if got == [rows, cols] { Ok(()) } else { Err(Error::Shape { op, what, got: got.to_vec(), want: vec![rows, cols] }) }
}

/// `tensor` must have `elements` elements, in whatever shape.
///
/// # Errors
/// [`Error::Shape`].
pub fn want_elements(op: &'static str, what: &'static str, tensor: &Tensor, elements: usize) -> Result<()> {
    if tensor.elements() == elements {
        return Ok(());
    }
    Err(Error::Shape { op, what, got: tensor.shape().dims().to_vec(), want: vec![elements] })
}

/// A list of `got` entries must have `want`.
///
/// # Errors
/// [`Error::Shape`].
pub fn want_len(op: &'static str, what: &'static str, got: usize, want: usize) -> Result<()> {
    if got == want { Ok(()) } else { Err(Error::Shape { op, what, got: vec![got], want: vec![want] }) }
}

/// Every index must be below `len`; [`IGNORE`] passes when `ignore` is set.
///
/// # Errors
/// [`Error::Index`].
pub fn want_indices(op: &'static str, indices: &[u32], len: usize, ignore: bool) -> Result<()> {
    match indices.iter().find(|&&i| len <= i as usize && !(ignore && i == IGNORE)) {
        None => Ok(()),
        Some(&index) => Err(Error::Index { op, index: index as usize, len }),
    }
}

/// Shapes, types and sharing in `add_rms_norm`, before the sum is written: `sum`, `y`, `a`, `b` are `[T, D]`, `rstd` has `T` elements, `w`
/// has `D`.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Tensor`] when an output is not f32 or is shared.
pub fn want_add_rms_norm(
    sum: &mut Tensor,
    y: &mut Tensor,
    rstd: &mut Tensor,
    a: &Tensor,
    b: &Tensor,
    w: &Tensor,
) -> Result<()> {
    let op = "add_rms_norm";
    let (t, d) = (a.n_rows(), a.n_cols());
    for (what, x) in [("sum", &*sum), ("y", &*y), ("b", b)] {
        want_2d(op, what, x, t, d)?;
    }
    want_elements(op, "rstd", rstd, t)?;
    want_elements(op, "w", w, d)?;
    for x in [sum, y, rstd] {
        want_dtype(op, x, DType::F32)?;
        want_contiguous(op, x)?;
        x.buffer_mut().map_err(Error::in_op(op))?;
    }
    Ok(())
}

/// Two halves of `elements` weights are bf16, both.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Tensor`] for another type.
pub fn want_halves(op: &'static str, high: &Tensor, low: &Tensor, elements: usize) -> Result<()> {
    for (what, half) in [("high", high), ("low", low)] {
        want_elements(op, what, half, elements)?;
        want_dtype(op, half, DType::BF16)?;
    }
    Ok(())
}

/// What AdamW needs of the moments and the gradient of `elements` weights.
///
/// # Errors
/// [`Error::Shape`]; [`Error::Tensor`] for moments of two types, [`Error::Unsupported`] for a type that is neither f32 nor bf16.
pub fn want_moments(op: &'static str, m: &Tensor, v: &Tensor, grad: &Tensor, elements: usize) -> Result<()> {
    for (what, t) in [("m", m), ("v", v), ("grad", grad)] {
        want_elements(op, what, t, elements)?;
    }
    want_dtype(op, v, m.dtype())?;
    match m.dtype() {
        DType::F32 | DType::BF16 => Ok(()),
        dtype => Err(Error::Unsupported { op, what: format!("moments in {dtype}") }),
    }
}

/// `tensor` must not be a view of columns.
///
/// # Errors
/// [`Error::Tensor`].
pub fn want_contiguous(op: &'static str, tensor: &Tensor) -> Result<()> {
    let strided = paring_tensor::Error::Strided { shape: tensor.shape() };
    if tensor.is_contiguous() { Ok(()) } else { Err(Error::Tensor { op, source: strided }) }
}

fn want_dtype(op: &'static str, tensor: &Tensor, want: DType) -> Result<()> {
    let got = tensor.dtype();
    if got == want { Ok(()) } else { Err(Error::Tensor { op, source: paring_tensor::Error::DType { got, want } }) }
}

/// Shapes of `rope`: `x` is `[T, N * h]`, `table` `[positions, h]` with an even `h`, and every position is in the table.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Index`].
pub fn want_rope(op: &'static str, x: &Tensor, table: &Tensor, positions: &[u32]) -> Result<()> {
    let (cols, h) = (x.n_cols(), table.n_cols());
    want_len(op, "positions", positions.len(), x.n_rows())?;
    if h == 0 || !h.is_multiple_of(2) || !cols.is_multiple_of(h) {
        let (got, want) = (vec![table.n_rows(), h], vec![table.n_rows(), cols]);
        return Err(Error::Shape { op, what: "table", got, want });
    }
    want_indices(op, positions, table.n_rows(), false)
}

/// Shapes of attention: `y`, `q` are `[T, heads * head_dim]`, `lse` `[T, heads]`, `k`, `v` at least `[past + T, kv_heads * head_dim]`.
///
/// # Errors
/// [`Error::Shape`] or [`Error::Unsupported`].
pub fn want_attention(
    op: &'static str,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    lse: &Tensor,
    spec: &AttnSpec,
) -> Result<()> {
    let ascending = spec.cu_len.first() == Some(&0) && spec.cu_len.windows(2).all(|w| w[0] <= w[1]);
    if !ascending {
        return Err(Error::Unsupported {
            op,
            what: "a list of sequence boundaries that does not ascend from 0".into(),
        });
    }
    if spec.kv_heads == 0 || !spec.heads.is_multiple_of(spec.kv_heads) {
        let what = format!("{} query heads on {} key/value heads", spec.heads, spec.kv_heads);
        return Err(Error::Unsupported { op, what });
    }
    if spec.window == Some(0) {
        return Err(Error::Unsupported { op, what: "a window of no keys".into() });
    }
    if let Some(cap) = spec.softcap
        && !(cap.is_finite() && 0.0 < cap)
    {
        return Err(Error::Unsupported { op, what: format!("a soft cap of {cap}") });
    }
    if spec.past != 0 && spec.cu_len.len() != 2 {
        return Err(Error::Unsupported { op, what: "a cache for more than one sequence".into() });
    }
    let tokens = spec.n_tokens();
    want_2d(op, "q", q, tokens, spec.q_cols())?;
    want_2d(op, "lse", lse, tokens, spec.heads)?;
    for (what, t) in [("k", k), ("v", v)] {
        if t.n_cols() != spec.kv_cols() || t.n_rows() < spec.past + tokens {
            let want = vec![spec.past + tokens, spec.kv_cols()];
            return Err(Error::Shape { op, what, got: vec![t.n_rows(), t.n_cols()], want });
        }
    }
    Ok(())
}
