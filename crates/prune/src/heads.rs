//! Heads that are put together instead of dropped: the residual of a pruned query head in a kept one (Minitron), and the mean of
//! neighbouring key/value groups (as grouped-query attention is made from multi-head attention, arXiv 2305.13245).
//!
//! **Residual** (arXiv 2407.14679, section 2.3). Of `L` heads sorted by importance, counted from 1, `K` stay, and
//! `new_i = head_i + (head_i - head_{2K-i+1})`. The printed range of `i` begins at `2K - L`, whose partner `L + 1` does not exist; the valid one
//! is `2K - L + 1 ..= K`: the least important kept head meets the most important pruned one, and every pruned head is used once. It needs
//! `L <= 2K`. Applied within a key/value group, to what a query head has of its own there: its rows of `q_proj` and its columns of `o_proj`.
//! The paper does not say which tensors are meant, and publishes no figure. LaCo has the opposite sign, `head_i + (head_{2K-i+1} - head_i)`;
//! with one partner for each head that is the pruned head itself, so the kept head is replaced: it is here to be measured.
//!
//! **Mean**. Key and value rows of a merged group are the mean of its members' rows; rotary embeddings turn equal rows of all heads alike, so the
//! mean of projections is the projection by the mean. All query heads stay, and the student has fewer groups with more query heads each.
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What becomes of pruned query heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Residual {
    /// They go.
    #[default]
    None,
    /// `new_i = 2 head_i - head_p`, as the paper prints it, of queries and outputs.
    Paper,
    /// `new_i = head_p`, of queries and outputs: LaCo's sign, with one partner for each head.
    Laco,
    /// The output columns of the pruned head are added to those of the kept one, whose queries stay: the kept head's attention stands in for that
    /// of the pruned one, as both read the same values. Not of a paper.
    Sum,
}

/// What becomes of key/value groups when there are to be fewer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvGroups {
    /// Those with the lowest scores go, with their query heads.
    #[default]
    Drop,
    /// Neighbours become their mean; all query heads stay. The new number has to divide the old one.
    Mean,
}

/// A head (or group) of the student that is a combination of several of the teacher's: `to = sum of weight * head / over`.
///
/// Whole numbers, so that combinations of combinations are exact.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// The kept head or group that becomes it, by the teacher's number.
    pub to: usize,
    /// Heads or groups of the teacher, ascending, with their weights, none of them 0.
    pub of: Vec<(usize, i64)>,
    /// What the sum is divided by, at least 1.
    pub over: i64,
}

/// Weights and divisors beyond this are no combination that anyone means, and would lose digits as f64.
const MAX_WEIGHT: i64 = 1 << 32;

impl Mix {
    /// The head itself.
    pub(crate) fn same(to: usize) -> Self {
        Mix { to, of: vec![(to, 1)], over: 1 }
    }

    /// Whether nothing is mixed.
    pub(crate) fn is_same(&self) -> bool {
        self.over == 1 && self.of == [(self.to, 1)]
    }

    /// `to` as the combination of `terms`, which may name a head more than once; in lowest terms.
    pub(crate) fn sum(to: usize, terms: impl IntoIterator<Item = (usize, i128)>, over: i128) -> Result<Self> {
        let mut sums = std::collections::BTreeMap::new();
        for (head, weight) in terms {
            *sums.entry(head).or_insert(0i128) += weight;
        }
        sums.retain(|_, w| *w != 0);
        let divisor = sums.values().fold(over, |d, &w| gcd(d, w)).max(1);
        let small = |n: i128| i64::try_from(n / divisor).ok().filter(|n| n.abs() <= MAX_WEIGHT);
        let of: Option<Vec<_>> = sums.into_iter().map(|(h, w)| Some((h, small(w)?))).collect();
        match (of, small(over)) {
            (Some(of), Some(over)) if !of.is_empty() && over > 0 => Ok(Mix { to, of, over }),
            _ => Err(Error::Plan { what: format!("the combination for head {to} has no or too large weights") }),
        }
    }

    /// What is wrong with it by itself, if anything.
    pub(crate) fn check(&self) -> Result<()> {
        let fail = |what: &str| Err(Error::Plan { what: format!("the combination for head {} {what}", self.to) });
        if self.of.is_empty() || self.of.windows(2).any(|w| w[0].0 >= w[1].0) {
            return fail("has to name heads in ascending order");
        }
        if self.of.iter().any(|&(_, w)| w == 0 || w.unsigned_abs() > MAX_WEIGHT as u64) {
            return fail("has a weight of 0 or beyond 2^32");
        }
        if !(1..=MAX_WEIGHT).contains(&self.over) {
            return fail("is divided by less than 1 or more than 2^32");
        }
        Ok(())
    }
}

