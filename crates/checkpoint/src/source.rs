//! What every reader of tensors can do, whatever the file is.
use crate::{Error, Result};
use paring_tensor::{DType, HostBuffer, Tensor};
use std::{fmt, path::PathBuf};

/// How the elements of a tensor lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StorageType {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of a binary32.
    BF16,
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary64.
    F64,
    /// Signed 64-bit integers.
    I64,
    /// Signed 32-bit integers.
    I32,
    /// Bytes.
    U8,
    /// ggml: blocks of 32, an f16 scale and 32 signed bytes.
    Q8_0,
    /// ggml: blocks of 32, an f16 scale and 32 times 4 bits around 8.
    Q4_0,
    /// ggml: blocks of 32, an f16 scale, an f16 minimum and 32 times 4 bits.
    Q4_1,
    /// A type that has a name and a size but is not read; naming it is all that can be done with it.
    Other(&'static str),
}

impl StorageType {
    /// Elements and bytes of one block: (1, size of an element) for types without blocks. `None` for [`StorageType::Other`].
    pub const fn block(self) -> Option<(usize, usize)> {
        Some(match self {
            StorageType::F64 | StorageType::I64 => (1, 8),
            StorageType::F32 | StorageType::I32 => (1, 4),
            StorageType::BF16 | StorageType::F16 => (1, 2),
            StorageType::U8 => (1, 1),
            StorageType::Q8_0 => (32, 34),
            StorageType::Q4_0 => (32, 18),
            StorageType::Q4_1 => (32, 20),
            StorageType::Other(_) => return None,
        })
    }

    /// The element type of a [`Tensor`] that holds the same bits.
    pub const fn dtype(self) -> Option<DType> {
        match self {
            StorageType::F32 => Some(DType::F32),
            StorageType::BF16 => Some(DType::BF16),
            StorageType::F16 => Some(DType::F16),
            StorageType::Q8_0 => Some(DType::Q8_0),
            StorageType::Q4_0 => Some(DType::Q4_0),
            StorageType::Q4_1 => Some(DType::Q4_1),
            _ => None,
        }
    }

    /// The name that formats and people use.
    pub const fn name(self) -> &'static str {
        match self {
            StorageType::F32 => "F32",
            StorageType::BF16 => "BF16",
            StorageType::F16 => "F16",
            StorageType::F64 => "F64",
            StorageType::I64 => "I64",
            StorageType::I32 => "I32",
            StorageType::U8 => "U8",
            StorageType::Q8_0 => "Q8_0",
            StorageType::Q4_0 => "Q4_0",
            StorageType::Q4_1 => "Q4_1",
            StorageType::Other(name) => name,
        }
    }
}

impl From<DType> for StorageType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => StorageType::F32,
            DType::BF16 => StorageType::BF16,
            DType::F16 => StorageType::F16,
            DType::Q8_0 => StorageType::Q8_0,
            DType::Q4_0 => StorageType::Q4_0,
            DType::Q4_1 => StorageType::Q4_1,
        }
    }
}

impl fmt::Display for StorageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a header says about a tensor. Already checked: the bytes are in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Dimensions, outermost first, whatever the order in the file.
    pub shape: Vec<usize>,
    /// How it is stored.
    pub storage: StorageType,
    /// The file that it is in.
    pub file: PathBuf,
    /// Bytes in the file.
    pub bytes: u64,
}

/// A checkpoint's tensors by name.
pub trait TensorSource: Send + Sync {
    /// All names, sorted.
    fn names(&self) -> Vec<String>;

    /// What the header says about `name`; `None` when there is no such tensor.
    fn info(&self, name: &str) -> Option<TensorInfo>;

    /// The elements in row-major order as f32: exact for F32, BF16 and F16, rounded for F64, dequantised for ggml's blocks.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Storage`] for integers and types that are not read, [`Error::Changed`], [`Error::Read`],
    /// [`Error::Tensor`] when memory is short.
    fn read_f32(&self, name: &str) -> Result<Vec<f32>>;

