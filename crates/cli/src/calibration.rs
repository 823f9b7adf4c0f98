//! The calibration pass: importance.
use crate::{error::Result, progress::Progress, session::Session, signals::Stop};
use paring_calibrate::Importance;
use paring_exec::Ctx;
use paring_importance::ImportanceSet;
use paring_model::{Batch, Model};
use paring_train::micro_windows;

/// A model on a text, as calibration sees it.
pub(crate) struct Calibration<'a> {
    pub(crate) session: &'a Session,
    pub(crate) model: &'a Model,
    pub(crate) windows: &'a [Vec<u32>],
    pub(crate) stop: &'a Stop,
}

impl Calibration<'_> {
    /// Importance of everything, in one pass.
    pub(crate) fn run(&self) -> Result<ImportanceSet> {
        let mut importance = Importance::new(self.model.arch())?;
        let context = self.windows.iter().map(Vec::len).max().unwrap_or(1);
        let total = self.windows.iter().map(|w| w.len() as u64).sum();
        let mut progress = Progress::new("calibrate", "tokens", total, 0);
        let mut done = 0;
        for chunk in self.windows.chunks(micro_windows(self.model.arch(), context)) {
            if self.stop.asked() {
                return Err(self.stop.failure("nothing was written"));
            }
            let batch = Batch::pack(chunk.iter().map(Vec::as_slice));
            importance.begin(&batch);
            self.model.hidden(&mut Ctx::infer(self.session.backend()).observe(&mut importance), &batch, None)?;
            done += batch.n_tokens() as u64;
            progress.set(done, "");
        }
        progress.finish();
        Ok(importance.into_set())
    }
}
