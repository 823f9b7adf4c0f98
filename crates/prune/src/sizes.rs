//! Sizes of a model whose layers may differ; [`Dims`] says the same of one whose layers are all alike.
use crate::{Dims, Error, Result};
use serde::{Deserialize, Serialize};

/// Sizes of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerDims {
    /// Neurons of its MLP.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; `heads / kv_groups` query heads read one.
    pub kv_groups: usize,
}

impl LayerDims {
    /// Query heads that read one key/value head.
    pub fn heads_per_group(&self) -> usize {
        self.heads / self.kv_groups.max(1)
    }
}

/// Sizes of a Llama-like model, layer by layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Channels of the residual stream.
    pub hidden: usize,
    /// Channels of one head. Pruning never changes it.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Blocks, first to last.
    pub layers: Vec<LayerDims>,
}

impl From<Dims> for Sizes {
    /// As many equal layers. Check the sizes first: a number of layers that no model has takes its memory here.
    fn from(d: Dims) -> Self {
        let layer = LayerDims { ffn: d.ffn, heads: d.heads, kv_groups: d.kv_groups };
        let Dims { hidden, head_dim, vocab, tied, .. } = d;
        Sizes { hidden, head_dim, vocab, tied, layers: vec![layer; d.layers] }
    }
}

impl Sizes {
    /// Sizes of the model that would have `layer` in every block.
    pub(crate) fn with_all(&self, layer: LayerDims) -> Dims {
        let LayerDims { ffn, heads, kv_groups } = layer;
        let Sizes { hidden, head_dim, vocab, tied, .. } = *self;
        Dims { layers: self.layers.len(), hidden, ffn, heads, kv_groups, head_dim, vocab, tied }
    }

    /// # Errors
    /// [`Error::Dims`], as [`Dims::check`] of every layer; names the first layer that is wrong.
    pub fn check(&self) -> Result<()> {
        let mut last = None;
        for (l, layer) in self.layers.iter().enumerate().filter(|(_, layer)| last.replace(**layer) != Some(**layer)) {
            self.with_all(*layer).check().map_err(|e| match e {
                Error::Dims { what } if l > 0 => Error::Dims { what: format!("layer {l}: {what}") },
                e => e,
            })?;
        }
        match last {
            Some(_) => Ok(()),
            None => Err(Error::Dims { what: "layers is 0, expected at least 1".into() }),
        }
    }

    /// The same as one shape for all layers: what a Hugging Face Llama config can say.
    ///
    /// # Errors
    /// [`Error::Uneven`] names the layers that differ from the first one, [`Error::Dims`] when there is none.
    pub fn uniform(&self) -> Result<Dims> {
        let Some(&first) = self.layers.first() else {
            return Err(Error::Dims { what: "layers is 0, expected at least 1".into() });
        };
        let layers: Vec<usize> = (0..self.layers.len()).filter(|&l| self.layers[l] != first).collect();
        if layers.is_empty() { Ok(self.with_all(first)) } else { Err(Error::Uneven { layers }) }
    }
}
