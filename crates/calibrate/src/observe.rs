//! Shows a model's activations to `paring-importance`, sequence by sequence.
use paring_exec::{Observer, Site, Tap};
use paring_importance::{ChannelSums, Geometry, ImportanceSet, LayerGeometry, Norm};
use paring_model::{Arch, Batch};
use paring_ops::{Accum, Backend, Error, Result};
use paring_tensor::{DType, Tensor};
use std::ops::Range;

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
    block_in: Option<Tensor>,
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
        Ok(Importance { set, cu_len: Vec::new(), block_in: None })
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

/// Rows of every sequence that has any.
fn sequences(cu_len: &[usize]) -> impl Iterator<Item = Range<usize>> {
    cu_len.windows(2).map(|w| w[0]..w[1]).filter(|rows| !rows.is_empty())
}

impl Importance {
    /// Adds the sums of every sequence of `x`.
    fn sums(
        &mut self,
        backend: &dyn Backend,
        x: &Tensor,
        add: impl Fn(&mut ImportanceSet, &ChannelSums) -> paring_importance::Result<()>,
    ) -> Result<()> {
        let Importance { set, cu_len, .. } = self;
        sequences(cu_len).try_for_each(|rows| {
            let sums = backend.channel_sums(&x.rows(rows).map_err(Error::in_op("calibration"))?)?;
            add(set, &sums).map_err(|e| failed(&e))
        })
    }
}

impl Observer for Importance {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> Result<()> {
        let op = "calibration";
        match site.tap {
            Tap::AttnNorm => self.sums(backend, x, |set, sums| set.observe_norm(site.layer, Norm::Attn, sums)),
            Tap::MlpNorm => self.sums(backend, x, |set, sums| set.observe_norm(site.layer, Norm::Mlp, sums)),
            Tap::AttnOut => self.sums(backend, x, |set, sums| set.observe_heads(site.layer, sums)),
            Tap::MlpHidden => self.sums(backend, x, |set, sums| set.observe_ffn(site.layer, sums)),
            Tap::BlockIn => {
                // A copy: the stream itself is added to in place.
                let mut copy = backend.alloc(DType::F32, x.shape())?;
                backend.accumulate(&mut copy, Accum::Set, x)?;
                self.block_in = Some(copy);
                Ok(())
            }
            Tap::BlockOut => {
                let unseen = || Error::Observer { message: "calibration: a block ended that had not begun".into() };
                let block_in = self.block_in.take().ok_or_else(unseen)?;
                sequences(&self.cu_len).try_for_each(|rows| {
                    let part = |x: &Tensor| x.rows(rows.clone()).map_err(Error::in_op(op));
                    let products = backend.row_products(&part(&block_in)?, &part(x)?)?;
                    self.set.observe_block(site.layer, &products).map_err(|e| failed(&e))
                })
            }
            Tap::FinalNorm => Ok(()),
        }
    }
}
