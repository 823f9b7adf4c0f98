//! AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2), in the order of PyTorch's
//! `torch.optim.AdamW`: decay first, then the step.

/// Hyper-parameters that stay for a whole run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Added to the root of the second moment, after bias correction.
    pub eps: f32,
    /// Part of a weight that is lost per unit of learning rate.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }
}

impl AdamW {
    /// The constants of update number `step`, counted from 1, at learning rate `lr`.
    pub fn step(&self, lr: f32, step: u64) -> AdamWStep {
        // In f64: `1 - 0.999` loses half of f32's digits. The count saturates where the power is zero anyway.
        let n = i32::try_from(step.max(1)).unwrap_or(i32::MAX);
        AdamWStep {
            lr,
            beta1: self.beta1,
            beta2: self.beta2,
            eps: self.eps,
            weight_decay: self.weight_decay,
            bias1: (1.0 - f64::from(self.beta1).powi(n)) as f32,
            bias2_sqrt: (1.0 - f64::from(self.beta2).powi(n)).sqrt() as f32,
            grad_scale: 1.0,
        }
    }
}

/// Everything that one update of one tensor needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f32,
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// `1 - beta1^step`.
    pub bias1: f32,
    /// `sqrt(1 - beta2^step)`.
    pub bias2_sqrt: f32,
    /// Multiplied into the gradient first: clipping, and the mean over accumulated batches.
    pub grad_scale: f32,
}

/// One update of the weights `w` and the moments `m`, `v`, in place.
///
/// # Panics
/// If the four slices differ in length.
pub fn adamw_update(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], step: &AdamWStep) {
    assert!(w.len() == m.len() && w.len() == v.len() && w.len() == grad.len(), "slices differ in length");
    let decay = 1.0 - step.lr * step.weight_decay;
    let size = step.lr / step.bias1;
    for (((w, m), v), &grad) in w.iter_mut().zip(m).zip(v).zip(grad) {
        let grad = grad * step.grad_scale;
        *m = step.beta1 * *m + (1.0 - step.beta1) * grad;
        *v = step.beta2 * *v + (1.0 - step.beta2) * grad * grad;
        let denominator = v.sqrt() / step.bias2_sqrt + step.eps;
        *w = *w * decay - size * *m / denominator;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_is_the_learning_rate_whatever_the_gradient() {
        // After bias correction m / sqrt(v) is the sign of the gradient.
        for grad in [1e-3f32, -5.0, 1e4] {
            let (mut w, mut m, mut v) = ([2.0f32], [0.0], [0.0]);
            adamw_update(
                &mut w,
                &mut m,
                &mut v,
                &[grad],
                &AdamW { weight_decay: 0.0, ..AdamW::default() }.step(0.1, 1),
            );
            assert!((w[0] - (2.0 - 0.1 * grad.signum())).abs() < 1e-5, "{}", w[0]);
        }
    }

    #[test]
    fn decay_is_decoupled_from_the_gradient() {
        let (mut w, mut m, mut v) = ([2.0f32], [0.0], [0.0]);
        adamw_update(&mut w, &mut m, &mut v, &[0.0], &AdamW::default().step(0.5, 1));
        assert!((w[0] - 2.0 * (1.0 - 0.5 * 0.1)).abs() < 1e-6);
        assert_eq!((m[0], v[0]), (0.0, 0.0));
    }

    #[test]
    fn scaling_the_gradient_is_the_same_as_grad_scale() {
        let mut step = AdamW::default().step(1e-2, 3);
        let (mut a, mut b) = (([1.0f32], [0.2f32], [0.3f32]), ([1.0f32], [0.2f32], [0.3f32]));
        adamw_update(&mut a.0, &mut a.1, &mut a.2, &[0.25 * 8.0], &step);
        step.grad_scale = 0.25;
        adamw_update(&mut b.0, &mut b.1, &mut b.2, &[8.0], &step);
        assert_eq!(a, b);
    }
}
