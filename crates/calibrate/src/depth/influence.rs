//! How far contiguous blocks turn the residual stream, from the streams that a sweep walks through.
use super::Result;
use paring_importance::SpanInfluence;
use paring_model::Batch;
use paring_ops::Backend;
use paring_tensor::Tensor;
use std::collections::VecDeque;

/// The last few residual streams of one batch: as many as the longest block needs.
pub(super) struct Turns<'s> {
    spans: &'s mut SpanInfluence,
    cu_len: Vec<usize>,
    /// The stream into the layer before the next one, then those further back.
    before: VecDeque<Tensor>,
}

impl<'s> Turns<'s> {
    pub(super) fn new(spans: &'s mut SpanInfluence, batch: &Batch) -> Self {
        Turns { spans, cu_len: batch.cu_len.clone(), before: VecDeque::new() }
    }

    /// The stream into layer `place`, which is the one out of every block that ends in front of it.
    pub(super) fn stream(&mut self, backend: &dyn Backend, place: usize, x: &Tensor) -> Result<()> {
        let rows = |x: &Tensor, rows| x.rows(rows).map_err(paring_ops::Error::in_op("depth"));
        for (i, size) in self.spans.sizes().to_vec().into_iter().enumerate().filter(|(_, size)| *size <= place) {
            let Some(into) = self.before.get(size - 1) else { continue };
            for w in self.cu_len.windows(2).filter(|w| w[0] < w[1]) {
                let products = backend.row_products(&rows(into, w[0]..w[1])?, &rows(x, w[0]..w[1])?)?;
                self.spans.observe(i, place - size, &products)?;
            }
        }
        self.before.push_front(x.clone());
        self.before.truncate(self.spans.longest());
        Ok(())
    }
}
