//! Losses of rows of logits. Value and gradient are one function, because the gradient takes the place of the logits.
//!
//! `paring_distill` has the same losses of one row with gradients in f32; here they stay f64 until they were scaled.
//!
//! Legend: `v` is the size of the vocabulary; a row of no logits adds nothing.
use paring_distill::log_sum_exp;
use paring_ops::{Compared, IGNORE};

/// `loss = sum_t (lse_t - x_t[target])`, `lse = log sum_i exp x_i`; `d loss / d x_i = softmax(x)_i - [i = target]`, times `scale`.
pub(crate) fn cross_entropy(logits: &mut [f32], v: usize, targets: &[u32], scale: f32) -> f64 {
    let mut loss = 0.0;
    for (t, &target) in targets.iter().enumerate() {
        let row = &mut logits[t * v..][..v];
        if target == IGNORE {
            row.fill(0.0);
            continue;
        }
        let (target, lse) = (target as usize, log_sum_exp(1.0, row));
        loss += lse - f64::from(row[target]);
        for (i, x) in row.iter_mut().enumerate() {
            let p = (f64::from(*x) - lse).exp();
            let gradient = if i == target { p - 1.0 } else { p };
            *x = (f64::from(scale) * gradient) as f32;
        }
    }
    loss
}

/// `loss = sum_t KL(p_t || q_t)` with `p = softmax(teacher)`, `q = softmax(student)`; `d loss / d student_i = q_i - p_i`, times `scale`
/// (Hinton et al., arXiv 1503.02531, section 2, at temperature 1).
pub(crate) fn kl(student: &mut [f32], teacher: &[f32], v: usize, scale: f32) -> f64 {
    let mut loss = 0.0;
    for (student, teacher) in student.chunks_mut(v.max(1)).zip(teacher.chunks(v.max(1))) {
        loss += kl_row(student, teacher);
        let (q_lse, p_lse) = (log_sum_exp(1.0, student), log_sum_exp(1.0, teacher));
        for (x, &t) in student.iter_mut().zip(teacher) {
            let (q, p) = ((f64::from(*x) - q_lse).exp(), (f64::from(t) - p_lse).exp());
            *x = (f64::from(scale) * (q - p)) as f32;
        }
    }
    loss
}

/// `KL(p || q) = sum_i p_i (log p_i - log q_i)`.
fn kl_row(student: &[f32], teacher: &[f32]) -> f64 {
    let (q_lse, p_lse) = (log_sum_exp(1.0, student), log_sum_exp(1.0, teacher));
    let term = |(&s, &t): (&f32, &f32)| {
        let (log_q, log_p) = (f64::from(s) - q_lse, f64::from(t) - p_lse);
        // What the teacher rules out adds nothing, though `0 * -inf` is NaN. A NaN of the teacher's own is not zero and stays one.
        if log_p.exp() == 0.0 { 0.0 } else { log_p.exp() * (log_p - log_q) }
    };
    student.iter().zip(teacher).map(term).sum()
}

/// The losses above without gradients, and how often both put the same token first.
pub(crate) fn compare(student: &[f32], teacher: &[f32], v: usize, targets: &[u32]) -> Compared {
    let mut sum = Compared::default();
    for (t, &target) in targets.iter().enumerate() {
        if target == IGNORE {
            continue;
        }
        let (student, teacher) = (&student[t * v..][..v], &teacher[t * v..][..v]);
        let nll = |row: &[f32]| log_sum_exp(1.0, row) - f64::from(row[target as usize]);
        sum += Compared {
            rows: 1,
            student_nll: nll(student),
            teacher_nll: nll(teacher),
            kl: kl_row(student, teacher),
            agree: u64::from(first(student) == first(teacher)),
        };
    }
    sum
}

/// The index of the largest value, the lowest among equals. NaN is no value.
fn first(row: &[f32]) -> Option<usize> {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|&x| x == max)
}
