//! The importance file: scores as f64 and exact sums as integers in safetensors, with a header that says of which model, texts and windows they
//! are. The arrays are described in `paring-importance`; arrays under `depth.` belong to depth sweeps and are carried along.
use crate::{
    error::{Failure, Result},
    origin::Origin,
};
use paring_checkpoint::{SafetensorsFile, SafetensorsWriter, StorageType, TensorSource, TensorSpec, atomic};
use paring_importance::{Arrays, ImportanceSet, NamedArray, RawArray, ScoreOptions};
use paring_prune::Scores;
use std::{collections::BTreeMap, path::Path};

/// Version of the header and of the arrays.
const VERSION: &str = "2";

/// Where names of depth sweeps' arrays begin.
pub(crate) const DEPTH: &str = "depth.";

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) set: ImportanceSet,
    pub(crate) origin: Origin,
    /// Arrays of depth sweeps, as they are.
    pub(crate) depth: Vec<NamedArray>,
    /// Program and version that wrote it.
    pub(crate) written_by: String,
}

/// Writes the file, whole or not at all. The bytes are a function of the arguments.
pub(crate) fn save(path: &Path, set: &ImportanceSet, origin: &Origin, depth: &[NamedArray]) -> Result<()> {
    let Arrays { mut scores, raw } = set.to_arrays()?;
    scores.extend_from_slice(depth);
    let spec = |name: &str, storage, shape: &[usize]| TensorSpec::new(name, storage, shape);
    let mut specs: Vec<TensorSpec> = scores.iter().map(|a| spec(&a.name, StorageType::F64, &a.shape)).collect();
    specs.extend(raw.iter().map(|a| spec(&a.name, StorageType::I64, &a.shape)));
    let settings = serde_json::to_string(&origin.settings).map_err(|e| Failure::work(format!("header: {e}")))?;
    let header = BTreeMap::from(
        [
            ("paring.kind", "importance"),
            ("paring.version", VERSION),
            ("paring.model", &origin.model),
            ("paring.data", &origin.parts_json()?),
            ("paring.settings", &settings),
            ("paring.tokens", &set.tokens().to_string()),
            ("paring.written_by", concat!("paring ", env!("CARGO_PKG_VERSION"))),
        ]
        .map(|(k, v)| (k.to_string(), v.to_string())),
    );
    let mut failed = None;
    let written = atomic::write_file(path, |out| {
        let mut write = || -> paring_checkpoint::Result<()> {
            let mut writer = SafetensorsWriter::new(&mut *out, path, &specs, &header)?;
            for a in &scores {
                let bytes: Vec<u8> = a.values.iter().flat_map(|v| v.to_le_bytes()).collect();
                writer.bytes(&a.name, &bytes)?;
            }
            for a in &raw {
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

/// Reads the file.
pub(crate) fn read(path: &Path) -> Result<Loaded> {
    let shown = paring_checkpoint::shown_path(path);
    let file = SafetensorsFile::open(path)?;
    let header = |key: &str| file.metadata().get(key).cloned().unwrap_or_default();
    if header("paring.kind") != "importance" {
        return Err(Failure::input(format!("{shown}: is no importance file; make one with `paring importance`")));
    }
    match header("paring.version").as_str() {
        VERSION => {}
        "1" => {
            return Err(Failure::input(format!(
                "{shown}: has format version 1, whose sums were rounded in the order of their windows; expected {VERSION}: \
                 make it again with `paring importance`"
            )));
        }
        got => {
            let got = paring_checkpoint::shown(got);
            return Err(Failure::input(format!(
                "{shown}: has format version {got}, expected {VERSION}; make it again"
            )));
        }
    }
    let wrong = |key: &str, e: String| {
        Failure::input(format!("{shown}: header `{key}`: {}; make it again", paring_checkpoint::shown(&e)))
    };
    let origin = Origin {
        model: header("paring.model"),
        settings: serde_json::from_str(&header("paring.settings"))
            .map_err(|e| wrong("paring.settings", e.to_string()))?,
        parts: Origin::read_parts(&header("paring.data")).map_err(|e| wrong("paring.data", e))?,
    };
    let (mut arrays, mut depth) = (Arrays::default(), Vec::new());
    for name in file.names() {
        let info = file.info(&name).ok_or_else(|| Failure::input(format!("{shown}: tensor `{name}` vanished")))?;
        let (shape, numbers) = (info.shape, file.bytes(&name)?.as_chunks::<8>().0);
        match info.storage {
            StorageType::F64 => {
                let values = numbers.iter().map(|&b| f64::from_le_bytes(b)).collect();
                let to = if name.starts_with(DEPTH) { &mut depth } else { &mut arrays.scores };
                to.push(NamedArray { name, shape, values });
            }
            StorageType::I64 => {
                let values = numbers.iter().map(|&b| i64::from_le_bytes(b)).collect();
                arrays.raw.push(RawArray { name, shape, values });
            }
            other => {
                let name = paring_checkpoint::shown(&name);
                return Err(Failure::input(format!(
                    "{shown}: tensor `{name}` is stored as {other}, expected F64 or I64"
                )));
            }
        }
    }
    let set = ImportanceSet::from_arrays(arrays).map_err(|e| Failure::input(e).at(&shown))?;
    let (seen, _) = origin.windows();
    if header("paring.tokens") != set.tokens().to_string() || seen as u64 != set.sequences() {
        let (tokens, sequences) = (set.tokens(), set.sequences());
        return Err(Failure::input(format!(
            "{shown}: the header does not fit the sums, which are of {tokens} tokens in {sequences} windows; make it again"
        )));
    }
    Ok(Loaded { set, origin, depth, written_by: header("paring.written_by") })
}

/// Reads the file; `model` is the hash of the model that the scores have to be of.
pub(crate) fn load(path: &Path, model: &str) -> Result<(ImportanceSet, Origin)> {
    let Loaded { set, origin, .. } = read(path)?;
    if origin.model != model {
        return Err(Failure::input(format!(
            "{}: holds the scores of another model (hash {}, this one has {model}); make them again with `paring importance`",
            paring_checkpoint::shown_path(path),
            paring_checkpoint::shown(&origin.model)
        )));
    }
    let (seen, windows) = origin.windows();
    if seen < windows {
        let shown = paring_checkpoint::shown_path(path);
        tell!("note: {shown} has seen {seen} of {windows} windows; `paring importance merge` adds the other shards");
    }
    Ok((set, origin))
}

/// What `paring-prune` chooses by.
pub(crate) fn scores(set: &ImportanceSet, options: &ScoreOptions) -> Result<Scores> {
    let paring_importance::Scores { hidden, ffn, heads, kv_groups, block_influence } = set.scores(options)?;
    Ok(Scores { hidden, ffn, heads, kv_groups, block_influence })
}
