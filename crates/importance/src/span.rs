//! How far contiguous blocks of layers turn the residual stream: block influence with `x_l+n` for `x_l+1` (Gromov et al., arXiv 2403.17887),
//! as a cosine and as an angle.
use crate::{BlockInfluence, Error, Result, RowProducts, block::cosine};
use std::f64::consts::PI;

/// For every contiguous block of `n` layers that begins at `l`, over tokens `t` and sequences `b`:
/// `mean_b (1 - mean_t cos(x_l,t, x_l+n,t))` and `mean_b mean_t arccos(cos(x_l,t, x_l+n,t)) / pi`, where `x_l` is the residual stream into
/// layer `l`.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanInfluence {
    sizes: Vec<usize>,
    cosine: Vec<BlockInfluence>,
    /// `sum_b mean_t arccos(cos) / pi`, by size and first layer; as many sequences as in `cosine`.
    angles: Vec<Vec<f64>>,
    sequences: Vec<Vec<u64>>,
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
            cosine: sizes.iter().map(|n| BlockInfluence::new(places(n))).collect(),
            angles: sizes.iter().map(|n| vec![0.0; places(n)]).collect(),
            sequences: sizes.iter().map(|n| vec![0; places(n)]).collect(),
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
        let Some(cosine_of) = self.cosine.get_mut(size) else {
            return Err(Error::Layer { got: size, layers: self.sizes.len() });
        };
        cosine_of.observe_products(first, products)?;
        // A rounding above 1 is no angle.
        let angle = |p: &RowProducts| cosine(p).clamp(-1.0, 1.0).acos() / PI;
        self.angles[size][first] += products.iter().map(angle).sum::<f64>() / products.len() as f64;
        self.sequences[size][first] += 1;
        Ok(())
    }

    /// `1 - cos` of the blocks of `sizes()[size]` layers, by first layer; empty for a size that is not there.
    pub fn cosine(&self, size: usize) -> Vec<f64> {
        self.cosine.get(size).map_or(Vec::new(), BlockInfluence::scores)
    }

    /// Angles as parts of pi, of the blocks of `sizes()[size]` layers, by first layer; empty for a size that is not there.
    pub fn angular(&self, size: usize) -> Vec<f64> {
        let (sums, n) = (self.angles.get(size), self.sequences.get(size));
        let pairs = sums.into_iter().flatten().zip(n.into_iter().flatten());
        pairs.map(|(sum, &n)| sum / n.max(1) as f64).collect()
    }
}
