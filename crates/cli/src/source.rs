//! What `--model` names: a checkpoint directory, a GGUF, something that `paring fetch` got, a snapshot in the Hugging Face cache, or,
//! when it is not given, the embedded teacher.
use crate::{
    embedded,
    error::{Failure, Result},
    fetch,
};
use paring_checkpoint::hash_file;
use paring_model::{LoadAs, Model, Opened, SourceKind};
use paring_ops::Backend;
use paring_text::Tokenizer;
use std::path::{Path, PathBuf};

/// A checkpoint that was found whole, and its name.
#[derive(Debug)]
pub(crate) struct Source {
    /// As the user wrote it.
    pub(crate) name: String,
    pub(crate) opened: Opened,
    /// Whether it is the embedded teacher, for which there is embedded text.
    pub(crate) embedded: bool,
}

impl Source {
    /// Opens what `model` names, or the embedded teacher.
    pub(crate) fn open(model: Option<&str>) -> Result<Self> {
        let (name, path, embedded) = match model {
            None => ("the embedded teacher".to_string(), embedded::teacher()?, true),
            Some(name) => (name.to_string(), resolve(name)?, false),
        };
        Ok(Source { name, opened: paring_model::open(&path)?, embedded })
    }

    /// Its tokenizer, which fits its vocabulary.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        let tokenizer = match &self.opened.kind {
            SourceKind::Directory(_) => Tokenizer::from_dir(&self.opened.path)?,
            SourceKind::Gguf(g) => Tokenizer::from_gguf(g.gguf())?,
        };
        tokenizer.check_fits(self.opened.arch.vocab)?;
        Ok(tokenizer)
    }

    /// What a student's directory needs beside the weights: the tokenizer's files, and `generation_config.json`.
    pub(crate) fn side_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        const GENERATION: &str = "generation_config.json";
        let tokenizer = self.tokenizer()?;
        let mut files = tokenizer.files()?;
        let own = self.opened.path.join(GENERATION);
        let generation = match &self.opened.kind {
            SourceKind::Directory(_) if own.exists() => Some(paring_checkpoint::read_text(&own, 1 << 20)?),
            _ => tokenizer.end_token().map(|end| format!("{:#}\n", serde_json::json!({"eos_token_id": end}))),
        };
        files.retain(|(name, _)| name != GENERATION);
        files.extend(generation.map(|text| (GENERATION.into(), text.into_bytes())));
        Ok(files)
    }

    /// Its weights.
    pub(crate) fn load(&self, backend: &dyn Backend, load_as: impl Into<LoadAs>) -> Result<Model> {
        Ok(Model::load(&self.opened.arch, self.opened.source(), backend, load_as)?)
    }

    /// BLAKE3 over its configuration and all its tensor files.
    pub(crate) fn hash(&self) -> Result<String> {
        let source = self.opened.source();
        let mut files: Vec<PathBuf> = source.names().iter().filter_map(|n| source.info(n)).map(|i| i.file).collect();
        if let SourceKind::Directory(_) = self.opened.kind {
            files.push(self.opened.path.join("config.json"));
        }
        files.sort();
        files.dedup();
        hash_all(&files)
    }

    /// Ids that end a text: all that `generation_config.json` or the configuration names, and the tokenizer's.
    pub(crate) fn stop_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = tokenizer.end_token().into_iter().collect();
        let path = self.opened.path.join("generation_config.json");
        let generation = path
            .exists()
            .then(|| paring_checkpoint::read_json(&path, &paring_checkpoint::Limits::default()))
            .transpose()?;
        for config in generation.iter().chain([&self.opened.config]) {
            let value = config.get("eos_token_id");
            let listed = value.and_then(serde_json::Value::as_array).into_iter().flatten().chain(value);
            ids.extend(listed.filter_map(serde_json::Value::as_u64).filter_map(|id| u32::try_from(id).ok()));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }
}

/// BLAKE3 over the hashes of files, in order.
pub(crate) fn hash_all(files: &[PathBuf]) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    for file in files {
        hasher.update(hash_file(file)?.1.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn resolve(name: &str) -> Result<PathBuf> {
    let path = PathBuf::from(name);
    if path.exists() {
        return Ok(path);
    }
    if let Some(known) = fetch::known(name) {
        let path = known.path();
        if path.exists() {
            return Ok(path);
        }
        return Err(Failure::input(format!("`{name}` was not fetched yet; run `paring fetch {name}` first")));
    }
    if let Some(found) = hub(name, &hub_cache()) {
        return found;
    }
    Err(Failure::input(format!(
        "{}: there is no such file or directory, and it is no name that `paring fetch` knows ({})",
        paring_checkpoint::shown(name),
        fetch::names()
    )))
}

fn hub_cache() -> PathBuf {
    let dir = |name: &str| std::env::var_os(name).map(PathBuf::from);
    dir("HF_HUB_CACHE")
        .or_else(|| dir("HF_HOME").map(|h| h.join("hub")))
        .or_else(|| dir("HOME").map(|h| h.join(".cache/huggingface/hub")))
        .unwrap_or_default()
}

/// A snapshot of `org/name[@rev]` in a Hugging Face cache, which is only read; `None` when the name has another form.
fn hub(name: &str, cache: &Path) -> Option<Result<PathBuf>> {
    let (id, rev) = name.split_once('@').unwrap_or((name, "main"));
    let (org, repo) = id.split_once('/')?;
    let plain = |s: &str| {
        !s.is_empty() && !s.starts_with('.') && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if ![org, repo, rev].into_iter().all(plain) {
        return None;
    }
    let model = cache.join(format!("models--{org}--{repo}"));
    // A branch or tag is a file with the commit's hash in it; a hash is a directory of its own.
    let commit = paring_checkpoint::read_text(&model.join("refs").join(rev), 1 << 10);
    let commit = commit.map_or_else(|_| rev.to_string(), |c| c.trim().to_string());
    let snapshot = model.join("snapshots").join(&commit);
    if plain(&commit) && snapshot.is_dir() {
        return Some(Ok(snapshot));
    }
    Some(Err(Failure::input(format!(
        "{id}: revision {rev} is not in the Hugging Face cache {}; get it with `huggingface-cli download {id}`",
        cache.display()
    ))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_names_lead_into_the_cache_and_nowhere_else() {
        let tmp = tempfile::tempdir().unwrap();
        let model = tmp.path().join("models--org--name");
        std::fs::create_dir_all(model.join("refs")).unwrap();
        std::fs::create_dir_all(model.join("snapshots/abc123")).unwrap();
        std::fs::write(model.join("refs/main"), "abc123\n").unwrap();
        let found = |name: &str| hub(name, tmp.path());
        assert_eq!(found("org/name").unwrap().unwrap(), model.join("snapshots/abc123"));
        assert_eq!(found("org/name@abc123").unwrap().unwrap(), model.join("snapshots/abc123"));
        assert_eq!(found("org/other").unwrap().unwrap_err().code, 2);
        assert!(found("../name").is_none() && found("org/../x").is_none() && found("plain").is_none());
        std::fs::write(model.join("refs/evil"), "../../..").unwrap();
        assert!(found("org/name@evil").unwrap().is_err());
    }
}
