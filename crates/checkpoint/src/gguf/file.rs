//! One GGUF file.
use super::{
    header::{self, Header, Item},
    value::{Array, Value},
};
use crate::{
    Error, Limits, Result, TensorInfo, TensorSource,
    map::Map,
    source::{copied, floats},
};
use paring_tensor::{DType, HostBuffer, Tensor};
use std::path::Path;

/// What can be read as numbers; for messages.
const READABLE: &str = "F32, F16, BF16, F64, Q8_0, Q4_0 or Q4_1; convert the model to one of them";

/// A mapped GGUF whose header passed all checks.
///
/// Names and shapes are those of the file, with the dimensions turned round: outermost first.
#[derive(Debug)]
pub struct Gguf {
    map: Map,
    header: Header,
}

impl Gguf {
    /// Opens the file at `path`: maps it, reads all metadata and checks the header. No tensor is read yet.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::NotAFile`]; for a file that is not what it should be [`Error::PastEnd`], [`Error::Limit`],
    /// [`Error::Overflow`], [`Error::Malformed`], [`Error::Unsupported`] (versions other than 2 and 3, big-endian),
    /// [`Error::Duplicate`], [`Error::KeyType`].
    pub fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let map = Map::open(path)?;
        let header = header::parse(path, map.bytes(), limits)?;
        Ok(Gguf { map, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The version of the format: 2 or 3.
    pub fn version(&self) -> u32 {
        self.header.version
    }

    /// All metadata, sorted by key.
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.header.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The value of a metadata key, whatever its type.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.header.metadata.get(key)
    }

    /// Whether there is such a metadata key.
    pub fn contains_key(&self, key: &str) -> bool {
        self.header.metadata.contains_key(key)
    }

    /// A string. So for this and all other getters:
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::KeyType`].
    pub fn get_str(&self, key: &str) -> Result<&str> {
        let want = "a string";
        match self.need(key, want)? {
            Value::Str(s) => Ok(s),
            other => Err(self.other_type(key, want, other.type_name())),
        }
    }

    /// An integer of any type whose value is that of a u32.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::KeyType`].
    pub fn get_u32(&self, key: &str) -> Result<u32> {
        let want = "an integer from 0 to 4294967295";
        let value = self.need(key, want)?;
        let n = value.integer().ok_or_else(|| self.other_type(key, want, value.type_name()))?;
        u32::try_from(n).map_err(|_| self.other_type(key, want, n))
    }

    /// An f32, or an f64 that is rounded.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::KeyType`].
    pub fn get_f32(&self, key: &str) -> Result<f32> {
        let want = "an f32";
        match self.need(key, want)? {
            Value::F32(v) => Ok(*v),
            Value::F64(v) => Ok(*v as f32),
            other => Err(self.other_type(key, want, other.type_name())),
        }
    }

    /// A bool.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::KeyType`].
    pub fn get_bool(&self, key: &str) -> Result<bool> {
        let want = "a bool";
        match self.need(key, want)? {
            Value::Bool(v) => Ok(*v),
            other => Err(self.other_type(key, want, other.type_name())),
        }
    }

    /// A list of strings.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::KeyType`].
    pub fn get_str_array(&self, key: &str) -> Result<Vec<&str>> {
        let want = "an array of strings";
        match self.need(key, want)? {
            Value::Array(Array::Str(strings)) => Ok(strings.iter().collect()),
            other => Err(self.other_type(key, want, other.type_name())),
        }
    }

    /// A list of integers of any type whose values are those of i32.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::KeyType`].
    pub fn get_i32_array(&self, key: &str) -> Result<Vec<i32>> {
        self.integers(key, "an array of integers from -2147483648 to 2147483647")
    }

    /// A list of integers of any type whose values are those of u32.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::KeyType`].
    pub fn get_u32_array(&self, key: &str) -> Result<Vec<u32>> {
        self.integers(key, "an array of integers from 0 to 4294967295")
    }

    /// A list of f32, or of f64 that are rounded.
    ///
    /// # Errors
    /// [`Error::MissingKey`], [`Error::KeyType`].
    pub fn get_f32_array(&self, key: &str) -> Result<Vec<f32>> {
        let want = "an array of f32";
        match self.need(key, want)? {
            Value::Array(Array::F32(v)) => Ok(v.clone()),
            Value::Array(Array::F64(v)) => Ok(v.iter().map(|&v| v as f32).collect()),
            other => Err(self.other_type(key, want, other.type_name())),
        }
    }

    /// The bytes of a tensor as they are in the file: blocks, for the types that have them.
    ///
    /// # Errors
    /// [`Error::MissingTensor`], [`Error::Changed`].
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(self.item(name)?.1)
    }

    fn integers<T: TryFrom<i128>>(&self, key: &str, want: &'static str) -> Result<Vec<T>> {
        let value = self.need(key, want)?;
        let integers = match value {
            Value::Array(array) => array.integers(),
            _ => None,
        };
        let integers = integers.ok_or_else(|| self.other_type(key, want, value.type_name()))?;
        integers.map_err(|n| self.other_type(key, want, format_args!("an array that holds {n}")))
    }

    fn need(&self, key: &str, want: &'static str) -> Result<&Value> {
        self.get(key).ok_or_else(|| Error::MissingKey { path: self.path().into(), key: key.into(), want })
    }

    fn other_type(&self, key: &str, want: &'static str, got: impl ToString) -> Error {
        Error::KeyType { path: self.path().into(), key: key.into(), want, got: got.to_string() }
    }

    fn item(&self, name: &str) -> Result<(&Item, &[u8])> {
        let missing = || Error::MissingTensor { path: self.path().into(), tensor: name.into() };
        let item = self.header.tensors.get(name).ok_or_else(missing)?;
        self.map.check_length()?;
        Ok((item, &self.map.bytes()[item.range.clone()]))
    }
}

impl TensorSource for Gguf {
    fn names(&self) -> Vec<String> {
        self.header.tensors.keys().cloned().collect()
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        let Item { storage, shape, range } = self.header.tensors.get(name)?;
        let bytes = range.len() as u64;
        Some(TensorInfo { shape: shape.clone(), storage: *storage, file: self.path().into(), bytes })
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let (item, bytes) = self.item(name)?;
        let not_read = || {
            let (path, tensor, got) = (self.path().into(), name.into(), item.storage.to_string());
            Error::Storage { path, tensor, got, want: READABLE.into() }
        };
        let values = floats(bytes, item.storage).ok_or_else(not_read)?;
        values.map_err(|source| Error::Tensor { path: self.path().into(), tensor: name.into(), source })
    }

    fn read_tensor(&self, name: &str, dtype: DType) -> Result<Tensor> {
        let (item, bytes) = self.item(name)?;
        let tensor = if item.storage.dtype() == Some(dtype) {
            copied(bytes, dtype, &item.shape)
        } else {
            HostBuffer::tensor_from_f32(&self.read_f32(name)?, dtype, item.shape.as_slice())
        };
        tensor.map_err(|source| Error::Tensor { path: self.path().into(), tensor: name.into(), source })
    }
}
