//! Block influence: how much a layer turns the residual stream (ShortGPT, arXiv 2403.03853; arXiv 2407.14679, section 2.2).
use crate::{
    Error, ExactSum, Result,
    moments::{plus, together},
};
use ndarray::{ArrayView1, ArrayView2, Axis};

/// Norms below this count as this, as in PyTorch's `cosine_similarity`: a zero vector has cosine 0 to everything.
const EPS: f64 = 1e-8;

/// The products of two rows that their cosine is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowProducts {
    /// `sum x y`.
    pub xy: f64,
    /// `sum x^2`.
    pub xx: f64,
    /// `sum y^2`.
    pub yy: f64,
}

impl RowProducts {
    /// The products of two rows of one length, in f64 and in order.
    pub fn of(x: ArrayView1<'_, f32>, y: ArrayView1<'_, f32>) -> RowProducts {
        let (mut xy, mut xx, mut yy) = (0f64, 0f64, 0f64);
        for (&a, &b) in x.iter().zip(y) {
            let (a, b) = (f64::from(a), f64::from(b));
            xy += a * b;
            xx += a * a;
            yy += b * b;
        }
        RowProducts { xy, xx, yy }
    }
}

impl RowProducts {
    /// The cosine of the two rows.
    pub fn cosine(&self) -> f64 {
        self.xy / (self.xx.sqrt().max(EPS) * self.yy.sqrt().max(EPS))
    }
}

/// How two streams that a cosine compares are apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Distance {
    /// `1 - cos`, as in ShortGPT.
    Cosine,
    /// `arccos(cos) / pi`, the angle in half turns, as in "The Unreasonable Ineffectiveness of the Deeper Layers" (arXiv 2403.17887).
    Angular,
}

impl Distance {
    /// Both, in the order in which they are stored.
    pub const ALL: [Distance; 2] = [Distance::Cosine, Distance::Angular];

    /// Its value for rows of this cosine.
    pub fn of(self, cosine: f64) -> f64 {
        match self {
            Distance::Cosine => 1.0 - cosine,
            // Rounding may leave a cosine a hair outside.
            Distance::Angular => cosine.clamp(-1.0, 1.0).acos() / std::f64::consts::PI,
        }
    }
}

/// `BI_l = mean_b mean_t distance(x_l,t, x_l+1,t)`, where `x_l` is the residual stream into layer `l`, for both distances.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockInfluence {
    /// `sum_b mean_t distance`, per [`Distance`] and layer.
    pub(crate) sums: [Vec<ExactSum>; 2],
    /// Sequences, per layer.
    pub(crate) sequences: Vec<u64>,
}

impl BlockInfluence {
    /// No sequence yet.
    pub fn new(layers: usize) -> Self {
        BlockInfluence { sums: [(); 2].map(|()| vec![ExactSum::default(); layers]), sequences: vec![0; layers] }
    }

    /// Adds one calibration sequence of one layer. After an error nothing was added.
    ///
    /// # Shapes
    /// - `input`, `output`: `[T, H]`, the residual stream into and out of the layer.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::Streams`], [`Error::EmptySequence`] or [`Error::NotFinite`].
    pub fn observe_sequence(
        &mut self,
        layer: usize,
        input: ArrayView2<'_, f32>,
        output: ArrayView2<'_, f32>,
    ) -> Result<()> {
        if layer >= self.sequences.len() {
            return Err(Error::Layer { got: layer, layers: self.sequences.len() });
        }
        if input.dim() != output.dim() {
            let shape = |x: ArrayView2<'_, f32>| [x.nrows(), x.ncols()];
            return Err(Error::Streams { input: shape(input), output: shape(output) });
        }
        let products: Vec<RowProducts> =
            input.axis_iter(Axis(0)).zip(output.axis_iter(Axis(0))).map(|(x, y)| RowProducts::of(x, y)).collect();
        self.observe_products(layer, &products)
    }

    /// Adds one calibration sequence of one layer, of which only the products of each token's two streams are at hand. After an error
    /// nothing was added.
    ///
    /// # Errors
    /// [`Error::Layer`], [`Error::EmptySequence`], [`Error::NotFinite`], or [`Error::TooLarge`] after more sequences than anybody has.
    pub fn observe_products(&mut self, layer: usize, products: &[RowProducts]) -> Result<()> {
        if layer >= self.sequences.len() {
            return Err(Error::Layer { got: layer, layers: self.sequences.len() });
        }
        if products.is_empty() {
            return Err(Error::EmptySequence);
        }
        if let Some(index) = products.iter().position(|p| !(p.xx + p.yy).is_finite()) {
            return Err(Error::NotFinite { unit: "token", index });
        }
        let mut next = [ExactSum::default(); 2];
        for ((next, sums), distance) in next.iter_mut().zip(&self.sums).zip(Distance::ALL) {
            let total: f64 = products.iter().map(|p| distance.of(p.cosine())).sum();
            let value = total / products.len() as f64;
            let sum = ExactSum::new(value).and_then(|v| sums[layer].checked_add(v));
            *next = sum.ok_or(Error::TooLarge { index: layer, value })?;
        }
        for (sums, next) in self.sums.iter_mut().zip(next) {
            sums[layer] = next;
        }
        self.sequences[layer] += 1;
        Ok(())
    }

    /// Block influence per layer: the mean over sequences, zero before the first.
    pub fn scores(&self, distance: Distance) -> Vec<f64> {
        let sums = &self.sums[distance as usize];
        sums.iter().zip(&self.sequences).map(|(sum, &n)| sum.value() / n.max(1) as f64).collect()
    }

    /// Adds the sequences that `other` saw. After an error nothing was added.
    ///
    /// # Errors
    /// [`Error::Different`] when the numbers of layers differ; [`Error::TooLarge`].
    pub fn merge(&mut self, other: &BlockInfluence) -> Result<()> {
        if self.sequences.len() != other.sequences.len() {
            let what = format!("{} layers and {}", self.sequences.len(), other.sequences.len());
            return Err(Error::Different { what });
        }
        let ([a, b], [x, y]) = (&self.sums, &other.sums);
        let sums = [plus(a, x)?, plus(b, y)?];
        let pairs = self.sequences.iter().zip(&other.sequences);
        let sequences = pairs.map(|(&a, &b)| together(a, b)).collect::<Result<_>>()?;
        (self.sums, self.sequences) = (sums, sequences);
        Ok(())
    }
}
