//! A path becomes a model: what it is, how it is configured, and where its tensors are. Everything is checked before a tensor is read.
use crate::{Arch, Error, GgufModel, Result, gguf, params};
use paring_checkpoint::{Limits, SafetensorsDir, TensorSource, read_json, shown_path};
use serde_json::Value;
use std::{
    collections::HashSet,
    path::{Path, PathBuf},
};

/// What kind of checkpoint a path is.
#[derive(Debug)]
pub enum SourceKind {
    /// A Hugging Face directory.
    Directory(SafetensorsDir),
    /// A GGUF file.
    Gguf(GgufModel),
}

/// A checkpoint that was found to be whole and consistent.
#[derive(Debug)]
pub struct Opened {
    /// Where it is.
    pub path: PathBuf,
    /// The architecture.
    pub arch: Arch,
    /// `config.json`, or what a GGUF's metadata says in its place.
    pub config: Value,
    /// The tensors.
    pub kind: SourceKind,
}

impl Opened {
    /// The tensors under Hugging Face's names.
    pub fn source(&self) -> &dyn TensorSource {
        match &self.kind {
            SourceKind::Directory(d) => d,
            SourceKind::Gguf(g) => g,
        }
    }

    /// Bytes of all tensors as stored.
    pub fn stored_bytes(&self) -> u64 {
        let source = self.source();
        source.names().iter().filter_map(|n| source.info(n)).map(|i| i.bytes).sum()
    }

    fn check(&self) -> Result<()> {
        let source = self.source();
        let specs = params(&self.arch);
        for spec in &specs {
            let Some(info) = source.info(&spec.name) else {
                return Err(Error::MissingTensor { name: spec.name.clone(), file: self.path.display().to_string() });
            };
            if info.shape != spec.shape {
                let (name, file) = (spec.name.clone(), info.file.display().to_string());
                return Err(Error::TensorShape { name, file, got: info.shape, want: spec.shape.clone() });
            }
        }
        // A set: a hostile file has a million tensors, a hostile configuration tens of thousands of parameters.
        let names: HashSet<&str> = specs.iter().map(|s| s.name.as_str()).collect();
        let known = |n: &str| names.contains(n) || harmless(n, &self.arch);
        match source.names().into_iter().find(|n| !known(n)) {
            None => Ok(()),
            Some(name) => {
                let file = source.info(&name).map_or(self.path.clone(), |i| i.file).display().to_string();
                Err(Error::UnexpectedTensor { name: name.escape_debug().to_string(), file })
            }
        }
    }
}

/// Tensors that old checkpoints carry and that say nothing: rotary frequencies, and a copy of the embedding as the head of a tied model.
fn harmless(name: &str, arch: &Arch) -> bool {
    name.ends_with(".rotary_emb.inv_freq") || (arch.tied && name == "lm_head.weight")
}

/// Opens a Hugging Face directory or a `.gguf` file.
///
/// # Errors
/// [`Error::At`] for a configuration that no model here has, [`Error::MissingTensor`], [`Error::TensorShape`],
/// [`Error::UnexpectedTensor`], [`Error::Checkpoint`]: each names the file and the tensor or key.
pub fn open(path: &Path) -> Result<Opened> {
    let opened = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        let gguf = gguf::open(path).map_err(at(path))?;
        Opened {
            path: path.into(),
            arch: gguf.arch().clone(),
            config: gguf.base_config(),
            kind: SourceKind::Gguf(gguf),
        }
    } else {
        let file = path.join("config.json");
        let config = read_json(&file, &Limits::default())?;
        let arch = Arch::from_config(&config).map_err(at(&file))?;
        let dir = SafetensorsDir::open(path, &Limits::default())?;
        Opened { path: path.into(), arch, config, kind: SourceKind::Directory(dir) }
    };
    opened.check()?;
    Ok(opened)
}

/// Adds the file to an error about a configuration, which knows its keys but not where they were read.
fn at(file: &Path) -> impl Fn(Error) -> Error {
    move |e| match e {
        Error::Config { .. } | Error::Unsupported { .. } => Error::At { file: shown_path(file), source: Box::new(e) },
        e => e,
    }
}
