//! Places in a model where others may look, and the trait of those who look.
use paring_ops::{Backend, Result};
use paring_tensor::Tensor;

/// What is looked at. All are `[T, ..]` of packed tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tap {
    /// The residual stream into a block.
    BlockIn,
    /// Output of the norm before attention.
    AttnNorm,
    /// Input of `o_proj`: the heads' outputs side by side.
    AttnOut,
    /// Output of the norm before the MLP.
    MlpNorm,
    /// The MLP before its activation: output of `gate_proj`.
    MlpGate,
    /// Input of `down_proj`: the gated hidden layer.
    MlpHidden,
    /// The residual stream out of a block.
    BlockOut,
    /// Output of the final norm; its layer is the number of layers.
    FinalNorm,
}

/// A tap of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Layer, counted from 0.
    pub layer: usize,
    /// Which of its activations.
    pub tap: Tap,
}

/// Looks at a run. Both methods default to looking away.
pub trait Observer {
    /// Called once per forward for every site.
    ///
    /// # Errors
    /// Whatever the observer cannot go on with; it ends the run.
    fn activation(&mut self, _backend: &dyn Backend, _site: Site, _x: &Tensor) -> Result<()> {
        Ok(())
    }

    /// Called in backward. May add to `dx`: that is how losses on hidden states enter.
    ///
    /// # Errors
    /// Whatever the observer cannot go on with; it ends the run.
    fn gradient(&mut self, _backend: &dyn Backend, _site: Site, _x: &Tensor, _dx: &mut Tensor) -> Result<()> {
        Ok(())
    }
}
