//! Dimensions whose product was checked once, so that nobody has to check it again.
use crate::{Error, Result};
use std::fmt;

/// Up to four dimensions, outermost first. The element count times eight fits `usize`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; Shape::MAX_RANK],
    rank: usize,
}

impl Shape {
    /// The most dimensions a tensor has here.
    pub const MAX_RANK: usize = 4;

    /// # Errors
    /// [`Error::Rank`] or [`Error::TooLarge`].
    pub fn new(dims: &[usize]) -> Result<Self> {
        if dims.len() > Self::MAX_RANK {
            return Err(Error::Rank { got: dims.len() });
        }
        let too_large = || Error::TooLarge { dims: dims.to_vec() };
        // Times eight: no element type is wider, so sizes in bytes cannot overflow either.
        let bytes = dims.iter().try_fold(8usize, |n, &d| n.checked_mul(d)).ok_or_else(too_large)?;
        if bytes > isize::MAX as usize {
            return Err(too_large());
        }
        let mut shape = Shape { dims: [1; Self::MAX_RANK], rank: dims.len() };
        shape.dims[..dims.len()].copy_from_slice(dims);
        Ok(shape)
    }

    /// The dimensions, outermost first.
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank]
    }

    /// Number of elements: 1 for a scalar.
    pub fn elements(&self) -> usize {
        self.dims().iter().product()
    }

    /// The outermost dimension: 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.dims().first().copied().unwrap_or(1)
    }

    /// Elements of one row: the product of all dimensions but the outermost.
    pub fn row_elements(&self) -> usize {
        self.dims().iter().skip(1).product()
    }

    /// The same row shape with another number of rows.
    ///
    /// # Errors
    /// [`Error::TooLarge`].
    pub fn with_rows(&self, rows: usize) -> Result<Self> {
        let mut dims = self.dims().to_vec();
        if dims.is_empty() {
            dims.push(rows);
        } else {
            dims[0] = rows;
        }
        Shape::new(&dims)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl<const N: usize> TryFrom<[usize; N]> for Shape {
    type Error = Error;
    fn try_from(dims: [usize; N]) -> Result<Self> {
        Shape::new(&dims)
    }
}

impl TryFrom<&[usize]> for Shape {
    type Error = Error;
    fn try_from(dims: &[usize]) -> Result<Self> {
        Shape::new(dims)
    }
}

impl From<std::convert::Infallible> for Error {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_that_overflow_are_refused() {
        for dims in [&[usize::MAX][..], &[1 << 32, 1 << 32], &[1 << 62], &[usize::MAX, 0]] {
            let got = Shape::new(dims);
            // A zero hides an overflow only if it comes first; either way nothing wraps.
            assert!(matches!(got, Err(Error::TooLarge { .. })), "{dims:?} gave {got:?}");
        }
        assert_eq!(Shape::new(&[1; 5]), Err(Error::Rank { got: 5 }));
        assert_eq!(Shape::new(&[]).unwrap().elements(), 1);
        assert_eq!(Shape::new(&[3, 4, 5]).unwrap().row_elements(), 20);
    }
}
