//! The importance file: scores and raw sums as f64 safetensors, with a JSON header that says of which model and text they are.
use crate::error::{Failure, Result};
use paring_checkpoint::{SafetensorsFile, SafetensorsWriter, StorageType, TensorSource, TensorSpec, atomic};
use paring_importance::{ImportanceSet, NamedArray};
use paring_prune::Scores;
use std::{collections::BTreeMap, path::Path};

/// Version of the header. The arrays are described in `paring-importance`.
const VERSION: &str = "1";

/// What the header says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Origin {
    /// BLAKE3 of the model's files.
    pub(crate) model: String,
    /// BLAKE3 of the text's files.
    pub(crate) data: String,
}

/// Writes the file, whole or not at all.
pub(crate) fn save(path: &Path, set: &ImportanceSet, origin: &Origin) -> Result<()> {
    let arrays = set.to_arrays()?;
    let specs: Vec<TensorSpec> =
        arrays.iter().map(|a| TensorSpec::new(&a.name, StorageType::F64, a.shape.clone())).collect();
    let header = BTreeMap::from(
        [
            ("paring.kind", "importance"),
            ("paring.version", VERSION),
            ("paring.model", &origin.model),
            ("paring.data", &origin.data),
            ("paring.tokens", &set.tokens().to_string()),
            ("paring.written_by", concat!("paring ", env!("CARGO_PKG_VERSION"))),
        ]
        .map(|(k, v)| (k.to_string(), v.to_string())),
    );
    let mut failed = None;
    let written = atomic::write_file(path, |out| {
        let mut write = || -> paring_checkpoint::Result<()> {
            let mut writer = SafetensorsWriter::new(&mut *out, path, &specs, &header)?;
            for a in &arrays {
                let bytes: Vec<u8> = a.values.iter().flat_map(|v| v.to_le_bytes()).collect();
                writer.bytes(&a.name, &bytes)?;
            }
            writer.finish().map(|_| ())
        };
        write().map_err(|e| {
            let said = std::io::Error::other(e.to_string());
            failed = Some(e);
            said
        })
    });
    // The inner error says more than the I/O error that it was turned into.
    match failed {
        Some(e) => Err(e.into()),
        None => Ok(written?),
    }
}

/// Reads the file; `model` is the hash of the model that the scores have to be of.
pub(crate) fn load(path: &Path, model: &str) -> Result<(ImportanceSet, Origin)> {
    let shown = paring_checkpoint::shown_path(path);
    let file = SafetensorsFile::open(path)?;
    let header = |key: &str| file.metadata().get(key).cloned();
    if header("paring.kind").as_deref() != Some("importance") {
        return Err(Failure::input(format!("{shown}: is no importance file; make one with `paring importance`")));
    }
    if header("paring.version").as_deref() != Some(VERSION) {
        let got = header("paring.version").unwrap_or_default();
        let got = paring_checkpoint::shown(&got);
        return Err(Failure::input(format!("{shown}: has format version {got}, expected {VERSION}; make it again")));
    }
    let origin =
        Origin { model: header("paring.model").unwrap_or_default(), data: header("paring.data").unwrap_or_default() };
    if origin.model != model {
        return Err(Failure::input(format!(
            "{shown}: holds the scores of another model (hash {}, this one has {model}); make them again with `paring importance`",
            paring_checkpoint::shown(&origin.model)
        )));
    }
    let mut arrays = Vec::new();
    for name in file.names() {
        let info = file.info(&name).ok_or_else(|| Failure::input(format!("{shown}: tensor `{name}` vanished")))?;
        if info.storage != StorageType::F64 {
            let name = paring_checkpoint::shown(&name);
            return Err(Failure::input(format!(
                "{shown}: tensor `{name}` is stored as {}, expected F64",
                info.storage
            )));
        }
        let values = file.bytes(&name)?.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b)).collect();
        arrays.push(NamedArray { name, shape: info.shape, values });
    }
    let set = ImportanceSet::from_arrays(arrays).map_err(|e| Failure::input(e).at(&shown))?;
    Ok((set, origin))
}

/// What `paring-prune` chooses by.
pub(crate) fn scores(set: &ImportanceSet) -> Result<Scores> {
    let layers = 0..set.geometry().layers.len();
    Ok(Scores {
        hidden: set.hidden(),
        ffn: layers.clone().map(|l| set.ffn(l)).collect::<paring_importance::Result<_>>()?,
        heads: layers.clone().map(|l| set.heads(l)).collect::<paring_importance::Result<_>>()?,
        kv_groups: layers.map(|l| set.kv_groups(l)).collect::<paring_importance::Result<_>>()?,
        block_influence: set.block_influence(),
    })
}

/// The same with directions of a rotated residual stream in place of its channels: the first are worth most.
pub(crate) fn rotated(scores: Scores) -> Scores {
    let hidden = (0..scores.hidden.len()).map(|i| -(i as f64)).collect();
    Scores { hidden, ..scores }
}
