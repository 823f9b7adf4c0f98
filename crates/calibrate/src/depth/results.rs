//! What sweeps found, as the arrays `depth.*` of an importance file. Their names and shapes are listed in `paring-importance`, whose
//! `DepthRanking` chooses by them.
use super::Scores;
use paring_importance::{NamedArray, SpanInfluence};

/// Scores without every contiguous block of some sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Blocks {
    /// Scores of the whole model.
    pub baseline: Vec<f64>,
    /// Sizes, ascending, and the scores without each block of that size, by first layer.
    pub sizes: Vec<(usize, Vec<Vec<f64>>)>,
}

impl Blocks {
    /// Of one sweep over [`super::block_removals`].
    pub(super) fn new(layers: usize, sizes: &[usize], scores: Scores) -> Self {
        let mut removed = scores.removed.into_iter();
        let of = |&n: &usize| (n, removed.by_ref().take(layers + 1 - n).collect());
        Blocks { baseline: scores.baseline.unwrap_or_default(), sizes: sizes.iter().map(of).collect() }
    }

    /// Scores without each block of `size` layers.
    pub fn of_size(&self, size: usize) -> Option<&[Vec<f64>]> {
        self.sizes.iter().find(|(n, _)| *n == size).map(|(_, scores)| scores.as_slice())
    }
}

/// Layers removed one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Greedy {
    /// Layers of the model, in the order in which they went.
    pub order: Vec<usize>,
    /// Scores after each.
    pub scores: Vec<Vec<f64>>,
}

/// What was measured of a model's depth; what was not is empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DepthResults {
    /// Loss without blocks; blocks of one layer are the single layers.
    pub loss: Option<Blocks>,
    /// How far blocks turn the residual stream.
    pub influence: Option<SpanInfluence>,
    /// Loss after each layer that greedy search removed.
    pub greedy: Option<Greedy>,
    /// Scores on a task without blocks.
    pub task: Option<Blocks>,
}

fn vector(name: String, values: Vec<f64>) -> NamedArray {
    NamedArray { name, shape: vec![values.len()], values }
}

/// One of the scores of every stack.
fn column(scores: &[Vec<f64>], i: usize) -> Vec<f64> {
    scores.iter().filter_map(|s| s.get(i).copied()).collect()
}

impl DepthResults {
    /// As named arrays.
    pub fn to_arrays(&self) -> Vec<NamedArray> {
        let mut out = Vec::new();
        if let Some(loss) = &self.loss {
            out.push(vector("depth.nll".into(), loss.baseline.clone()));
            for (n, scores) in &loss.sizes {
                if *n == 1 {
                    out.push(vector("depth.layer_nll".into(), column(scores, 0)));
                }
                out.push(vector(format!("depth.block_nll.{n}"), column(scores, 0)));
            }
        }
        if let Some(spans) = &self.influence {
            for (i, n) in spans.sizes().iter().enumerate() {
                out.push(vector(format!("depth.block_cosine.{n}"), spans.cosine(i)));
                out.push(vector(format!("depth.block_angular.{n}"), spans.angular(i)));
            }
        }
        if let Some(greedy) = &self.greedy {
            out.push(vector("depth.greedy.order".into(), greedy.order.iter().map(|&l| l as f64).collect()));
            out.push(vector("depth.greedy.nll".into(), column(&greedy.scores, 0)));
        }
        if let Some(task) = &self.task {
            for (i, name) in ["accuracy", "accuracy_norm", "gold_nll"].into_iter().enumerate() {
                out.push(vector(format!("depth.task.{name}"), task.baseline.get(i).copied().into_iter().collect()));
                for (n, scores) in &task.sizes {
                    out.push(vector(format!("depth.block_{name}.{n}"), column(scores, i)));
                }
            }
        }
        out
    }
}
