//! Which sizes the usual runtimes accept, and which formats a width loses.
use crate::{Dims, Error, Result};

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

/// What a width loses: quantised formats of llama.cpp (rows of 32, k-quants of 256) and full tiles on GPUs (64).
///
/// Only what the teacher had can be lost; a width that the teacher has as well is not worth a word.
pub fn warnings(teacher: &Dims, student: &Dims) -> Vec<String> {
    let losses = [
        (32, "llama.cpp's quantised formats (q8_0, q4_0) will not take it"),
        (256, "llama.cpp's k-quants will fall back to larger formats"),
        (64, "matrix products on GPUs will be slower"),
    ];
    let rows = |d: &Dims| [("hidden", d.hidden), ("ffn", d.ffn), ("heads * head_dim", d.heads * d.head_dim)];
    let mut out = Vec::new();
    for ((name, had), (_, has)) in rows(teacher).into_iter().zip(rows(student)) {
        for (multiple, consequence) in losses {
            if had.is_multiple_of(multiple) && !has.is_multiple_of(multiple) {
                out.push(format!("{name} {has} is not a multiple of {multiple}: {consequence}"));
            }
        }
    }
    out
}
