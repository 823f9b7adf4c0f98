//! Which definition of importance, and the scores by it, from statistics that hold all of them.
use crate::{
    Agg, Distance, Error, ImportanceSet, Result, Stat, head_scores, kv_group_scores, moments::add, taylor::NO_TAYLOR,
};

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

/// How channels of the residual stream are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HiddenBy {
    /// The sum over the `2L` norms in front of attention and MLP of each norm's score (the paper's and ModelOpt's).
    #[default]
    Norms,
    /// First-order change of the loss: [`crate::TaylorSequence`].
    Taylor,
}

/// How neurons are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum FfnBy {
    /// By the input of `down_proj`, after the activation.
    #[default]
    ModelOpt,
    /// By the output of `gate_proj`, before the activation: `X W1^T` (arXiv 2407.14679, section 2.2).
    Paper,
    /// By `||W_down[:, j]||_2` times the ModelOpt score: with mean over sequences ModelOpt's `IndependentChannelContribution`.
    WeightAware,
    /// First-order change of the loss: [`crate::TaylorSequence`].
    Taylor,
}

/// How query heads and key/value groups are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum HeadsBy {
    /// L2 over the scores of a head's channels; of a group: L2 over the scores of its heads.
    #[default]
    ModelOpt,
    /// The norm of a head's (a group's) output token by token, aggregated like an activation (arXiv 2407.14679, section 2.2).
    Paper,
    /// The norm of what it adds to the residual stream token by token, `||attn_out W_o||`, aggregated like an activation: with mean over
    /// tokens and sequences ModelOpt's `IndependentKvHeadContribution`.
    Contribution,
    /// First-order change of the loss: [`crate::TaylorSequence`].
    Taylor,
}

/// Which scores. The default is what ModelOpt computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ScoreOptions {
    /// For all but block influence; Taylor scores have no aggregation over tokens, and take the one over sequences.
    pub aggregation: Aggregation,
    /// Channels of the residual stream.
    pub hidden: HiddenBy,
    /// Neurons.
    pub ffn: FfnBy,
    /// Query heads and key/value groups.
    pub heads: HeadsBy,
    /// Layers.
    pub depth: Distance,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        ScoreOptions {
            aggregation: Aggregation::default(),
            hidden: HiddenBy::default(),
            ffn: FfnBy::default(),
            heads: HeadsBy::default(),
            depth: Distance::Cosine,
        }
    }
}

/// One score per thing that can be pruned; the higher, the more it matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Channels of the residual stream, `[H]`.
    pub hidden: Vec<f64>,
    /// Neurons, per layer `[F]`.
    pub ffn: Vec<Vec<f64>>,
    /// Query heads, per layer `[Nq]`.
    pub heads: Vec<Vec<f64>>,
    /// Key/value groups, per layer `[Nkv]`.
    pub kv_groups: Vec<Vec<f64>>,
    /// Layers, `[L]`.
    pub block_influence: Vec<f64>,
}

impl ImportanceSet {
    /// The scores by any of the definitions.
    ///
    /// # Errors
    /// [`Error::NotMeasured`] when a definition needs extras that were not asked for.
    pub fn scores(&self, options: &ScoreOptions) -> Result<Scores> {
        let layers = || 0..self.geometry.layers.len();
        Ok(Scores {
            hidden: self.hidden_by(options)?,
            ffn: layers().map(|l| self.ffn_by(l, options)).collect::<Result<_>>()?,
            heads: layers().map(|l| self.heads_by(l, options)).collect::<Result<_>>()?,
            kv_groups: layers().map(|l| self.kv_groups_by(l, options)).collect::<Result<_>>()?,
            block_influence: self.blocks.scores(options.depth),
        })
    }

    /// Scores of the residual stream's channels, `[H]`.
    ///
    /// # Errors
    /// As [`ImportanceSet::scores`].
    pub fn hidden_by(&self, options: &ScoreOptions) -> Result<Vec<f64>> {
        if options.hidden == HiddenBy::Taylor {
            let taylor = self.taylor.as_ref().ok_or(NO_TAYLOR)?;
            return Ok(taylor.hidden.score(options.aggregation.batch, taylor.sequences));
        }
        let mut total = vec![0.0; self.geometry.hidden];
        for layer in 0..self.geometry.layers.len() {
            for norm in [Stat::AttnNorm, Stat::MlpNorm] {
                add(&mut total, &self.stat(layer, norm, options)?);
            }
        }
        Ok(total)
    }

