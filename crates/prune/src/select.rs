//! Slicing: the kept indices along every dimension of a tensor, copied without looking at what the bytes mean.
use crate::{Error, Result};

/// What a dimension of a tensor counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Channels of the residual stream: one choice for the whole model.
    Hidden,
    /// Neurons of the layer's MLP.
    Ffn,
    /// Query heads of the layer, `head_dim` rows each.
    QHeads,
    /// Key/value heads of the layer, `head_dim` rows each.
    KvHeads,
    /// Tokens of the vocabulary: always kept.
    Vocab,
    /// Anything else that is always kept, such as the `head_dim` of a query norm.
    Fixed,
}

/// What to keep along every dimension of one tensor, checked against its shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    tensor: String,
    shape: Vec<usize>,
    /// Per dimension; `None` keeps all.
    keep: Vec<Option<Vec<usize>>>,
}

impl Selection {
    /// `tensor` is a name for error texts; `keep[i]` lists what stays of dimension `i`, in its order, `None` everything.
    ///
    /// # Errors
    /// [`Error::Index`], or [`Error::TensorShape`] when there are not as many lists as dimensions.
    pub fn new(tensor: &str, shape: &[usize], keep: Vec<Option<Vec<usize>>>) -> Result<Self> {
        let overflows = shape.iter().try_fold(16usize, |n, &d| n.checked_mul(d)).is_none();
        if keep.len() != shape.len() || overflows {
            return Err(Error::TensorShape { tensor: tensor.into(), got: shape.to_vec(), want: Vec::new() });
        }
        for (list, &len) in keep.iter().zip(shape) {
            if let Some(&got) = list.iter().flatten().find(|&&i| i >= len) {
                return Err(Error::Index { got, len });
            }
        }
        Ok(Selection { tensor: tensor.into(), shape: shape.to_vec(), keep })
    }

    /// Shape of the result.
    pub fn shape(&self) -> Vec<usize> {
        self.keep.iter().zip(&self.shape).map(|(list, &len)| list.as_ref().map_or(len, Vec::len)).collect()
    }

    /// Whether the result is the tensor itself.
    pub fn is_identity(&self) -> bool {
        self.keep.iter().all(Option::is_none)
    }

    /// The kept values.
    ///
    /// # Errors
    /// [`Error::Values`].
    pub fn select<T: Copy>(&self, values: &[T]) -> Result<Vec<T>> {
        let mut out = Vec::with_capacity(self.shape().iter().product());
        self.for_each_run(values, |run| out.extend_from_slice(run))?;
        Ok(out)
    }

    /// The kept elements of a tensor whose elements are `size` bytes each, bit for bit.
    ///
    /// # Errors
    /// [`Error::Values`]; a part of an element counts as a value too few.
    pub fn select_bytes(&self, bytes: &[u8], size: usize) -> Result<Vec<u8>> {
        // The two widths of checkpoints as whole elements; any other as one more dimension of bytes.
        match size {
            2 if bytes.len().is_multiple_of(2) => Ok(self.select(bytes.as_chunks::<2>().0)?.into_flattened()),
            4 if bytes.len().is_multiple_of(4) => Ok(self.select(bytes.as_chunks::<4>().0)?.into_flattened()),
            _ => {
                let (mut shape, mut keep) = (self.shape.clone(), self.keep.clone());
                shape.push(size);
                keep.push(None);
                Selection::new(&self.tensor, &shape, keep)?.select(bytes)
            }
        }
    }

    /// Calls `sink` with the kept values in order, in runs of at least one row: for results that should not be in memory at once.
    ///
    /// # Errors
    /// [`Error::Values`], before the first call.
    pub fn for_each_run<T: Copy>(&self, values: &[T], mut sink: impl FnMut(&[T])) -> Result<()> {
        let want: usize = self.shape.iter().product();
        if values.len() != want {
            return Err(Error::Values { tensor: self.tensor.clone(), got: values.len(), want });
        }
        let mut row = Vec::new();
        walk(values, &self.shape, &self.keep, &mut row, &mut sink);
        Ok(())
    }
}

/// Descends dimension by dimension; whatever is whole from some dimension on is one run.
fn walk<T: Copy>(
    values: &[T],
    shape: &[usize],
    keep: &[Option<Vec<usize>>],
    row: &mut Vec<T>,
    sink: &mut impl FnMut(&[T]),
) {
    if keep.iter().all(Option::is_none) {
        return sink(values);
    }
    let inner: usize = shape[1..].iter().product();
    match (&keep[0], shape.len()) {
        (Some(list), 1) => {
            row.clear();
            row.extend(list.iter().map(|&i| values[i]));
            sink(row);
        }
        (Some(list), _) => {
            for &i in list {
                walk(&values[i * inner..(i + 1) * inner], &shape[1..], &keep[1..], row, sink);
            }
        }
        (None, _) => {
            for i in 0..shape[0] {
                walk(&values[i * inner..(i + 1) * inner], &shape[1..], &keep[1..], row, sink);
            }
        }
    }
}
