//! Weights as operands of products: contiguous, or views of the first columns of a matrix.
use crate::gemm::Mat;
use paring_ops::{Error, Result, want_contiguous};
use paring_tensor::{DType, Element, HostBuffer, Tensor};

/// The elements of a weight or a table, which may be a view of columns.
pub(crate) fn strided<'a, E: Element>(op: &'static str, t: &'a Tensor) -> Result<&'a [E]> {
    HostBuffer::strided(t).map_err(Error::in_op(op))
}

/// Rows of a view of columns without the gaps between them.
pub(crate) fn gathered<E: Element>(op: &'static str, w: &Tensor) -> Result<Vec<E>> {
    let (from, k) = (strided::<E>(op, w)?, w.n_cols());
    Ok((0..w.n_rows()).flat_map(|row| &from[row * w.row_stride()..][..k]).copied().collect())
}

/// A weight as an operand, and whether activations are rounded to bf16 beside it.
pub(crate) fn weight<'a>(op: &'static str, w: &'a Tensor) -> Result<(Mat<'a>, bool)> {
    want_contiguous(op, w)?;
    weight_view(op, w)
}

/// As [`weight`], also of a view of columns.
pub(crate) fn weight_view<'a>(op: &'static str, w: &'a Tensor) -> Result<(Mat<'a>, bool)> {
    match w.dtype() {
        DType::F32 => Ok((Mat::rows(strided(op, w)?, w.row_stride(), false), false)),
        DType::BF16 => Ok((Mat::rows_bf16(strided(op, w)?, w.row_stride()), true)),
        DType::F16 => Err(Error::Unsupported { op, what: "an f16 weight (convert it to bf16 or f32)".into() }),
        DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => {
            Err(Error::Unsupported { op, what: format!("a {} weight", w.dtype()) })
        }
    }
}
