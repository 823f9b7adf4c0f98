//! What a plan drops, set to zero in a model of the teacher's size: the dense twin of a slice, to hold the slice against.
//!
//! A dropped neuron, head or group is zero in every matrix that it has a row or column in; a dropped layer adds nothing to the residual stream. A
//! dropped channel is zero everywhere too, but a norm divides by the root of the mean square over *all* channels. With `H` channels of which `k`
//! are left, `mean_H(x^2) = k/H mean_k(x^2)`, so the slice's `g x / sqrt(mean_k(x^2) + eps)` is what the mask computes with the gain
//! `g sqrt(k/H)` and `eps k/H`.
use crate::{MergedHeads, Result, Weights, cut::axis};
use paring_model::{Arch, Axis, ParamSpec};
use paring_prune::Plan;

/// The teacher with zeros where the plan cuts. It computes what [`crate::Cut`] computes, up to rounding.
#[derive(Debug)]
pub struct Masked<'a, W> {
    of: MergedHeads<'a, W>,
    plan: &'a Plan,
    arch: Arch,
}

impl<'a, W: Weights> Masked<'a, W> {
    /// `plan` is a plan of the model `of`.
    pub fn new(of: W, plan: &'a Plan) -> Self {
        let arch = Arch { rms_eps: (f64::from(of.arch().rms_eps) * kept_part(plan)) as f32, ..of.arch().clone() };
        Masked { of: MergedHeads::new(of, plan), plan, arch }
    }
}

/// `k / H`.
fn kept_part(plan: &Plan) -> f64 {
    plan.hidden().len() as f64 / plan.teacher().hidden as f64
}

impl<W: Weights> Weights for Masked<'_, W> {
    fn arch(&self) -> &Arch {
        &self.arch
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        let mut values = self.of.read(spec)?;
        let dropped = spec.layer.is_some_and(|l| self.plan.student_layer(l).is_none());
        if dropped {
            // Its two outputs are all that the rest of the model hears of a layer.
            if spec.axes.first() == Some(&Axis::Hidden) && spec.axes.len() == 2 {
                values.fill(0.0);
            }
            return Ok(values);
        }
        let columns = spec.shape.last().copied().unwrap_or(1);
        for (dimension, &a) in spec.axes.iter().enumerate() {
            let Some(kept) = self.plan.indices(axis(a), spec.layer)? else { continue };
            let mut keep = vec![false; spec.shape[dimension]];
            kept.iter().for_each(|&i| keep[i] = true);
            if dimension + 1 == spec.shape.len() {
                for row in values.chunks_exact_mut(columns) {
                    row.iter_mut().zip(&keep).filter(|(_, k)| !**k).for_each(|(v, _)| *v = 0.0);
                }
            } else {
                let rows = values.chunks_exact_mut(columns).zip(&keep);
                rows.filter(|(_, k)| !**k).for_each(|(row, _)| row.fill(0.0));
            }
        }
        if spec.axes[..] == [Axis::Hidden] {
            let scale = kept_part(self.plan).sqrt();
            values.iter_mut().for_each(|v| *v = (f64::from(*v) * scale) as f32);
        }
        if spec.axes.first() == Some(&Axis::KvHeads) {
            self.spread_groups(spec, &mut values, columns);
        }
        Ok(values)
    }
}

impl<W: Weights> Masked<'_, W> {
    /// Query heads of a merged group still read the group that they had, so every member holds the merged rows.
    fn spread_groups(&self, spec: &ParamSpec, values: &mut [f32], columns: usize) {
        let Some(layer) = spec.layer.and_then(|l| self.plan.student_layer(l)).map(|l| &self.plan.layers()[l]) else {
            return;
        };
        let block = self.plan.teacher().head_dim * columns;
        for (i, &first) in layer.kv_groups.iter().enumerate() {
            for member in layer.members(i).into_iter().skip(1) {
                values.copy_within(first * block..(first + 1) * block, member * block);
            }
        }
    }
}
