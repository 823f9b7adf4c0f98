//! A calibration pass block by block: one block of the model is in memory at a time, and the residual streams of the whole text. What a
//! window adds does not depend on its company, and sums are exact in any order: the result is that of [`crate::Measure`] to the bit.
use crate::{Importance, measure::batch_of, observe::down_norms};
use paring_exec::Ctx;
use paring_importance::{Extras, ImportanceSet};
use paring_model::{Arch, Batch, Model, Result};
use paring_ops::{Backend, Error};
use paring_tensor::{DType, Shape, Tensor};

/// Measures importance of a model that is shown block by block: for models that are larger than the memory.
#[derive(Debug)]
pub struct ByBlock<'b> {
    backend: &'b dyn Backend,
    importance: Importance,
    layers: usize,
    /// A batch for each window, and the residual stream in front of the next block.
    windows: Vec<(Batch, Tensor)>,
    down_norms: Vec<Vec<f64>>,
}

/// An error of this module.
fn refused(message: impl Into<String>) -> paring_model::Error {
    Error::Observer { message: message.into() }.into()
}

impl<'b> ByBlock<'b> {
    /// Before the first block of a model of architecture `arch`, whose embedding is `table`, `[V, H]`; it is not needed any more afterwards.
    /// `documents` has the tokens of every window's documents, which do not see one another then, as in [`crate::Measure::window`].
    ///
    /// # Errors
    /// [`Error::Observer`] for Taylor scores, which need the whole model for their backward pass, and for documents that do not add up to
    /// their window; those of [`Importance::new`] and of the backend.
    pub fn new(
        backend: &'b dyn Backend,
        arch: &Arch,
        extras: Extras,
        table: &Tensor,
        windows: &[Vec<u32>],
        documents: Option<&[Vec<usize>]>,
    ) -> Result<Self> {
        if extras.taylor {
            return Err(refused("calibration: Taylor scores need a backward pass, and that the whole model"));
        }
        let mut importance = Importance::with(arch, extras)?;
        let embedded = |(i, ids): (usize, &Vec<u32>)| -> Result<(Batch, Tensor)> {
            let batch = batch_of(ids, documents.and_then(|d| d.get(i)).map(Vec::as_slice))?;
            importance.count(vec![0, ids.len()]);
            let shape = Shape::new(&[ids.len(), arch.hidden]).map_err(Error::in_op("embed"))?;
            let mut x = backend.alloc(DType::F32, shape)?;
            backend.embed(&mut x, &batch.ids, table)?;
            Ok((batch, x))
        };
        let windows = windows.iter().enumerate().map(embedded).collect::<Result<_>>()?;
        Ok(ByBlock { backend, importance, layers: arch.layers.len(), windows, down_norms: Vec::new() })
    }

    /// Blocks seen.
    pub fn seen(&self) -> usize {
        self.down_norms.len()
    }

    /// Runs the next block, the only one of `model`, over all windows. `progress` is told the windows that are done; when it answers
    /// `false`, the pass is over, and so is this with `false`.
    ///
    /// # Errors
    /// Those of the model and of the observer, which name layer, site and channel; [`Error::Observer`] for a model of another number of
    /// blocks, or when all were seen.
    pub fn block(&mut self, model: &Model, progress: &mut dyn FnMut(usize) -> bool) -> Result<bool> {
        let (layer, blocks) = (self.seen(), model.arch().layers.len());
        if layer == self.layers || blocks != 1 {
            return Err(refused(format!(
                "calibration: a model of {blocks} blocks after {layer} of {}, expected one block at a time",
                self.layers
            )));
        }
        self.importance.block(layer, model);
        for (i, (batch, x)) in self.windows.iter_mut().enumerate() {
            self.importance.see(vec![0, batch.n_tokens()]);
            let mut cx = Ctx::infer(self.backend).observe(&mut self.importance);
            let into = cx.input(x.clone());
            *x = model.blocks(&mut cx, batch, [0], into)?.tensor;
            if !progress(i + 1) {
                return Ok(false);
            }
        }
        self.down_norms.extend(down_norms(self.backend, model)?);
        Ok(true)
    }

    /// What was measured.
    ///
    /// # Errors
    /// [`Error::Observer`] when there are blocks that were not seen.
    pub fn into_set(self) -> Result<ImportanceSet> {
        if self.seen() != self.layers {
            return Err(refused(format!("calibration: {} of {} blocks were seen", self.seen(), self.layers)));
        }
        let mut set = self.importance.into_set();
        set.set_down_norms(self.down_norms).map_err(|e| crate::observe::failed(&e))?;
        Ok(set)
    }
}
