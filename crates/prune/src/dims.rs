//! Sizes of a model whose layers are all alike, how many parameters they make, and what is asked of the student.
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Sizes of a Llama-like model whose layers are all alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dims {
    /// Blocks.
    pub layers: usize,
    /// Channels of the residual stream.
    pub hidden: usize,
    /// Neurons of each MLP.
    pub ffn: usize,
    /// Query heads of each layer.
    pub heads: usize,
    /// Key/value heads of each layer; `heads / kv_groups` query heads read one.
    pub kv_groups: usize,
    /// Channels of one head. Pruning never changes it.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Dims {
    /// # Errors
    /// [`Error::Dims`] for a zero, for query heads that do not divide among the groups, and for sizes beyond the address space.
    pub fn check(&self) -> Result<()> {
        let fail = |what: String| Err(Error::Dims { what });
        let sizes = [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("ffn", self.ffn),
            ("heads", self.heads),
            ("kv_groups", self.kv_groups),
            ("head_dim", self.head_dim),
            ("vocab", self.vocab),
        ];
        for (name, size) in sizes {
            // A limit far above any model keeps every product below in range of u128, and sums of them in u64.
            if size == 0 || size > 1 << 24 {
                return fail(format!("{name} is {size}, expected 1 to {}", 1 << 24));
            }
        }
        if !self.heads.is_multiple_of(self.kv_groups) {
            return fail(format!(
                "{} query heads, expected a multiple of the {} KV groups",
                self.heads, self.kv_groups
            ));
        }
        Ok(())
    }

    /// Query heads that read one key/value head.
    pub fn heads_per_group(&self) -> usize {
        self.heads / self.kv_groups.max(1)
    }
}

/// Numbers of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// All; a tied head counts once.
    pub total: u64,
    /// All but the embedding and an untied head; norms are included.
    pub non_embedding: u64,
}

/// Parameters of a Llama-like model without biases:
/// `V H (tied ? 1 : 2) + L (2 H Nq d + 2 H Nkv d + 3 H F + 2 H) + H`. Saturates where u64 ends.
pub fn count_params(dims: &Dims) -> Params {
    let [l, h, f, q, kv, d, v] =
        [dims.layers, dims.hidden, dims.ffn, dims.heads, dims.kv_groups, dims.head_dim, dims.vocab].map(|n| n as u128);
    let layer = 2 * h * q * d + 2 * h * kv * d + 3 * h * f + 2 * h;
    let non_embedding = l * layer + h;
    let embedding = v * h * if dims.tied { 1 } else { 2 };
    let clamp = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
    Params { total: clamp(non_embedding + embedding), non_embedding: clamp(non_embedding) }
}

/// What is asked of the student. What is `None` stays as in the teacher.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Channels of the residual stream.
    pub hidden: Option<usize>,
    /// Neurons of each MLP.
    pub ffn: Option<usize>,
    /// Query heads of each layer, over all groups. If only `kv_groups` is given, every group keeps its query heads.
    pub heads: Option<usize>,
    /// Key/value groups of each layer. Whole groups go, with their key, value and query heads.
    pub kv_groups: Option<usize>,
    /// Layers; those with the lowest block influence go. Not together with `drop_layers`.
    pub layers: Option<usize>,
    /// Layers to drop, counted from 0. Not together with `layers`.
    pub drop_layers: Option<Vec<usize>>,
}

impl Target {
    /// Sizes of the student.
    ///
    /// # Errors
    /// [`Error::Dims`], [`Error::Zero`], [`Error::TooLarge`], [`Error::HeadsPerGroup`], [`Error::LayersTwice`], [`Error::Layer`],
    /// [`Error::DuplicateLayer`] or [`Error::NoLayers`].
    pub fn student(&self, teacher: &Dims) -> Result<Dims> {
        teacher.check()?;
        let size = |axis: &'static str, asked: Option<usize>, have: usize| match asked {
            Some(0) => Err(Error::Zero { axis }),
            Some(got) if got > have => Err(Error::TooLarge { axis, got, have }),
            asked => Ok(asked.unwrap_or(have)),
        };
        let kv_groups = size("kv_groups", self.kv_groups, teacher.kv_groups)?;
        let heads = size("heads", self.heads, teacher.heads)?;
        let heads = if self.heads.is_none() { kv_groups * teacher.heads_per_group() } else { heads };
        if !heads.is_multiple_of(kv_groups) {
            return Err(Error::HeadsPerGroup { heads, kv_groups });
        }
        if heads / kv_groups > teacher.heads_per_group() {
            return Err(Error::TooLarge { axis: "heads", got: heads, have: kv_groups * teacher.heads_per_group() });
        }
        Ok(Dims {
            layers: self.student_layers(teacher.layers)?,
            hidden: size("hidden", self.hidden, teacher.hidden)?,
            ffn: size("ffn", self.ffn, teacher.ffn)?,
            heads,
            kv_groups,
            ..*teacher
        })
    }

    fn student_layers(&self, have: usize) -> Result<usize> {
        match (self.layers, &self.drop_layers) {
            (Some(_), Some(_)) => Err(Error::LayersTwice),
            (Some(0), None) => Err(Error::NoLayers { layers: have }),
            (Some(got), None) if got > have => Err(Error::TooLarge { axis: "layers", got, have }),
            (Some(n), None) => Ok(n),
            (None, None) => Ok(have),
            (None, Some(drop)) => {
                let mut seen = vec![false; have];
                for &layer in drop {
                    match seen.get_mut(layer) {
                        None => return Err(Error::Layer { got: layer, layers: have }),
                        Some(true) => return Err(Error::DuplicateLayer { layer }),
                        Some(flag) => *flag = true,
                    }
                }
                if drop.len() == have { Err(Error::NoLayers { layers: have }) } else { Ok(have - drop.len()) }
            }
        }
    }
}
