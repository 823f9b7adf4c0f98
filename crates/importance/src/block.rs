//! Block influence: how much a layer turns the residual stream (ShortGPT, arXiv 2403.03853; arXiv 2407.14679, section 2.2).
use crate::{Error, Result, moments::add};
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

/// The cosine of the two rows.
pub(crate) fn cosine(p: &RowProducts) -> f64 {
    p.xy / (p.xx.sqrt().max(EPS) * p.yy.sqrt().max(EPS))
}

/// `BI_l = mean_b (1 - mean_t cos(x_l,t, x_l+1,t))`, where `x_l` is the residual stream into layer `l`.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockInfluence {
    /// `sum_b (1 - mean_t cos)`, per layer.
    pub(crate) sums: Vec<f64>,
    /// Sequences, per layer.
    pub(crate) sequences: Vec<u64>,
}

impl BlockInfluence {
    /// No sequence yet.
    pub fn new(layers: usize) -> Self {
        BlockInfluence { sums: vec![0.0; layers], sequences: vec![0; layers] }
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
        if layer >= self.sums.len() {
            return Err(Error::Layer { got: layer, layers: self.sums.len() });
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
    /// [`Error::Layer`], [`Error::EmptySequence`] or [`Error::NotFinite`].
    pub fn observe_products(&mut self, layer: usize, products: &[RowProducts]) -> Result<()> {
        if layer >= self.sums.len() {
            return Err(Error::Layer { got: layer, layers: self.sums.len() });
        }
        if products.is_empty() {
            return Err(Error::EmptySequence);
        }
        let mut total = 0.0;
        for (index, &RowProducts { xy, xx, yy }) in products.iter().enumerate() {
            if !(xx + yy).is_finite() {
                return Err(Error::NotFinite { index });
            }
            total += cosine(&RowProducts { xy, xx, yy });
        }
        self.sums[layer] += 1.0 - total / products.len() as f64;
        self.sequences[layer] += 1;
        Ok(())
    }

    /// Block influence per layer: the mean over sequences, zero before the first.
    pub fn scores(&self) -> Vec<f64> {
        self.sums.iter().zip(&self.sequences).map(|(sum, &n)| sum / n.max(1) as f64).collect()
    }

    /// Adds the sequences that `other` saw.
    ///
    /// # Errors
    /// [`Error::Different`] when the numbers of layers differ.
    pub fn merge(&mut self, other: &BlockInfluence) -> Result<()> {
        if self.sums.len() != other.sums.len() {
            let what = format!("{} layers and {}", self.sums.len(), other.sums.len());
            return Err(Error::Different { what });
        }
        add(&mut self.sums, &other.sums);
        for (a, b) in self.sequences.iter_mut().zip(&other.sequences) {
            *a += b;
        }
        Ok(())
    }
}
