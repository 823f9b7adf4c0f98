//! AdamW. `paring_optim::adamw_update` is the definition, in f32; here it only meets the tensors.
use half::bf16;
use paring_ops::AdamWStep;

/// With `g = grad_scale grad` (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2; the order of operations is PyTorch's):
///
/// - `m = beta1 m + (1 - beta1) g`
/// - `v = beta2 v + (1 - beta2) g^2`
/// - `w = w (1 - lr weight_decay) - lr (m / bias1) / (sqrt(v) / bias2_sqrt + eps)`
pub(crate) fn adamw(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], step: &AdamWStep) {
    paring_optim::adamw_update(w, m, v, grad, step);
}

/// The nearest bf16, and the sixteen bits that are missing.
pub(crate) fn split(high: &mut [bf16], low: &mut [bf16], w: &[f32]) {
    for ((high, low), &w) in high.iter_mut().zip(low).zip(w) {
        let halves = paring_optim::split(w);
        (*high, *low) = (bf16::from_bits(halves.0), bf16::from_bits(halves.1));
    }
}

pub(crate) fn join(w: &mut [f32], high: &[bf16], low: &[bf16]) {
    for ((w, high), low) in w.iter_mut().zip(high).zip(low) {
        *w = paring_optim::join(high.to_bits(), low.to_bits());
    }
}
