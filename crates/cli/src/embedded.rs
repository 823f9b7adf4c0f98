//! The embedded teacher and its text: part of the program, so that `paring compress` works anywhere, offline, without arguments.
//!
//! Checkpoints are read through a memory map, so the files are unpacked once into the cache directory, under a name that is their hash.
use crate::error::{Failure, Result};
use paring_checkpoint::{DirWriter, Overwrite, atomic, hash_file};
use std::path::{Path, PathBuf};

macro_rules! file {
    ($name:literal, $path:literal) => {
        ($name, include_bytes!(concat!("../../../fixtures/", $path)))
    };
}

/// The teacher's directory.
const TEACHER: &[(&str, &[u8])] = &[
    file!("config.json", "teacher/config.json"),
    file!("generation_config.json", "teacher/generation_config.json"),
    file!("model.safetensors", "teacher/model.safetensors"),
    file!("tokenizer.json", "teacher/tokenizer.json"),
    file!("tokenizer_config.json", "teacher/tokenizer_config.json"),
];

/// The text, split by document.
const CORPUS: &[(&str, &[u8])] = &[
    file!("calibration.txt", "corpus/calibration.txt"),
    file!("distillation.txt", "corpus/distillation.txt"),
    file!("heldout.txt", "corpus/heldout.txt"),
];

/// What the default run does: a recipe like any other.
pub(crate) const RECIPE: &str = include_str!("../../../fixtures/compress.toml");

/// A part of the embedded text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    Calibration,
    Distillation,
    Heldout,
}

/// Directory of the embedded teacher.
pub(crate) fn teacher() -> Result<PathBuf> {
    unpacked("teacher", TEACHER)
}

/// File of a part of the embedded text.
pub(crate) fn corpus(part: Part) -> Result<PathBuf> {
    let name = match part {
        Part::Calibration => "calibration.txt",
        Part::Distillation => "distillation.txt",
        Part::Heldout => "heldout.txt",
    };
    Ok(unpacked("corpus", CORPUS)?.join(name))
}

/// Where things are kept that can be made again: `$XDG_CACHE_HOME/paring`, `$HOME/.cache/paring`, or a directory for temporary files.
pub(crate) fn cache_dir() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("paring")
}

fn unpacked(name: &str, files: &[(&str, &[u8])]) -> Result<PathBuf> {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in files {
        hasher.update(blake3::hash(name.as_bytes()).as_bytes()).update(blake3::hash(bytes).as_bytes());
    }
    let name = format!("{name}-{}", &hasher.finalize().to_hex()[..16]);
    match unpack(&cache_dir(), &name, files) {
        Ok(dir) => Ok(dir),
        // A home that cannot be written to is no reason not to work.
        Err(first) => unpack(&std::env::temp_dir().join("paring"), &name, files)
            .map_err(|_| Failure::from(first).at("unpacking the embedded teacher")),
    }
}

fn unpack(cache: &Path, name: &str, files: &[(&str, &[u8])]) -> paring_checkpoint::Result<PathBuf> {
    let dir = cache.join(name);
    let whole = |(name, bytes): &(&str, &[u8])| {
        hash_file(&dir.join(name)).is_ok_and(|(len, hash)| len == bytes.len() as u64 && hash == blake3::hash(bytes))
    };
    if files.iter().all(whole) {
        return Ok(dir);
    }
    atomic::create_dir_all(cache)?;
    if dir.exists() {
        atomic::remove_dir_all(&dir)?;
    }
    let mut out = DirWriter::create(&dir, Overwrite::Refuse)?;
    for (name, bytes) in files {
        out.write_bytes(name, bytes)?;
    }
    match out.commit() {
        // Another process was faster; its files are the same.
        Err(paring_checkpoint::Error::Exists { .. }) if files.iter().all(whole) => Ok(dir),
        other => other.map(|()| dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_damaged_is_unpacked_again() {
        let tmp = tempfile::tempdir().unwrap();
        let files: &[(&str, &[u8])] = &[("a", b"one"), ("b", b"two")];
        let dir = unpack(tmp.path(), "x", files).unwrap();
        assert_eq!(std::fs::read(dir.join("b")).unwrap(), b"two");
        std::fs::write(dir.join("a"), "on").unwrap();
        assert_eq!(unpack(tmp.path(), "x", files).unwrap(), dir);
        assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"one");
    }
}
