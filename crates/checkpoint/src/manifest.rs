//! A directory that proves itself whole: `manifest.json` lists length and BLAKE3 of every file beside it, and its own hash.
//!
//! It is written last, into a directory that appears in one step (`DirWriter`), so a directory with a manifest was finished; whether it
//! still is what it was, [`verify`] finds out by reading everything again.
use crate::{DirWriter, Error, Limits, Result, atomic::FileEntry, check_file_name, hash_file, read_json};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path};

/// The manifest's file name.
pub const NAME: &str = "manifest.json";

/// What a directory was when it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// What the directory is, in words: a reader refuses other kinds.
    pub kind: String,
    /// Version of the directory's format.
    pub version: u64,
    /// What the writer wanted to remember.
    pub meta: Value,
    /// The files.
    pub files: BTreeMap<String, FileEntry>,
}

/// Writes the manifest of everything that is in `dir`, and gives the directory its name.
///
/// # Errors
/// Those of [`DirWriter::write_bytes`] and [`DirWriter::commit`].
pub fn commit(mut dir: DirWriter, kind: &str, version: u64, meta: &Value) -> Result<()> {
    let entry = |e: FileEntry| json!({"bytes": e.bytes, "blake3": e.blake3.to_hex().as_str()});
    let files: Map<String, Value> = dir.files().into_iter().map(|(name, e)| (name, entry(e))).collect();
    let body = json!({"kind": kind, "version": version, "meta": meta, "files": files});
    let text = format!("{:#}\n", json!({"blake3": hash_of(&body), "body": body}));
    dir.write_bytes(NAME, text.as_bytes())?;
    dir.commit()
}

/// Reads the manifest of `dir` and holds it against its own hash. The files it lists are not looked at.
///
/// # Errors
/// [`Error::Read`]; [`Error::Corrupt`] when the manifest was changed; [`Error::Unsupported`] for another `kind` or a newer version.
pub fn read(dir: &Path, kind: &str, version: u64) -> Result<Manifest> {
    let path = dir.join(NAME);
    let corrupt = |problem: &str| Error::Corrupt { path: path.clone(), problem: problem.into() };
    let value = read_json(&path, &Limits::default())?;
    let (Some(stored), Some(body)) = (value.get("blake3").and_then(Value::as_str), value.get("body")) else {
        return Err(corrupt("has no `blake3` and `body`, so it is no manifest"));
    };
    if stored != hash_of(body) {
        return Err(corrupt("does not have the hash that it says it has; it was changed after it was written"));
    }
    let unsupported = |what: String| Error::Unsupported { path: path.clone(), what };
    match (body.get("kind").and_then(Value::as_str), body.get("version").and_then(Value::as_u64)) {
        (Some(k), _) if k != kind => return Err(unsupported(format!("is a manifest of `{k}`, expected `{kind}`"))),
        (Some(_), Some(v)) if v == version => {}
        (Some(_), Some(v)) => return Err(unsupported(format!("has format version {v}, this program reads {version}"))),
        _ => return Err(corrupt("has no `kind` and `version`")),
    }
    let mut files = BTreeMap::new();
    for (name, entry) in body.get("files").and_then(Value::as_object).ok_or_else(|| corrupt("has no `files`"))? {
        // A file of a subdirectory is the only name with a separator, and has just one.
        name.split_once('/').map_or(Ok(()), |(dir, _)| check_file_name(&path, dir))?;
        check_file_name(&path, name.split_once('/').map_or(name, |(_, file)| file))?;
        let bytes = entry.get("bytes").and_then(Value::as_u64);
        let hash = entry.get("blake3").and_then(Value::as_str).and_then(|h| blake3::Hash::from_hex(h).ok());
        let (Some(bytes), Some(blake3)) = (bytes, hash) else {
            return Err(corrupt("lists a file without length and hash"));
        };
        files.insert(name.clone(), FileEntry { bytes, blake3 });
    }
    let meta = body.get("meta").cloned().unwrap_or(Value::Null);
    Ok(Manifest { kind: kind.into(), version, meta, files })
}

