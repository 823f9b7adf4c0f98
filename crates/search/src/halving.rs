//! Successive halving: many candidates are scored cheaply, the best of them more carefully, until a few are left (Jamieson and Talwalkar,
//! arXiv 1502.07943, with rungs of any size).
//!
//! What a score is, is the caller's business; here it is a number, and lower is better. Equal scores are decided by the order in which the
//! candidates came, so that a search is deterministic. The state is plain data: whoever saves it after each candidate can go on later.
use serde::{Deserialize, Serialize};

/// One round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// What it is called in tables.
    pub name: String,
    /// How many candidates enter it: the best of the rung before.
    pub candidates: usize,
}

/// Scores candidates.
pub trait Scorer {
    /// Why it could not.
    type Error;

    /// The score of a candidate in rung number `rung`, lower is better. What is no finite number is taken for the worst there is.
    ///
    /// # Errors
    /// Whatever the search cannot go on with.
    fn score(&mut self, rung: usize, candidate: usize) -> Result<f64, Self::Error>;
}

/// One rung's candidates and what is known of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RungState {
    /// Its name.
    pub name: String,
    /// The candidates that entered, in the order in which they are scored: the best of the rung before first.
    pub entrants: Vec<usize>,
    /// The scores of the first of them.
    pub scores: Vec<f64>,
}

impl RungState {
    /// The scored candidates, best first.
    pub fn ranking(&self) -> Vec<usize> {
        let mut scored: Vec<(f64, usize)> = self.scores.iter().copied().zip(self.entrants.iter().copied()).collect();
        // Equal scores by the candidates' own order, and not by how they fared in the rung before.
        scored.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        scored.into_iter().map(|(_, candidate)| candidate).collect()
    }

    /// The score of a candidate, if it has one.
    pub fn score_of(&self, candidate: usize) -> Option<f64> {
        self.entrants.iter().zip(&self.scores).find(|(c, _)| **c == candidate).map(|(_, s)| *s)
    }

    /// Whether every entrant has a score.
    pub fn is_complete(&self) -> bool {
        self.scores.len() == self.entrants.len()
    }
}

/// Where a search was ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CutOff {
    /// The rung.
    pub rung: String,
    /// Candidates that had a score there.
    pub scored: usize,
    /// Candidates that had entered it.
    pub entered: usize,
}

/// All that a search has found out so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The rungs that were begun.
    pub rungs: Vec<RungState>,
    /// Whether time ran out.
    pub cut_off: Option<CutOff>,
}

impl State {
    /// All candidates that the last begun rung knows, best first; those that it did not come to follow as the rung before had them.
    pub fn ranking(&self) -> Vec<usize> {
        let mut best = Vec::new();
        for rung in self.rungs.iter().rev() {
            for candidate in rung.ranking() {
                if !best.contains(&candidate) {
                    best.push(candidate);
                }
            }
        }
        best
    }
}

/// What to do after a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// The next one.
    On,
    /// Stop here, to go on another day.
    Stop,
    /// Time is up: what is known now is the result.
    CutOff,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All rungs are done, or time was up.
    Finished,
    /// It was stopped; the state goes on.
    Stopped,
}

/// Runs the rungs over candidates `0..candidates`, from wherever `state` is. `watch` sees the state after every candidate.
///
/// A cut-off only ends the search: which candidates the last rung scored depends on time, and is recorded; what it says of them does not.
///
/// # Errors
/// Those of the scorer and of `watch`.
pub fn halve<S: Scorer>(
    candidates: usize,
    rungs: &[Rung],
    state: &mut State,
    scorer: &mut S,
    watch: &mut dyn FnMut(&State) -> Result<Go, S::Error>,
) -> Result<End, S::Error> {
    for (number, rung) in rungs.iter().enumerate() {
        if state.rungs.len() <= number {
            let mut entrants = state.rungs.last().map_or_else(|| (0..candidates).collect(), RungState::ranking);
            entrants.truncate(rung.candidates);
            state.rungs.push(RungState { name: rung.name.clone(), entrants, scores: Vec::new() });
        }
        while let Some(&candidate) = state.rungs[number].entrants.get(state.rungs[number].scores.len()) {
            let score = scorer.score(number, candidate)?;
            state.rungs[number].scores.push(if score.is_finite() { score } else { f64::MAX });
            match watch(state)? {
                Go::On => {}
                Go::Stop => return Ok(End::Stopped),
                Go::CutOff => {
                    let here = &state.rungs[number];
                    if !here.is_complete() || number + 1 < rungs.len() {
                        let (scored, entered) = (here.scores.len(), here.entrants.len());
                        state.cut_off = Some(CutOff { rung: rung.name.clone(), scored, entered });
                    }
                    return Ok(End::Finished);
                }
            }
        }
    }
    Ok(End::Finished)
}
