//! Host memory for tensors: aligned to a cache line, zeroed, owned; shared by every backend that computes on the host.
use crate::{Buffer, DType, Error, Result, Shape, Tensor, from_f32, to_f32};
use half::{bf16, f16};
use std::any::Any;

/// One cache line. A `Vec` of these is aligned memory without `unsafe`.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes in host memory, aligned to 64.
#[derive(Debug)]
pub struct HostBuffer {
    lines: Vec<Line>,
    len: usize,
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

// No `unsafe` here: `Line` is plain bytes, and bytemuck checks size and alignment of each cast.
impl HostBuffer {
    /// Zeroed memory of `len` bytes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when the allocator refuses.
    pub fn zeroed(len: usize) -> Result<Self> {
        let count = len.div_ceil(64);
        let mut lines = Vec::new();
        lines.try_reserve_exact(count).map_err(|_| Error::OutOfMemory { bytes: len })?;
        lines.resize(count, Line([0; 64]));
        Ok(HostBuffer { lines, len })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // `Line` is `[u8; 64]`, so flattening keeps the alignment of the allocation.
        let (head, _) = self.lines_as_bytes().split_at(self.len);
        head
    }

    /// The bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut bytemuck::cast_slice_mut::<Line, u8>(&mut self.lines)[..len]
    }

    fn lines_as_bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.lines)
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
        Tensor::new(std::sync::Arc::new(HostBuffer::zeroed(shape.elements() * dtype.size())?), dtype, shape)
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
        if values.len() != shape.elements() {
            return Err(Error::Length { got: values.len(), want: shape.elements() });
        }
        let mut buffer = HostBuffer::zeroed(shape.elements() * dtype.size())?;
        match dtype {
            DType::F32 => buffer.bytes_mut().copy_from_slice(bytemuck::cast_slice(values)),
            _ => buffer.bytes_mut().copy_from_slice(&from_f32(values, dtype)),
        }
        Tensor::new(std::sync::Arc::new(buffer), dtype, shape)
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
    /// [`Error::ForeignBuffer`].
    pub fn tensor_bytes(tensor: &Tensor) -> Result<&[u8]> {
        let any: &dyn Any = tensor.buffer();
        let buffer = any.downcast_ref::<HostBuffer>().ok_or(Error::ForeignBuffer)?;
        Ok(&buffer.bytes()[tensor.byte_range()])
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

    /// The elements of a tensor in host memory, to write.
    ///
    /// # Errors
    /// [`Error::ForeignBuffer`], [`Error::DType`], or [`Error::Aliased`] when the buffer is shared.
    pub fn slice_mut<E: Element>(tensor: &mut Tensor) -> Result<&mut [E]> {
        if tensor.dtype() != E::DTYPE {
            return Err(Error::DType { got: tensor.dtype(), want: E::DTYPE });
        }
        let range = tensor.byte_range();
        let any: &mut dyn Any = tensor.buffer_mut()?;
        let buffer = any.downcast_mut::<HostBuffer>().ok_or(Error::ForeignBuffer)?;
        Ok(bytemuck::cast_slice_mut(&mut buffer.bytes_mut()[range]))
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
