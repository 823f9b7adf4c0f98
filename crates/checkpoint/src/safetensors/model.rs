//! Writing the weights of a model directory: one file, or shards and their index, named as Transformers names them.
use super::{SafetensorsWriter, TensorSpec};
use crate::{
    DirWriter, Error, Result,
    atomic::DirFile,
    checked::{Bounds, Size},
};
use paring_tensor::Tensor;
use serde_json::{Map, json};
use std::{collections::BTreeMap, ops::Range};

/// Bytes of tensor data in one shard unless the caller says otherwise: what `save_pretrained` uses.
pub const DEFAULT_SHARD_BYTES: u64 = 5_000_000_000;

/// Writes tensors, in the order announced, into a directory.
#[derive(Debug)]
pub struct ModelWriter<'a> {
    dir: &'a mut DirWriter,
    specs: Vec<TensorSpec>,
    metadata: BTreeMap<String, String>,
    /// Which of `specs` each file gets.
    shards: Vec<Range<usize>>,
    total: u64,
    current: Option<SafetensorsWriter<DirFile>>,
    next: usize,
}

impl<'a> ModelWriter<'a> {
    /// Plans the files: a new shard begins where the next tensor would make one larger than `shard_bytes` (usually
    /// [`DEFAULT_SHARD_BYTES`]). A tensor larger than that gets a shard of its own.
    ///
    /// # Errors
    /// [`Error::Announced`] for a name that appears twice or a type with blocks, [`Error::Overflow`].
    pub fn new(
        dir: &'a mut DirWriter,
        specs: Vec<TensorSpec>,
        metadata: BTreeMap<String, String>,
        shard_bytes: u64,
    ) -> Result<Self> {
        let path = dir.target().to_path_buf();
        let (mut shards, mut begin, mut used, mut total) = (Vec::new(), 0, 0u64, Size::ZERO);
        let mut names = std::collections::HashSet::new();
        for (i, spec) in specs.iter().enumerate() {
            if !names.insert(spec.name.as_str()) {
                return Err(Error::Announced { path, name: spec.name.clone(), problem: "is announced twice".into() });
            }
            let bytes = spec.bytes(&path)?;
            total = Bounds::new(&path, 0).fits("the size of all tensors", total.plus(Size::new(bytes)))?;
            if begin < i && shard_bytes < used.saturating_add(bytes) {
                shards.push(begin..i);
                (begin, used) = (i, 0);
            }
            used = used.saturating_add(bytes);
        }
        shards.push(begin..specs.len());
        Ok(ModelWriter { dir, specs, metadata, shards, total: total.get(), current: None, next: 0 })
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// Those of [`SafetensorsWriter::tensor`] and of the directory.
    pub fn tensor(&mut self, name: &str, tensor: &Tensor) -> Result<()> {
        self.shard(name)?.tensor(name, tensor)?;
        self.advance()
    }

    /// Writes the next tensor from its little-endian bytes.
    ///
    /// # Errors
    /// Those of [`SafetensorsWriter::bytes`] and of the directory.
    pub fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.shard(name)?.bytes(name, bytes)?;
        self.advance()
    }

    /// Writes the index, if there are several files. The directory still has to be committed.
    ///
    /// # Errors
    /// [`Error::Announced`] when a tensor is missing, [`Error::Write`].
    pub fn finish(mut self) -> Result<()> {
        if let Some(spec) = self.specs.get(self.next) {
            let (path, name) = (self.dir.target().into(), spec.name.clone());
            return Err(Error::Announced { path, name, problem: "was announced but not written".into() });
        }
        if self.specs.is_empty() {
            self.open_shard(0)?;
            self.close_shard()?;
        }
        if self.shards.len() < 2 {
            return Ok(());
        }
        let mut weight_map = Map::new();
        for (i, range) in self.shards.iter().enumerate() {
            for spec in &self.specs[range.clone()] {
                weight_map.insert(spec.name.clone(), self.file_name(i).into());
            }
        }
        let index = json!({"metadata": {"total_size": self.total}, "weight_map": weight_map});
        self.dir.write_bytes("model.safetensors.index.json", format!("{index:#}\n").as_bytes())
    }

    fn file_name(&self, shard: usize) -> String {
        match self.shards.len() {
            1 => "model.safetensors".into(),
            n => format!("model-{:05}-of-{n:05}.safetensors", shard + 1),
        }
    }

    /// The writer of the file that the next tensor goes to.
    fn shard(&mut self, name: &str) -> Result<&mut SafetensorsWriter<DirFile>> {
        if self.current.is_none()
            && let Some(shard) = self.shards.iter().position(|r| r.contains(&self.next))
        {
            self.open_shard(shard)?;
        }
        let path = self.dir.target();
        let problem = || "all tensors that were announced are written".into();
        self.current.as_mut().ok_or_else(|| Error::Announced {
            path: path.into(),
            name: name.into(),
            problem: problem(),
        })
    }

    fn open_shard(&mut self, shard: usize) -> Result<()> {
        let file = self.dir.file(&self.file_name(shard))?;
        let path = file.path().to_path_buf();
        let specs = &self.specs[self.shards[shard].clone()];
        self.current = Some(SafetensorsWriter::new(file, &path, specs, &self.metadata)?);
        Ok(())
    }

    fn close_shard(&mut self) -> Result<()> {
        match self.current.take() {
            Some(writer) => writer.finish()?.finish(),
            None => Ok(()),
        }
    }

    /// Counts the tensor that was written, and closes the file after its last one.
    fn advance(&mut self) -> Result<()> {
        self.next += 1;
        if self.shards.iter().any(|r| r.end == self.next) { self.close_shard() } else { Ok(()) }
    }
}
