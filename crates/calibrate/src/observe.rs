//! Shows a model's activations to `paring-importance`, sequence by sequence.
use crate::{contribution::Contributions, taylor::Taylor};
use ndarray::ArrayView2;
use paring_exec::{Observer, Site, Tap};
use paring_importance::{ChannelSums, Extras, Geometry, ImportanceSet, LayerGeometry, Stat};
use paring_model::{Arch, Batch, Model};
use paring_ops::{Backend, Error, Result};
use paring_tensor::Tensor;
use std::ops::Range;

/// What of `arch` importance counts.
pub fn geometry(arch: &Arch) -> Geometry {
    let layer = |l: &paring_model::LayerArch| LayerGeometry { ffn: l.ffn, heads: l.heads, kv_heads: l.kv_heads };
    Geometry { hidden: arch.hidden, head_dim: arch.head_dim, layers: arch.layers.iter().map(layer).collect() }
}

/// Accumulates importance over the batches it is shown.
///
/// Every batch is announced by [`Importance::begin`], because an activation alone does not tell where sequences end. With
/// [`Extras::taylor`] the run has to be recorded, walked backward from a sum of losses, and closed by [`Importance::end`].
#[derive(Debug)]
pub struct Importance {
    set: ImportanceSet,
    /// Where the sequences of the batch begin and end.
    bounds: Vec<usize>,
    /// The residual stream into the layer that is running.
    block_in: Option<Tensor>,
    contributions: Option<Contributions>,
    taylor: Option<Taylor>,
    /// The layer that the running model's first block is: not 0 where a model is shown block by block.
    first: usize,
}

/// Statistics that could not be taken.
pub(crate) fn failed(e: &paring_importance::Error) -> Error {
    Error::Observer { message: format!("calibration: {e}") }
}

/// `values` as rows of `columns`.
pub(crate) fn rows<T>(values: &[T], columns: usize) -> Result<ArrayView2<'_, T>> {
    let shape = (values.len() / columns.max(1), columns);
    ArrayView2::from_shape(shape, values).map_err(|e| Error::Observer { message: format!("calibration: {e}") })
}

impl Importance {
    /// Nothing seen yet. Weight-aware scores need the weights: [`Importance::of`].
    ///
    /// # Errors
    /// Those of [`ImportanceSet::new`].
    pub fn new(arch: &Arch) -> Result<Self> {
        Importance::with(arch, Extras::default())
    }

    /// Nothing seen yet; what `extras` need of the weights is to come.
    pub(crate) fn with(arch: &Arch, extras: Extras) -> Result<Self> {
        let set = ImportanceSet::new(geometry(arch), extras).map_err(|e| failed(&e))?;
        Ok(Importance { set, bounds: Vec::new(), block_in: None, contributions: None, taylor: None, first: 0 })
    }

    /// Nothing seen yet of `model`, whose weights weight-aware scores and contributions are made with.
    ///
    /// # Errors
    /// Those of [`ImportanceSet::new`] and of the backend.
    pub fn of(backend: &dyn Backend, model: &Model, extras: Extras) -> Result<Self> {
        let mut importance = Importance::with(model.arch(), extras)?;
        importance.set.set_down_norms(down_norms(backend, model)?).map_err(|e| failed(&e))?;
        importance.taylor = extras.taylor.then(|| Taylor::new(model.arch()));
        importance.block(0, model);
        Ok(importance)
    }

    /// The blocks of `model`, which runs next, are those from `first` on.
    pub(crate) fn block(&mut self, first: usize, model: &Model) {
        self.first = first;
        self.contributions = self.set.extras().contribution.then(|| Contributions::new(model));
    }

    /// Announces the batch of the next forward; every sequence of it is a calibration sequence.
    pub fn begin(&mut self, batch: &Batch) {
        self.begin_in(batch, batch.cu_len.clone());
    }

    /// Announces the batch of the next forward, whose calibration sequences begin and end at `bounds`, `[0, .., T]`: a window of several
    /// documents that do not see one another is still one calibration sequence.
    pub fn begin_in(&mut self, batch: &Batch, bounds: Vec<usize>) {
        self.count(bounds);
        if let Some(taylor) = &mut self.taylor {
            taylor.begin(batch, sequences(&self.bounds));
        }
    }

    /// Counts the sequences that begin and end at `bounds`, which are seen next.
    pub(crate) fn count(&mut self, bounds: Vec<usize>) {
        self.see(bounds);
        let lengths: Vec<usize> = sequences(&self.bounds).map(|rows| rows.len()).collect();
        lengths.into_iter().for_each(|tokens| self.set.count_sequence(tokens));
    }

    /// What is seen next are the sequences that begin and end at `bounds`, which were counted before.
    pub(crate) fn see(&mut self, bounds: Vec<usize>) {
        self.bounds = bounds;
    }

    /// Ends the batch after its backward. Without [`Extras::taylor`] there is nothing to do.
    ///
    /// # Errors
    /// Those of [`ImportanceSet::observe_taylor`].
    pub fn end(&mut self) -> Result<()> {
        let Some(taylor) = &mut self.taylor else { return Ok(()) };
        taylor.take().iter().try_for_each(|sequence| self.set.observe_taylor(sequence).map_err(|e| failed(&e)))
    }

