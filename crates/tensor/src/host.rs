//! Host memory for tensors: aligned to a cache line, initialised, owned; shared by every backend that computes on the host.
use crate::{Buffer, DType, Error, Result, Shape, Tensor, from_f32, pool::Shelf, to_f32};
use bytes::{Bytes, BytesMut};
use half::{bf16, f16};
use std::{
    any::Any,
    fmt,
    sync::{OnceLock, Weak},
};

/// A cache line: what buffers are aligned to, and of how many bytes they are a multiple.
const LINE: usize = 64;

/// Initialised memory, a whole number of cache lines: all that the system gave at once, or a part of it.
#[derive(Default)]
pub(crate) struct Block {
    bytes: BytesMut,
    /// Where the first line of the whole is, and how long it is. Two wholes that are alive have no line in common.
    whole: (usize, usize),
}

// No `unsafe` here: alignment is a matter of where in a longer vector the block starts, and bytemuck checks every cast. A vector of aligned
// lines would do as well, but the allocator zeroes those by hand, where it gets bytes from the system as pages that are zero already.
impl Block {
    /// The capacity of a block for `len` bytes; `None` when there is no such number.
    pub(crate) fn capacity_for(len: usize) -> Option<usize> {
        len.checked_next_multiple_of(LINE)
    }

    /// Zeroed memory; `None` when the allocator refuses.
    pub(crate) fn zeroed(capacity: usize) -> Option<Block> {
        let bytes: Vec<u8> = bytemuck::allocation::try_zeroed_vec(capacity.checked_add(LINE - 1)?).ok()?;
        // Neither conversion copies: nobody shares the vector.
        let mut bytes = BytesMut::from(Bytes::from(bytes));
        let start = (bytes.as_ptr() as usize).wrapping_neg() % LINE;
        let mut bytes = bytes.split_off(start);
        bytes.truncate(capacity);
        let whole = (bytes.as_ptr() as usize, capacity);
        Some(Block { bytes, whole })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Where it lies.
    pub(crate) fn start(&self) -> usize {
        self.bytes.as_ptr() as usize
    }

    /// Whether it is all that the system gave at once: then dropping it gives that back.
    pub(crate) fn is_whole(&self) -> bool {
        self.whole == (self.start(), self.capacity())
    }

    /// Keeps the first `capacity` bytes, whole lines, and returns the rest.
    pub(crate) fn split_off(&mut self, capacity: usize) -> Block {
        Block { bytes: self.bytes.split_off(capacity), whole: self.whole }
    }

    /// Whether `next` begins where this ends, in the same whole.
    pub(crate) fn continues_in(&self, next: &Block) -> bool {
        self.whole == next.whole && self.start() + self.capacity() == next.start()
    }

    /// Undoes [`Block::split_off`].
    pub(crate) fn join(&mut self, next: Block) {
        debug_assert!(self.continues_in(&next), "joining would copy");
        self.bytes.unsplit(next.bytes);
    }
}

/// Bytes in host memory, aligned to 64.
pub struct HostBuffer {
    block: Block,
    len: usize,
    /// The pool that gets the block when this is dropped.
    home: Weak<Shelf>,
    /// What a backend made of the bytes and wants to find again; writing drops it.
    derived: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl fmt::Debug for HostBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostBuffer({} bytes)", self.len)
    }
}

impl Drop for HostBuffer {
    fn drop(&mut self) {
        Shelf::put_back(&self.home, std::mem::take(&mut self.block));
    }
}

/// A Rust type that is the element type of some tensors.
pub trait Element: bytemuck::Pod {
    /// The matching [`DType`].
    const DTYPE: DType;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}

impl HostBuffer {
    /// Zeroed memory of `len` bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the allocator refuses.
    pub fn zeroed(len: usize) -> Result<Self> {
        let block = Block::capacity_for(len).and_then(Block::zeroed).ok_or(Error::OutOfMemory { bytes: len })?;
        Ok(HostBuffer { block, len, home: Weak::new(), derived: OnceLock::new() })
    }

    /// `len` bytes of a block that returns to `home`.
    pub(crate) fn lent(block: Block, len: usize, home: Weak<Shelf>) -> Self {
        debug_assert!(len <= block.capacity());
        HostBuffer { block, len, home, derived: OnceLock::new() }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.block.bytes[..self.len]
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.derived.take();
        &mut self.block.bytes[..self.len]
    }

