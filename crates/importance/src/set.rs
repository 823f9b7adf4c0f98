//! The statistics of all sites of a model, from one forward pass over the calibration set, and the scores made from them.
use crate::{Agg, BlockInfluence, ChannelSums, Error, Moments, Result, RowProducts, head_scores, kv_group_scores};

/// What the sites of one layer count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerGeometry {
    /// Neurons of the MLP: channels into `down_proj`.
    pub ffn: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads, each read by `heads / kv_heads` query heads.
    pub kv_heads: usize,
}

/// What the sites of a model count. Layers may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Channels of the residual stream.
    pub hidden: usize,
    /// Channels of one head.
    pub head_dim: usize,
    /// The layers, first to last.
    pub layers: Vec<LayerGeometry>,
}

impl Geometry {
    /// # Errors
    /// [`Error::Geometry`] for a zero, and for query heads that do not divide among the key/value heads.
    pub fn check(&self) -> Result<()> {
        let fail = |what: String| Err(Error::Geometry { what });
        if self.hidden == 0 || self.head_dim == 0 || self.layers.is_empty() {
            let (hidden, head_dim, layers) = (self.hidden, self.head_dim, self.layers.len());
            return fail(format!("hidden {hidden}, head_dim {head_dim}, {layers} layers, expected none of them zero"));
        }
        for (l, &LayerGeometry { ffn, heads, kv_heads }) in self.layers.iter().enumerate() {
            if ffn == 0 || heads == 0 || kv_heads == 0 {
                return fail(format!(
                    "layer {l} has {ffn} neurons, {heads} heads, {kv_heads} key/value heads, expected none zero"
                ));
            }
            if heads % kv_heads != 0 {
                return fail(format!(
                    "layer {l} has {heads} heads, expected a multiple of its {kv_heads} key/value heads"
                ));
            }
        }
        Ok(())
    }
}

/// The two norms of a layer whose outputs rank the channels of the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Norm {
    /// In front of attention.
    Attn,
    /// In front of the MLP.
    Mlp,
}

/// How activations become scores: over the tokens of a sequence first, then over sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregation {
    /// Over tokens.
    pub seq: Agg,
    /// Over sequences.
    pub batch: Agg,
}

impl Default for Aggregation {
    /// Mean over tokens, L2 over sequences: the best of the nine (arXiv 2407.14679v2, table 13), and what ModelOpt does.
    fn default() -> Self {
        Aggregation { seq: Agg::Mean, batch: Agg::L2 }
    }
}

/// Statistics of all sites of a model.
///
/// Per layer: both norms' outputs (`[T, H]`), the input of `down_proj` (`[T, F]`), the input of `o_proj` (`[T, Nq * d]`), and the
/// residual stream into and out of the layer. The final norm is not looked at, as in ModelOpt.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportanceSet {
    pub(crate) geometry: Geometry,
    /// Two per layer: before attention, before the MLP.
    pub(crate) hidden: Vec<Moments>,
    pub(crate) ffn: Vec<Moments>,
    /// Channels, not heads: a head's score is made from its channels' accumulators.
    pub(crate) heads: Vec<Moments>,
    pub(crate) blocks: BlockInfluence,
    pub(crate) tokens: u64,
    pub(crate) sequences: u64,
    aggregation: Aggregation,
}

impl ImportanceSet {
    /// No sequence yet.
    ///
    /// # Errors
    /// Those of [`Geometry::check`].
    pub fn new(geometry: Geometry) -> Result<Self> {
        geometry.check()?;
        let per_layer = |size: fn(&LayerGeometry) -> usize, times: usize| -> Vec<Moments> {
            geometry.layers.iter().map(|l| Moments::new(size(l) * times)).collect()
        };
        Ok(ImportanceSet {
            hidden: (0..2 * geometry.layers.len()).map(|_| Moments::new(geometry.hidden)).collect(),
            ffn: per_layer(|l| l.ffn, 1),
            heads: per_layer(|l| l.heads, geometry.head_dim),
            blocks: BlockInfluence::new(geometry.layers.len()),
            tokens: 0,
            sequences: 0,
            aggregation: Aggregation::default(),
            geometry,
        })
    }

    /// What is counted.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Tokens observed.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Sequences observed.
    pub fn sequences(&self) -> u64 {
        self.sequences
    }

    /// Makes scores with another of the nine aggregations. Stored scores are always of the default one.
    #[must_use]
    pub fn with_aggregation(mut self, aggregation: Aggregation) -> Self {
        self.aggregation = aggregation;
        self
    }

