//! Iterative importance (arXiv 2407.14679v2, table 14): measure, cut a part of what is to go, measure what is left, and so on.
use crate::{calibration::Calibration, error::Result, importance_file, session::Session, signals::Stop};
use paring_importance::{Extras, FfnBy, HeadsBy, HiddenBy, ImportanceSet, ScoreOptions, round_size};
use paring_prune::{Dims, Plan, Target};
use paring_surgery::{Cut, Weights, model};
use paring_tensor::DType;

/// What the rounds after the first measure with.
pub(crate) struct Rounds<'a> {
    pub(crate) session: &'a Session,
    pub(crate) dtype: DType,
    pub(crate) windows: &'a [Vec<u32>],
    pub(crate) stop: &'a Stop,
    pub(crate) scores: ScoreOptions,
    pub(crate) rounds: usize,
}

impl Rounds<'_> {
    /// The plan from `from` to `to`, in rounds of the same size. The first goes by `measured`, the others by what their own model shows.
    pub(crate) fn plan(&self, teacher: &dyn Weights, measured: &ImportanceSet, from: &Dims, to: &Dims) -> Result<Plan> {
        let target = |round| target(from, to, round, self.rounds);
        let mut plan = Plan::choose(from, &importance_file::scores(measured, &self.scores)?, &target(0))?;
        for round in 1..self.rounds {
            let now = plan.student()?;
            self.session.say(format!("round {} of {}: measures {now:?}", round + 1, self.rounds));
            let model = model(&Cut::new(teacher, &plan), self.session.backend(), self.dtype)?;
            let calibration =
                Calibration { session: self.session, model: &model, windows: self.windows, stop: self.stop };
            let set = calibration.run(needs(&self.scores), None)?;
            let next = Plan::choose(&now, &importance_file::scores(&set, &self.scores)?, &target(round))?;
            plan = plan.then(&next)?;
        }
        Ok(plan)
    }
}

/// What the scores need beyond a forward.
fn needs(scores: &ScoreOptions) -> Extras {
    Extras {
        contribution: scores.heads == HeadsBy::Contribution,
        taylor: scores.hidden == HiddenBy::Taylor || scores.ffn == FfnBy::Taylor || scores.heads == HeadsBy::Taylor,
    }
}

/// The sizes after a round: every axis its part of the way, and as many heads in every group.
fn target(from: &Dims, to: &Dims, round: usize, rounds: usize) -> Target {
    let size = |from, to| round_size(from, to, round, rounds, 1);
    let kv_groups = size(from.kv_groups, to.kv_groups);
    let heads = kv_groups * size(from.heads_per_group(), to.heads_per_group());
    // A plan has to load, those of the rounds before the last too: see `check_loadable`.
    let unit = if from.hidden.is_multiple_of(from.heads) { heads } else { 1 };
    Target {
        hidden: Some(round_size(from.hidden, to.hidden, round, rounds, unit)),
        ffn: Some(size(from.ffn, to.ffn)),
        heads: Some(heads),
        kv_groups: Some(kv_groups),
        layers: Some(size(from.layers, to.layers)),
        drop_layers: None,
    }
}
