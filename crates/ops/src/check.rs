//! Shape checks that every backend makes before it touches memory, written once so that all refuse alike.
use crate::{AttnSpec, Error, IGNORE, Result};
use paring_tensor::Tensor;

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
