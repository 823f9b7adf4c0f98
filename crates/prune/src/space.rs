//! The sizes that a student may have: widths that load, on a grid, and any depth.
use crate::{Dims, Error, Mutable, Result};

/// How fine the grid of widths is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// Widths are multiples of this, halved where an axis would have too few steps.
    pub divisor: usize,
    /// It is not halved below this where the teacher's width is a multiple of 32.
    pub floor: usize,
    /// Steps that the hidden axis should have at least.
    pub hidden_steps: usize,
    /// Steps that the neurons should have at least.
    pub ffn_steps: usize,
}

impl Widths {
    /// For choosing one shape: widths that keep every format, 32 at the least.
    pub fn coarse(divisor: usize) -> Self {
        Widths { divisor, floor: 32, hidden_steps: 4, ffn_steps: 8 }
    }

    /// For a search that scores its candidates: finer where heads leave a hidden axis few widths, but rows stay whole pieces of 16 bytes.
    pub fn fine(divisor: usize) -> Self {
        Widths { divisor, floor: 8, hidden_steps: 8, ffn_steps: 24 }
    }
}

/// The sizes that candidates may have.
#[derive(Clone, Debug)]
pub struct Space {
    teacher: Dims,
    layers: Vec<usize>,
    ffn: Vec<usize>,
    /// Heads, groups, and the hidden widths that load with so many heads.
    attention: Vec<(usize, usize, Vec<usize>)>,
    /// Whether students of another hidden width have a head of their own.
    rotated: bool,
}

impl Space {
    /// Everything on the grid, with the teacher's own sizes among it.
    ///
    /// Query heads are as many in every key/value group. Transformers wants the hidden width to be a multiple of the heads, of teachers
    /// that keep to the rule (see [`crate::check_loadable`]).
    ///
    /// # Errors
    /// [`Error::Dims`].
    pub fn new(teacher: &Dims, mutable: Mutable, widths: Widths) -> Result<Space> {
        teacher.check()?;
        let (t, m) = (*teacher, mutable);
        let ffn = if m.ffn { grid(&widths, t.ffn, 1, widths.ffn_steps) } else { vec![t.ffn] };
        let groups = if m.kv_groups { multiples(t.kv_groups, 1) } else { vec![t.kv_groups] };
        let per_group = if m.heads { multiples(t.heads_per_group(), 1) } else { vec![t.heads_per_group()] };
        let bound = t.hidden.is_multiple_of(t.heads);
        let mut attention = Vec::new();
        for &kv_groups in &groups {
            for heads in per_group.iter().map(|n| n * kv_groups) {
                let hidden = match (m.hidden, bound) {
                    (true, true) => grid(&widths, t.hidden, heads, widths.hidden_steps),
                    (true, false) => grid(&widths, t.hidden, 1, widths.hidden_steps),
                    (false, true) if !t.hidden.is_multiple_of(heads) => Vec::new(),
                    (false, _) => vec![t.hidden],
                };
                attention.push((heads, kv_groups, hidden));
            }
        }
        let layers = if m.layers { multiples(t.layers, 1) } else { vec![t.layers] };
        Ok(Space { teacher: t, layers, ffn, attention, rotated: false })
    }

    /// The hidden axis is cut in a rotated basis: a head that is tied to the embedding is one no longer in students of another hidden width,
    /// and they cost as much more. The others need no rotation.
    pub fn rotated(self) -> Space {
        Space { rotated: true, ..self }
    }

    /// What they are cut from.
    pub fn teacher(&self) -> &Dims {
        &self.teacher
    }

    /// Every candidate, the teacher itself first: more layers before fewer, then more heads, then wider.
    pub fn for_each(&self, mut f: impl FnMut(Dims)) {
        for &layers in &self.layers {
            for (heads, kv_groups, hidden) in &self.attention {
                for &hidden in hidden {
                    let tied = self.teacher.tied && !(self.rotated && hidden != self.teacher.hidden);
                    for &ffn in &self.ffn {
                        f(Dims { layers, hidden, ffn, heads: *heads, kv_groups: *kv_groups, tied, ..self.teacher });
                    }
                }
            }
        }
    }

    /// The candidates that cost at most `budget` and leave at most the part `unused` of it, in the order of [`Space::for_each`].
    ///
    /// Should there be fewer than `enough` of them, more of the budget may stay unused: a twentieth, three twentieths, any. `what` is
    /// the cost's name and `show` how it is said, for the refusals.
    ///
    /// # Errors
    /// [`Error::Budget`] for a budget that is no number, that the teacher does not reach, or that the smallest candidate exceeds.
    pub fn within(
        &self,
        budget: f64,
        unused: f64,
        enough: usize,
        what: &str,
        cost: impl Fn(&Dims) -> f64,
        show: impl Fn(f64) -> String,
    ) -> Result<Vec<Dims>> {
        if !budget.is_finite() || budget <= 0.0 {
            return Err(Error::Budget { what: format!("{what} {budget}, expected a positive number") });
        }
        let have = cost(&self.teacher);
        if have <= budget {
            return Err(Error::Budget {
                what: format!(
                    "{what} of {} leaves nothing to cut: the model has {}; ask for less",
                    show(budget),
                    show(have)
                ),
            });
        }
        let (mut all, mut smallest) = (Vec::new(), f64::INFINITY);
        self.for_each(|d| {
            let c = cost(&d);
            smallest = smallest.min(c);
            if c <= budget {
                all.push((1.0 - c / budget, d));
            }
        });
        if all.is_empty() {
            return Err(Error::Budget {
                what: format!(
                    "{what} of {} cannot be reached: the smallest candidate has {}; let more axes change or ask for more",
                    show(budget),
                    show(smallest)
                ),
            });
        }
        let mut limits = [unused, 0.05, 0.15, 1.0].into_iter().filter(|l| unused <= *l);
        let count = |limit: f64| all.iter().filter(|(left, _)| *left <= limit).count();
        let limit = limits.find(|&l| enough <= count(l)).unwrap_or(1.0);
        Ok(all.into_iter().filter(|(left, _)| *left <= limit).map(|(_, d)| d).collect())
    }
}

/// Multiples of the divisor and of `unit` up to `full`, and `full`, which need not be one; descending.
fn grid(widths: &Widths, full: usize, unit: usize, min_steps: usize) -> Vec<usize> {
    let floor = if full.is_multiple_of(32) { widths.floor.max(1) } else { 1 };
    let mut divisor = widths.divisor.clamp(1, full);
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
