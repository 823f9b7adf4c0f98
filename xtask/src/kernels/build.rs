//! From `kernels/*.cu` to `kernels/ptx/*.ptx`. The same compiler makes the same bytes on every machine, so what is committed can be compared.
use super::{Toolkit, files, nvrtc::Nvrtc, ptx, ptxas};
use crate::{
    error::{Error, Result},
    project::{read, root},
};
use std::path::{Path, PathBuf};

/// PTX versions that a kernel is stamped with, the oldest first: the first that ptxas accepts. The user's driver compiles the PTX, and 7.4 is
/// what drivers of CUDA 11.4 know.
const VERSIONS: [&str; 4] = ["7.4", "7.8", "8.0", "8.5"];

/// How often a source is compiled before its PTX is believed.
const REPEATS: usize = 4;

/// A source, and its committed PTX.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub stem: String,
    pub cu: PathBuf,
    pub ptx: PathBuf,
}

/// All sources, by name.
///
/// # Errors
/// [`Error::Read`].
pub(super) fn sources() -> Result<Vec<Source>> {
    let dir = root().join("kernels");
    let source = |cu: PathBuf| {
        let stem = cu.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Source { ptx: dir.join("ptx").join(format!("{stem}.ptx")), stem, cu }
    };
    Ok(files::list(&dir, "cu")?.into_iter().map(source).collect())
}

/// Committed PTX without a source.
///
/// # Errors
/// [`Error::Read`].
pub(super) fn orphans(sources: &[Source]) -> Result<Vec<PathBuf>> {
    let mut committed = files::list(&root().join("kernels/ptx"), "ptx")?;
    committed.retain(|p| !sources.iter().any(|s| s.ptx == *p));
    Ok(committed)
}

/// Compiles every source, and writes the PTX that is not as committed.
///
/// # Errors
/// [`Error::Compile`], those of ptxas, [`Error::Write`].
pub(super) fn run(toolkit: &Toolkit) -> Result<()> {
    let nvrtc = toolkit.nvrtc()?;
    let sources = sources()?;
    for source in &sources {
        let text = with_oldest_version(toolkit, source, &compile_surely(toolkit, &nvrtc, source)?)?;
        if std::fs::read_to_string(&source.ptx).is_ok_and(|old| old == text) {
            println!("{}: as it was", shown(&source.ptx));
        } else {
            files::write(&source.ptx, &text)?;
            let (n, version) = (ptx::entries(&text).len(), ptx::version(&text).unwrap_or("?"));
            println!("{}: {n} kernels, {} bytes, PTX {version}", shown(&source.ptx), text.len());
        }
    }
    for orphan in orphans(&sources)? {
        println!("{}: has no source; delete it", shown(&orphan));
    }
    Ok(())
}

/// The PTX of one source, as the compiler makes it.
///
/// # Errors
/// [`Error::Compile`].
pub(super) fn compile(toolkit: &Toolkit, nvrtc: &Nvrtc, source: &Source) -> Result<String> {
    let include = |dir: PathBuf| format!("-I{}", dir.display());
    let mut options: Vec<String> = ["-arch=compute_80", "-default-device", "-std=c++17"].map(Into::into).into();
    options.extend([include(toolkit.include()), include(root().join("kernels/include"))]);
    let text = nvrtc.compile(&format!("{}.cu", source.stem), &read(&source.cu)?, &options);
    text.map_err(|log| Error::Compile { file: source.cu.clone(), log })
}

/// The same from several compilations.
///
/// # Errors
/// [`Error::Compile`], also where they differ: passes of NVRTC go by addresses in memory, and in large kernels that shows. What helps is to
/// write vector loads as instructions (`kernels/include/ptx.cuh`), so that the compiler does not take them apart.
fn compile_surely(toolkit: &Toolkit, nvrtc: &Nvrtc, source: &Source) -> Result<String> {
    let text = compile(toolkit, nvrtc, source)?;
    for _ in 1..REPEATS {
        if compile(toolkit, nvrtc, source)? != text {
            let log = "NVRTC makes other PTX of it from run to run, so that it cannot be compared".into();
            return Err(Error::Compile { file: source.cu.clone(), log });
        }
    }
    Ok(text)
}

/// `text` stamped with the oldest version that will do.
fn with_oldest_version(toolkit: &Toolkit, source: &Source, text: &str) -> Result<String> {
    let path = files::scratch(&format!("{}.ptx", source.stem))?;
    for version in VERSIONS {
        let stamped = ptx::with_version(text, version);
        files::write(&path, &stamped)?;
        if ptxas::cubin(toolkit, &path)?.is_some() {
            return Ok(stamped);
        }
    }
    // Not for its version then: this says what ptxas says.
    ptxas::assemble(toolkit, &path, 80, &files::scratch(&format!("{}.cubin", source.stem))?)?;
    Ok(text.to_owned())
}

/// `path` from the root of the repository.
pub(super) fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
