//! Where an unfinished run keeps what it has: `OUT.unfinished` beside the output, locked, with the recipe that it was started with.
use crate::{
    error::{Failure, Result},
    recipe,
};
use paring_checkpoint::{Lock, atomic, read_text};
use std::path::{Path, PathBuf};
use toml::Table;

/// A locked place for one run.
#[derive(Debug)]
pub(crate) struct Workplace {
    out: PathBuf,
    dir: PathBuf,
    // Held until the run ends.
    _lock: Lock,
}

impl Workplace {
    /// Takes the place for `out`, which must not exist yet. `recipe` is everything that the result depends on; a place that was left with
    /// another one is refused.
    pub(crate) fn open(out: &Path, recipe: &Table) -> Result<Self> {
        let dir = beside(out)?;
        if let Some(parent) = out.parent().filter(|p| !p.as_os_str().is_empty()) {
            atomic::create_dir_all(parent)?;
        }
        refuse_existing(out)?;
        atomic::create_dir_all(&dir)?;
        let lock = Lock::acquire(&dir.join("lock"))?;
        // Somebody may have finished between the first look and the lock.
        refuse_existing(out)?;
        atomic::remove_leftovers(&dir)?;
        let path = dir.join("recipe.toml");
        if path.exists() {
            let there: Table = read_text(&path, 1 << 20)?
                .parse()
                .map_err(|e: toml::de::Error| Failure::input(format!("{}: {}", path.display(), e.message())))?;
            if let Some(difference) = recipe::difference(&there, recipe) {
                let (dir, what) = (paring_checkpoint::shown_path(&dir), paring_checkpoint::shown(&difference));
                return Err(Failure::input(format!(
                    "{dir} is an unfinished run with other settings ({what}); repeat those, choose another --out, or remove it"
                )));
            }
        } else {
            atomic::write_bytes(&path, recipe.to_string().as_bytes())?;
        }
        Ok(Workplace { out: out.into(), dir, _lock: lock })
    }

    /// Where the result will be.
    pub(crate) fn out(&self) -> &Path {
        &self.out
    }

    /// A file or directory of the unfinished run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Removes the place; the result has its own name by now.
    pub(crate) fn close(self) -> Result<()> {
        Ok(atomic::remove_dir_all(&self.dir)?)
    }
}

/// `OUT.unfinished`.
pub(crate) fn beside(out: &Path) -> Result<PathBuf> {
    let Some(name) = out.file_name() else {
        return Err(Failure::input(format!("--out {}: names no directory", out.display())));
    };
    let mut name = name.to_os_string();
    name.push(".unfinished");
    Ok(out.with_file_name(name))
}

/// An output that is there already is never touched.
pub(crate) fn refuse_existing(out: &Path) -> Result<()> {
    match out.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) => Err(paring_checkpoint::Error::Exists { path: out.into() }.into()),
    }
}

/// The first of `NAME`, `NAME-2`, `NAME-3`, ... that is not there yet.
pub(crate) fn free_name(name: &str) -> PathBuf {
    let names = std::iter::once(name.to_string()).chain((2u32..).map(|n| format!("{name}-{n}")));
    names.map(PathBuf::from).find(|p| p.symlink_metadata().is_err()).unwrap_or_else(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_once_and_only_with_its_recipe() {
        let tmp = tempfile::tempdir().unwrap();
        let out = tmp.path().join("run");
        let recipe = |lr: f64| Table::from_iter([("lr".to_string(), toml::Value::Float(lr))]);
        let place = Workplace::open(&out, &recipe(0.1)).unwrap();
        let second = Workplace::open(&out, &recipe(0.1)).unwrap_err();
        assert!(second.code == 2 && second.message.contains("process"), "{second}");
        drop(place);
        let other = Workplace::open(&out, &recipe(0.2)).unwrap_err();
        assert!(other.code == 2 && other.message.contains("`lr` was 0.1, is 0.2"), "{other}");
        Workplace::open(&out, &recipe(0.1)).unwrap().close().unwrap();
        assert!(!beside(&out).unwrap().exists());
        std::fs::create_dir(&out).unwrap();
        assert_eq!(Workplace::open(&out, &recipe(0.1)).unwrap_err().code, 2);
        assert_eq!(free_name(out.to_str().unwrap()), tmp.path().join("run-2"));
    }
}
