//! The statistics of all sites of a model, from one pass over the calibration set.
use crate::{
    BlockInfluence, ChannelSums, Error, Moments, Result, RowProducts, TaylorSequence, moments::together, taylor::Taylor,
};

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

/// What is looked at in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stat {
    /// Output of the norm before attention, `[T, H]`.
    AttnNorm,
    /// Output of the norm before the MLP, `[T, H]`.
    MlpNorm,
    /// The MLP after its activation: input of `down_proj`, `[T, F]`. What ModelOpt ranks neurons by.
    Ffn,
    /// The MLP before its activation: output of `gate_proj`, `[T, F]`. The paper's `X W1^T`.
    FfnGate,
    /// Input of `o_proj`, `[T, Nq * d]`: channels, not heads; a head's score is made from its channels'. What ModelOpt ranks heads by.
    Heads,
    /// L2 norm of every head's output, token by token, `[T, Nq]`. The paper's `||Attn_i||`.
    HeadNorms,
    /// The same of a key/value group: over the channels of all heads that read it, `[T, Nkv]`.
    GroupNorms,
    /// L2 norm of what a head adds to the residual stream, `||attn_out_h W_o||`, `[T, Nq]`. Only with [`Extras::contribution`].
    HeadOutputs,
    /// The same of a key/value group, `[T, Nkv]`: ModelOpt's `IndependentKvHeadContribution`. Only with [`Extras::contribution`].
    GroupOutputs,
}

impl Stat {
    /// All, in the order in which they are stored.
    pub const ALL: [Stat; 9] = [
        Stat::AttnNorm,
        Stat::MlpNorm,
        Stat::Ffn,
        Stat::FfnGate,
        Stat::Heads,
        Stat::HeadNorms,
        Stat::GroupNorms,
        Stat::HeadOutputs,
        Stat::GroupOutputs,
    ];

    /// The name used in stored arrays.
    pub const fn name(self) -> &'static str {
        match self {
            Stat::AttnNorm => "attn_norm",
            Stat::MlpNorm => "mlp_norm",
            Stat::Ffn => "ffn",
            Stat::FfnGate => "ffn_gate",
            Stat::Heads => "heads",
            Stat::HeadNorms => "head_norms",
            Stat::GroupNorms => "kv_group_norms",
            Stat::HeadOutputs => "head_outputs",
            Stat::GroupOutputs => "kv_group_outputs",
        }
    }

    /// What it is, for messages.
    pub const fn describe(self) -> &'static str {
        match self {
            Stat::AttnNorm => "output of the norm before attention",
            Stat::MlpNorm => "output of the norm before the MLP",
            Stat::Ffn => "input of down_proj",
            Stat::FfnGate => "output of gate_proj",
            Stat::Heads => "input of o_proj",
            Stat::HeadNorms => "norms of the heads' outputs",
            Stat::GroupNorms => "norms of the key/value groups' outputs",
            Stat::HeadOutputs => "norms of what heads add to the residual stream",
            Stat::GroupOutputs => "norms of what key/value groups add to the residual stream",
        }
    }

    /// Whether a pass with these extras measures it.
    pub const fn measured(self, extras: Extras) -> bool {
        match self {
            Stat::HeadOutputs | Stat::GroupOutputs => extras.contribution,
            _ => true,
        }
    }

    /// Channels in a layer.
    pub(crate) fn channels(self, geometry: &Geometry, layer: &LayerGeometry) -> usize {
        match self {
            Stat::AttnNorm | Stat::MlpNorm => geometry.hidden,
            Stat::Ffn | Stat::FfnGate => layer.ffn,
            Stat::Heads => layer.heads * geometry.head_dim,
            Stat::HeadNorms | Stat::HeadOutputs => layer.heads,
            Stat::GroupNorms | Stat::GroupOutputs => layer.kv_heads,
        }
    }
}

/// What is measured only when asked for, because it costs more than the forward that is made anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extras {
    /// [`Stat::HeadOutputs`] and [`Stat::GroupOutputs`]: one more product with `o_proj` per layer.
    pub contribution: bool,
    /// Activation times gradient: a backward pass.
    pub taylor: bool,
}

/// Statistics of all sites of a model.
///
/// Per layer the [`Stat`]s, and the residual stream into and out of it; with [`Extras`] more. The final norm's activations are not looked
/// at, as in ModelOpt. Everything that is summed over sequences is summed exactly: sets of the same sequences are the same bits, in
/// whatever order and parts they were observed.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportanceSet {
    pub(crate) geometry: Geometry,
    pub(crate) extras: Extras,
    /// By [`Stat`], then layer; no layers where it is not measured.
    pub(crate) sites: Vec<Vec<Moments>>,
    pub(crate) blocks: BlockInfluence,
    pub(crate) taylor: Option<Taylor>,
    /// `||W_down[:, j]||_2`, per layer `[F]`. A property of the weights, not of the text; empty when not given.
    pub(crate) down_norms: Vec<Vec<f64>>,
    pub(crate) tokens: u64,
    pub(crate) sequences: u64,
}

