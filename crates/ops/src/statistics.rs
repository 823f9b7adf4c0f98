//! Activations as the crate that counts them wants to see them.
use crate::{Error, Result};
use ndarray::ArrayView2;
use paring_tensor::Tensor;

/// The values of `tensor`, `[T, C]`, as rows.
pub(crate) fn view<'a>(op: &'static str, tensor: &Tensor, values: &'a [f32]) -> Result<ArrayView2<'a, f32>> {
    let (rows, cols) = (tensor.n_rows(), tensor.n_cols());
    let wrong = |_| Error::Shape { op, what: "x", got: vec![values.len()], want: vec![rows, cols] };
    ArrayView2::from_shape((rows, cols), values).map_err(wrong)
}
