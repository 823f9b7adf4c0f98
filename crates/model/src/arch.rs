//! What a model is made of, resolved: no options, no defaults, nothing to look up elsewhere.
use crate::params;

/// A family of models: one way of naming and computing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama and what is computed like it (SmolLM2, TinyLlama, ...).
    Llama,
}

impl Family {
    /// `model_type` of config.json.
    pub fn name(self) -> &'static str {
        match self {
            Family::Llama => "llama",
        }
    }
}

/// How positions turn queries and keys.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the geometric series of wavelengths.
    pub theta: f64,
    /// Llama 3.1's stretching of long wavelengths, if any.
    pub llama3: Option<Llama3Rope>,
}

/// Llama 3.1's rope scaling, as in Transformers' `rope_type: llama3`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Llama3Rope {
    /// Long wavelengths are stretched by this.
    pub factor: f64,
    /// Wavelengths above `original / low` are stretched fully.
    pub low_freq_factor: f64,
    /// Wavelengths below `original / high` are left alone.
    pub high_freq_factor: f64,
    /// Positions before the stretching.
    pub original_max_positions: f64,
}

/// One block. Blocks of one model may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerArch {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of the MLP.
    pub ffn: usize,
}

/// A whole decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Arch {
    /// How it is named and computed.
    pub family: Family,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of one attention head; not `hidden / heads` in a pruned model.
    pub head_dim: usize,
    /// Added to the mean square in every norm.
    pub rms_eps: f32,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Positions.
    pub rope: Rope,
    /// The longest sequence it was made for.
    pub max_positions: usize,
    /// The blocks, first to last.
    pub layers: Vec<LayerArch>,
}

impl Arch {
    /// Parameters; a tied head counts once.
    pub fn n_params(&self) -> usize {
        params(self).iter().map(|p| p.elements()).sum()
    }

    /// Parameters outside the embedding and an untied head.
    pub fn n_params_non_embedding(&self) -> usize {
        params(self).iter().filter(|p| !p.is_embedding()).map(|p| p.elements()).sum()
    }

    /// Floating-point operations of one token's forward, counting a multiply-add as two: `2 *` matrix parameters (head included) plus
    /// attention over `context` keys on average half seen.
    pub fn forward_flops_per_token(&self, context: usize) -> f64 {
        let head = (self.vocab * self.hidden) as f64;
        let matrices: usize =
            params(self).iter().filter(|p| p.shape.len() == 2 && !p.is_embedding()).map(|p| p.elements()).sum();
        let attention: usize = self.layers.iter().map(|l| 2 * l.heads * self.head_dim * context).sum();
        2.0 * (matrices as f64 + head) + attention as f64
    }

    /// Columns of every layer's keys: what a KV cache needs.
    pub fn kv_cols(&self) -> Vec<usize> {
        self.layers.iter().map(|l| l.kv_heads * self.head_dim).collect()
    }

    /// The one layer shape, if all layers are alike; Hugging Face's Llama config can only say this.
    pub fn uniform_layer(&self) -> Option<LayerArch> {
        let first = *self.layers.first()?;
        self.layers.iter().all(|l| *l == first).then_some(first)
    }
}
