//! The tensor itself: a shared buffer, a type, a shape, and the first element's offset.
use crate::{DType, Error, Result, Shape};
use std::{any::Any, fmt, ops::Range, sync::Arc};

/// Memory that some backend owns. Backends find their own kind by downcasting.
pub trait Buffer: Any + Send + Sync + fmt::Debug {
    /// Size in bytes.
    fn len(&self) -> usize;
    /// True when the size is zero.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A contiguous row-major array. Cloning shares the buffer; a shared buffer cannot be written.
#[derive(Clone)]
pub struct Tensor {
    buffer: Arc<dyn Buffer>,
    dtype: DType,
    shape: Shape,
    /// Elements before the first one of this tensor.
    offset: usize,
}

impl Tensor {
    /// A tensor that covers the start of `buffer`.
    ///
    /// # Errors
    /// [`Error::Length`] when the buffer is shorter than the shape; [`Error::Blocks`] when rows are not whole blocks of the type.
    pub fn new(buffer: Arc<dyn Buffer>, dtype: DType, shape: Shape) -> Result<Self> {
        let want = dtype.bytes_of(shape)?;
        if buffer.len() < want {
            return Err(Error::Length { got: buffer.len(), want });
        }
        Ok(Tensor { buffer, dtype, shape, offset: 0 })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The outermost dimension.
    pub fn n_rows(&self) -> usize {
        self.shape.rows()
    }

    /// Elements of one row.
    pub fn n_cols(&self) -> usize {
        self.shape.row_elements()
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.elements()
    }

    /// Rows `range` of the outermost dimension, sharing the buffer.
    ///
    /// # Errors
    /// [`Error::Rows`] when the range is not inside; [`Error::Blocks`] when a vector of a type with blocks is cut inside one.
    pub fn rows(&self, range: Range<usize>) -> Result<Tensor> {
        let Range { start, end } = range;
        if start > end || end > self.n_rows() || self.shape.dims().is_empty() {
            return Err(Error::Rows { start, end, shape: self.shape });
        }
        let mut view = self.clone();
        view.offset += start * self.n_cols();
        view.shape = self.shape.with_rows(end - start)?;
        // Rows of two dimensions and more are whole blocks; those of a vector are its elements.
        let (block, _) = self.dtype.block();
        if !view.offset.is_multiple_of(block) {
            return Err(Error::Blocks { dtype: self.dtype, elements: view.offset });
        }
        self.dtype.bytes_of(view.shape)?;
        Ok(view)
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::Length`] when the number of elements differs; [`Error::Blocks`] when rows would not be whole blocks of the type.
    pub fn reshape<S>(&self, shape: S) -> Result<Tensor>
    where
        S: TryInto<Shape>,
        Error: From<S::Error>,
    {
        let shape = shape.try_into()?;
        if shape.elements() != self.elements() {
            return Err(Error::Length { got: self.elements(), want: shape.elements() });
        }
        self.dtype.bytes_of(shape)?;
        Ok(Tensor { shape, ..self.clone() })
    }

    /// The buffer, for the backend that owns it.
    pub fn buffer(&self) -> &dyn Buffer {
        &*self.buffer
    }

    /// Whether another tensor shares the buffer: then it cannot be written.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.buffer) > 1
    }

    /// The buffer, to write.
    ///
    /// # Errors
    /// [`Error::Aliased`] when another tensor shares it.
    pub fn buffer_mut(&mut self) -> Result<&mut dyn Buffer> {
        match Arc::get_mut(&mut self.buffer) {
            Some(buffer) => Ok(buffer),
            None => Err(Error::Aliased),
        }
    }

    /// Where this tensor's elements lie in the buffer, in bytes.
    pub fn byte_range(&self) -> Range<usize> {
        self.dtype.bytes(self.offset)..self.dtype.bytes(self.offset + self.elements())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({} {})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostBuffer;

    #[test]
    fn views_of_views_start_where_they_should() {
        let values: Vec<f32> = (0..12u8).map(f32::from).collect();
        let x = HostBuffer::tensor_from_f32(&values, DType::F32, [6, 2]).unwrap();
        let y = x.rows(1..5).unwrap().rows(2..4).unwrap();
        assert_eq!(HostBuffer::to_f32(&y).unwrap(), [6.0, 7.0, 8.0, 9.0]);
        assert_eq!(HostBuffer::to_f32(&y.reshape([4]).unwrap()).unwrap(), [6.0, 7.0, 8.0, 9.0]);
        assert!(matches!(x.rows(5..7), Err(Error::Rows { .. })));
        assert!(x.reshape([5]).is_err());
    }

    #[test]
    fn views_of_blocks_are_whole_blocks() {
        let values: Vec<f32> = (0..192u8).map(f32::from).collect();
        for dtype in DType::QUANTISED {
            let x = HostBuffer::tensor_from_f32(&values, dtype, [3, 64]).unwrap();
            let all = HostBuffer::to_f32(&x).unwrap();
            let y = x.rows(1..3).unwrap().rows(1..2).unwrap();
            assert_eq!(y.byte_range(), 4 * dtype.block().1..6 * dtype.block().1);
            assert_eq!(HostBuffer::to_f32(&y).unwrap(), all[128..]);
            let vector = x.reshape([192]).unwrap();
            assert_eq!(HostBuffer::to_f32(&vector.rows(32..96).unwrap()).unwrap(), all[32..96]);
            for range in [1..33, 0..33, 16..16] {
                assert!(matches!(vector.rows(range), Err(Error::Blocks { .. })));
            }
            assert!(x.reshape([2, 96]).is_ok());
            assert_eq!(x.reshape([4, 48]).unwrap_err(), Error::Blocks { dtype, elements: 48 });
            let error = HostBuffer::tensor_from_f32(&values[..66], dtype, [2, 33]).unwrap_err();
            assert_eq!(error, Error::Blocks { dtype, elements: 33 });
            assert!(HostBuffer::tensor_zeroed(dtype, [5, 0]).is_ok());
            assert!(HostBuffer::tensor_zeroed(dtype, Shape::new(&[]).unwrap()).is_err());
        }
    }
}
