//! From a parameter budget to sizes: a search over the grid of widths and depths for the cheapest cut that meets the budget.
//!
//! **The rule.** Candidates lie on a grid (any depth, widths on multiples of the divisor, key/value groups and `head_dim` as they are)
//! and have at most 1 % more parameters than the budget. Those within 5 % below it go first, then within 15 %, then any; inside such a
//! window the cost sees to it that nothing is given away. Among them, if both kinds of axes may change and the teacher has at least
//! four layers, those that cut width and depth go before those that cut one of them. Among those, the lowest cost wins:
//!
//! `cost = sum over axes of weight * ln(kept / teacher)^2`
//!
//! The square keeps the proportions balanced, and the logarithm makes the last neurons dearer than the first. The weights are fitted to the
//! perplexities of SmolLM2-135M-Instruct after cutting one axis at a time, without training, so `cost` is roughly the rise of the
//! log perplexity in nats: ffn 1536 -> 1024 / 768 (with least squares) 0.73 / 1.16; hidden 576 -> 512 / 448 1.13 / 2.92; 3 / 6 / 10
//! of 30 layers 0.38 / 0.86 / 1.93. Equal costs are decided by the order of the search: more layers first, then wider.
use crate::{Dims, Error, Result, Space, Target, Widths, count_params};

/// Fitted to 0.73 and 1.16 nats at two thirds and one half of the neurons.
const FFN_WEIGHT: f64 = 2.6;
/// Fitted to 0.38, 0.86 and 1.93 nats at 0.9, 0.8 and two thirds of the layers.
const LAYERS_WEIGHT: f64 = 12.0;
/// Fitted to 1.13 and 2.92 nats at 8/9 and 7/9 of the hidden channels.
const HIDDEN_WEIGHT: f64 = 48.0;
/// Not measured: a head is taken to be as dear as the same part of the layers.
const HEADS_WEIGHT: f64 = 12.0;

/// Share of the budget by which a candidate may exceed it.
const OVER: f64 = 0.01;
/// Shares of the budget that candidates may leave unused, in the order of preference.
const UNDER: [f64; 3] = [0.05, 0.15, 1.0];

/// How many parameters the student should have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ParamTarget {
    /// This part of the teacher's non-embedding parameters, above 0 and at most 1.
    Fraction(f64),
    /// This many parameters in total, embedding included, as models are named.
    Absolute(u64),
    /// This part of all of the teacher's parameters, above 0 and at most 1.
    FractionOfTotal(f64),
    /// This many parameters outside the embedding and an untied head.
    AbsoluteNonEmbedding(u64),
}

/// Counts a shape's parameters.
pub type Counting = fn(&Dims) -> u64;

impl ParamTarget {
    /// The number of parameters that is asked for, and how a model's are counted against it.
    ///
    /// # Errors
    /// [`Error::Budget`] for a part that is none.
    pub fn budget(self, teacher: &Dims) -> Result<(f64, Counting)> {
        let total: Counting = |d| count_params(d).total;
        let non_embedding: Counting = |d| count_params(d).non_embedding;
        let (part, count) = match self {
            ParamTarget::Absolute(n) => return Ok((n as f64, total)),
            ParamTarget::AbsoluteNonEmbedding(n) => return Ok((n as f64, non_embedding)),
            ParamTarget::Fraction(part) => (part, non_embedding),
            ParamTarget::FractionOfTotal(part) => (part, total),
        };
        if part > 0.0 && part <= 1.0 {
            return Ok((part * count(teacher) as f64, count));
        }
        Err(Error::Budget {
            what: format!("a part of {part} of the teacher's parameters, expected above 0 and at most 1"),
        })
    }
}

/// Which axes the search may cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutable {
    /// Depth.
    pub layers: bool,
    /// Channels of the residual stream.
    pub hidden: bool,
    /// Neurons of the MLPs.
    pub ffn: bool,
    /// Query heads, the same number from every key/value group.
    pub heads: bool,
    /// Key/value groups, with their query heads.
    pub kv_groups: bool,
}