    /// What was counted.
    pub fn into_set(self) -> ImportanceSet {
        self.set
    }

    /// Adds the sums of every sequence of `x`.
    fn sums(&mut self, backend: &dyn Backend, layer: usize, stat: Stat, x: &Tensor) -> Result<()> {
        let Importance { set, bounds, .. } = self;
        sequences(bounds).try_for_each(|rows| {
            let sums = backend.channel_sums(&x.rows(rows).map_err(Error::in_op("calibration"))?)?;
            set.observe(layer, stat, &sums).map_err(|e| failed(&e))
        })
    }

    /// Adds the norms of heads and of key/value groups: `squares` holds every token's and head's `||x||^2`, `[T * Nq]`.
    fn head_norms(&mut self, layer: usize, squares: &[f64]) -> Result<()> {
        let LayerGeometry { heads, kv_heads, .. } = self.set.geometry().layers[layer];
        let groups: Vec<f64> = squares.chunks(heads / kv_heads).map(|g| g.iter().sum()).collect();
        self.norms(layer, Stat::HeadNorms, heads, squares)?;
        self.norms(layer, Stat::GroupNorms, kv_heads, &groups)
    }

    /// Adds norms whose squares are `squares`, `[T, columns]`.
    fn norms(&mut self, layer: usize, stat: Stat, columns: usize, squares: &[f64]) -> Result<()> {
        let norms: Vec<f64> = squares.iter().map(|s| s.sqrt()).collect();
        let Importance { set, bounds, .. } = self;
        sequences(bounds).try_for_each(|range| {
            let sums = ChannelSums::of(rows(&norms[range.start * columns..range.end * columns], columns)?);
            set.observe(layer, stat, &sums).map_err(|e| failed(&e))
        })
    }
}

/// Rows of every sequence that has any.
fn sequences(bounds: &[usize]) -> impl Iterator<Item = Range<usize>> {
    bounds.windows(2).map(|w| w[0]..w[1]).filter(|rows| !rows.is_empty())
}

/// `||W_down[:, j]||_2` of every layer, `[F]`.
pub(crate) fn down_norms(backend: &dyn Backend, model: &Model) -> Result<Vec<Vec<f64>>> {
    let of = |spec: &paring_model::ParamSpec| {
        let mut squares = vec![0f64; spec.shape[1]];
        for row in backend.download(&model.weight(spec.id).tensor)?.chunks(spec.shape[1]) {
            squares.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(w) * f64::from(w));
        }
        Ok(squares.into_iter().map(f64::sqrt).collect())
    };
    model.specs().iter().filter(|s| s.name.ends_with("down_proj.weight")).map(of).collect()
}

impl Observer for Importance {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> Result<()> {
        let op = "calibration";
        let layer = self.first + site.layer;
        match site.tap {
            Tap::AttnNorm => self.sums(backend, layer, Stat::AttnNorm, x),
            Tap::MlpNorm => self.sums(backend, layer, Stat::MlpNorm, x),
            Tap::MlpGate => self.sums(backend, layer, Stat::FfnGate, x),
            Tap::MlpHidden => self.sums(backend, layer, Stat::Ffn, x),
            Tap::AttnOut => {
                self.sums(backend, layer, Stat::Heads, x)?;
                let head_dim = self.set.geometry().head_dim;
                let heads = x.reshape(&[x.elements() / head_dim, head_dim][..]).map_err(Error::in_op(op))?;
                let squares: Vec<f64> = backend.row_products(&heads, &heads)?.iter().map(|p| p.xx).collect();
                self.head_norms(layer, &squares)?;
                let Some(contributions) = &self.contributions else { return Ok(()) };
                let LayerGeometry { heads, kv_heads, .. } = self.set.geometry().layers[layer];
                let [of_heads, of_groups] = contributions.squares(backend, site.layer, [heads, kv_heads], x)?;
                self.norms(layer, Stat::HeadOutputs, heads, &of_heads)?;
                self.norms(layer, Stat::GroupOutputs, kv_heads, &of_groups)
            }
            Tap::BlockIn => {
                // Shared, so that nobody writes into it.
                self.block_in = Some(x.clone());
                Ok(())
            }
            Tap::BlockOut => {
                let unseen = || Error::Observer { message: "calibration: a block ended that had not begun".into() };
                let block_in = self.block_in.take().ok_or_else(unseen)?;
                let Importance { set, bounds, .. } = self;
                sequences(bounds).try_for_each(|rows| {
                    let part = |x: &Tensor| x.rows(rows.clone()).map_err(Error::in_op(op));
                    let products = backend.row_products(&part(&block_in)?, &part(x)?)?;
                    set.observe_block(layer, &products).map_err(|e| failed(&e))
                })
            }
            Tap::FinalNorm => Ok(()),
        }
    }

    fn gradient(&mut self, backend: &dyn Backend, site: Site, x: &Tensor, dx: &mut Tensor) -> Result<()> {
        self.taylor.as_mut().map_or(Ok(()), |taylor| taylor.gradient(backend, site, x, dx))
    }
}
