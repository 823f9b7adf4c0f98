//! A path becomes a model: what it is, how it is configured, and where its tensors are. Everything is checked before a tensor is read.
use crate::{Arch, Error, GgufModel, Result, gguf, params};
use paring_checkpoint::{Limits, SafetensorsDir, TensorSource, read_json};
use serde_json::Value;
use std::path::{Path, PathBuf};

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
        let known = |n: &str| specs.iter().any(|s| s.name == n) || harmless(n, &self.arch);
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
/// [`Error`] names the file and the tensor or key.
pub fn open(path: &Path) -> Result<Opened> {
    let opened = if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        let gguf = gguf::open(path)?;
        Opened {
            path: path.into(),
            arch: gguf.arch().clone(),
            config: gguf.base_config(),
            kind: SourceKind::Gguf(gguf),
        }
    } else {
        let config = read_json(&path.join("config.json"), &Limits::default())?;
        let arch = Arch::from_config(&config)?;
        let dir = SafetensorsDir::open(path, &Limits::default())?;
        Opened { path: path.into(), arch, config, kind: SourceKind::Directory(dir) }
    };
    opened.check()?;
    Ok(opened)
}
