//! Which sizes load, which formats a width loses, and the next good width.
use crate::{Dims, Error, Result, Sizes, Target};

/// Refuses a student that will not load.
///
/// Transformers 5 demands for Llama that `hidden_size` is a multiple of `num_attention_heads`, even with an explicit `head_dim`. A
/// teacher that breaks the rule belongs to a family without it, and a student with the teacher's hidden size and heads loads as the
/// teacher does: the rule is for others.
///
/// # Errors
/// [`Error::Hidden`] with the nearest good widths.
pub fn check_loadable(teacher: &Dims, student: &Dims) -> Result<()> {
    let (hidden, heads) = (student.hidden, student.heads);
    if !teacher.hidden.is_multiple_of(teacher.heads) || hidden.is_multiple_of(heads) {
        return Ok(());
    }
    let (below, above) = good_hidden(hidden, heads, teacher.hidden);
    Err(Error::Hidden { hidden, heads, below, above })
}

/// The nearest widths that load with `heads` query heads: at most `hidden`, and at least `hidden` but not above `limit`.
pub fn good_hidden(hidden: usize, heads: usize, limit: usize) -> (Option<usize>, Option<usize>) {
    let heads = heads.max(1);
    let below = hidden.min(limit) / heads * heads;
    let above = hidden.div_ceil(heads).checked_mul(heads);
    ((below > 0).then_some(below), above.filter(|&a| a > 0 && a <= limit))
}

/// The target with widths that load and that runtimes like: `hidden` and `ffn` go to the nearest multiple of `divisor` (of 64, of 32, of any number
/// that loads, where that is more than a tenth away or more than the teacher has), `heads` to the nearest multiple of the key/value groups. What
/// the target does not give is not touched; of two equally near the smaller is taken.
///
/// # Errors
/// Those of [`Target::student`] for what no rounding helps: zeros, more than the teacher has, layers.
pub fn round_widths(teacher: &Dims, target: &Target, divisor: usize) -> Result<Target> {
    let mut rounded = target.clone();
    let groups = Target { hidden: None, ffn: None, heads: None, ..target.clone() }.student(teacher)?;
    if let Some(heads) = target.heads.filter(|&n| 0 < n && n <= teacher.heads) {
        rounded.heads = nearest(heads, groups.kv_groups, groups.heads);
    }
    let heads = rounded.student(teacher)?.heads;
    let good = |width: usize, unit: usize, limit: usize| {
        let candidate = |step: usize| nearest(width, lcm(step.max(1), unit), limit);
        let near = [divisor, 64, 32].into_iter().filter_map(candidate).find(|n| n.abs_diff(width) <= width / 10);
        near.or_else(|| nearest(width, unit, limit))
    };
    // See `check_loadable` for teachers that break the rule.
    let unit = if teacher.hidden.is_multiple_of(teacher.heads) { heads } else { 1 };
    rounded.hidden = target.hidden.map(|n| good(n, unit, teacher.hidden).unwrap_or(n));
    rounded.ffn = target.ffn.map(|n| good(n, 1, teacher.ffn).unwrap_or(n));
    rounded.student(teacher)?;
    Ok(rounded)
}

/// The multiple of `step` from `step` to `limit` that is nearest to `n`, the smaller of two.
fn nearest(n: usize, step: usize, limit: usize) -> Option<usize> {
    let below = (n.min(limit) / step).max(1) * step;
    let above = (below + step).min(limit / step * step);
    let best = if above.abs_diff(n) < below.abs_diff(n) { above } else { below };
    (0 < best && best <= limit).then_some(best)
}

/// The least common multiple, `usize::MAX` if there is none in range: then no width is a multiple.
fn lcm(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).saturating_mul(b)
}

/// What a width loses: quantised formats of llama.cpp (rows of 32, k-quants of 256) and full tiles on GPUs (64).
///
/// Only what the teacher had can be lost; a width that the teacher has as well is not worth a word. [`crate::runtimes`] tells everything.
pub fn warnings(teacher: &Dims, student: &Dims) -> Vec<String> {
    lost(&Sizes::from(*teacher), &Sizes::from(*student))
}

/// Lengths of the rows of matrices, and what they are called: for layers that differ, every length once.
pub(crate) fn rows(s: &Sizes) -> [(&'static str, Vec<usize>); 3] {
    let distinct = |of: &dyn Fn(&crate::LayerDims) -> usize| {
        let mut all: Vec<usize> = s.layers.iter().map(of).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    [
        ("hidden", vec![s.hidden]),
        ("ffn", distinct(&|l| l.ffn)),
        ("heads * head_dim", distinct(&|l| l.heads.saturating_mul(s.head_dim))),
    ]
}

/// As [`warnings`], for layers that may differ.
pub(crate) fn lost(teacher: &Sizes, student: &Sizes) -> Vec<String> {
    let losses = [
        (32, "llama.cpp's quantised formats (q8_0, q4_0) will not take it"),
        (256, "llama.cpp's k-quants will fall back to larger formats"),
        (64, "matrix products on GPUs will be slower"),
    ];
    let mut out = Vec::new();
    for ((name, had), (_, has)) in rows(teacher).into_iter().zip(rows(student)) {
        for (multiple, consequence) in losses {
            let had_all = had.iter().all(|n| n.is_multiple_of(multiple));
            if let Some(has) = has.iter().find(|n| !n.is_multiple_of(multiple)).filter(|_| had_all) {
                out.push(format!("{name} {has} is not a multiple of {multiple}: {consequence}"));
            }
        }
    }
    out
}
