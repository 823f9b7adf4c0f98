//! Shows a model's activations to `paring-importance`, sequence by sequence.
use ndarray::ArrayView2;
use paring_exec::{Observer, Site, Tap};
use paring_importance::{Geometry, ImportanceSet, LayerGeometry, Norm};
use paring_model::{Arch, Batch};
use paring_ops::{Backend, Error, Result};
use paring_tensor::Tensor;

/// What of `arch` importance counts.
pub fn geometry(arch: &Arch) -> Geometry {
    let layer = |l: &paring_model::LayerArch| LayerGeometry { ffn: l.ffn, heads: l.heads, kv_heads: l.kv_heads };
    Geometry { hidden: arch.hidden, head_dim: arch.head_dim, layers: arch.layers.iter().map(layer).collect() }
}

/// Accumulates importance over the batches it is shown.
///
/// Every batch is announced by [`Importance::begin`], because an activation alone does not tell where sequences end.
#[derive(Debug)]
pub struct Importance {
    set: ImportanceSet,
    cu_len: Vec<usize>,
    /// The residual stream into the layer that is running.
    block_in: Vec<f32>,
}

fn failed(e: &paring_importance::Error) -> Error {
    Error::Observer { message: format!("calibration: {e}") }
}

impl Importance {
    /// Nothing seen yet.
    ///
    /// # Errors
    /// Those of [`ImportanceSet::new`].
    pub fn new(arch: &Arch) -> Result<Self> {
        let set = ImportanceSet::new(geometry(arch)).map_err(|e| failed(&e))?;
        Ok(Importance { set, cu_len: Vec::new(), block_in: Vec::new() })
    }

    /// Announces the batch of the next forward.
    pub fn begin(&mut self, batch: &Batch) {
        self.cu_len.clone_from(&batch.cu_len);
        for w in batch.cu_len.windows(2).filter(|w| w[0] < w[1]) {
            self.set.count_sequence(w[1] - w[0]);
        }
    }

    /// What was counted.
    pub fn into_set(self) -> ImportanceSet {
        self.set
    }
}

/// Calls `f` with the rows of every sequence that has any.
fn each_sequence(
    cu_len: &[usize],
    cols: usize,
    x: &[f32],
    mut f: impl FnMut(std::ops::Range<usize>, ArrayView2<'_, f32>) -> paring_importance::Result<()>,
) -> Result<()> {
    for w in cu_len.windows(2).filter(|w| w[0] < w[1]) {
        let range = w[0] * cols..w[1] * cols;
        let rows = ArrayView2::from_shape((w[1] - w[0], cols), &x[range.clone()]);
        let rows = rows.map_err(|e| Error::Observer { message: e.to_string() })?;
        f(range, rows).map_err(|e| failed(&e))?;
    }
    Ok(())
}

impl Observer for Importance {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> Result<()> {
        if site.tap == Tap::FinalNorm {
            return Ok(());
        }
        let (cols, values) = (x.n_cols(), backend.download(x)?);
        let Importance { set, cu_len, block_in } = self;
        match site.tap {
            Tap::BlockIn => *block_in = values,
            Tap::AttnNorm => each_sequence(cu_len, cols, &values, |_, x| set.observe_norm(site.layer, Norm::Attn, x))?,
            Tap::MlpNorm => each_sequence(cu_len, cols, &values, |_, x| set.observe_norm(site.layer, Norm::Mlp, x))?,
            Tap::AttnOut => each_sequence(cu_len, cols, &values, |_, x| set.observe_heads(site.layer, x))?,
            Tap::MlpHidden => each_sequence(cu_len, cols, &values, |_, x| set.observe_ffn(site.layer, x))?,
            Tap::BlockOut => each_sequence(cu_len, cols, &values, |range, x| {
                // Both views have the shape of `x`, which `each_sequence` has checked.
                match ArrayView2::from_shape(x.raw_dim(), &block_in[range]) {
                    Ok(input) => set.observe_block(site.layer, input, x),
                    Err(_) => Err(paring_importance::Error::EmptySequence),
                }
            })?,
            Tap::FinalNorm => {}
        }
        Ok(())
    }
}