impl Default for Mutable {
    /// All but the heads, which are worth more than their parameters (arXiv 2408.11796, insights).
    fn default() -> Self {
        Mutable { layers: true, hidden: true, ffn: true, heads: false, kv_groups: false }
    }
}

/// The limits of the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchOptions {
    /// Which axes may change.
    pub mutable: Mutable,
    /// Widths are multiples of this; halved for an axis that would have fewer than eight (ffn) or four (hidden) steps, but not below 32
    /// where the teacher's width is a multiple of 32, so that quantised formats stay possible.
    pub divisor: usize,
}

impl Default for SearchOptions {
    fn default() -> Self {
        SearchOptions { mutable: Mutable::default(), divisor: 128 }
    }
}

/// Sizes that meet a parameter budget, by the rule in this module's source. Axes that stay are `None` in the result.
///
/// # Errors
/// [`Error::Dims`], or [`Error::Budget`] for a budget that the teacher does not reach or the smallest candidate exceeds.
pub fn choose_shape(teacher: &Dims, target: ParamTarget, options: &SearchOptions) -> Result<Target> {
    teacher.check()?;
    let (budget, count) = target.budget(teacher)?;
    let have = count(teacher);
    if budget > have as f64 {
        return Err(Error::Budget {
            what: format!("{budget} parameters were asked for, but the teacher has only {have}"),
        });
    }
    if budget == have as f64 {
        return Ok(Target::default());
    }
    let space = Space::new(teacher, options.mutable, Widths::coarse(options.divisor))?;
    let both_possible = {
        let m = options.mutable;
        m.layers && (m.hidden || m.ffn || m.heads || m.kv_groups) && teacher.layers >= 4
    };
    let (mut best, mut smallest): (Option<(Key, Dims)>, _) = (None, u64::MAX);
    space.for_each(|candidate| {
        let params = count(&candidate);
        smallest = smallest.min(params);
        let share = params as f64 / budget;
        if share > 1.0 + OVER {
            return;
        }
        let gap = UNDER.iter().position(|under| 1.0 - share <= *under).unwrap_or(UNDER.len());
        let narrower = {
            let widths = |d: &Dims| [d.hidden, d.ffn, d.heads, d.kv_groups];
            widths(&candidate) != widths(teacher)
        };
        let one_sided = both_possible && !(candidate.layers < teacher.layers && narrower);
        let key = Key { gap, one_sided, cost: cost(teacher, &candidate) };
        if best.as_ref().is_none_or(|(other, _)| key.is_better_than(other)) {
            best = Some((key, candidate));
        }
    });
    let Some((_, student)) = best else {
        return Err(Error::Budget {
            what: format!(
                "{budget:.0} parameters are below the {smallest} of the smallest candidate; let more axes change or raise the budget"
            ),
        });
    };
    let changed = |to: usize, from: usize| (to != from).then_some(to);
    Ok(Target {
        hidden: changed(student.hidden, teacher.hidden),
        ffn: changed(student.ffn, teacher.ffn),
        heads: changed(student.heads, teacher.heads),
        kv_groups: changed(student.kv_groups, teacher.kv_groups),
        layers: changed(student.layers, teacher.layers),
        drop_layers: None,
    })
}

/// What candidates are compared by, first field first.
struct Key {
    gap: usize,
    one_sided: bool,
    cost: f64,
}

impl Key {
    fn is_better_than(&self, other: &Key) -> bool {
        let rank = |k: &Key| (k.gap, k.one_sided);
        rank(self) < rank(other) || (rank(self) == rank(other) && self.cost < other.cost)
    }
}

fn cost(teacher: &Dims, student: &Dims) -> f64 {
    let part = |to: usize, from: usize| (to as f64 / from as f64).ln().powi(2);
    FFN_WEIGHT * part(student.ffn, teacher.ffn)
        + LAYERS_WEIGHT * part(student.layers, teacher.layers)
        + HIDDEN_WEIGHT * part(student.hidden, teacher.hidden)
        + HEADS_WEIGHT * part(student.heads, teacher.heads)
}
