//! Keys and values of the tokens that came before, for one sequence.
use paring_ops::{Backend, Error, Result};
use paring_tensor::{DType, Shape, Tensor};

/// A cache for one sequence: per layer `[capacity, kv_heads * head_dim]` keys and values, f32.
#[derive(Debug)]
pub struct KvCache {
    pub(crate) layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    /// An empty cache; `kv_cols[l]` is the width of layer `l`'s keys.
    ///
    /// # Errors
    /// Those of the backend's allocation.
    pub fn new(backend: &dyn Backend, kv_cols: &[usize], capacity: usize) -> Result<Self> {
        let make = |&cols: &usize| {
            let shape = Shape::new(&[capacity, cols]).map_err(Error::in_op("kv_cache"))?;
            Ok((backend.zeros(DType::F32, shape)?, backend.zeros(DType::F32, shape)?))
        };
        Ok(KvCache { layers: kv_cols.iter().map(make).collect::<Result<_>>()?, len: 0, capacity })
    }

    /// Tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when no token is in the cache.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Says that `tokens` more are in every layer: called once per forward, after the last layer.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Forgets everything after the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}
