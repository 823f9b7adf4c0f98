//! What a candidate weighs: counted in the table of parameters, tensor by tensor, not by a formula.
use crate::{Error, Result};
use paring_model::{Arch, params};
use paring_prune::Dims;
use paring_tensor::DType;
use serde::{Deserialize, Serialize};

/// Counts of one model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// All parameters; a tied head counts once.
    pub params: u64,
    /// All but the embedding and an untied head.
    pub params_non_embedding: u64,
    /// Floating-point operations of one token's forward at the context, a multiply-add as two.
    pub flops_per_token: f64,
    /// Bytes of keys and values of one sequence of the context's length, f32 as Paring keeps them.
    pub kv_bytes: u64,
    /// Bytes of the weights: matrices in the given type, gains of norms in f32.
    pub weight_bytes: u64,
    /// The two together.
    pub memory_bytes: u64,
}

impl Sizes {
    /// Counts `arch` with matrices in `dtype`, at sequences of `context` tokens.
    pub fn of(arch: &Arch, dtype: DType, context: usize) -> Sizes {
        let weight_bytes = params(arch).iter().map(|p| p.compute_dtype(dtype).bytes(p.elements()) as u64).sum();
        let keys: usize = arch.kv_cols().iter().sum();
        let kv_bytes = 2 * (keys * context) as u64 * DType::F32.bytes(1) as u64;
        Sizes {
            params: arch.n_params() as u64,
            params_non_embedding: arch.n_params_non_embedding() as u64,
            flops_per_token: arch.forward_flops_per_token(context),
            kv_bytes,
            weight_bytes,
            memory_bytes: weight_bytes + kv_bytes,
        }
    }
}

/// The sizes of a model whose layers are all alike.
///
/// # Errors
/// [`Error::NotUniform`], or [`Error::Prune`] for sizes that no search takes.
pub fn dims_of(arch: &Arch) -> Result<Dims> {
    let dims = paring_surgery::dims(arch).ok_or(Error::NotUniform)?;
    dims.check()?;
    Ok(dims)
}
