//! Where an unfinished run keeps what it has: `OUT.unfinished` beside the output, locked, with the recipe that it was started with.
use crate::{
    error::{Failure, Result},
    recipe,
};
use paring_checkpoint::{Lock, atomic, read_text};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};
use toml::Table;

/// A locked place for one run.
#[derive(Debug)]
pub(crate) struct Workplace {
    out: PathBuf,
    dir: PathBuf,
    // Held until the run ends.
    _lock: Lock,
    closed: bool,
}

impl Workplace {
    /// Takes the place for `out`, which must not exist yet. `recipe` is everything that the result depends on; a place that was left with
    /// another one is refused.
    pub(crate) fn open(out: &Path, recipe: &Table) -> Result<Self> {
        let dir = beside(out)?;
        create_parent(out)?;
        refuse_existing(out)?;
        atomic::create_dir_all(&dir)?;
        let lock = Lock::acquire(&dir.join("lock"))?;
        let place = Workplace { out: out.into(), dir, _lock: lock, closed: false };
        // Somebody may have finished between the first look and the lock.
        refuse_existing(out)?;
        place.remove_leftovers()?;
        let path = place.path("recipe.toml");
        if place.has_work() {
            if !path.exists() {
                // It would be removed with everything in it at the end of this run.
                let dir = paring_checkpoint::shown_path(&place.dir);
                return Err(Failure::input(format!(
                    "{dir} is in the way: it is no unfinished run, as it has no recipe.toml; move it, or choose another --out"
                )));
            }
            let there: Table = read_text(&path, 1 << 20)?
                .parse()
                .map_err(|e: toml::de::Error| Failure::input(format!("{}: {}", path.display(), e.message())))?;
            if let Some(difference) = recipe::difference(&there, recipe) {
                let (dir, what) = (paring_checkpoint::shown_path(&place.dir), paring_checkpoint::shown(&difference));
                return Err(Failure::input(format!(
                    "{dir} is an unfinished run with other settings ({what}); repeat those, choose another --out, or remove it"
                )));
            }
        } else {
            atomic::write_bytes(&path, recipe.to_string().as_bytes())?;
        }
        Ok(place)
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
    pub(crate) fn close(mut self) -> Result<()> {
        self.closed = true;
        Ok(atomic::remove_dir_all(&self.dir)?)
    }

    /// Whether there is anything that a later run could go on from.
    fn has_work(&self) -> bool {
        let nothing = |name: &OsStr| name == "lock" || name == "recipe.toml";
        // What cannot be looked at may be work.
        std::fs::read_dir(&self.dir).is_ok_and(|mut d| d.any(|e| e.map_or(true, |e| !nothing(&e.file_name()))))
    }

    /// Removes what killed runs for this output left under temporary names, here and beside the output.
    fn remove_leftovers(&self) -> Result<()> {
        for dir in [self.dir.clone(), self.path("checkpoints")] {
            if dir.is_dir() {
                atomic::remove_leftovers(&dir)?;
            }
        }
        let parent = parent_of(&self.out);
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let ours = [&self.out, &self.dir].map(|p| format!(".{}.paring-tmp-", name(p)));
        let read = |source| paring_checkpoint::Error::Read { path: parent.into(), source };
        for entry in std::fs::read_dir(parent).map_err(read)? {
            let path = entry.map_err(read)?.path();
            if ours.iter().any(|o| name(&path).starts_with(o.as_str())) {
                atomic::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        // A place without work would only stand in the way of a run with other settings. Nobody to tell if it cannot be removed.
        if !self.closed && !self.has_work() {
            let _ = atomic::remove_dir_all(&self.dir);
        }
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

/// Makes the directory that `out` will be in, and looks whether it can be written to: before the work, not after it.
pub(crate) fn create_parent(out: &Path) -> Result<()> {
    if out.file_name().is_none() {
        return Err(Failure::input(format!("--out {}: names no file or directory", out.display())));
    }
    let parent = parent_of(out);
    atomic::create_dir_all(parent)?;
    rustix::fs::access(parent, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK).map_err(|e| {
        let (path, action) = (parent.into(), "write here");
        paring_checkpoint::Error::Write { path, action, source: e.into() }.into()
    })
}

/// The directory that `out` is in: `.` for a plain name.
fn parent_of(out: &Path) -> &Path {
    out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
        std::fs::write(place.path("importance.safetensors"), "work").unwrap();
        std::fs::create_dir(tmp.path().join(".run.paring-tmp-1-0")).unwrap();
        drop(place);
        let other = Workplace::open(&out, &recipe(0.2)).unwrap_err();
        assert!(other.code == 2 && other.message.contains("`lr` was 0.1, is 0.2"), "{other}");
        let place = Workplace::open(&out, &recipe(0.1)).unwrap();
        assert!(!tmp.path().join(".run.paring-tmp-1-0").exists());
        place.close().unwrap();
        assert!(!beside(&out).unwrap().exists());
        // Without work nothing is kept, and nothing stands in the way.
        drop(Workplace::open(&out, &recipe(0.1)).unwrap());
        assert!(!beside(&out).unwrap().exists());
        std::fs::create_dir(beside(&out).unwrap()).unwrap();
        std::fs::write(beside(&out).unwrap().join("recipe.toml"), "lr = 0.5").unwrap();
        Workplace::open(&out, &recipe(0.2)).unwrap().close().unwrap();
        std::fs::create_dir(&out).unwrap();
        assert_eq!(Workplace::open(&out, &recipe(0.1)).unwrap_err().code, 2);
        assert_eq!(free_name(out.to_str().unwrap()), tmp.path().join("run-2"));
    }
}
