//! Likelihood of text under one model.
use paring_exec::Ctx;
use paring_model::{Batch, Model, Result};
use paring_ops::Backend;
use serde::Serialize;

/// How well a model predicts a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Likelihood {
    /// Negative log-likelihood, nats per predicted token.
    pub nll: f64,
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Predicted tokens.
    pub tokens: u64,
}

/// The likelihood of windows, `batch` of them at a time. `progress` is told the number of windows done.
///
/// # Errors
/// Those of the model.
pub fn likelihood(
    backend: &dyn Backend,
    model: &Model,
    windows: &[&[u32]],
    batch: usize,
    progress: &mut dyn FnMut(usize),
) -> Result<Likelihood> {
    let (mut sum, mut tokens, mut done) = (0.0, 0u64, 0);
    for chunk in windows.chunks(batch.max(1)) {
        let batch = Batch::pack(chunk.iter().copied());
        let x = model.hidden(&mut Ctx::infer(backend), &batch, None)?.tensor;
        sum += backend.head_cross_entropy(None, &x, &model.head().tensor, &batch.next_tokens(), 1.0)?;
        tokens += batch.n_targets() as u64;
        done += chunk.len();
        progress(done);
    }
    let nll = sum / tokens.max(1) as f64;
    Ok(Likelihood { nll, perplexity: nll.exp(), tokens })
}
