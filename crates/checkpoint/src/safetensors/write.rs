//! Writing one safetensors file, tensor after tensor: the header first, from what was announced, then the data, of which never more
//! than one tensor is in memory.
use crate::{
    Error, Result, StorageType,
    checked::{Bounds, Size},
};
use paring_tensor::{HostBuffer, Tensor};
use std::{
    collections::{BTreeMap, HashSet},
    io::Write,
    path::{Path, PathBuf},
};

/// Name, type and shape of a tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name.
    pub name: String,
    /// How it is stored. A safetensors file takes types without blocks: F32, BF16, F16, F64, I64, I32, U8.
    pub storage: StorageType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// `storage` may be a [`paring_tensor::DType`].
    pub fn new(name: impl Into<String>, storage: impl Into<StorageType>, shape: impl Into<Vec<usize>>) -> Self {
        TensorSpec { name: name.into(), storage: storage.into(), shape: shape.into() }
    }

    /// Bytes of the data; `path` is the file for the message.
    pub(crate) fn bytes(&self, path: &Path) -> Result<u64> {
        let Some((1, size)) = self.storage.block() else {
            return Err(announced(path, &self.name, format!("{} is no type of a safetensors file here", self.storage)));
        };
        let bounds = Bounds::new(path, 0);
        let dims = self.shape.iter().map(|&d| d as u64);
        let bytes = Size::product(dims).and_then(|n| n.times(size as u64));
        Ok(bounds.fits(format_args!("the size of tensor `{}`", self.name), bytes)?.get())
    }
}

fn announced(path: &Path, name: &str, problem: String) -> Error {
    Error::Announced { path: path.into(), name: name.into(), problem }
}

/// Writes a safetensors file to any writer.
#[derive(Debug)]
pub struct SafetensorsWriter<W: Write> {
    writer: W,
    path: PathBuf,
    specs: Vec<TensorSpec>,
    next: usize,
}

impl<W: Write> SafetensorsWriter<W> {
    /// Writes the header: the tensors in the order given, and `metadata`, to which `"format": "pt"` is added when it says nothing about
    /// the format (Transformers refuses files without). `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Announced`] for a name that appears twice or a type with blocks, [`Error::Overflow`], [`Error::Write`].
    pub fn new(mut writer: W, path: &Path, specs: &[TensorSpec], metadata: &BTreeMap<String, String>) -> Result<Self> {
        let header = header(path, specs, metadata)?;
        let len = (header.len() as u64).to_le_bytes();
        let written = writer.write_all(&len).and_then(|()| writer.write_all(&header));
        written.map_err(|source| Error::Write { path: path.into(), action: "write the header", source })?;
        Ok(SafetensorsWriter { writer, path: path.into(), specs: specs.into(), next: 0 })
    }

    /// Writes the next tensor, which is in host memory and of the type and shape announced.
    ///
    /// # Errors
    /// [`Error::Announced`] when another one is next or type or shape differ, [`Error::Tensor`] when it is not in host memory,
    /// [`Error::Write`].
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        let spec = self.expect(name)?;
        let (storage, shape) = (StorageType::from(tensor.dtype()), tensor.shape());
        if storage != spec.storage || shape.dims() != spec.shape {
            let problem = format!("is {storage} {shape}, but {} {:?} was announced", spec.storage, spec.shape);
            return Err(announced(&self.path, name, problem));
        }
        let bytes = HostBuffer::tensor_bytes(tensor);
        let bytes = bytes.map_err(|source| Error::Tensor { path: self.path.clone(), tensor: name.into(), source })?;
        self.bytes(name, bytes)
    }

    /// Writes the next tensor from its little-endian bytes.
    ///
    /// # Errors
    /// [`Error::Announced`] when another one is next or the length differs, [`Error::Write`].
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let want = self.expect(name)?.bytes(&self.path)?;
        if bytes.len() as u64 != want {
            return Err(announced(&self.path, name, format!("has {} bytes, but {want} were announced", bytes.len())));
        }
        let write = |source| Error::Write { path: self.path.clone(), action: "write", source };
        self.writer.write_all(bytes).map_err(write)?;
        self.next += 1;
        Ok(())
    }

    /// Gives the writer back, to be flushed and synced by whoever made it.
    ///
    /// # Errors
    /// [`Error::Announced`] when a tensor is missing.
    pub fn finish(self) -> Result<W> {
        match self.specs.get(self.next) {
            None => Ok(self.writer),
            Some(spec) => Err(announced(&self.path, &spec.name, "was announced but not written".into())),
        }
    }

    fn expect(&self, name: &str) -> Result<&TensorSpec> {
        let problem = match self.specs.get(self.next) {
            Some(spec) if spec.name == name => return Ok(spec),
            Some(spec) => format!("`{}` is next", spec.name),
            None => "all tensors that were announced are written".into(),
        };
        Err(announced(&self.path, name, problem))
    }
}

/// The header as JSON, padded with spaces to a multiple of 8 so that the data begin aligned.
fn header(path: &Path, specs: &[TensorSpec], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let mut metadata = metadata.clone();
    metadata.entry("format".into()).or_insert_with(|| "pt".into());
    let mut json = serde_json::Map::new();
    json.insert("__metadata__".into(), serde_json::json!(metadata));
    let (mut begin, mut seen) = (0u64, HashSet::new());
    for spec in specs {
        if !seen.insert(&spec.name) || spec.name == "__metadata__" {
            return Err(announced(path, &spec.name, "is announced twice or is reserved".into()));
        }
        let end = Size::new(begin).plus(Size::new(spec.bytes(path)?));
        let end = Bounds::new(path, 0).fits("the size of all tensors", end)?.get();
        let entry =
            serde_json::json!({"dtype": spec.storage.name(), "shape": spec.shape, "data_offsets": [begin, end]});
        json.insert(spec.name.clone(), entry);
        begin = end;
    }
    let mut bytes = serde_json::Value::Object(json).to_string().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    Ok(bytes)
}
