//! A plan and a teacher become a student: its architecture and its weights.
use crate::error::{Failure, Result};
use paring_model::{Arch, Axis, LayerArch, Opened, ParamSpec, params};
use paring_prune::{Anchor, Plan, Ridge, least_squares};
use std::collections::HashMap;

/// The student's architecture.
pub(crate) fn student_arch(teacher: &Arch, plan: &Plan) -> Arch {
    let layer =
        |l: &paring_prune::LayerPlan| LayerArch { heads: l.heads.len(), kv_heads: l.kv_groups.len(), ffn: l.ffn.len() };
    Arch { hidden: plan.hidden().len(), layers: plan.layers().iter().map(layer).collect(), ..teacher.clone() }
}

/// The two crates name axes on their own: neither depends on the other.
fn axis(a: Axis) -> paring_prune::Axis {
    match a {
        Axis::Vocab => paring_prune::Axis::Vocab,
        Axis::Hidden => paring_prune::Axis::Hidden,
        Axis::Ffn => paring_prune::Axis::Ffn,
        Axis::QHeads => paring_prune::Axis::QHeads,
        Axis::KvHeads => paring_prune::Axis::KvHeads,
    }
}

/// The student's weights, cut from the teacher's tensor by tensor.
pub(crate) struct Cut<'a> {
    teacher: &'a Opened,
    plan: &'a Plan,
    teacher_params: HashMap<String, ParamSpec>,
    /// New `down_proj` matrices by the teacher's layer: `[teacher's hidden, kept neurons]`.
    compensated: HashMap<usize, Vec<f32>>,
}

impl<'a> Cut<'a> {
    pub(crate) fn new(teacher: &'a Opened, plan: &'a Plan) -> Self {
        let teacher_params = params(&teacher.arch).into_iter().map(|p| (p.name.clone(), p)).collect();
        Cut { teacher, plan, teacher_params, compensated: HashMap::new() }
    }

    /// Kept neurons of the teacher's `layer`, if the layer stays and loses some.
    fn kept_of(&self, layer: usize) -> Option<&'a [usize]> {
        let kept = &self.plan.layers()[self.plan.student_layer(layer)?].ffn;
        (kept.len() < self.plan.teacher().ffn).then_some(kept)
    }

    /// Whether there is anything to repair in the teacher's `layer`.
    pub(crate) fn needs_compensation(&self, layer: usize) -> bool {
        self.kept_of(layer).is_some()
    }

    /// The `down_proj` of the teacher's `layer` on its kept neurons that reproduces the old output best, from the Gram matrix of the old
    /// inputs ([`least_squares`]).
    pub(crate) fn least_squares(&self, layer: usize, gram: &[f32]) -> Result<Vec<f32>> {
        let name = format!("model.layers.{layer}.mlp.down_proj.weight");
        let kept = self.kept_of(layer).ok_or_else(|| Failure::work(format!("`{name}` loses no neurons")))?;
        let w = self.teacher.source().read_checked(&name)?;
        // The ridge pulls to zero, as in the measurements of the specification; pulling to the old weights measured worse.
        let ridge = Ridge { anchor: Anchor::Zero, ..Ridge::default() };
        least_squares(gram, self.plan.teacher().ffn, &w, kept, &ridge).map_err(|e| Failure::work(e).at(&name))
    }

    /// Takes over what [`Cut::least_squares`] found.
    pub(crate) fn set_down_proj(&mut self, layer: usize, w: Vec<f32>) {
        self.compensated.insert(layer, w);
    }

    /// Values of one parameter of the student.
    pub(crate) fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        let layer = spec.layer.map(|l| &self.plan.layers()[l]);
        let name = match (spec.layer, layer) {
            (Some(student), Some(l)) => {
                spec.name.replacen(&format!("layers.{student}."), &format!("layers.{}.", l.layer), 1)
            }
            _ => spec.name.clone(),
        };
        let lost = || Failure::work(format!("the teacher has no counterpart of `{}`", spec.name));
        let of = self.teacher_params.get(&name).ok_or_else(lost)?;
        let axes: Vec<paring_prune::Axis> = of.axes.iter().map(|&a| axis(a)).collect();
        if let Some(l) = layer
            && of.name.ends_with("down_proj.weight")
            && let Some(w) = self.compensated.get(&l.layer)
        {
            // The neurons are cut already; rows of the residual stream are still to be chosen.
            let shape = [of.shape[0], l.ffn.len()];
            let rows = self.plan.selection(&of.name, &shape, &[axes[0], paring_prune::Axis::Fixed], Some(l.layer))?;
            return Ok(rows.select(w)?);
        }
        let values = self.teacher.source().read_checked(&of.name)?;
        Ok(self.plan.selection(&of.name, &of.shape, &axes, layer.map(|l| l.layer))?.select(&values)?)
    }
}
