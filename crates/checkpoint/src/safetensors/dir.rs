//! A directory of safetensors: one `model.safetensors`, or shards and the index that says which tensor is in which.
use super::SafetensorsFile;
use crate::{Error, Limits, Result, TensorInfo, TensorSource, check_file_name, read_json};
use paring_tensor::{DType, Tensor};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    path::{Path, PathBuf},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The tensors of a model directory.
#[derive(Debug)]
pub struct SafetensorsDir {
    path: PathBuf,
    files: Vec<SafetensorsFile>,
    /// Tensor to position in `files`.
    of: HashMap<String, usize>,
}

impl SafetensorsDir {
    /// Opens `model.safetensors.index.json` and all shards it names, or else `model.safetensors`, in the directory `path`. All headers
    /// are checked, no tensor is read. A symbolic link has to stay inside the directory, with one exception: the `blobs` of a Hugging
    /// Face cache, to which every file in its `snapshots` is a link.
    ///
    /// # Errors
    /// [`Error::NoWeights`]; [`Error::Pickle`] when there are only `.bin`, `.pt`, `.pth` or `.ckpt` files; [`Error::Name`] for a shard
    /// that is not a plain file name or a link that leaves; [`Error::MissingShard`], [`Error::MissingTensor`], [`Error::Duplicate`];
    /// those of [`SafetensorsFile::open_with`].
    pub fn open(path: &Path, limits: &Limits) -> Result<Self> {
        let read = |source| Error::Read { path: path.into(), source };
        if !std::fs::metadata(path).map_err(read)?.is_dir() {
            return Err(Error::NoWeights { path: path.into() });
        }
        // Transformers prefers the single file when both are there, and so do we: an index beside it is an older download's.
        let weight_map = match (exists(&path.join(SINGLE)), exists(&path.join(INDEX))) {
            (true, _) => BTreeMap::from([(SINGLE.to_string(), Vec::new())]),
            (false, true) => read_index(path, limits)?,
            (false, false) => return Err(no_weights(path)?),
        };
        let mut dir = SafetensorsDir { path: path.into(), files: Vec::new(), of: HashMap::new() };
        for (shard, tensors) in weight_map {
            dir.add(&shard, &tensors, limits)?;
        }
        Ok(dir)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files, in the order of their names.
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }

    /// Opens `shard` and checks that it holds the `tensors` of the index and none of another shard.
    fn add(&mut self, shard: &str, tensors: &[String], limits: &Limits) -> Result<()> {
        let path = self.path.join(shard);
        if !exists(&path) {
            let tensor = tensors.first().cloned().unwrap_or_default();
            return Err(Error::MissingShard { path, tensor });
        }
        check_link(&self.path, shard)?;
        let file = SafetensorsFile::open_with(&path, limits)?;
        if let Some(tensor) = tensors.iter().find(|t| file.info(t).is_none()) {
            return Err(Error::MissingTensor { path, tensor: tensor.clone() });
        }
        for name in file.tensor_names() {
            match self.of.entry(name.clone()) {
                Entry::Occupied(_) => return Err(Error::Duplicate { path, what: "tensor", name: name.clone() }),
                Entry::Vacant(free) => free.insert(self.files.len()),
            };
        }
        self.files.push(file);
        Ok(())
    }

    fn file_of(&self, name: &str) -> Result<&SafetensorsFile> {
        let missing = || Error::MissingTensor { path: self.path.clone(), tensor: name.into() };
        self.of.get(name).map(|&i| &self.files[i]).ok_or_else(missing)
    }

    /// [`SafetensorsFile::bytes`] of the file that holds the tensor.
    ///
    /// # Errors
    /// Those of [`SafetensorsFile::bytes`].
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        self.file_of(name)?.bytes(name)
    }

    /// [`SafetensorsFile::read_i64`] of the file that holds the tensor.
    ///
    /// # Errors
    /// Those of [`SafetensorsFile::read_i64`].
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        self.file_of(name)?.read_i64(name)
    }
}

impl TensorSource for SafetensorsDir {
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.of.keys().cloned().collect();
        names.sort();
        names
    }

    fn info(&self, name: &str) -> Option<TensorInfo> {
        self.file_of(name).ok()?.info(name)
    }

    fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.file_of(name)?.read_f32(name)
    }

    fn read_tensor(&self, name: &str, dtype: DType) -> Result<Tensor> {
        self.file_of(name)?.read_tensor(name, dtype)
    }
}

/// True for anything under that name, a dangling link too: it has to be looked at, not passed over.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The index: shard -> its tensors. Every shard's name is checked before it becomes part of a path.
fn read_index(dir: &Path, limits: &Limits) -> Result<BTreeMap<String, Vec<String>>> {
    check_link(dir, INDEX)?;
    let path = dir.join(INDEX);
    let malformed =
        |field: String, problem: &str| Error::Malformed { path: path.clone(), field, problem: problem.into() };
    let index = read_json(&path, limits)?;
    let Some(Value::Object(weight_map)) = index.get("weight_map") else {
        return Err(malformed("`weight_map`".into(), "is missing or no object, expected tensor names and their files"));
    };
    let (got, limit) = (weight_map.len() as u64, limits.tensors);
    if limit < got {
        return Err(Error::Limit { path: path.clone(), field: "the number of tensors".into(), got, limit });
    }
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (tensor, shard) in weight_map {
        let Some(shard) = shard.as_str() else {
            return Err(malformed(format!("`weight_map`: the file of tensor `{tensor}`"), "is no string"));
        };
        check_file_name(&path, shard)?;
        shards.entry(shard.into()).or_default().push(tensor.clone());
    }
    if shards.is_empty() {
        return Err(malformed("`weight_map`".into(), "is empty, expected tensor names and their files"));
    }
    Ok(shards)
}

/// Refuses a symbolic link that leads out of the directory (and is not one of a Hugging Face cache).
fn check_link(dir: &Path, name: &str) -> Result<()> {
    let path = dir.join(name);
    let read = |source| Error::Read { path: path.clone(), source };
    if !path.symlink_metadata().map_err(read)?.is_symlink() {
        return Ok(());
    }
    let (root, target) = (dir.canonicalize().map_err(read)?, path.canonicalize().map_err(read)?);
    if target.starts_with(&root) || hub_blobs(&root).is_some_and(|blobs| target.starts_with(blobs)) {
        return Ok(());
    }
    Err(Error::Name { path: dir.into(), name: name.into(), problem: "is a symbolic link that leaves the directory" })
}

/// `models--X/blobs` for a directory `models--X/snapshots/REVISION`.
fn hub_blobs(root: &Path) -> Option<PathBuf> {
    let snapshots = root.parent()?;
    let model = snapshots.parent()?;
    let of_hub = snapshots.file_name()? == "snapshots" && model.file_name()?.to_str()?.starts_with("models--");
    of_hub.then(|| model.join("blobs"))
}

/// Why a directory without safetensors cannot be read: pickles get their own answer.
fn no_weights(dir: &Path) -> Result<Error> {
    let read = |source| Error::Read { path: dir.into(), source };
    let mut pickles = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
        if ["bin", "pt", "pth", "ckpt"].contains(&extension.as_str()) {
            pickles.push(path);
        }
    }
    pickles.sort();
    Ok(match pickles.into_iter().next() {
        Some(path) => Error::Pickle { path },
        None => Error::NoWeights { path: dir.into() },
    })
}
