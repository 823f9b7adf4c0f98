//! Between an architecture and the sizes that `paring-prune` counts: neither of the two crates knows the other.
use paring_model::{Arch, LayerArch};
use paring_prune::{Dims, LayerDims, LayerPlan, Plan, Sizes};

/// The sizes of `arch`, layer by layer.
pub fn sizes(arch: &Arch) -> Sizes {
    let layer = |l: &LayerArch| LayerDims { ffn: l.ffn, heads: l.heads, kv_groups: l.kv_heads };
    let Arch { hidden, head_dim, vocab, tied, .. } = *arch;
    Sizes { hidden, head_dim, vocab, tied, layers: arch.layers.iter().map(layer).collect() }
}

/// The sizes of `arch` when all its layers are alike; `None` when they differ or there is none.
pub fn dims(arch: &Arch) -> Option<Dims> {
    let LayerArch { ffn, heads, kv_heads: kv_groups, .. } = arch.uniform_layer()?;
    let Arch { hidden, head_dim, vocab, tied, .. } = *arch;
    Some(Dims { layers: arch.layers.len(), hidden, ffn, heads, kv_groups, head_dim, vocab, tied })
}

/// The architecture of a student of `teacher` with these sizes.
pub fn arch_of(teacher: &Arch, student: &Dims) -> Arch {
    let layer = LayerArch { heads: student.heads, kv_heads: student.kv_groups, ffn: student.ffn };
    Arch { hidden: student.hidden, layers: vec![layer; student.layers], tied: student.tied, ..teacher.clone() }
}

/// The architecture of the student that `plan` cuts from `teacher`.
pub fn student_arch(teacher: &Arch, plan: &Plan) -> Arch {
    let layer = |l: &LayerPlan| LayerArch { heads: l.heads.len(), kv_heads: l.kv_groups.len(), ffn: l.ffn.len() };
    Arch { hidden: plan.hidden().len(), layers: plan.layers().iter().map(layer).collect(), ..teacher.clone() }
}