    /// What [`HostBuffer::derive`] left with the tensor, if it is a `T` and nothing was written since.
    pub fn derived<T: Any>(tensor: &Tensor) -> Option<&T> {
        let host = (tensor.buffer() as &dyn Any).downcast_ref::<HostBuffer>()?;
        host.derived.get().filter(|_| tensor.byte_range() == (0..host.len))?.downcast_ref()
    }

    /// Leaves with the tensor's bytes what was made of them, as a weight in another order, until they are written or dropped. The first
    /// one stays; a tensor that is a part of its buffer keeps nothing.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`] when the tensor is not in host memory.
    pub fn derive<T: Any + Send + Sync>(tensor: &Tensor, value: T) -> Result<()> {
        let buffer: &dyn Any = tensor.buffer();
        let host = buffer.downcast_ref::<HostBuffer>().ok_or(Error::ForeignBuffer)?;
        if tensor.byte_range() == (0..host.len) {
            let _ = host.derived.set(Box::new(value));
        }
        Ok(())
    }

    /// A zeroed tensor in host memory.
    ///
    /// # Errors
    /// Those of [`Shape::new`] and [`HostBuffer::zeroed`].
    pub fn tensor_zeroed<S>(dtype: DType, shape: S) -> Result<Tensor>
    where
        S: TryInto<Shape>,
        Error: From<S::Error>,
    {
        let shape = shape.try_into()?;
        Tensor::new(std::sync::Arc::new(HostBuffer::zeroed(dtype.bytes_of(shape)?)?), dtype, shape)
    }

    /// A tensor in host memory with `values` rounded to `dtype`.
    ///
    /// # Errors
    /// [`Error::Length`] when the number of values is not the shape's, else those of [`HostBuffer::tensor_zeroed`].
    pub fn tensor_from_f32<S>(values: &[f32], dtype: DType, shape: S) -> Result<Tensor>
    where
        S: TryInto<Shape>,
        Error: From<S::Error>,
    {
        let shape = shape.try_into()?;
        HostBuffer::zeroed(dtype.bytes_of(shape)?)?.into_tensor(values, dtype, shape)
    }

    /// A tensor in this memory with `values` rounded to `dtype`.
    ///
    /// # Errors
    /// [`Error::Length`] when the number of values is not the shape's, or when this memory is not the shape's size.
    pub fn into_tensor(mut self, values: &[f32], dtype: DType, shape: Shape) -> Result<Tensor> {
        if values.len() != shape.elements() {
            return Err(Error::Length { got: values.len(), want: shape.elements() });
        }
        let (got, want) = (self.len, dtype.bytes_of(shape)?);
        if got != want {
            return Err(Error::Length { got, want });
        }
        match dtype {
            DType::F32 => self.bytes_mut().copy_from_slice(bytemuck::cast_slice(values)),
            _ => self.bytes_mut().copy_from_slice(&from_f32(values, dtype)),
        }
        Tensor::new(std::sync::Arc::new(self), dtype, shape)
    }

    /// A tensor in this memory whose elements are the little-endian `bytes`, bit for bit.
    ///
    /// # Errors
    /// [`Error::Length`] when `bytes`, or this memory, are not of the shape's size; [`Error::Blocks`].
    pub fn into_tensor_of(mut self, bytes: &[u8], dtype: DType, shape: Shape) -> Result<Tensor> {
        let want = dtype.bytes_of(shape)?;
        for got in [bytes.len(), self.len] {
            if got != want {
                return Err(Error::Length { got, want });
            }
        }
        self.bytes_mut().copy_from_slice(bytes);
        Tensor::new(std::sync::Arc::new(self), dtype, shape)
    }

    /// The tensor's values as f32.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`] when the tensor is not in host memory.
    pub fn to_f32(tensor: &Tensor) -> Result<Vec<f32>> {
        Ok(match tensor.dtype() {
            DType::F32 => HostBuffer::slice::<f32>(tensor)?.to_vec(),
            dtype => to_f32(HostBuffer::tensor_bytes(tensor)?, dtype),
        })
    }

    /// The bytes of a tensor in host memory.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`], or [`Error::Strided`] for a view of columns.
    pub fn tensor_bytes(tensor: &Tensor) -> Result<&[u8]> {
        if !tensor.is_contiguous() {
            return Err(Error::Strided { shape: tensor.shape() });
        }
        HostBuffer::spanned_bytes(tensor)
    }

