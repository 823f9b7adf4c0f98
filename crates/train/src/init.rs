//! Weights before the first step.
use paring_model::{Arch, ParamSpec};
use paring_sampling::rng::Rng;

/// Values of one parameter: gains are 1, matrices normal with deviation 0.02; those that write to the residual stream are divided by
/// `sqrt(2 L)`, so that its variance does not grow with depth (Radford et al. 2019, "Language Models are Unsupervised Multitask
/// Learners", section 2.3).
pub fn initial_values(arch: &Arch, spec: &ParamSpec, seed: u64) -> Vec<f32> {
    if spec.shape.len() == 1 {
        return vec![1.0; spec.elements()];
    }
    let to_residual = spec.name.ends_with("o_proj.weight") || spec.name.ends_with("down_proj.weight");
    let deviation = if to_residual { 0.02 / (2.0 * arch.layers.len() as f64).sqrt() } else { 0.02 };
    let rng = Rng::new(seed);
    (0..spec.elements()).map(|i| (deviation * rng.normal(spec.id.0 as u64, i as u64)) as f32).collect()
}
