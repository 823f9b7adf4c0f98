//! Heads that a plan combines instead of dropping ([`paring_prune::Mix`]): which tensors they are of.
use crate::{Result, Weights};
use paring_model::{Arch, Axis, ParamSpec};
use paring_prune::{Mix, Plan, mix_columns, mix_rows};

/// The teacher with every kept head and group that the plan combines in place of its own; still at its full size.
///
/// [`crate::Cut`] combines by itself. This is for those who look at the full size: a mask, or a calibration of what will be cut.
#[derive(Debug)]
pub struct MergedHeads<'a, W> {
    of: W,
    plan: &'a Plan,
}

impl<'a, W: Weights> MergedHeads<'a, W> {
    /// `plan` is a plan of the model `of`.
    pub fn new(of: W, plan: &'a Plan) -> Self {
        MergedHeads { of, plan }
    }
}

impl<W: Weights> Weights for MergedHeads<'_, W> {
    fn arch(&self) -> &Arch {
        self.of.arch()
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        let mut values = self.of.read(spec)?;
        merge(self.plan, spec, &mut values)?;
        Ok(values)
    }
}

/// Combines what `plan` combines of the teacher's parameter `spec`: rows of `q_proj` for queries, columns of `o_proj` for outputs, rows of `k_proj` and
/// `v_proj` for groups. Everything else stays.
pub(crate) fn merge(plan: &Plan, spec: &ParamSpec, values: &mut [f32]) -> Result<()> {
    let Some(teacher) = spec.layer else { return Ok(()) };
    let Some(layer) = plan.student_layer(teacher).map(|l| &plan.layers()[l]) else { return Ok(()) };
    let (d, sizes) = (plan.teacher().head_dim, plan.teacher().layers[teacher]);
    let mixed: Option<(&[Mix], usize, bool)> = match spec.axes[..] {
        [Axis::QHeads, Axis::Hidden] => Some((&layer.mixed_queries, sizes.heads, true)),
        [Axis::Hidden, Axis::QHeads] => Some((&layer.mixed_outputs, sizes.heads, false)),
        [Axis::KvHeads, Axis::Hidden] => Some((&layer.mixed_kv_groups, sizes.kv_groups, true)),
        _ => None,
    };
    match mixed {
        Some((mixes, heads, true)) if !mixes.is_empty() => Ok(mix_rows(values, heads, d, mixes)?),
        Some((mixes, heads, false)) if !mixes.is_empty() => Ok(mix_columns(values, heads, d, mixes)?),
        _ => Ok(()),
    }
}
