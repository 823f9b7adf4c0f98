//! What goes first on every axis: the order in which a teacher is sorted, so that every candidate is its beginning.
use crate::{Mass, Result};
use paring_prune::{Dims, Error, Plan, Scores, Target};
use std::cmp::Ordering;

/// Indices of a teacher, the best first. Of equal scores the lower index comes first, as in [`Plan::choose`].
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    teacher: Dims,
    scores: Scores,
    hidden: Vec<usize>,
    /// Per layer.
    ffn: Vec<Vec<usize>>,
    groups: Vec<Vec<usize>>,
    /// Per layer and group of the teacher, heads by their number in the layer.
    heads: Vec<Vec<Vec<usize>>>,
    /// The order in which layers go, first the one that is missed least.
    dropping: Vec<usize>,
}

impl Ranking {
    /// Sorts by score. `dropping` lists all layers in the order in which they go; without it they go by block influence.
    ///
    /// # Errors
    /// Those of [`Scores::check`]; [`Error::Plan`] for a `dropping` that does not list every layer once.
    pub fn new(teacher: &Dims, scores: Scores, dropping: Option<Vec<usize>>) -> Result<Ranking> {
        teacher.check()?;
        scores.check(&(*teacher).into())?;
        let dropping = match dropping {
            None => best_first(&scores.block_influence).into_iter().rev().collect(),
            Some(order) => {
                let mut sorted = order.clone();
                sorted.sort_unstable();
                if sorted.into_iter().ne(0..teacher.layers) {
                    let what =
                        format!("the order of dropping is {order:?}, expected each of {} layers once", teacher.layers);
                    return Err(Error::Plan { what }.into());
                }
                order
            }
        };
        let per_group = teacher.heads_per_group();
        let heads_of = |layer: &Vec<f64>| -> Vec<Vec<usize>> {
            let group = |(g, scores): (usize, &[f64])| best_first(scores).iter().map(|h| g * per_group + h).collect();
            layer.chunks(per_group).enumerate().map(group).collect()
        };
        Ok(Ranking {
            teacher: *teacher,
            hidden: best_first(&scores.hidden),
            ffn: scores.ffn.iter().map(|l| best_first(l)).collect(),
            groups: scores.kv_groups.iter().map(|l| best_first(l)).collect(),
            heads: scores.heads.iter().map(heads_of).collect(),
            dropping,
            scores,
        })
    }

    /// Sizes of the teacher.
    pub fn teacher(&self) -> &Dims {
        &self.teacher
    }

    /// Channels of the residual stream.
    pub fn hidden(&self) -> &[usize] {
        &self.hidden
    }

    /// Neurons of a layer.
    pub fn ffn(&self, layer: usize) -> &[usize] {
        &self.ffn[layer]
    }

    /// Key/value groups of a layer.
    pub fn groups(&self, layer: usize) -> &[usize] {
        &self.groups[layer]
    }

    /// Query heads of a layer, group after group, the best group first; in each the best `per_group`.
    pub fn heads(&self, layer: usize, per_group: usize) -> impl Iterator<Item = usize> {
        self.groups[layer].iter().flat_map(move |&g| self.heads[layer][g].iter().take(per_group).copied())
    }

    /// The layers that a student of `n` layers keeps, ascending.
    pub fn layers(&self, n: usize) -> Vec<usize> {
        let mut kept = self.dropping[self.teacher.layers.saturating_sub(n)..].to_vec();
        kept.sort_unstable();
        kept
    }

    /// What a student of these sizes is asked for: its layers by number, because they may not be those of lowest block influence.
    pub fn target(&self, student: &Dims) -> Target {
        let t = &self.teacher;
        let changed = |to: usize, from: usize| (to != from).then_some(to);
        let mut dropped = self.dropping[..t.layers.saturating_sub(student.layers)].to_vec();
        dropped.sort_unstable();
        Target {
            hidden: changed(student.hidden, t.hidden),
            ffn: changed(student.ffn, t.ffn),
            heads: changed(student.heads, t.heads),
            kv_groups: changed(student.kv_groups, t.kv_groups),
            drop_layers: (!dropped.is_empty()).then_some(dropped),
            ..Target::default()
        }
    }

    /// The same choice as a plan.
    ///
    /// # Errors
    /// Those of [`Plan::choose`].
    pub fn plan(&self, student: &Dims) -> Result<Plan> {
        Ok(Plan::choose(&self.teacher, &self.scores, &self.target(student))?)
    }

    /// Shares of importance that a student of these sizes keeps.
    pub fn mass(&self, student: &Dims) -> Mass {
        let s = &self.scores;
        let layers = self.layers(student.layers);
        let mean = |share: &dyn Fn(usize) -> f64| layers.iter().map(|&l| share(l)).sum::<f64>() / layers.len() as f64;
        let per_group = student.heads_per_group();
        Mass {
            hidden: share(&s.hidden, self.hidden.iter().take(student.hidden).copied()),
            ffn: mean(&|l| share(&s.ffn[l], self.ffn[l].iter().take(student.ffn).copied())),
            heads: mean(&|l| share(&s.heads[l], self.heads(l, per_group).take(student.heads))),
            layers: share(&s.block_influence, layers.iter().copied()),
        }
    }
}

/// Kept scores as a part of all; 1 where there is nothing to lose.
fn share(scores: &[f64], kept: impl Iterator<Item = usize>) -> f64 {
    let all: f64 = scores.iter().map(|s| s.abs()).sum();
    if all > 0.0 { kept.map(|i| scores[i].abs()).sum::<f64>() / all } else { 1.0 }
}

/// Not `total_cmp`: it puts -0 below 0, and they are equal scores. All scores are finite: they were checked.
fn best_first(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap_or(Ordering::Equal).then(a.cmp(&b)));
    order
}
