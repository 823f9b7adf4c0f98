//! What tidy looks at: the files that git tracks or would, and the crates as cargo sees them.
use crate::{
    error::{Error, Result},
    project::{read, root, shown},
};
use cargo_metadata::{DependencyKind, MetadataCommand};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The project, or a sample of one.
#[derive(Default)]
pub(crate) struct Tree {
    /// In the order of their names.
    pub(crate) files: Vec<File>,
    /// The members of the workspace.
    pub(crate) crates: Vec<Crate>,
    /// What the members are built from.
    pub(crate) foreign: Vec<Foreign>,
}

/// A file of the project.
pub(crate) struct File {
    /// From the root, with slashes.
    pub(crate) path: String,
    /// Bytes.
    pub(crate) len: u64,
    /// Nothing where the file is not text.
    pub(crate) text: Option<String>,
}

/// A member of the workspace.
pub(crate) struct Crate {
    /// The name in Cargo.toml.
    pub(crate) package: String,
    /// Its directory from the root.
    pub(crate) dir: String,
    /// Cargo features that it declares.
    pub(crate) features: Vec<String>,
    /// Package names of what it depends on, and whether that is only for tests, examples and benches.
    pub(crate) dependencies: Vec<(String, Kind)>,
}

/// Who sees a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The crate itself, or its build script.
    Normal,
    /// Tests, examples and benches.
    Dev,
}

/// A package of somebody else.
pub(crate) struct Foreign {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) source: String,
}

impl Crate {
    /// `exec` for `paring-exec`.
    pub(crate) fn short(&self) -> &str {
        short(&self.package)
    }
}

/// `exec` for `paring-exec`; other names as they are.
pub(crate) fn short(package: &str) -> &str {
    package.strip_prefix("paring-").unwrap_or(package)
}

impl Tree {
    /// Everything as it is on disk.
    ///
    /// # Errors
    /// Those of `cargo metadata`; [`Error::Read`].
    pub(crate) fn of_the_project() -> Result<Tree> {
        let (crates, foreign) = metadata()?;
        let mut files = Vec::new();
        for path in paths()? {
            let full = root().join(&path);
            let bytes = match fs::read(&full) {
                Ok(bytes) => bytes,
                // Tracked and deleted: the next commit will say so.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(Error::Read { path: full, source }),
            };
            files.push(File { path, len: bytes.len() as u64, text: String::from_utf8(bytes).ok() });
        }
        Ok(Tree { files, crates, foreign })
    }

    /// The text at `path`.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|f| f.path == path)?.text.as_deref()
    }

    /// All texts whose name ends with `end`.
    pub(crate) fn texts<'a>(&'a self, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let matching = self.files.iter().filter(move |f| f.path.ends_with(end));
        matching.filter_map(|f| Some((f.path.as_str(), f.text.as_deref()?)))
    }
}

/// The crates, and what they are built from on this machine.
///
/// # Errors
/// [`Error::Metadata`].
pub(crate) fn metadata() -> Result<(Vec<Crate>, Vec<Foreign>)> {
    let mut command = MetadataCommand::new();
    // Without the host's name cargo would fetch what only other systems need.
    command.manifest_path(root().join("Cargo.toml")).other_options(["--filter-platform".to_owned(), host()?]);
    let all = command.exec().map_err(Error::Metadata)?;
    let mut crates = Vec::new();
    let mut foreign = Vec::new();
    let built: BTreeSet<_> = all.resolve.iter().flat_map(|r| &r.nodes).map(|n| &n.id).collect();
    for package in &all.packages {
        if let Some(source) = &package.source {
            if built.contains(&package.id) {
                foreign.push(Foreign {
                    name: package.name.to_string(),
                    version: package.version.to_string(),
                    license: package.license.clone(),
                    source: source.repr.clone(),
                });
            }
            continue;
        }
        let kind = |kind| if kind == DependencyKind::Development { Kind::Dev } else { Kind::Normal };
        let dir = package.manifest_path.parent().map_or("".into(), |d| d.to_string());
        crates.push(Crate {
            package: package.name.to_string(),
            dir: Path::new(&dir)
                .strip_prefix(all.workspace_root.as_std_path())
                .unwrap_or(Path::new(&dir))
                .display()
                .to_string(),
            features: package.features.keys().cloned().collect(),
            dependencies: package.dependencies.iter().map(|d| (d.name.clone(), kind(d.kind))).collect(),
        });
    }
    Ok((crates, foreign))
}

/// The system that the compiler compiles for.
fn host() -> Result<String> {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let out = command.arg("-vV").output().map_err(|source| Error::Start { command: shown(&command), source })?;
    let text = String::from_utf8_lossy(&out.stdout);
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    host.map(Into::into).ok_or_else(|| Error::Failed { command: shown(&command), code: out.status.code() })
}

/// The names of the files that are in the repository, or will be with the next `git add --all`.
fn paths() -> Result<Vec<String>> {
    // A checkout that belongs to somebody else, as in containers, is read all the same.
    let args = ["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let listed = Command::new("git").args(args).current_dir(root()).output();
    let mut paths: Vec<String> = match listed {
        Ok(out) if out.status.success() => {
            String::from_utf8_lossy(&out.stdout).split_terminator('\0').map(Into::into).collect()
        }
        // An export without git has no files that are not the project's, except what was built.
        _ => walk(root())?.iter().filter_map(|p| Some(p.strip_prefix(root()).ok()?.to_str()?.to_owned())).collect(),
    };
    paths.sort();
    paths.dedup();
    Ok(paths)
}

fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let ignored = read(&root().join(".gitignore"))?;
    let ignored: BTreeSet<&str> = ignored.lines().filter_map(|l| l.strip_prefix('/')).chain([".git"]).collect();
    let read = |source| Error::Read { path: dir.into(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.strip_prefix(root()).unwrap_or(&path).to_string_lossy();
        match path.is_dir() {
            _ if ignored.contains(&*name) => {}
            true => paths.extend(walk(&path)?),
            false => paths.push(path),
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_and_git_know_this_crate() {
        let tree = Tree::of_the_project().unwrap();
        let xtask = tree.crates.iter().find(|c| c.package == "xtask").unwrap();
        assert_eq!((xtask.dir.as_str(), xtask.features.len()), ("xtask", 0));
        assert!(xtask.dependencies.contains(&("clap".into(), Kind::Normal)));
        assert!(tree.text("xtask/src/tidy/tree.rs").unwrap().contains("fn cargo_and_git_know_this_crate"));
        assert!(tree.foreign.iter().any(|f| f.name == "clap" && f.license.is_some()));
    }

    #[test]
    fn without_git_the_same_sources_are_found() {
        let walked = walk(root()).unwrap();
        let walked: BTreeSet<_> = walked.iter().map(|p| p.strip_prefix(root()).unwrap().to_str().unwrap()).collect();
        assert!(walked.contains("xtask/src/tidy/tree.rs") && walked.contains("Cargo.toml"));
        assert!(!walked.iter().any(|p| p.starts_with("target/") || p.starts_with(".git/")));
    }
}
