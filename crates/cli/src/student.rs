//! What least squares needs of a cut: which layers lose neurons, and the `down_proj` that makes up for them.
use crate::error::{Failure, Result};
use paring_model::params;
use paring_prune::{Anchor, Ridge, least_squares};
use paring_surgery::{Checkpoint, Cut, Weights};

/// A student cut from a checkpoint.
pub(crate) type Student<'a> = Cut<'a, Checkpoint<'a>>;

/// Kept neurons of the teacher's `layer`, if the layer stays and loses some.
fn kept_of<'a>(cut: &Student<'a>, layer: usize) -> Option<&'a [usize]> {
    let kept = &cut.plan().layers()[cut.plan().student_layer(layer)?].ffn;
    (kept.len() < cut.plan().teacher().layers[layer].ffn).then_some(kept)
}

/// Whether there is anything to repair in the teacher's `layer`.
pub(crate) fn needs_compensation(cut: &Student<'_>, layer: usize) -> bool {
    kept_of(cut, layer).is_some()
}

/// The `down_proj` of the teacher's `layer` on its kept neurons that reproduces the old output best, from the Gram matrix of the old
/// inputs ([`least_squares`]): `[teacher's hidden, kept neurons]`.
pub(crate) fn solve(cut: &Student<'_>, layer: usize, gram: &[f32]) -> Result<Vec<f32>> {
    let name = format!("model.layers.{layer}.mlp.down_proj.weight");
    let kept = kept_of(cut, layer).ok_or_else(|| Failure::work(format!("`{name}` loses no neurons")))?;
    let spec = params(cut.teacher().arch()).into_iter().find(|p| p.name == name);
    let w = cut.teacher().read(&spec.ok_or_else(|| Failure::work(format!("no `{name}`")))?)?;
    // The ridge pulls to zero, as in the measurements of the specification; pulling to the old weights measured worse.
    let ridge = Ridge { anchor: Anchor::Zero, ..Ridge::default() };
    least_squares(gram, cut.plan().teacher().layers[layer].ffn, &w, kept, &ridge)
        .map_err(|e| Failure::work(e).at(&name))
}

/// Takes over what [`solve`] found for the teacher's `layer`: its rows are channels of the residual stream, of which the student keeps some.
pub(crate) fn set_down_proj(cut: &mut Student<'_>, layer: usize, w: &[f32]) -> Result<()> {
    let lost = || Failure::work(format!("layer {layer} is not in the plan"));
    let student = cut.plan().student_layer(layer).ok_or_else(lost)?;
    let name = format!("model.layers.{student}.mlp.down_proj.weight");
    let spec = params(cut.arch()).into_iter().find(|p| p.name == name).ok_or_else(lost)?;
    let width = spec.shape[1];
    let rows = cut.plan().hidden().iter().flat_map(|&c| w[c * width..(c + 1) * width].iter().copied()).collect();
    Ok(cut.set(&spec, rows)?)
}