fn gcd(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a.unsigned_abs(), b.unsigned_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    i128::try_from(a).unwrap_or(1)
}

/// The pairs `(kept, pruned)` whose heads are added, from all heads of one group in descending importance, of which the first `kept` stay.
/// Empty when nothing is pruned.
///
/// # Errors
/// [`Error::ResidualHeads`] when more heads are pruned than kept.
pub fn residual_pairs(sorted: &[usize], kept: usize) -> Result<Vec<(usize, usize)>> {
    let (l, k) = (sorted.len(), kept.min(sorted.len()));
    if l > 2 * k {
        return Err(Error::ResidualHeads { have: l, kept: k });
    }
    // Counted from 1: i in 2K-L+1 ..= K, with partner 2K-i+1.
    Ok((2 * k - l + 1..=k).map(|i| (sorted[i - 1], sorted[2 * k - i])).collect())
}

impl Residual {
    /// The combinations that a kept head becomes with its pruned partner: of its query rows, and of its output columns.
    pub fn mixes(self, kept: usize, pruned: usize) -> (Option<Mix>, Option<Mix>) {
        let mix = |own: i64, other: i64| {
            let mut of = vec![(kept, own), (pruned, other)];
            of.retain(|&(_, w)| w != 0);
            of.sort_unstable();
            Some(Mix { to: kept, of, over: 1 })
        };
        match self {
            Residual::None => (None, None),
            Residual::Paper => (mix(2, -1), mix(2, -1)),
            Residual::Laco => (mix(0, 1), mix(0, 1)),
            Residual::Sum => (None, mix(1, 1)),
        }
    }
}

/// Replaces heads by combinations of heads: `rows` is a matrix whose rows come in blocks of `head_dim` for each head, as those of `q_proj`,
/// `k_proj` and `v_proj`. All combinations are of the old rows. Sums in f64, rounded once.
///
/// # Shapes
/// `rows`: `[heads * head_dim, columns]`, any number of columns.
///
/// # Errors
/// [`Error::Matrix`], [`Error::Index`], or [`Error::Plan`] for weights that make no combination.
pub fn mix_rows(rows: &mut [f32], heads: usize, head_dim: usize, mixes: &[Mix]) -> Result<()> {
    let block = block(rows.len(), heads)?;
    if !block.is_multiple_of(head_dim.max(1)) {
        return Err(Error::Matrix { matrix: "head", got: rows.len(), want: format!("rows of {heads} x {head_dim}") });
    }
    mix(rows, heads, mixes, |head, i| head * block + i, block)
}

/// As [`mix_rows`], for a matrix whose columns come in blocks of `head_dim` for each head, as those of `o_proj`: `[outputs, heads * head_dim]`.
///
/// # Errors
/// Those of [`mix_rows`].
pub fn mix_columns(matrix: &mut [f32], heads: usize, head_dim: usize, mixes: &[Mix]) -> Result<()> {
    let width = heads * head_dim;
    let wrong =
        || Error::Matrix { matrix: "head", got: matrix.len(), want: format!("columns of {heads} x {head_dim}") };
    if width == 0 || !matrix.len().is_multiple_of(width) {
        return Err(wrong());
    }
    let len = matrix.len() / heads;
    mix(matrix, heads, mixes, |head, i| i / head_dim * width + head * head_dim + i % head_dim, len)
}

fn block(len: usize, heads: usize) -> Result<usize> {
    if heads == 0 || !len.is_multiple_of(heads) {
        return Err(Error::Matrix { matrix: "head", got: len, want: format!("a multiple of {heads} heads") });
    }
    Ok(len / heads)
}

/// `at(head, i)` is where value `i` of `len` of a head lies.
fn mix(values: &mut [f32], heads: usize, mixes: &[Mix], at: impl Fn(usize, usize) -> usize, len: usize) -> Result<()> {
    let mut made = Vec::with_capacity(mixes.len());
    for m in mixes {
        m.check()?;
        if let Some(&got) = m.of.iter().map(|(h, _)| h).chain([&m.to]).find(|&&h| h >= heads) {
            return Err(Error::Index { got, len: heads });
        }
        let value = |i: usize| {
            let sum: f64 = m.of.iter().map(|&(h, w)| w as f64 * f64::from(values[at(h, i)])).sum();
            (sum / m.over as f64) as f32
        };
        made.push((0..len).map(value).collect::<Vec<f32>>());
    }
    for (m, new) in mixes.iter().zip(made) {
        new.into_iter().enumerate().for_each(|(i, v)| values[at(m.to, i)] = v);
    }
    Ok(())
}