    /// The tensor in host memory, rounded to `dtype`. Files that store `dtype` are copied without a detour, blocks among them.
    ///
    /// # Errors
    /// Those of [`TensorSource::read_f32`], and [`Error::Tensor`] for more dimensions than a [`Tensor`] has, or rows that are not whole
    /// blocks of `dtype`.
    fn read_tensor(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let values = self.read_f32(name)?;
        let info = self.info(name).ok_or_else(|| missing(self, name))?;
        HostBuffer::tensor_from_f32(&values, dtype, info.shape.as_slice()).map_err(|source| Error::Tensor {
            path: info.file,
            tensor: name.into(),
            source,
        })
    }

    /// [`TensorSource::read_f32`], and every element is finite.
    ///
    /// # Errors
    /// [`Error::NonFinite`], else those of [`TensorSource::read_f32`].
    fn read_checked(&self, name: &str) -> Result<Vec<f32>> {
        let values = self.read_f32(name)?;
        check_finite(self, name, &values)?;
        Ok(values)
    }

    /// [`TensorSource::read_tensor`], and every element is finite, after the rounding too: an f32 of 1e6 is no f16.
    ///
    /// # Errors
    /// [`Error::NonFinite`], else those of [`TensorSource::read_tensor`].
    fn read_tensor_checked(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let tensor = self.read_tensor(name, dtype)?;
        let values = HostBuffer::to_f32(&tensor);
        let file = || self.info(name).map(|i| i.file).unwrap_or_default();
        let values = values.map_err(|source| Error::Tensor { path: file(), tensor: name.into(), source })?;
        check_finite(self, name, &values)?;
        Ok(tensor)
    }
}

fn missing<S: TensorSource + ?Sized>(source: &S, name: &str) -> Error {
    // Any tensor's file says which checkpoint this is.
    let path = source.names().first().and_then(|n| source.info(n)).map(|i| i.file).unwrap_or_default();
    Error::MissingTensor { path, tensor: name.into() }
}

fn check_finite<S: TensorSource + ?Sized>(source: &S, name: &str, values: &[f32]) -> Result<()> {
    match values.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(index) => {
            let path = source.info(name).map(|i| i.file).unwrap_or_default();
            Err(Error::NonFinite { path, tensor: name.into(), index, value: values[index] })
        }
    }
}

/// An empty vector with room for `n` elements, or the error that memory is short.
pub(crate) fn room<T>(n: usize) -> std::result::Result<Vec<T>, paring_tensor::Error> {
    let mut out = Vec::new();
    let bytes = n.saturating_mul(size_of::<T>());
    out.try_reserve_exact(n).map_err(|_| paring_tensor::Error::OutOfMemory { bytes })?;
    Ok(out)
}

/// Little-endian `bytes` as f32; `None` for types that are no floats.
pub(crate) fn floats(
    bytes: &[u8],
    storage: StorageType,
) -> Option<std::result::Result<Vec<f32>, paring_tensor::Error>> {
    use half::{bf16, f16};
    use paring_tensor::block::{dequantize_q4_0, dequantize_q4_1, dequantize_q8_0};
    let (len, size) = storage.block()?;
    let mut out = match room(bytes.len() / size * len) {
        Ok(out) => out,
        Err(e) => return Some(Err(e)),
    };
    match storage {
        StorageType::F32 => out.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
        StorageType::BF16 => out.extend(bytes.as_chunks().0.iter().map(|&b| bf16::from_le_bytes(b).to_f32())),
        StorageType::F16 => out.extend(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
        StorageType::F64 => out.extend(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
        StorageType::Q8_0 => out.extend(bytes.as_chunks().0.iter().flat_map(dequantize_q8_0)),
        StorageType::Q4_0 => out.extend(bytes.as_chunks().0.iter().flat_map(dequantize_q4_0)),
        StorageType::Q4_1 => out.extend(bytes.as_chunks().0.iter().flat_map(dequantize_q4_1)),
        _ => return None,
    }
    Some(Ok(out))
}

/// `bytes` that are little-endian elements or blocks of `dtype`, copied into a tensor.
pub(crate) fn copied(bytes: &[u8], dtype: DType, shape: &[usize]) -> std::result::Result<Tensor, paring_tensor::Error> {
    let shape = paring_tensor::Shape::new(shape)?;
    HostBuffer::zeroed(bytes.len())?.into_tensor_of(bytes, dtype, shape)
}
