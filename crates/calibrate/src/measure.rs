//! A calibration pass, window by window. A window is a forward of its own, so that what it adds does not depend on its company: the bits of
//! the result are the same however the windows are spread over batches, processes and machines.
use crate::Importance;
use paring_exec::{Ctx, Grads};
use paring_importance::{Extras, ImportanceSet};
use paring_model::{Batch, Model, Result, split_documents};
use paring_ops::{Backend, Error, HeadGrads};
use paring_tensor::DType;

/// The batch of one window. With `documents`, the tokens of each of its documents in order, these do not see one another.
///
/// # Errors
/// [`Error::Observer`] when the documents' tokens do not add up to the window.
pub(crate) fn batch_of(ids: &[u32], documents: Option<&[usize]>) -> Result<Batch> {
    let whole = [ids.len()];
    let documents = documents.unwrap_or(&whole);
    let apart = split_documents(ids, documents).ok_or_else(|| {
        let tokens = ids.len();
        Error::Observer { message: format!("calibration: documents of {documents:?} tokens in a window of {tokens}") }
    })?;
    Ok(Batch::pack(apart))
}

/// Measures importance on windows of text.
///
/// The window is the calibration sequence, also where its documents are masked from each other: with documents as sequences a piece of
/// three tokens would weigh as much as one of five hundred, scores of masked and unmasked runs would not compare, and the number of
/// sequences would be a matter of the text.
#[derive(Debug)]
pub struct Measure<'m> {
    backend: &'m dyn Backend,
    model: &'m Model,
    importance: Importance,
    taylor: bool,
}

impl<'m> Measure<'m> {
    /// Nothing measured yet.
    ///
    /// # Errors
    /// Those of [`Importance::of`].
    pub fn new(backend: &'m dyn Backend, model: &'m Model, extras: Extras) -> Result<Self> {
        let importance = Importance::of(backend, model, extras)?;
        Ok(Measure { backend, model, importance, taylor: extras.taylor })
    }

    /// Runs one window. With `documents`, the tokens of each of its documents in order, these do not see one another, and each counts its
    /// positions from 0; without, the window is one text.
    ///
    /// # Errors
    /// Those of the model and of the observer, which name layer, site and channel; [`Error::Observer`] when the documents' tokens do not
    /// add up to the window.
    pub fn window(&mut self, ids: &[u32], documents: Option<&[usize]>) -> Result<()> {
        let batch = batch_of(ids, documents)?;
        self.importance.begin_in(&batch, vec![0, ids.len()]);
        let (b, model) = (self.backend, self.model);
        if !self.taylor {
            model.hidden(&mut Ctx::infer(b).observe(&mut self.importance), &batch, None)?;
            return Ok(());
        }
        // Recomputed: the tape of a large model's window would not fit, and the bits are the same.
        let mut cx = Ctx::record(b).observe(&mut self.importance).recompute(true);
        let x = model.hidden(&mut cx, &batch, None)?;
        let mut dx = b.alloc(DType::F32, x.tensor.shape())?;
        let into = HeadGrads { dx_td: &mut dx, dw_vd: None };
        // The sum over predicted tokens; the observer divides, in f64.
        b.head_cross_entropy(Some(into), &x.tensor, &model.head().tensor, &batch.next_tokens(), 1.0)?;
        cx.backward(&x, dx, &mut Grads::of_activations(&model.shapes()))?;
        Ok(self.importance.end()?)
    }

    /// What was measured.
    pub fn into_set(self) -> ImportanceSet {
        self.importance.into_set()
    }
}
