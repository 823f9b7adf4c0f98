//! How far contiguous blocks of layers turn the residual stream: block influence with `x_l+n` for `x_l+1` (Gromov et al., arXiv 2403.17887),
//! as a cosine and as an angle.
use crate::{BlockInfluence, Distance, Error, Result, RowProducts};

/// For every contiguous block of `n` layers that begins at `l`, over tokens `t` and sequences `b`:
/// `mean_b (1 - mean_t cos(x_l,t, x_l+n,t))` and `mean_b mean_t arccos(cos(x_l,t, x_l+n,t)) / pi`, where `x_l` is the residual stream into
/// layer `l`.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanInfluence {
    sizes: Vec<usize>,
    /// By size; its layers are the blocks' first layers.
    influence: Vec<BlockInfluence>,
}

impl SpanInfluence {
    /// No sequence yet, for blocks of each of `sizes` of a model of `layers`.
    ///
    /// # Errors
    /// [`Error::Geometry`] for a size of zero or more layers than there are.
    pub fn new(layers: usize, sizes: &[usize]) -> Result<Self> {
        if let Some(n) = sizes.iter().find(|&&n| n == 0 || layers < n) {
            return Err(Error::Geometry { what: format!("a block of {n} layers in a model of {layers}") });
        }
        let places = |n: &usize| layers - n + 1;
        Ok(SpanInfluence {
            sizes: sizes.to_vec(),
            influence: sizes.iter().map(|n| BlockInfluence::new(places(n))).collect(),
        })
    }

    /// The sizes of blocks.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// The largest of them.
    pub fn longest(&self) -> usize {
        self.sizes.iter().max().copied().unwrap_or(0)
    }

    /// Adds one calibration sequence of the block of `sizes()[size]` layers that begins at `first`. After an error nothing was added.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::EmptySequence`] or [`Error::NotFinite`].
    pub fn observe(&mut self, size: usize, first: usize, products: &[RowProducts]) -> Result<()> {
        let Some(influence) = self.influence.get_mut(size) else {
            return Err(Error::Layer { got: size, layers: self.sizes.len() });
        };
        influence.observe_products(first, products)
    }

    /// `1 - cos` of the blocks of `sizes()[size]` layers, by first layer; empty for a size that is not there.
    pub fn cosine(&self, size: usize) -> Vec<f64> {
        self.influence.get(size).map_or(Vec::new(), |i| i.scores(Distance::Cosine))
    }

    /// Angles as parts of pi, of the blocks of `sizes()[size]` layers, by first layer; empty for a size that is not there.
    pub fn angular(&self, size: usize) -> Vec<f64> {
        self.influence.get(size).map_or(Vec::new(), |i| i.scores(Distance::Angular))
    }
}
