//! One safetensors file.
use super::header::{self, Header, Item};
use crate::{
    Error, Limits, Result, StorageType, TensorInfo, TensorSource,
    map::Map,
    source::{copied, floats, room},
};
use paring_tensor::{DType, HostBuffer, Tensor};
use std::{collections::BTreeMap, path::Path};

/// A mapped safetensors file whose header passed all checks.
#[derive(Debug)]
pub struct SafetensorsFile {
    map: Map,
    header: Header,
}

impl SafetensorsFile {
    /// Opens the file at `path` under the default [`Limits`].
    ///
    /// # Errors
    /// Those of [`SafetensorsFile::open_with`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, &Limits::default())
    }

    /// Opens the file at `path`: maps it and checks the header. No tensor is read yet.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::NotAFile`]; for a file that is not what it should be [`Error::PastEnd`], [`Error::Limit`],
    /// [`Error::Overflow`], [`Error::Malformed`], [`Error::Duplicate`].
    pub fn open_with(path: &Path, limits: &Limits) -> Result<Self> {
        let map = Map::open(path)?;
        let header = header::parse(path, map.bytes(), limits)?;
        Ok(SafetensorsFile { map, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The strings under `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// The bytes of a tensor as they are in the file, little-endian and of any alignment.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Changed`].
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(self.item(name)?.1)
    }

    /// The elements of an I64, I32 or U8 tensor.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Storage`], [`Error::Changed`], [`Error::Tensor`] when memory is short.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let (item, bytes) = self.item(name)?;
        let memory = |source| Error::Tensor { path: self.path().into(), tensor: name.into(), source };
        let mut out = room(item.shape.iter().product()).map_err(memory)?;
        match item.storage {
            StorageType::I64 => out.extend(bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b))),
            StorageType::I32 => out.extend(bytes.as_chunks().0.iter().map(|&b| i64::from(i32::from_le_bytes(b)))),
            StorageType::U8 => out.extend(bytes.iter().map(|&b| i64::from(b))),
            got => return Err(self.storage(name, got, "I64, I32 or U8")),
        }
        Ok(out)
    }

    pub(crate) fn tensor_names(&self) -> impl Iterator<Item = &String> {
        self.header.tensors.keys()
    }

    fn item(&self, name: &str) -> Result<(&Item, &[u8])> {
        let missing = || Error::MissingTensor { path: self.path().into(), tensor: name.into() };
        let item = self.header.tensors.get(name).ok_or_else(missing)?;
        self.map.check_length()?;
        Ok((item, &self.map.bytes()[item.range.clone()]))
    }

    fn storage(&self, name: &str, got: StorageType, want: &str) -> Error {
        Error::Storage { path: self.path().into(), tensor: name.into(), got: got.to_string(), want: want.into() }
    }
}

impl TensorSource for SafetensorsFile {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.header.tensors.keys().cloned().collect();
        names.sort();
        names
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let Item { storage, shape, range } = self.header.tensors.get(name)?;
        let bytes = range.len() as u64;
        Some(TensorInfo { shape: shape.clone(), storage: *storage, file: self.path().into(), bytes })
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let (item, bytes) = self.item(name)?;
        let values =
            floats(bytes, item.storage).ok_or_else(|| self.storage(name, item.storage, "F32, BF16, F16 or F64"))?;
        self.map.forget(&item.range);
        values.map_err(|source| Error::Tensor { path: self.path().into(), tensor: name.into(), source })
    }

    fn read_tensor(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let (item, bytes) = self.item(name)?;
        let tensor = if item.storage.dtype() == Some(dtype) {
            let tensor = copied(bytes, dtype, &item.shape);
            self.map.forget(&item.range);
            tensor
        } else {
            HostBuffer::tensor_from_f32(&self.read_f32(name)?, dtype, item.shape.as_slice())
        };
        tensor.map_err(|source| Error::Tensor { path: self.path().into(), tensor: name.into(), source })
    }
}
