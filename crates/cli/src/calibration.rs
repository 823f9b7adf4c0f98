//! The calibration pass: importance.
use crate::{error::Result, progress::Progress, session::Session, signals::Stop};
use paring_calibrate::Measure;
use paring_importance::{Extras, ImportanceSet};
use paring_model::Model;

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
