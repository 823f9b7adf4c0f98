//! The rungs of a search over models: importance, losses on more and more text, a short distillation. What is known is saved as it is found.
use crate::{
    data::Windows,
    error::{Failure, Result},
    progress::Progress,
    signals::Stop,
};
use paring_checkpoint::{atomic, read_text};
use paring_prune::Dims;
use paring_search::{Distillation, Finalist, Go, Losses, Prices, Rung, Scorer, State, distil};
use paring_surgery::Weights;
use serde::{Deserialize, Serialize};
use std::{cell::RefCell, collections::BTreeMap, path::PathBuf, time::Instant};

/// Name of the first rung.
pub(super) const MASS: &str = "importance";
/// Name of the last one.
pub(super) const DISTILLED: &str = "distilled";

/// What a rung does.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Mass,
    /// Loss on so many windows.
    Loss(usize),
    Distil,
}

/// `512x512,128x2048`: candidates and tokens.
pub(super) fn parse(text: &str) -> Result<Vec<(usize, u64)>> {
    let wrong = |part: &str| {
        let part = paring_checkpoint::shown(part);
        Failure::input(format!("--rungs: `{part}` is no rung; expected candidates x tokens, like 512x512,128x2048"))
    };
    let mut rungs: Vec<(usize, u64)> = Vec::new();
    for part in text.split(',') {
        let (candidates, tokens) = part.trim().split_once('x').ok_or_else(|| wrong(part))?;
        let rung: (usize, u64) =
            (candidates.trim().parse().map_err(|_| wrong(part))?, tokens.trim().parse().map_err(|_| wrong(part))?);
        if rung.0 == 0 || rung.1 < 2 {
            return Err(wrong(part));
        }
        if let Some(before) = rungs.last().filter(|b| b.0 < rung.0 || rung.1 <= b.1) {
            return Err(Failure::input(format!(
                "--rungs: {}x{} after {}x{}: expected no more candidates, and more tokens",
                rung.0, rung.1, before.0, before.1
            )));
        }
        rungs.push(rung);
    }
    Ok(rungs)
}

/// What an unfinished search keeps.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) state: State,
    pub(super) prices: Prices,
    pub(super) finalists: BTreeMap<usize, Finalist>,
    /// Of all starts so far.
    pub(super) seconds: f64,
}

impl Saved {
    /// What is in the file, or nothing yet.
    pub(super) fn load(path: &std::path::Path) -> Result<Option<Saved>> {
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(path, 1 << 28)?;
        let shown = paring_checkpoint::shown_path(path);
        Ok(Some(
            serde_json::from_str(&text)
                .map_err(|e| Failure::input(format!("{shown}: {e}; remove it to begin again")))?,
        ))
    }
}

/// Scores candidates as the rung says.
pub(super) struct Models<'a, 'b> {
    pub(super) losses: Losses<'b>,
    pub(super) candidates: &'a [Dims],
    pub(super) kinds: Vec<Kind>,
    pub(super) prices: Prices,
    pub(super) finalists: &'a RefCell<BTreeMap<usize, Finalist>>,
    pub(super) teacher: &'a dyn Weights,
    pub(super) training: &'a Windows,
    pub(super) heldout: &'a Windows,
    pub(super) distillation: Distillation,
    pub(super) stop: &'a Stop,
}

impl Scorer for Models<'_, '_> {
    type Error = Failure;

    fn score(&mut self, rung: usize, candidate: usize) -> Result<f64> {
        let d = &self.candidates[candidate];
        match self.kinds[rung] {
            Kind::Mass => Ok(self.prices.loss(&self.losses.nested().ranking().mass(d))),
            Kind::Loss(windows) => Ok(self.losses.loss(d, windows)?),
            Kind::Distil => {
                let heldout = self.heldout.slices();
                let mut progress = Progress::new("distil", "steps", self.distillation.steps, 0);
                let stop = self.stop;
                let mut go_on = |step: u64| {
                    progress.set(step, "");
                    !stop.asked()
                };
                let (nested, windows) = (self.losses.nested(), &self.training.windows);
                let result = distil(nested, self.teacher, d, windows, &heldout, &self.distillation, &mut go_on)?;
                progress.finish();
                let result = result.ok_or_else(|| stop.failure("the search goes on with the same command"))?;
                self.finalists.borrow_mut().insert(candidate, result);
                Ok(result.nll)
            }
        }
    }
}

/// Saves the state, shows how far it is, and looks at the clock and at signals: after every candidate.
pub(super) struct Watch<'a> {
    pub(super) path: PathBuf,
    pub(super) rungs: &'a [Rung],
    pub(super) begin: Instant,
    /// Of earlier starts.
    pub(super) before: f64,
    pub(super) budget: Option<f64>,
    pub(super) stop: &'a Stop,
    pub(super) prices: Prices,
    pub(super) finalists: &'a RefCell<BTreeMap<usize, Finalist>>,
    pub(super) progress: Option<(usize, Progress)>,
}

impl Watch<'_> {
    pub(super) fn seconds(&self) -> f64 {
        self.before + self.begin.elapsed().as_secs_f64()
    }

    /// Saves what is known by now.
    pub(super) fn save(&self, state: &State) -> Result<()> {
        let finalists = self.finalists.borrow().clone();
        let saved = Saved { state: state.clone(), prices: self.prices, finalists, seconds: self.seconds() };
        let text = serde_json::to_string(&saved).map_err(|e| Failure::work(format!("state: {e}")))?;
        Ok(atomic::write_bytes(&self.path, text.as_bytes())?)
    }

    /// After a candidate.
    pub(super) fn look(&mut self, state: &State) -> Result<Go> {
        let number = state.rungs.len().saturating_sub(1);
        let (done, total) = state.rungs.last().map_or((0, 0), |r| (r.scores.len(), r.entrants.len()));
        let rung = &self.rungs[number];
        // Thousands of candidates are ranked by importance in no time: they are saved together.
        if 0 < number || done == total {
            self.save(state)?;
        }
        if number == 0 {
            return Ok(Go::On);
        }
        if self.progress.as_ref().is_none_or(|(at, _)| *at != number) {
            if let Some((_, progress)) = self.progress.take() {
                progress.finish();
            }
            self.progress = Some((number, Progress::new(&rung.name, "candidates", total as u64, done as u64 - 1)));
        }
        if let Some((_, progress)) = &mut self.progress {
            progress.set(done as u64, "");
        }
        if self.stop.asked() {
            return Ok(Go::Stop);
        }
        Ok(match self.budget.is_some_and(|most| most <= self.seconds()) {
            true => Go::CutOff,
            false => Go::On,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_are_read_as_written_and_narrow() {
        assert_eq!(parse("512x512, 32 x 8192").unwrap(), [(512, 512), (32, 8192)]);
        for bad in ["", "512", "0x5", "5x1", "ax5", "10x10,20x20", "10x10,5x10", "10x10,5x4", "1x2x3"] {
            assert_eq!(parse(bad).unwrap_err().code, 2, "{bad}");
        }
    }
}
