//! What the output of a stack of layers is judged by, unit by unit: so that a sweep over layers can judge by a text or by a task alike.
use paring_model::{Model, Result};
use paring_ops::Backend;
use paring_tensor::Tensor;

/// Something to judge a model by, in units that run on their own: the windows of a text, the questions of a task.
///
/// A unit gives a few numbers, which are added over the units in order. So a result does not depend on which units run together.
pub trait Criterion {
    /// Units, at least one.
    fn units(&self) -> usize;

    /// The sequences of token ids that run for `unit`, which is below [`Criterion::units`].
    fn sequences(&self, unit: usize) -> Vec<&[u32]>;

    /// The numbers of one unit. `x` is `[T, H]`: the final norm's output ([`Model::finish`]) of its sequences, packed in order.
    ///
    /// # Errors
    /// Those of the backend.
    fn measure(&self, backend: &dyn Backend, model: &Model, unit: usize, x: &Tensor) -> Result<Vec<f64>>;

    /// Scores from the sums of [`Criterion::measure`] over all units. The first one is what the criterion is named after.
    fn scores(&self, sums: &[f64]) -> Vec<f64>;

    /// Whether the scores `a` speak for a better model than `b`: where two stacks are alike, the first one seen stays.
    fn better(&self, a: &[f64], b: &[f64]) -> bool;
}

/// The language-model loss: mean negative log-likelihood, in nats, of every token but the first of its sequence. One score; lower is better.
#[derive(Clone, Debug)]
pub struct LmLoss<'a> {
    /// Sequences that do not see one another, unit by unit.
    units: Vec<Vec<&'a [u32]>>,
}

impl<'a> LmLoss<'a> {
    /// Of these windows, each of them one text.
    pub fn new(windows: &[&'a [u32]]) -> Self {
        LmLoss { units: windows.iter().map(|w| vec![*w]).collect() }
    }

    /// Of windows whose documents do not see one another: `units` has the documents of each window.
    pub fn of_documents(units: Vec<Vec<&'a [u32]>>) -> Self {
        LmLoss { units }
    }

    /// Predicted tokens.
    pub fn predicted(&self) -> u64 {
        self.units.iter().flatten().map(|s| s.len().saturating_sub(1) as u64).sum()
    }
}

impl Criterion for LmLoss<'_> {
    fn units(&self) -> usize {
        self.units.len()
    }

    fn sequences(&self, unit: usize) -> Vec<&[u32]> {
        self.units.get(unit).cloned().unwrap_or_default()
    }

    fn measure(&self, backend: &dyn Backend, model: &Model, unit: usize, x: &Tensor) -> Result<Vec<f64>> {
        let targets = paring_model::Batch::pack(self.sequences(unit)).next_tokens();
        Ok(vec![backend.head_cross_entropy(None, x, &model.head().tensor, &targets, 1.0)?])
    }

    fn scores(&self, sums: &[f64]) -> Vec<f64> {
        sums.iter().map(|sum| sum / self.predicted().max(1) as f64).collect()
    }

    fn better(&self, a: &[f64], b: &[f64]) -> bool {
        a.first() < b.first()
    }
}