    /// Counts one sequence of `tokens` tokens, once for all its sites.
    pub fn count_sequence(&mut self, tokens: usize) {
        self.sequences += 1;
        self.tokens += tokens as u64;
    }

    /// Adds one sequence of a norm's output, the sums of `[T, H]`.
    ///
    /// # Errors
    /// [`Error::Layer`], else those of [`Moments::observe_sums`].
    pub fn observe_norm(&mut self, layer: usize, norm: Norm, sums: &ChannelSums) -> Result<()> {
        self.check_layer(layer)?;
        self.hidden[2 * layer + norm as usize].observe_sums(sums)
    }

    /// Adds one sequence of the input of `down_proj`, the sums of `[T, F]`.
    ///
    /// # Errors
    /// [`Error::Layer`], else those of [`Moments::observe_sums`].
    pub fn observe_ffn(&mut self, layer: usize, sums: &ChannelSums) -> Result<()> {
        self.check_layer(layer)?;
        self.ffn[layer].observe_sums(sums)
    }

    /// Adds one sequence of the input of `o_proj`, the sums of `[T, Nq * d]`: the heads' outputs side by side.
    ///
    /// # Errors
    /// [`Error::Layer`], else those of [`Moments::observe_sums`].
    pub fn observe_heads(&mut self, layer: usize, sums: &ChannelSums) -> Result<()> {
        self.check_layer(layer)?;
        self.heads[layer].observe_sums(sums)
    }

    /// Adds one sequence of the residual stream into and out of a layer: the products of the two, token by token.
    ///
    /// # Errors
    /// Those of [`BlockInfluence::observe_products`].
    pub fn observe_block(&mut self, layer: usize, products: &[RowProducts]) -> Result<()> {
        self.blocks.observe_products(layer, products)
    }

    /// Scores of the residual stream's channels: the sum over the `2L` norms of each norm's score; `[H]`.
    pub fn hidden(&self) -> Vec<f64> {
        let mut total = vec![0.0; self.geometry.hidden];
        for site in &self.hidden {
            crate::moments::add(&mut total, &self.score(site));
        }
        total
    }

    /// Scores of a layer's neurons, `[F]`.
    ///
    /// # Errors
    /// [`Error::Layer`].
    pub fn ffn(&self, layer: usize) -> Result<Vec<f64>> {
        self.check_layer(layer)?;
        Ok(self.score(&self.ffn[layer]))
    }

    /// Scores of a layer's query heads, `[Nq]`: see [`head_scores`].
    ///
    /// # Errors
    /// [`Error::Layer`].
    pub fn heads(&self, layer: usize) -> Result<Vec<f64>> {
        self.check_layer(layer)?;
        Ok(head_scores(&self.score(&self.heads[layer]), self.geometry.head_dim))
    }

    /// Scores of a layer's key/value groups, `[Nkv]`: see [`kv_group_scores`].
    ///
    /// # Errors
    /// [`Error::Layer`].
    pub fn kv_groups(&self, layer: usize) -> Result<Vec<f64>> {
        Ok(kv_group_scores(&self.heads(layer)?, self.geometry.layers[layer].kv_heads))
    }

    /// Block influence per layer, `[L]`.
    pub fn block_influence(&self) -> Vec<f64> {
        self.blocks.scores()
    }

    /// Adds what `other` saw: calibration can be spread over machines.
    ///
    /// # Errors
    /// [`Error::Different`] for statistics of a model with other sizes; nothing was added then.
    pub fn merge(&mut self, other: &ImportanceSet) -> Result<()> {
        if self.geometry != other.geometry {
            return Err(Error::Different { what: format!("{:?} and {:?}", self.geometry, other.geometry) });
        }
        let mine = self.hidden.iter_mut().chain(&mut self.ffn).chain(&mut self.heads);
        let theirs = other.hidden.iter().chain(&other.ffn).chain(&other.heads);
        for (a, b) in mine.zip(theirs) {
            a.merge(b)?;
        }
        self.blocks.merge(&other.blocks)?;
        self.tokens += other.tokens;
        self.sequences += other.sequences;
        Ok(())
    }

    fn score(&self, site: &Moments) -> Vec<f64> {
        site.score(self.aggregation.seq, self.aggregation.batch)
    }

    fn check_layer(&self, got: usize) -> Result<()> {
        let layers = self.geometry.layers.len();
        if got < layers { Ok(()) } else { Err(Error::Layer { got, layers }) }
    }
}
