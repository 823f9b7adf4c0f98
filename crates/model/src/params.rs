//! The single table of parameters: what a checkpoint of an `Arch` holds, in order, and which axis each dimension is.
use crate::{Arch, LayerArch};
use paring_exec::ParamId;
use paring_tensor::DType;

/// What a dimension of a parameter counts. Pruning an axis selects along every dimension that is labelled with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Tokens of the vocabulary.
    Vocab,
    /// Channels of the residual stream: one choice for the whole model.
    Hidden,
    /// Neurons of the layer's MLP.
    Ffn,
    /// Query heads of the layer, `head_dim` rows each.
    QHeads,
    /// Key/value heads of the layer, `head_dim` rows each.
    KvHeads,
}

/// One parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// Its number inside the model: its place in this table.
    pub id: ParamId,
    /// Its name in a Hugging Face checkpoint.
    pub name: String,
    /// The layer it belongs to.
    pub layer: Option<usize>,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// What each dimension counts.
    pub axes: Vec<Axis>,
}

impl ParamSpec {
    /// Number of values.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The type that it computes in when matrices compute in `dtype`: gains of norms stay f32, they are few and multiply everything.
    pub fn compute_dtype(&self, dtype: DType) -> DType {
        if self.shape.len() == 1 { DType::F32 } else { dtype }
    }

    /// Whether it is the embedding or an untied head.
    pub fn is_embedding(&self) -> bool {
        self.axes.contains(&Axis::Vocab)
    }
}

/// Number of parameters in front of the first layer's.
pub(crate) const BEFORE_LAYERS: usize = 1;
/// Number of parameters of one layer.
pub(crate) const PER_LAYER: usize = 9;

/// Every parameter of the model: embedding, the layers in order, final norm, and the head if it is not tied.
pub fn params(arch: &Arch) -> Vec<ParamSpec> {
    use Axis::{Ffn, Hidden, KvHeads, QHeads, Vocab};
    let size = |axis: Axis, layer: Option<&LayerArch>| match (axis, layer) {
        (Vocab, _) => arch.vocab,
        (Hidden, _) => arch.hidden,
        (Ffn, Some(l)) => l.ffn,
        (QHeads, Some(l)) => l.heads * arch.head_dim,
        (KvHeads, Some(l)) => l.kv_heads * arch.head_dim,
        (Ffn | QHeads | KvHeads, None) => 0,
    };
    let mut specs: Vec<ParamSpec> = Vec::with_capacity(BEFORE_LAYERS + arch.layers.len() * PER_LAYER + 2);
    let mut add = |name: String, layer: Option<usize>, axes: &[Axis]| {
        let shape = axes.iter().map(|&a| size(a, layer.map(|l| &arch.layers[l]))).collect();
        specs.push(ParamSpec { id: ParamId(specs.len()), name, layer, shape, axes: axes.to_vec() });
    };
    add("model.embed_tokens.weight".into(), None, &[Vocab, Hidden]);
    for l in 0..arch.layers.len() {
        let mut layer = |name: &str, axes: &[Axis]| add(format!("model.layers.{l}.{name}.weight"), Some(l), axes);
        layer("input_layernorm", &[Hidden]);
        layer("self_attn.q_proj", &[QHeads, Hidden]);
        layer("self_attn.k_proj", &[KvHeads, Hidden]);
        layer("self_attn.v_proj", &[KvHeads, Hidden]);
        layer("self_attn.o_proj", &[Hidden, QHeads]);
        layer("post_attention_layernorm", &[Hidden]);
        layer("mlp.gate_proj", &[Ffn, Hidden]);
        layer("mlp.up_proj", &[Ffn, Hidden]);
        layer("mlp.down_proj", &[Hidden, Ffn]);
    }
    add("model.norm.weight".into(), None, &[Hidden]);
    if !arch.tied {
        add("lm_head.weight".into(), None, &[Vocab, Hidden]);
    }
    specs
}
