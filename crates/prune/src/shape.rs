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
use crate::{Dims, Error, Result, Target, count_params};

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
}

impl Default for Mutable {
    /// All but the heads, which are worth more than their parameters (arXiv 2408.11796, insights).
    fn default() -> Self {
        Mutable { layers: true, hidden: true, ffn: true, heads: false }
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
    let (budget, count): (f64, fn(&Dims) -> u64) = match target {
        ParamTarget::Fraction(part) if part > 0.0 && part <= 1.0 => {
            (part * count_params(teacher).non_embedding as f64, |d| count_params(d).non_embedding)
        }
        ParamTarget::Fraction(part) => {
            return Err(Error::Budget {
                what: format!("a part of {part} of the teacher's parameters, expected above 0 and at most 1"),
            });
        }
        ParamTarget::Absolute(n) => (n as f64, |d| count_params(d).total),
    };
    let have = count(teacher);
    if budget > have as f64 {
        return Err(Error::Budget {
            what: format!("{budget} parameters were asked for, but the teacher has only {have}"),
        });
    }
    if budget == have as f64 {
        return Ok(Target::default());
    }
    let grid = Grid::new(teacher, options);
    let both_possible = {
        let m = options.mutable;
        m.layers && (m.hidden || m.ffn || m.heads) && teacher.layers >= 4
    };
    let (mut best, mut smallest): (Option<(Key, Dims)>, _) = (None, u64::MAX);
    grid.for_each(|candidate| {
        let params = count(&candidate);
        smallest = smallest.min(params);
        let share = params as f64 / budget;
        if share > 1.0 + OVER {
            return;
        }
        let gap = UNDER.iter().position(|under| 1.0 - share <= *under).unwrap_or(UNDER.len());
        let narrower =
            (candidate.hidden, candidate.ffn, candidate.heads) != (teacher.hidden, teacher.ffn, teacher.heads);
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
        kv_groups: None,
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

/// The sizes that a candidate may have.
struct Grid<'a> {
    teacher: &'a Dims,
    options: &'a SearchOptions,
}

impl<'a> Grid<'a> {
    fn new(teacher: &'a Dims, options: &'a SearchOptions) -> Self {
        Grid { teacher, options }
    }

    fn for_each(&self, mut f: impl FnMut(Dims)) {
        let (t, m) = (self.teacher, self.options.mutable);
        let ffn = if m.ffn { self.widths(t.ffn, 1, 8) } else { vec![t.ffn] };
        let heads = if m.heads { multiples(t.heads, t.kv_groups) } else { vec![t.heads] };
        // Transformers wants hidden to be a multiple of the heads; see `check_loadable` for teachers that break the rule.
        let bound = t.hidden.is_multiple_of(t.heads);
        let hidden: Vec<Vec<usize>> = heads
            .iter()
            .map(|&q| match (m.hidden, bound) {
                (true, true) => self.widths(t.hidden, q, 4),
                (true, false) => self.widths(t.hidden, 1, 4),
                (false, true) if !t.hidden.is_multiple_of(q) => Vec::new(),
                (false, _) => vec![t.hidden],
            })
            .collect();
        for layers in (if m.layers { 1 } else { t.layers }..=t.layers).rev() {
            for (&heads, hidden) in heads.iter().zip(&hidden) {
                for &hidden in hidden {
                    for &ffn in &ffn {
                        f(Dims { layers, hidden, ffn, heads, ..*t });
                    }
                }
            }
        }
    }

    /// Multiples of the divisor and of `unit` up to `full`, and `full`, which need not be one; descending.
    fn widths(&self, full: usize, unit: usize, min_steps: usize) -> Vec<usize> {
        let floor = if full.is_multiple_of(32) { 32 } else { 1 };
        let mut divisor = self.options.divisor.clamp(1, full);
        while full / lcm(divisor, unit) < min_steps && divisor.is_multiple_of(2) && divisor / 2 >= floor {
            divisor /= 2;
        }
        let mut widths = multiples(full, lcm(divisor, unit));
        // A width that no multiple reaches is still the teacher's own.
        if widths.first() != Some(&full) && full.is_multiple_of(unit) {
            widths.insert(0, full);
        }
        widths
    }
}

/// Multiples of `step` from `full` down.
fn multiples(full: usize, step: usize) -> Vec<usize> {
    (1..=full / step).rev().map(|i| i * step).collect()
}

fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}
