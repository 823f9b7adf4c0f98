//! Losses of one row of logits, with their gradients. Sums over the vocabulary are f64: this is the definition that faster code is
//! checked against.
//!
//! Legend: `_v` is a row over the vocabulary.

/// `log sum_i exp(row_i / tau)`, without overflow.
pub fn log_sum_exp(tau: f32, row_v: &[f32]) -> f64 {
    let tau = f64::from(tau);
    let max = row_v.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let max = f64::from(max) / tau;
    if max == f64::NEG_INFINITY {
        return max;
    }
    max + row_v.iter().map(|&x| (f64::from(x) / tau - max).exp()).sum::<f64>().ln()
}

/// Forward KL at temperature `tau`: `tau^2 * KL(softmax(teacher / tau) || softmax(student / tau))`, in nats.
///
/// Minitron distils on this alone, at `tau = 1` (arXiv 2408.11796, section 2.3). The factor `tau^2` keeps the gradient's size as the
/// temperature changes (Hinton et al., arXiv 1503.02531, section 2).
///
/// # Shapes
/// - `student_v`, `teacher_v`: `[V]` raw logits; `grad_v`: `[V]`, overwritten with d loss / d student.
///
/// ```
/// let mut grad = [0.0; 3];
/// let loss = paring_distill::forward_kl_row(2.0, &[1.0, 0.0, -1.0], &[1.0, 0.0, -1.0], &mut grad);
/// assert!(loss.abs() < 1e-9 && grad.iter().all(|g| g.abs() < 1e-6)); // equal rows: nothing to learn
/// ```
///
/// # Panics
/// If the three rows differ in length.
pub fn forward_kl_row(tau: f32, student_v: &[f32], teacher_v: &[f32], grad_v: &mut [f32]) -> f64 {
    assert!(student_v.len() == teacher_v.len() && student_v.len() == grad_v.len(), "rows differ in length");
    let (student_lse, teacher_lse) = (log_sum_exp(tau, student_v), log_sum_exp(tau, teacher_v));
    let tau = f64::from(tau);
    let mut loss = 0.0;
    for ((grad, &student), &teacher) in grad_v.iter_mut().zip(student_v).zip(teacher_v) {
        let log_q = f64::from(student) / tau - student_lse;
        let log_p = f64::from(teacher) / tau - teacher_lse;
        let p = log_p.exp();
        // `p == 0` contributes nothing to the sum; `0 * -inf` would make it NaN. A `p` that is NaN has to stay seen.
        if p != 0.0 {
            loss += p * (log_p - log_q);
        }
        *grad = (tau * (log_q.exp() - p)) as f32;
    }
    tau * tau * loss
}

/// Cross-entropy of one row against one token: `-log softmax(logits)[target]`, in nats.
///
/// # Shapes
/// - `logits_v`: `[V]`; `grad_v`: `[V]`, overwritten with d loss / d logits.
///
/// # Panics
/// If the rows differ in length or `target` is not in the vocabulary.
pub fn cross_entropy_row(logits_v: &[f32], target: usize, grad_v: &mut [f32]) -> f64 {
    assert!(logits_v.len() == grad_v.len(), "rows differ in length");
    assert!(target < logits_v.len(), "the target is not in the vocabulary");
    let lse = log_sum_exp(1.0, logits_v);
    for (grad, &logit) in grad_v.iter_mut().zip(logits_v) {
        *grad = (f64::from(logit) - lse).exp() as f32;
    }
    grad_v[target] -= 1.0;
    lse - f64::from(logits_v[target])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_broken_teacher_is_no_perfect_match() {
        for bad in [[f32::NAN, 0.0], [f32::NEG_INFINITY; 2]] {
            assert!(forward_kl_row(1.0, &[0.0, 1.0], &bad, &mut [0.0; 2]).is_nan(), "{bad:?}");
        }
        assert!(forward_kl_row(1.0, &[0.0, 1.0], &[0.0, f32::NEG_INFINITY], &mut [0.0; 2]).is_finite());
    }

    /// Central differences of `loss` in every coordinate against the analytic gradient.
    fn check_gradient(x: &[f32], grad: &[f32], mut loss: impl FnMut(&[f32]) -> f64) {
        let mut x = x.to_vec();
        for i in 0..x.len() {
            let (x0, step) = (x[i], 1e-2f32);
            x[i] = x0 + step;
            let (up, x_up) = (loss(&x), x[i]);
            x[i] = x0 - step;
            let (down, x_down) = (loss(&x), x[i]);
            x[i] = x0;
            let numeric = (up - down) / f64::from(x_up - x_down);
            let analytic = f64::from(grad[i]);
            assert!((numeric - analytic).abs() < 1e-4 * (1.0 + analytic.abs()), "[{i}]: {numeric} against {analytic}");
        }
    }

    #[test]
    fn kl_gradient_matches_differences_on_hard_rows() {
        let student = [0.3f32, -20.0, 1.7, 9.0];
        for teacher in [[2.0f32, 0.1, f32::NEG_INFINITY, 8.0], [80.0, -80.0, 0.0, 1.0]] {
            for tau in [1.0, 1.5, 4.0] {
                let (mut grad, mut sink) = ([0.0; 4], [0.0; 4]);
                assert!(forward_kl_row(tau, &student, &teacher, &mut grad).is_finite());
                check_gradient(&student, &grad, |s| forward_kl_row(tau, s, &teacher, &mut sink));
            }
        }
    }

    #[test]
    fn cross_entropy_gradient_matches_differences() {
        let logits = [0.3f32, -20.0, 30.0, 29.0];
        for target in 0..4 {
            let (mut grad, mut sink) = ([0.0; 4], [0.0; 4]);
            cross_entropy_row(&logits, target, &mut grad);
            check_gradient(&logits, &grad, |l| cross_entropy_row(l, target, &mut sink));
        }
    }

    proptest! {
        #[test]
        fn kl_is_never_negative_and_ignores_a_common_level(
            rows in proptest::collection::vec((-30f32..30.0, -30f32..30.0), 1..50), level in -50f32..50.0,
        ) {
            let (student, teacher): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let mut grad = vec![0.0; student.len()];
            let loss = forward_kl_row(1.0, &student, &teacher, &mut grad);
            prop_assert!(loss >= -1e-9);
            let shifted: Vec<f32> = student.iter().map(|s| s + level).collect();
            let again = forward_kl_row(1.0, &shifted, &teacher, &mut grad);
            prop_assert!((loss - again).abs() < 1e-3 * (1.0 + loss.abs()), "{} {}", loss, again);
        }
    }
}
