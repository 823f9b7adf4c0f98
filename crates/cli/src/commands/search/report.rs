//! What a search found, as JSON and as a table, and why the choice is what it is.
use super::budget::Clock;
use crate::{
    args::Basis,
    describe::{count, table},
};
use paring_model::Arch;
use paring_prune::{Dims, Target};
use paring_search::{Finalist, Prices, Ranking, Sizes, State, front};
use paring_surgery::arch_of;
use paring_tensor::DType;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Version of the file.
pub(crate) const VERSION: u32 = 1;
/// Candidates that the table shows; the file has all that got further than importance.
const SHOWN: usize = 12;

/// What `paring prune --search` needs of the file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Choice {
    /// Of the file's format.
    pub(crate) version: u32,
    /// BLAKE3 of the teacher's files.
    pub(crate) teacher_hash: String,
    /// Sizes of the teacher.
    pub(crate) teacher: Dims,
    /// What to ask of the student.
    pub(crate) target: Target,
    /// In which basis its residual stream is cut.
    #[serde(default)]
    pub(crate) basis: Basis,
}

/// Everything that is said in the end.
pub(super) struct Found<'a> {
    pub(super) teacher: &'a Arch,
    pub(super) dims: &'a Dims,
    /// Whether students of another hidden width are cut in a rotated basis.
    pub(super) rotated: bool,
    pub(super) teacher_hash: &'a str,
    pub(super) limit: &'a str,
    pub(super) dtype: DType,
    pub(super) context: usize,
    pub(super) candidates: &'a [Dims],
    pub(super) state: &'a State,
    pub(super) finalists: &'a BTreeMap<usize, Finalist>,
    pub(super) single_axis: &'a [(String, Dims, f64)],
    /// The rung whose tokens single axes were scored on.
    pub(super) last_loss: &'a str,
    pub(super) prices: &'a Prices,
    pub(super) clock: &'a Clock,
    pub(super) ranking: &'a Ranking,
    /// The name of the score, as a table says it.
    pub(super) score: &'a str,
    pub(super) seconds: f64,
}