    /// As [`HostBuffer::tensor_bytes`], with the bytes between rows if the tensor is a view of columns.
    fn spanned_bytes(tensor: &Tensor) -> Result<&[u8]> {
        let any: &dyn Any = tensor.buffer();
        let buffer = any.downcast_ref::<HostBuffer>().ok_or(Error::ForeignBuffer)?;
        Ok(&buffer.bytes()[tensor.byte_range()])
    }

    /// The bytes of a tensor in host memory, to write.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`], [`Error::Strided`] for a view of columns, or [`Error::Aliased`] when the buffer is shared.
    pub fn tensor_bytes_mut(tensor: &mut Tensor) -> Result<&mut [u8]> {
        if !tensor.is_contiguous() {
            return Err(Error::Strided { shape: tensor.shape() });
        }
        let range = tensor.byte_range();
        let any: &mut dyn Any = tensor.buffer_mut()?;
        let buffer = any.downcast_mut::<HostBuffer>().ok_or(Error::ForeignBuffer)?;
        Ok(&mut buffer.bytes_mut()[range])
    }

    /// The elements of a tensor in host memory.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`] or [`Error::DType`].
    pub fn slice<E: Element>(tensor: &Tensor) -> Result<&[E]> {
        if tensor.dtype() != E::DTYPE {
            return Err(Error::DType { got: tensor.dtype(), want: E::DTYPE });
        }
        Ok(bytemuck::cast_slice(HostBuffer::tensor_bytes(tensor)?))
    }

    /// The elements of a matrix in host memory, of which rows begin [`Tensor::row_stride`] apart: of a view of columns as well.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`] or [`Error::DType`].
    pub fn strided<E: Element>(tensor: &Tensor) -> Result<&[E]> {
        if tensor.dtype() != E::DTYPE {
            return Err(Error::DType { got: tensor.dtype(), want: E::DTYPE });
        }
        Ok(bytemuck::cast_slice(HostBuffer::spanned_bytes(tensor)?))
    }

    /// The values of a tensor as f32, of a view of columns as well.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`].
    pub fn gather_f32(tensor: &Tensor) -> Result<Vec<f32>> {
        if tensor.is_contiguous() {
            return HostBuffer::to_f32(tensor);
        }
        let mut values = Vec::with_capacity(tensor.elements());
        for row in 0..tensor.n_rows() {
            values.extend(HostBuffer::to_f32(&tensor.rows(row..row + 1)?)?);
        }
        Ok(values)
    }

    /// The elements of a tensor in host memory, to write.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`], [`Error::DType`], or [`Error::Aliased`] when the buffer is shared.
    pub fn slice_mut<E: Element>(tensor: &mut Tensor) -> Result<&mut [E]> {
        if tensor.dtype() != E::DTYPE {
            return Err(Error::DType { got: tensor.dtype(), want: E::DTYPE });
        }
        Ok(bytemuck::cast_slice_mut(HostBuffer::tensor_bytes_mut(tensor)?))
    }
}

impl Buffer for HostBuffer {
    fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_zeroed_and_exactly_as_long_as_asked() {
        for len in [0, 1, 63, 64, 65, 1000] {
            let buffer = HostBuffer::zeroed(len).unwrap();
            assert_eq!(buffer.bytes().len(), len);
            assert!(buffer.bytes().iter().all(|&b| b == 0));
            assert_eq!(buffer.bytes().as_ptr() as usize % 64, 0);
        }
    }

    #[test]
    fn shared_buffers_cannot_be_written() {
        let mut x = HostBuffer::tensor_zeroed(DType::F32, [2, 2]).unwrap();
        HostBuffer::slice_mut::<f32>(&mut x).unwrap()[3] = 7.0;
        let copy = x.clone();
        assert_eq!(HostBuffer::slice_mut::<f32>(&mut x).unwrap_err(), Error::Aliased);
        drop(copy);
        assert_eq!(HostBuffer::slice_mut::<f32>(&mut x).unwrap()[3], 7.0);
        let wrong = HostBuffer::slice::<half::bf16>(&x).unwrap_err();
        assert_eq!(wrong, Error::DType { got: DType::F32, want: DType::BF16 });
    }

    #[test]
    fn an_impossible_allocation_is_an_error_and_not_an_abort() {
        let want = isize::MAX as usize / 2;
        assert_eq!(HostBuffer::zeroed(want).unwrap_err(), Error::OutOfMemory { bytes: want });
    }
}
