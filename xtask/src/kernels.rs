//! `cargo xtask kernels`: the CUDA kernels. None is written yet, and this says so instead of looking green; the first one that is put into
//! `kernels/` fails `--check` until its check is written here.
use crate::{
    error::{Error, Result},
    project::root,
};
use std::{fs, path::Path};

/// Extensions of kernel sources, and of what is compiled from them.
const KERNEL_EXTENSIONS: [&str; 3] = ["cu", "cuh", "ptx"];

/// Builds the kernels, or with `check` only checks them.
///
/// # Errors
/// [`Error::NotBuilt`] without `check`; else those of [`check`].
pub(crate) fn run(only_check: bool) -> Result<()> {
    match only_check {
        true => check(),
        false => Err(Error::NotBuilt("CUDA kernels are not built yet: kernels/ has none; see kernels/README.md")),
    }
}

/// Checks what is in `kernels/`.
///
/// # Errors
/// [`Error::Unchecked`] when there is a kernel, for no check exists yet; [`Error::Read`].
pub(crate) fn check() -> Result<()> {
    let kernels = kernels_in(&root().join("kernels"))?;
    match kernels.is_empty() {
        true => println!("no kernels yet: nothing to check"),
        false => return Err(Error::Unchecked(kernels)),
    }
    Ok(())
}

fn kernels_in(dir: &Path) -> Result<Vec<String>> {
    let read = |source| Error::Read { path: dir.into(), source };
    let mut kernels = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.is_dir() {
            kernels.extend(kernels_in(&path)?);
        } else if path.extension().is_some_and(|e| KERNEL_EXTENSIONS.iter().any(|k| e == *k)) {
            kernels.push(path.strip_prefix(root()).unwrap_or(&path).display().to_string());
        }
    }
    kernels.sort();
    Ok(kernels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_check_is_found() {
        let dir = std::env::temp_dir().join(format!("paring-xtask-kernels-{}", std::process::id()));
        fs::create_dir_all(dir.join("cuda")).unwrap();
        fs::write(dir.join("README.md"), "no kernel").unwrap();
        assert_eq!(kernels_in(&dir).unwrap(), [] as [String; 0]);
        fs::write(dir.join("cuda/rms_norm.cu"), "// a kernel").unwrap();
        let found = kernels_in(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert!(found.len() == 1 && found[0].ends_with("cuda/rms_norm.cu"), "{found:?}");
    }

    #[test]
    fn building_is_refused_with_exit_code_2() {
        assert!(matches!(run(false), Err(Error::NotBuilt(_))));
    }
}
