//! The calibration pass: importance.
use crate::{error::Result, progress::Progress, session::Session, signals::Stop};
use paring_calibrate::{ByBlock, Measure};
use paring_importance::{Extras, ImportanceSet};
use paring_model::Model;
use paring_surgery::{Weights, block, embedding};
use paring_tensor::DType;

/// A model on a text, as calibration sees it.
pub(crate) struct Calibration<'a> {
    pub(crate) session: &'a Session,
    pub(crate) model: &'a Model,
    pub(crate) windows: &'a [Vec<u32>],
    pub(crate) stop: &'a Stop,
}

impl Calibration<'_> {
    /// Importance of everything, in one pass; with `extras` more. `documents` has the tokens of every window's documents, which do not see
    /// one another then.
    pub(crate) fn run(&self, extras: Extras, documents: Option<&[Vec<usize>]>) -> Result<ImportanceSet> {
        let mut measure = Measure::new(self.session.backend(), self.model, extras)?;
        let total = self.windows.iter().map(|w| w.len() as u64).sum();
        let mut progress = Progress::new("calibrate", "tokens", total, 0);
        let mut done = 0;
        for (i, window) in self.windows.iter().enumerate() {
            if self.stop.asked() {
                return Err(self.stop.failure("nothing was written"));
            }
            measure.window(window, documents.and_then(|d| d.get(i)).map(Vec::as_slice))?;
            done += window.len() as u64;
            progress.set(done, "");
        }
        progress.finish();
        Ok(measure.into_set())
    }
}

/// The same of a model that is never whole in memory: the same bits.
pub(crate) fn by_block(
    session: &Session,
    teacher: &dyn Weights,
    dtype: DType,
    (windows, documents): (&[Vec<u32>], Option<&[Vec<usize>]>),
    extras: Extras,
    stop: &Stop,
) -> Result<ImportanceSet> {
    let backend = session.backend();
    let (arch, longest) = (teacher.arch(), windows.iter().map(Vec::len).max().unwrap_or(1));
    let mut pass = ByBlock::new(backend, arch, extras, &embedding(teacher, backend, dtype)?, windows, documents)?;
    let total = (arch.layers.len() * windows.len()) as u64;
    let mut progress = Progress::new("calibrate", "blocks of windows", total, 0);
    for layer in 0..arch.layers.len() {
        let model = block(teacher, layer, longest, backend, dtype)?;
        model.keep_packed(backend)?;
        let going = pass.block(&model, &mut |done| {
            progress.set((layer * windows.len() + done) as u64, "");
            !stop.asked()
        })?;
        if !going {
            return Err(stop.failure("nothing was written"));
        }
    }
    progress.finish();
    Ok(pass.into_set()?)
}
