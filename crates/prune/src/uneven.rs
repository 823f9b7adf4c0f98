//! Widths that differ from layer to layer: a total for the whole model goes to the layers by one ranking over all of them.
//!
//! Scores of one layer are comparable with one another, those of different layers are not: a layer of large activations would take everything.
//! So they are normalised per layer first. A layer's neurons are sorted and taken in blocks of the divisor, which are the units of the ranking; as
//! blocks of one layer are in descending order, taking the best of all that come next is taking the best overall.
//!
//! No Hugging Face Llama config can say the result: it runs in memory, and [`crate::runtimes`] says who else would take it.
use crate::{Error, Result, choose::order};
use serde::{Deserialize, Serialize};

/// How scores of one layer are made comparable with those of others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalise {
    /// By their mean, so that a layer whose scores are alike has all of them at 1.
    #[default]
    Mean,
    /// By the highest of them, as ModelOpt does where modules share a width.
    Max,
    /// Not at all.
    No,
}

/// A total to spread over the layers that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Neurons (heads, groups) of all layers together; what is left over is less than a block.
    pub total: usize,
    /// The least that a layer keeps.
    pub min: usize,
    /// Widths are multiples of this, or the teacher's. Heads come in blocks of one for each group, groups one by one.
    pub divisor: usize,
    /// How layers are compared.
    pub normalise: Normalise,
}

/// Which sizes may differ from layer to layer, and what they add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uneven {
    /// Neurons of the MLPs.
    pub ffn: Option<Spread>,
    /// Query heads, as many in every group of a layer.
    pub heads: Option<Spread>,
    /// Key/value groups, with their query heads.
    pub kv_groups: Option<Spread>,
}

/// What is taken or left as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Block {
    pub(crate) size: usize,
    /// Mean score of its members.
    pub(crate) score: f64,
}

impl Block {
    /// Blocks of one, best first.
    pub(crate) fn singles(scores: &[f64]) -> Vec<Block> {
        Block::sorted(scores, 1)
    }

    /// Blocks of `divisor`, best first; the last one may be smaller.
    pub(crate) fn sorted(scores: &[f64], divisor: usize) -> Vec<Block> {
        let mean = |chunk: &[usize]| chunk.iter().map(|&i| scores[i]).sum::<f64>() / chunk.len() as f64;
        let block = |chunk: &[usize]| Block { size: chunk.len(), score: mean(chunk) };
        order(scores).chunks(divisor.max(1)).map(block).collect()
    }
}

impl Spread {
    /// How much every layer keeps, from its blocks, best first.
    pub(crate) fn share(&self, axis: &'static str, mut layers: Vec<Vec<Block>>) -> Result<Vec<usize>> {
        let fail = |what: String| Err(Error::Spread { axis, what });
        if self.divisor == 0 || self.min == 0 {
            return fail(format!("divisor {} and minimum {}, expected at least 1", self.divisor, self.min));
        }
        for blocks in &mut layers {
            let size: usize = blocks.iter().map(|b| b.size).sum();
            let by = match self.normalise {
                Normalise::Mean => blocks.iter().map(|b| b.size as f64 * b.score).sum::<f64>() / size as f64,
                Normalise::Max => blocks.first().map_or(0.0, |b| b.score),
                Normalise::No => 1.0,
            };
            // A layer without any activity is the last to get something, however its zeros are scaled.
            blocks.iter_mut().for_each(|b| b.score = if by > 0.0 { b.score / by } else { 0.0 });
        }
        let have: usize = layers.iter().flatten().map(|b| b.size).sum();
        if self.total > have {
            return fail(format!("a total of {} was asked for, but the layers that stay have {have}", self.total));
        }
        let mut taken = vec![0; layers.len()];
        let mut kept: Vec<usize> = vec![0; layers.len()];
        for (l, blocks) in layers.iter().enumerate() {
            while kept[l] < self.min && taken[l] < blocks.len() {
                kept[l] += blocks[taken[l]].size;
                taken[l] += 1;
            }
        }
        let mut sum: usize = kept.iter().sum();
        if sum > self.total {
            return fail(format!(
                "a total of {}, expected at least the {sum} of the minimum in every layer",
                self.total
            ));
        }
        // Next blocks that fit, the best of them first; of equals, that of the lower layer.
        loop {
            let mut best: Option<(usize, Block)> = None;
            for (l, blocks) in layers.iter().enumerate() {
                if let Some(&b) = blocks.get(taken[l])
                    && sum + b.size <= self.total
                    && best.is_none_or(|(_, other)| b.score > other.score)
                {
                    best = Some((l, b));
                }
            }
            let Some((l, block)) = best else { return Ok(kept) };
            (taken[l], kept[l], sum) = (taken[l] + 1, kept[l] + block.size, sum + block.size);
        }
    }
}
