//! Checkpoints of a run: master weights, both moments, the counts; a directory per checkpoint, whole or absent.
//!
//! Directories are called `step-00000120`; the newest is the one with the highest name, never the one with the latest time. The one
//! before it stays until the new one has been read again and verified, and one more stays after that.
use crate::{Error, Result, Trainer};
use paring_checkpoint::{
    DirWriter, Limits, ModelWriter, Overwrite, SafetensorsFile, TensorSource, TensorSpec, atomic, manifest,
};
use paring_exec::ParamId;
use paring_model::ParamSpec;
use paring_tensor::{DType, from_f32};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Version of the checkpoint's format.
pub const FORMAT_VERSION: u64 = 1;
const KIND: &str = "paring training state";
const PREFIX: &str = "step-";
const WEIGHTS: &str = "model.safetensors";
/// Checkpoints that stay.
const KEEP: usize = 2;
/// What is saved of every parameter: f32 masters, first and second moments.
const PARTS: [&str; 3] = ["master", "m", "v"];

/// Where a run goes on.
#[derive(Clone, Debug, PartialEq)]
pub enum Resume {
    /// There is no checkpoint.
    Fresh,
    /// From a checkpoint.
    At {
        /// Its step.
        step: u64,
        /// What the monitor wanted to remember ([`crate::Monitor::note`]).
        note: Value,
        /// Newer checkpoints that were passed over because they are damaged, and how.
        skipped: Vec<String>,
    },
}

/// Saves a checkpoint under `dir`, which is created when it is missing, and removes all but the two newest.
///
/// # Errors
/// Those of the backend and of the checkpoint crate; the checkpoints that were there are still there then.
pub fn save(trainer: &Trainer<'_>, dir: &Path, identity: &Value, note: &Value) -> Result<()> {
    atomic::create_dir_all(dir)?;
    let target = dir.join(format!("{PREFIX}{:08}", trainer.step_count()));
    // After a resume from an older, undamaged checkpoint the same step is reached again. What a damage left without a manifest would not
    // be replaced, because it could be anything; under this name it is only what is left of a checkpoint.
    if target.is_dir() && !target.join(manifest::NAME).is_file() {
        atomic::remove_dir_all(&target)?;
    }
    let mut out = DirWriter::create(&target, Overwrite::Replace)?;
    let specs = trainer.model().specs();
    let names = |p: &ParamSpec| PARTS.map(|part| format!("{}.{part}", p.name));
    let tensors =
        specs.iter().flat_map(|p| names(p).map(|n| TensorSpec::new(n, DType::F32, p.shape.clone()))).collect();
    let mut writer = ModelWriter::new(&mut out, tensors, BTreeMap::new(), u64::MAX)?;
    for spec in specs {
        let names = names(spec);
        writer.bytes(&names[0], &from_f32(&trainer.values(spec.id)?, DType::F32))?;
        for (name, moment) in names[1..].iter().zip(trainer.moments(spec.id)) {
            writer.bytes(name, &from_f32(&trainer.backend().download(moment)?, DType::F32))?;
        }
    }
    writer.finish()?;
    let meta =
        json!({"identity": identity, "step": trainer.step_count(), "tokens": trainer.token_count(), "note": note});
    manifest::commit(out, KIND, FORMAT_VERSION, &meta)?;
    manifest::verify(&target, KIND, FORMAT_VERSION)?;
    let steps = checkpoints(dir)?;
    for (_, old) in steps.iter().rev().skip(KEEP) {
        atomic::remove_dir_all(old)?;
    }
    Ok(())
}

/// Puts the newest undamaged checkpoint under `dir` into `trainer`.
///
/// # Errors
/// [`Error::OtherRun`] when the checkpoint's identity is another one; [`Error::State`] when its tensors do not fit the model, or when
/// there are checkpoints and all are damaged.
pub fn load_latest(trainer: &mut Trainer<'_>, dir: &Path, identity: &Value) -> Result<Resume> {
    let mut skipped = Vec::new();
    for (_, path) in checkpoints(dir)?.into_iter().rev() {
        let manifest = match manifest::verify(&path, KIND, FORMAT_VERSION) {
            Ok(manifest) => manifest,
            // Whole, but something else, or from a newer program: passing it over would silently lose what it holds.
            Err(e @ paring_checkpoint::Error::Unsupported { .. }) => return Err(e.into()),
            Err(e) => {
                skipped.push(e.to_string());
                continue;
            }
        };
        let meta = &manifest.meta;
        if let Some(difference) = difference("", &meta["identity"], identity) {
            return Err(Error::OtherRun { path: path.display().to_string(), difference });
        }
        let state = |problem: &str| Error::State { path: path.display().to_string(), problem: problem.into() };
        let (Some(step), Some(tokens)) = (meta["step"].as_u64(), meta["tokens"].as_u64()) else {
            return Err(state("the manifest has no step and tokens"));
        };
        let file = SafetensorsFile::open_with(&path.join(WEIGHTS), &Limits::default())?;
        restore(trainer, &file, &path)?;
        trainer.set_counts(step, tokens);
        return Ok(Resume::At { step, note: meta["note"].clone(), skipped });
    }
    match skipped.first() {
        None => Ok(Resume::Fresh),
        Some(first) => {
            let problem =
                format!("every checkpoint is damaged; the newest: {first}; remove the directory to begin anew");
            Err(Error::State { path: dir.display().to_string(), problem })
        }
    }
}

fn restore(trainer: &mut Trainer<'_>, file: &SafetensorsFile, path: &Path) -> Result<()> {
    let specs = trainer.model().specs().to_vec();
    for spec in &specs {
        let mut parts = Vec::with_capacity(PARTS.len());
        for part in PARTS {
            let name = format!("{}.{part}", spec.name);
            match file.info(&name) {
                Some(info) if info.shape == spec.shape => parts.push(file.read_checked(&name)?),
                found => {
                    let got = found.map_or("is missing".into(), |i| format!("has shape {:?}", i.shape));
                    let problem = format!("tensor `{name}` {got}, expected shape {:?}", spec.shape);
                    return Err(Error::State { path: path.display().to_string(), problem });
                }
            }
        }
        trainer.restore(ParamId(spec.id.0), &parts[0], &parts[1], &parts[2])?;
    }
    Ok(())
}

/// Checkpoints under `dir` by step, oldest first; none when there is no such directory.
fn checkpoints(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let read = |source| paring_checkpoint::Error::Read { path: dir.into(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(read(e).into()),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(read)?;
        let step = entry.file_name().to_str().and_then(|n| n.strip_prefix(PREFIX)).and_then(|n| n.parse().ok());
        if let Some(step) = step {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// The first difference between two JSON values, as a path and both sides.
fn difference(at: &str, there: &Value, here: &Value) -> Option<String> {
    match (there, here) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            keys.into_iter().find_map(|k| {
                let null = &Value::Null;
                let at = if at.is_empty() { k.clone() } else { format!("{at}.{k}") };
                difference(&at, a.get(k).unwrap_or(null), b.get(k).unwrap_or(null))
            })
        }
        _ if there == here => None,
        _ => Some(format!("`{at}` was {there}, is {here}")),
    }
}
