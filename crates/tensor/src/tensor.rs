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

/// A row-major array, contiguous but for [`Tensor::first_columns`]. Cloning shares the buffer; a shared buffer cannot be written.
#[derive(Clone)]
pub struct Tensor {
    buffer: Arc<dyn Buffer>,
    dtype: DType,
    shape: Shape,
    /// Elements before the first one of this tensor.
    offset: usize,
    /// Elements from the beginning of one row to that of the next; more than a row has in a view of first columns.
    row_stride: usize,
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
        Ok(Tensor { buffer, dtype, shape, offset: 0, row_stride: shape.row_elements() })
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
        view.offset += start * self.row_stride;
        view.shape = self.shape.with_rows(end - start)?;
        // Rows of two dimensions and more are whole blocks; those of a vector are its elements.
        let (block, _) = self.dtype.block();
        if !view.offset.is_multiple_of(block) {
            return Err(Error::Blocks { dtype: self.dtype, elements: view.offset });
        }
        self.dtype.bytes_of(view.shape)?;
        Ok(view)
    }

    /// The first `columns` of every row of a matrix, sharing the buffer: a weight with fewer inputs, a table of narrower rows. Such a view
    /// is not contiguous, and only the weight of a product and the table of an embedding may be one.
    ///
    /// # Errors
    /// [`Error::Columns`] when there are not so many, or the tensor is no matrix, or of a type that is stored in blocks.
    pub fn first_columns(&self, columns: usize) -> Result<Tensor> {
        if self.shape.dims().len() != 2 || self.n_cols() < columns || self.dtype.is_quantised() {
            return Err(Error::Columns { columns, dtype: self.dtype, shape: self.shape });
        }
        let shape = Shape::new(&[self.n_rows(), columns])?;
        Ok(Tensor { shape, ..self.clone() })
    }

    /// Whether the elements lie one after the other, without gaps between rows.
    pub fn is_contiguous(&self) -> bool {
        self.row_stride == self.n_cols() || self.n_rows() <= 1
    }

    /// Elements from the beginning of one row to that of the next.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Error::Strided`] for a view of columns; [`Error::Length`] when the number of elements differs; [`Error::Blocks`] when rows would not be whole blocks of the type.
    pub fn reshape<S>(&self, shape: S) -> Result<Tensor>
    where
        S: TryInto<Shape>,
        Error: From<S::Error>,
    {
        let shape = shape.try_into()?;
        if !self.is_contiguous() {
            return Err(Error::Strided { shape: self.shape });
        }
        if shape.elements() != self.elements() {
            return Err(Error::Length { got: self.elements(), want: shape.elements() });
        }
        self.dtype.bytes_of(shape)?;
        Ok(Tensor { shape, row_stride: shape.row_elements(), ..self.clone() })
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

    /// Where this tensor's elements lie in the buffer, in bytes; with those between its rows if it is a view of columns.
    pub fn byte_range(&self) -> Range<usize> {
        let elements = match self.is_contiguous() || self.elements() == 0 {
            true => self.elements(),
            false => (self.n_rows() - 1) * self.row_stride + self.n_cols(),
        };
        self.dtype.bytes(self.offset)..self.dtype.bytes(self.offset + elements)
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
    fn views_of_columns_skip_the_rest_of_every_row() {
        let values: Vec<f32> = (0..12u8).map(f32::from).collect();
        for dtype in [DType::F32, DType::BF16] {
            let x = HostBuffer::tensor_from_f32(&values, dtype, [3, 4]).unwrap();
            let y = x.first_columns(3).unwrap();
            assert!(!y.is_contiguous() && (y.row_stride(), y.n_cols(), y.elements()) == (4, 3, 9));
            assert_eq!(y.byte_range(), 0..dtype.bytes(11));
            assert_eq!(HostBuffer::gather_f32(&y).unwrap(), [0.0, 1.0, 2.0, 4.0, 5.0, 6.0, 8.0, 9.0, 10.0]);
            let z = y.rows(1..3).unwrap().first_columns(2).unwrap();
            assert_eq!(HostBuffer::gather_f32(&z).unwrap(), [4.0, 5.0, 8.0, 9.0]);
            let strided = Error::Strided { shape: y.shape() };
            assert_eq!(y.reshape([9]).unwrap_err(), strided);
            assert_eq!(HostBuffer::tensor_bytes(&y).unwrap_err(), strided);
            assert_eq!(HostBuffer::to_f32(&y).unwrap_err(), strided);
            // One row, or all columns: nothing lies between.
            assert_eq!(HostBuffer::to_f32(&y.rows(2..3).unwrap()).unwrap(), [8.0, 9.0, 10.0]);
            assert_eq!(HostBuffer::to_f32(&x.first_columns(4).unwrap()).unwrap(), values);
            assert!(HostBuffer::gather_f32(&x.first_columns(0).unwrap()).unwrap().is_empty());
            assert!(matches!(x.first_columns(5), Err(Error::Columns { .. })));
            assert!(matches!(x.reshape([12]).unwrap().first_columns(3), Err(Error::Columns { .. })));
        }
        // A view that is the only one left of its buffer cannot be written either: gaps are nobody's.
        let mut y = HostBuffer::tensor_from_f32(&values, DType::F32, [3, 4]).unwrap().first_columns(2).unwrap();
        assert!(matches!(HostBuffer::slice_mut::<f32>(&mut y), Err(Error::Strided { .. })));
        let blocks = HostBuffer::tensor_from_f32(&[1.0; 128], DType::Q8_0, [2, 64]).unwrap();
        assert!(matches!(blocks.first_columns(32), Err(Error::Columns { .. })));
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
