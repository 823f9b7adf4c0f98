//! Losses over the vocabulary, fused with the head that makes the logits and chunked over tokens.
//!
//! The logits of a whole batch are the largest tensor of a language model: 16 windows of 512 tokens against 49152 tokens are 1.6 GB, and
//! distillation has two of them. Here a chunk of rows is multiplied out, turned into its own gradient in place, multiplied back, and
//! forgotten. Chunks are taken in the order of tokens, so sums do not depend on threads.
use crate::{Accum, Backend, Compared, Error, Result, want_2d, want_gradients, want_indices, want_len};
use paring_tensor::{DType, Shape, Tensor};

/// Where the gradients of a fused head go.
#[derive(Debug)]
pub struct HeadGrads<'a> {
    /// `[T, D]`, overwritten.
    pub dx_td: &'a mut Tensor,
    /// `[V, D]`, accumulated; `None` when the head is frozen.
    pub dw_vd: Option<&'a mut Tensor>,
}

/// Rows of logits that are in memory at a time: about 64 MB of them.
pub fn head_chunk_rows(vocab: usize) -> usize {
    ((64 << 20) / (4 * vocab.max(1))).clamp(16, 4096)
}

/// Cuts `tokens` into ranges of [`head_chunk_rows`].
fn chunks(tokens: usize, vocab: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let rows = head_chunk_rows(vocab);
    (0..tokens.div_ceil(rows)).map(move |i| i * rows..tokens.min((i + 1) * rows))
}

fn logits(b: &dyn Backend, op: &'static str, x_td: &Tensor, w_vd: &Tensor) -> Result<Tensor> {
    let shape = Shape::new(&[x_td.n_rows(), w_vd.n_rows()]).map_err(Error::in_op(op))?;
    let mut y = b.alloc(DType::F32, shape)?;
    b.linear(&mut y, x_td, w_vd)?;
    Ok(y)
}

/// `dlogits` of one chunk into the gradients.
fn back(
    b: &dyn Backend,
    grads: &mut HeadGrads<'_>,
    at: usize,
    dlogits: &Tensor,
    x_td: &Tensor,
    w_vd: &Tensor,
) -> Result<()> {
    let mut dx = b.alloc(DType::F32, x_td.shape())?;
    b.linear_dx(&mut dx, Accum::Set, dlogits, w_vd)?;
    b.write_rows(grads.dx_td, at, &dx)?;
    if let Some(dw) = grads.dw_vd.as_deref_mut() {
        b.linear_dw(dw, dlogits, x_td, w_vd.dtype())?;
    }
    Ok(())
}

/// Before the first chunk is written, all that can be seen then: a target or a gradient that does not fit would show after some chunks.
fn check_grads(op: &'static str, grads: Option<&HeadGrads<'_>>, x_td: &Tensor, w_vd: &Tensor) -> Result<()> {
    let Some(grads) = grads else { return Ok(()) };
    want_gradients(op, w_vd.dtype())?;
    want_2d(op, "dx", grads.dx_td, x_td.n_rows(), x_td.n_cols())?;
    match &grads.dw_vd {
        Some(dw) => want_2d(op, "dw", dw, w_vd.n_rows(), w_vd.n_cols()),
        None => Ok(()),
    }
}

pub(crate) fn cross_entropy(
    b: &dyn Backend,
    mut grads: Option<HeadGrads<'_>>,
    x_td: &Tensor,
    w_vd: &Tensor,
    targets: &[u32],
    scale: f32,
) -> Result<f64> {
    let op = "head_cross_entropy";
    let tokens = x_td.n_rows();
    want_len(op, "targets", targets.len(), tokens)?;
    want_indices(op, targets, w_vd.n_rows(), true)?;
    check_grads(op, grads.as_ref(), x_td, w_vd)?;
    let mut loss = 0.0;
    for range in chunks(tokens, w_vd.n_rows()) {
        let x = x_td.rows(range.clone()).map_err(Error::in_op(op))?;
        let mut y = logits(b, op, &x, w_vd)?;
        loss += b.cross_entropy_rows(&mut y, &targets[range.clone()], scale)?;
        if let Some(grads) = &mut grads {
            back(b, grads, range.start, &y, &x, w_vd)?;
        }
    }
    Ok(loss)
}

pub(crate) fn kl(
    b: &dyn Backend,
    mut grads: Option<HeadGrads<'_>>,
    x_td: &Tensor,
    w_vd: &Tensor,
    teacher_x_te: &Tensor,
    teacher_w_ve: &Tensor,
    scale: f32,
) -> Result<f64> {
    let op = "head_kl";
    let tokens = x_td.n_rows();
    want_len(op, "teacher's rows", teacher_x_te.n_rows(), tokens)?;
    want_len(op, "teacher's vocabulary", teacher_w_ve.n_rows(), w_vd.n_rows())?;
    check_grads(op, grads.as_ref(), x_td, w_vd)?;
    let mut loss = 0.0;
    for range in chunks(tokens, w_vd.n_rows()) {
        let x = x_td.rows(range.clone()).map_err(Error::in_op(op))?;
        let teacher_x = teacher_x_te.rows(range.clone()).map_err(Error::in_op(op))?;
        let mut y = logits(b, op, &x, w_vd)?;
        loss += b.kl_rows(&mut y, &logits(b, op, &teacher_x, teacher_w_ve)?, scale)?;
        if let Some(grads) = &mut grads {
            back(b, grads, range.start, &y, &x, w_vd)?;
        }
    }
    Ok(loss)
}

pub(crate) fn compare(
    b: &dyn Backend,
    x_td: &Tensor,
    w_vd: &Tensor,
    teacher_x_te: &Tensor,
    teacher_w_ve: &Tensor,
    targets: &[u32],
) -> Result<Compared> {
    let op = "head_compare";
    let tokens = x_td.n_rows();
    want_len(op, "targets", targets.len(), tokens)?;
    want_len(op, "teacher's rows", teacher_x_te.n_rows(), tokens)?;
    want_len(op, "teacher's vocabulary", teacher_w_ve.n_rows(), w_vd.n_rows())?;
    let mut sum = Compared::default();
    for range in chunks(tokens, w_vd.n_rows()) {
        let student = logits(b, op, &x_td.rows(range.clone()).map_err(Error::in_op(op))?, w_vd)?;
        let teacher = logits(b, op, &teacher_x_te.rows(range.clone()).map_err(Error::in_op(op))?, teacher_w_ve)?;
        sum += b.compare_rows(&student, &teacher, &targets[range])?;
    }
    Ok(sum)
}