/// [`read`], and every file that is listed is read again and has its length and hash.
///
/// # Errors
/// Those of [`read`]; [`Error::Corrupt`] names the first file that differs, [`Error::Read`] the first that is missing.
pub fn verify(dir: &Path, kind: &str, version: u64) -> Result<Manifest> {
    let manifest = read(dir, kind, version)?;
    for (name, want) in &manifest.files {
        let path = dir.join(name);
        let (bytes, blake3) = hash_file(&path)?;
        if (FileEntry { bytes, blake3 }) != *want {
            let problem = format!(
                "has {bytes} bytes with hash {}, the manifest says {} bytes with hash {}; it was damaged or changed",
                blake3.to_hex(),
                want.bytes,
                want.blake3.to_hex()
            );
            return Err(Error::Corrupt { path, problem });
        }
    }
    Ok(manifest)
}

/// Of the body as compact JSON: keys keep their order and numbers their digits on the way through a file.
fn hash_of(body: &Value) -> String {
    blake3::hash(body.to_string().as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Overwrite;

    fn written(at: &Path) {
        let mut dir = DirWriter::create(at, Overwrite::Refuse).unwrap();
        dir.write_bytes("a.bin", &[1, 2, 3, 4]).unwrap();
        dir.subdir("sub").unwrap();
        dir.write_bytes("sub/b.txt", b"text").unwrap();
        commit(dir, "test", 1, &json!({"x": 0.1, "n": u64::MAX, "s": "\u{e9}"})).unwrap();
    }

    #[test]
    fn what_was_written_verifies_and_any_flipped_bit_does_not() {
        let tmp = tempfile::tempdir().unwrap();
        let at = tmp.path().join("d");
        written(&at);
        let manifest = verify(&at, "test", 1).unwrap();
        assert_eq!(manifest.meta["n"], json!(u64::MAX));
        assert_eq!(manifest.files.keys().collect::<Vec<_>>(), ["a.bin", "sub/b.txt"]);
        for name in ["a.bin", "sub/b.txt", NAME] {
            let path = at.join(name);
            let good = std::fs::read(&path).unwrap();
            for i in 0..good.len() {
                let mut bad = good.clone();
                bad[i] ^= 1 << (i % 8);
                std::fs::write(&path, &bad).unwrap();
                // White space of the manifest's layout carries nothing: a flip there may turn it into other white space.
                let blank = good[i].is_ascii_whitespace() && bad[i].is_ascii_whitespace();
                assert!(blank || verify(&at, "test", 1).is_err(), "{name} byte {i}");
            }
            std::fs::write(&path, &good[..good.len() - 2]).unwrap();
            assert!(verify(&at, "test", 1).is_err(), "{name} truncated");
            std::fs::write(&path, &good).unwrap();
        }
        std::fs::remove_file(at.join("a.bin")).unwrap();
        assert!(matches!(verify(&at, "test", 1), Err(Error::Read { .. })));
        assert!(read(&at, "test", 1).is_ok());
    }

    #[test]
    fn other_kinds_versions_and_names_are_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let at = tmp.path().join("d");
        written(&at);
        assert!(matches!(read(&at, "other", 1), Err(Error::Unsupported { .. })));
        assert!(matches!(read(&at, "test", 2), Err(Error::Unsupported { .. })));
        for name in ["../a.bin", "/etc/passwd", "a/b/c", ".."] {
            let files = json!({name: {"bytes": 0, "blake3": blake3::hash(b"").to_hex().as_str()}});
            let body = json!({"kind": "test", "version": 1, "meta": null, "files": files});
            let text = json!({"blake3": hash_of(&body), "body": body}).to_string();
            std::fs::write(at.join(NAME), text).unwrap();
            assert!(matches!(read(&at, "test", 1), Err(Error::Name { .. })), "{name}");
        }
    }
}