impl Found<'_> {
    fn sizes(&self, d: &Dims) -> Sizes {
        Sizes::of(&arch_of(self.teacher, d), self.dtype, self.context)
    }

    fn basis(&self, d: &Dims) -> Basis {
        if self.rotated && d.hidden != self.dims.hidden { Basis::Rotated } else { Basis::Channels }
    }

    /// Scores of a candidate by rung.
    fn scores(&self, candidate: usize) -> Map<String, Value> {
        let rungs = self.state.rungs.iter();
        rungs.filter_map(|r| Some((r.name.clone(), json!(r.score_of(candidate)?)))).collect()
    }

    /// The candidates that were run, best first.
    fn ranked(&self) -> Vec<usize> {
        let ran = self.state.rungs.iter().skip(1).flat_map(|r| r.entrants.iter().take(r.scores.len()));
        let ran: std::collections::HashSet<usize> = ran.copied().collect();
        let ranking = self.state.ranking();
        let some: Vec<usize> = ranking.iter().copied().filter(|c| ran.contains(c)).collect();
        // Time may be up before anything ran: importance then is all there is.
        if some.is_empty() { ranking.into_iter().take(1).collect() } else { some }
    }

    /// On the front of parameters against the score, and of latency against it, within the first rung that ran candidates.
    fn fronts(&self, ranked: &[usize]) -> [Vec<usize>; 2] {
        let Some(rung) = self.state.rungs.get(1) else { return [Vec::new(), Vec::new()] };
        let score = |c: usize| rung.score_of(c).unwrap_or(f64::NAN);
        let of = |size: &dyn Fn(&Dims) -> f64| {
            let points: Vec<(f64, f64)> = ranked.iter().map(|&c| (size(&self.candidates[c]), score(c))).collect();
            front(&points).into_iter().map(|i| ranked[i]).collect()
        };
        [of(&|d| self.sizes(d).params as f64), of(&|d| self.clock.seconds(d))]
    }

    /// Why the first is the first.
    fn reason(&self, ranked: &[usize]) -> String {
        let Some(&best) = ranked.first() else { return "there is no candidate".into() };
        let all = self.candidates.len();
        let mut said = match (self.finalists.get(&best), ranked.get(1)) {
            (Some(f), next) => {
                let others = self.finalists.len().saturating_sub(1);
                let mut s = format!(
                    "lowest held-out loss of {} finalists out of {all} candidates: {:.4} nats per token after {} tokens of distillation \
                     ({:.4} before)",
                    others + 1,
                    f.nll,
                    count(f.tokens),
                    f.zero_shot_nll
                );
                if let Some(second) = next.and_then(|n| self.finalists.get(n)) {
                    s += &format!("; the next has {:.4}", second.nll);
                }
                s
            }
            (None, _) => match self.state.rungs.iter().rev().find_map(|r| Some((r, r.score_of(best)?))) {
                Some((rung, score)) => format!("best of {all} candidates in rung `{}`: {score:.4}", rung.name),
                None => format!("the first of {all} candidates"),
            },
        };
        if let Some(cut) = &self.state.cut_off {
            said +=
                &format!("; time was up in rung `{}` after {} of its {} candidates", cut.rung, cut.scored, cut.entered);
        }
        let rung = self.state.rungs.iter().find(|r| r.name == self.last_loss);
        if let (Some(score), Some((axis, _, single))) =
            (rung.and_then(|r| r.score_of(best)), self.single_axis.iter().min_by(|a, b| a.2.total_cmp(&b.2)))
        {
            let verb = if score < *single { "beats" } else { "does not beat" };
            said += &format!(
                "; before it learned it {verb} the best cut of one axis within the same budget ({axis}): {score:.4} against {single:.4} \
                 on {}",
                self.last_loss
            );
        }
        said
    }

    pub(super) fn json(&self) -> Value {
        let ranked = self.ranked();
        let [by_params, by_latency] = self.fronts(&ranked);
        let describe = |d: &Dims| {
            json!({
                "layers": d.layers, "hidden": d.hidden, "ffn": d.ffn, "heads": d.heads, "kv_groups": d.kv_groups,
                "basis": self.basis(d),
                "sizes": self.sizes(d), "latency_ms": 1e3 * self.clock.seconds(d),
            })
        };
        let candidate = |&c: &usize| {
            let mut value = describe(&self.candidates[c]);
            value["scores"] = Value::Object(self.scores(c));
            value["pareto_params"] = json!(by_params.contains(&c));
            value["pareto_latency"] = json!(by_latency.contains(&c));
            if let Some(f) = self.finalists.get(&c) {
                value["finalist"] = json!(f);
            }
            value
        };
        let single = |(axis, d, score): &(String, Dims, f64)| {
            let mut value = describe(d);
            value["axis"] = json!(axis);
            value["score"] = json!(score);
            value
        };
        let best = ranked.first().map(|&c| self.candidates[c]).unwrap_or(*self.dims);
        let choice = Choice {
            version: VERSION,
            teacher_hash: self.teacher_hash.into(),
            teacher: *self.dims,
            target: self.ranking.target(&best),
            basis: self.basis(&best),
        };
        json!({
            "chosen": choice,
            "student": describe(&best),
            "reason": self.reason(&ranked),
            "budget": self.limit,
            "score": self.score,
            "latency": self.clock.json(),
            "prices": self.prices,
            "teacher": describe(self.dims),
            "candidates_in_budget": self.candidates.len(),
            "candidates": ranked.iter().map(candidate).collect::<Vec<_>>(),
            "single_axis": self.single_axis.iter().map(single).collect::<Vec<_>>(),
            "single_axis_scored_on": self.last_loss,
            "cut_off": self.state.cut_off,
            "seconds": self.seconds,
        })
    }

    pub(super) fn text(&self, out: &str) -> String {
        let ranked = self.ranked();
        let [by_params, _] = self.fronts(&ranked);
        let mut heading: Vec<String> =
            ["candidate", "layers", "hidden", "ffn", "heads", "groups", "parameters", "ms"].map(String::from).into();
        let rungs = || self.state.rungs.iter().skip(1);
        heading.extend(rungs().map(|r| r.name.clone()));
        heading.push("pareto".into());
        let mut rows = vec![heading];
        let shape = |name: String, d: &Dims| {
            let sizes = [d.layers, d.hidden, d.ffn, d.heads, d.kv_groups].map(|n| n.to_string());
            let mut row = vec![name];
            row.extend(sizes);
            row.push(count(self.sizes(d).params));
            row.push(format!("{:.2}", 1e3 * self.clock.seconds(d)));
            row
        };
        rows.push(shape("teacher".into(), self.dims));
        for (place, &c) in ranked.iter().take(SHOWN).enumerate() {
            let mut row = shape(format!("{}", place + 1), &self.candidates[c]);
            row.extend(rungs().map(|r| r.score_of(c).map_or("-".into(), |s| format!("{s:.4}"))));
            row.push(if by_params.contains(&c) { "*".into() } else { String::new() });
            rows.push(row);
        }
        for (axis, d, score) in self.single_axis {
            let mut row = shape(format!("only {axis}"), d);
            row.extend(rungs().map(|r| if r.name == self.last_loss { format!("{score:.4}") } else { "-".into() }));
            rows.push(row);
        }
        format!(
            "{}{} candidates within {}; scores: {}\nms: {}\nchosen: {}\n{:.0} s: {out}\n",
            table(&rows),
            count(self.candidates.len() as u64),
            self.limit,
            self.score,
            self.clock.label(),
            self.reason(&ranked),
            self.seconds
        )
    }
}
