//! AdamW. `paring_optim::adamw_update` is the definition, in f32; here it only meets the tensors.
use paring_ops::AdamWStep;

/// With `g = grad_scale grad` (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2; the order of operations is PyTorch's):
///
/// - `m = beta1 m + (1 - beta1) g`
/// - `v = beta2 v + (1 - beta2) g^2`
/// - `w = w (1 - lr weight_decay) - lr (m / bias1) / (sqrt(v) / bias2_sqrt + eps)`
pub(crate) fn adamw(w: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], step: &AdamWStep) {
    paring_optim::adamw_update(w, m, v, grad, step);
}