impl ImportanceSet {
    /// Nothing observed yet.
    ///
    /// # Errors
    /// Those of [`Geometry::check`].
    pub fn new(geometry: Geometry, extras: Extras) -> Result<Self> {
        geometry.check()?;
        let site = |stat: Stat| {
            let layers = if stat.measured(extras) { &geometry.layers[..] } else { &[] };
            layers.iter().map(|l| Moments::new(stat.channels(&geometry, l))).collect()
        };
        Ok(ImportanceSet {
            sites: Stat::ALL.into_iter().map(site).collect(),
            blocks: BlockInfluence::new(geometry.layers.len()),
            taylor: extras.taylor.then(|| Taylor::new(&geometry)),
            down_norms: Vec::new(),
            tokens: 0,
            sequences: 0,
            extras,
            geometry,
        })
    }

    /// What is counted.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What was measured beyond the forward.
    pub fn extras(&self) -> Extras {
        self.extras
    }

    /// Tokens observed.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Sequences observed.
    pub fn sequences(&self) -> u64 {
        self.sequences
    }

    /// Counts one sequence of `tokens` tokens, once for all its sites.
    pub fn count_sequence(&mut self, tokens: usize) {
        self.sequences += 1;
        self.tokens += tokens as u64;
    }

    /// Takes the norms of `down_proj`'s columns, `[F]` per layer: what weight-aware scores need of the weights.
    ///
    /// # Errors
    /// [`Error::Different`] when they do not fit the layers, [`Error::NotFinite`].
    pub fn set_down_norms(&mut self, norms: Vec<Vec<f64>>) -> Result<()> {
        let (got, want): (Vec<usize>, Vec<usize>) =
            (norms.iter().map(Vec::len).collect(), self.geometry.layers.iter().map(|l| l.ffn).collect());
        if got != want {
            return Err(Error::Different {
                what: format!("norms of down_proj for {got:?} neurons, expected {want:?}"),
            });
        }
        for (l, norms) in norms.iter().enumerate() {
            if let Some(index) = norms.iter().position(|n| !n.is_finite()) {
                return Err(at(l, "column norms of down_proj")(Error::NotFinite { unit: "channel", index }));
            }
        }
        self.down_norms = norms;
        Ok(())
    }

    /// Adds one sequence of what `stat` looks at in `layer`. After an error nothing was added.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::NotMeasured`], else those of [`Moments::observe_sums`] with the place.
    pub fn observe(&mut self, layer: usize, stat: Stat, sums: &ChannelSums) -> Result<()> {
        self.check_layer(layer)?;
        let site = self.sites[stat as usize].get_mut(layer).ok_or(NO_CONTRIBUTION)?;
        site.observe_sums(sums).map_err(at(layer, stat.describe()))
    }

    /// Adds one sequence of the residual stream into and out of a layer: the products of the two, token by token.
    ///
    /// # Errors
    /// Those of [`BlockInfluence::observe_products`], with the place.
    pub fn observe_block(&mut self, layer: usize, products: &[RowProducts]) -> Result<()> {
        self.check_layer(layer)?;
        self.blocks.observe_products(layer, products).map_err(at(layer, "residual stream"))
    }

    /// Adds one sequence's products of activations and gradients. After an error nothing was added.
    ///
    /// # Errors
    /// [`Error::NotMeasured`] without [`Extras::taylor`]; [`Error::Channels`], [`Error::NotFinite`] or [`Error::TooLarge`] with the place.
    pub fn observe_taylor(&mut self, sequence: &TaylorSequence) -> Result<()> {
        self.taylor.as_mut().ok_or(crate::taylor::NO_TAYLOR)?.observe(&self.geometry, sequence)
    }

    /// Adds what `other` saw: calibration can be spread over machines. After an error nothing was added.
    ///
    /// # Errors
    /// [`Error::Different`] for statistics of a model with other sizes or weights, or with other extras; [`Error::TooLarge`].
    pub fn merge(&mut self, other: &ImportanceSet) -> Result<()> {
        let different = |what: String| Err(Error::Different { what });
        if self.geometry != other.geometry {
            return different(format!("{:?} and {:?}", self.geometry, other.geometry));
        }
        if self.extras != other.extras {
            return different(format!("{:?} and {:?}", self.extras, other.extras));
        }
        if self.down_norms != other.down_norms {
            return different("the norms of down_proj's columns are not the same".into());
        }
        let mut sum = self.clone();
        for (a, b) in sum.sites.iter_mut().flatten().zip(other.sites.iter().flatten()) {
            a.merge(b)?;
        }
        sum.blocks.merge(&other.blocks)?;
        if let (Some(a), Some(b)) = (&mut sum.taylor, &other.taylor) {
            a.merge(b)?;
        }
        sum.tokens = together(self.tokens, other.tokens)?;
        sum.sequences = together(self.sequences, other.sequences)?;
        *self = sum;
        Ok(())
    }

    /// The statistics of one site.
    pub(crate) fn site(&self, layer: usize, stat: Stat) -> Result<&Moments> {
        self.check_layer(layer)?;
        self.sites[stat as usize].get(layer).ok_or(NO_CONTRIBUTION)
    }

    pub(crate) fn check_layer(&self, got: usize) -> Result<()> {
        let layers = self.geometry.layers.len();
        if got < layers { Ok(()) } else { Err(Error::Layer { got, layers }) }
    }
}

/// Contributions of heads that were not measured.
pub(crate) const NO_CONTRIBUTION: Error =
    Error::NotMeasured { what: "contributions of heads to the residual stream", flag: "--contribution" };

/// Says in which layer, and where in it, something went wrong.
pub(crate) fn at(layer: usize, place: &str) -> impl FnOnce(Error) -> Error {
    let site = format!("layer {layer}, {place}");
    move |error| Error::Site { site, error: Box::new(error) }
}