    /// Scores of a layer's neurons, `[F]`.
    ///
    /// # Errors
    /// [`Error::Layer`], else as [`ImportanceSet::scores`].
    pub fn ffn_by(&self, layer: usize, options: &ScoreOptions) -> Result<Vec<f64>> {
        self.check_layer(layer)?;
        match options.ffn {
            FfnBy::ModelOpt => self.stat(layer, Stat::Ffn, options),
            FfnBy::Paper => self.stat(layer, Stat::FfnGate, options),
            FfnBy::WeightAware => {
                let missing = Error::NotMeasured { what: "norms of down_proj's columns", flag: "again" };
                let norms = self.down_norms.get(layer).ok_or(missing)?;
                Ok(self.stat(layer, Stat::Ffn, options)?.iter().zip(norms).map(|(a, n)| a * n).collect())
            }
            FfnBy::Taylor => {
                let taylor = self.taylor.as_ref().ok_or(NO_TAYLOR)?;
                Ok(taylor.ffn[layer].score(options.aggregation.batch, taylor.sequences))
            }
        }
    }

    /// Scores of a layer's query heads, `[Nq]`.
    ///
    /// # Errors
    /// [`Error::Layer`], else as [`ImportanceSet::scores`].
    pub fn heads_by(&self, layer: usize, options: &ScoreOptions) -> Result<Vec<f64>> {
        self.check_layer(layer)?;
        match options.heads {
            HeadsBy::ModelOpt => Ok(head_scores(&self.stat(layer, Stat::Heads, options)?, self.geometry.head_dim)),
            HeadsBy::Paper => self.stat(layer, Stat::HeadNorms, options),
            HeadsBy::Contribution => self.stat(layer, Stat::HeadOutputs, options),
            HeadsBy::Taylor => {
                let taylor = self.taylor.as_ref().ok_or(NO_TAYLOR)?;
                Ok(taylor.heads[layer].score(options.aggregation.batch, taylor.sequences))
            }
        }
    }

    /// Scores of a layer's key/value groups, `[Nkv]`.
    ///
    /// # Errors
    /// [`Error::Layer`], else as [`ImportanceSet::scores`].
    pub fn kv_groups_by(&self, layer: usize, options: &ScoreOptions) -> Result<Vec<f64>> {
        self.check_layer(layer)?;
        match options.heads {
            HeadsBy::ModelOpt => {
                Ok(kv_group_scores(&self.heads_by(layer, options)?, self.geometry.layers[layer].kv_heads))
            }
            HeadsBy::Paper => self.stat(layer, Stat::GroupNorms, options),
            HeadsBy::Contribution => self.stat(layer, Stat::GroupOutputs, options),
            HeadsBy::Taylor => {
                let taylor = self.taylor.as_ref().ok_or(NO_TAYLOR)?;
                Ok(taylor.kv_groups[layer].score(options.aggregation.batch, taylor.sequences))
            }
        }
    }

    /// Scores of the residual stream's channels by the default definition, `[H]`.
    pub fn hidden(&self) -> Vec<f64> {
        // The default needs no extras, so there is nothing that could be missing.
        self.hidden_by(&ScoreOptions::default()).unwrap_or_default()
    }

    /// Scores of a layer's neurons by the default definition, `[F]`.
    ///
    /// # Errors
    /// [`Error::Layer`].
    pub fn ffn(&self, layer: usize) -> Result<Vec<f64>> {
        self.ffn_by(layer, &ScoreOptions::default())
    }

    /// Scores of a layer's query heads by the default definition, `[Nq]`.
    ///
    /// # Errors
    /// [`Error::Layer`].
    pub fn heads(&self, layer: usize) -> Result<Vec<f64>> {
        self.heads_by(layer, &ScoreOptions::default())
    }

    /// Scores of a layer's key/value groups by the default definition, `[Nkv]`.
    ///
    /// # Errors
    /// [`Error::Layer`].
    pub fn kv_groups(&self, layer: usize) -> Result<Vec<f64>> {
        self.kv_groups_by(layer, &ScoreOptions::default())
    }

    /// Block influence per layer, `[L]`.
    pub fn block_influence(&self) -> Vec<f64> {
        self.blocks.scores(Distance::Cosine)
    }

    fn stat(&self, layer: usize, stat: Stat, options: &ScoreOptions) -> Result<Vec<f64>> {
        let Aggregation { seq, batch } = options.aggregation;
        Ok(self.site(layer, stat)?.score(seq, batch))
    }
}
