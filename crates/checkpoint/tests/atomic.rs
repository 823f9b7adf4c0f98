//! Files and directories appear whole or not at all, whatever call of the file system fails.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{Scratch, kind};
use paring_checkpoint::{
    DirWriter, Error, Limits, ModelWriter, Overwrite, Result, SafetensorsDir, TensorSpec,
    atomic::{self, Event, FaultyFs, Fs, Kind, Op, RealFs},
};
use paring_tensor::DType;
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Every file below `dir` and its contents; directories have `None`.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut out = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = PathBuf::from(path.file_name().unwrap());
        if path.is_dir() {
            out.extend(tree(&path).into_iter().map(|(p, c)| (name.join(p), c)));
            out.insert(name, None);
        } else {
            out.insert(name, Some(std::fs::read(&path).unwrap()));
        }
    }
    out
}

/// What is in `dir` under temporary names.
fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    names.filter(|p| p.file_name().unwrap().to_str().unwrap().contains(".paring-tmp-")).collect()
}

/// Longer than the writer's buffer, so that there are several writes.
fn big(byte: u8) -> Vec<u8> {
    vec![byte; 200_000]
}

fn write_big(fs: &FaultyFs, path: &Path) -> Result<()> {
    atomic::write_file_on(fs, path, |w| big(2).chunks(50_000).try_for_each(|piece| w.write_all(piece)))
}

/// A model of two shards, a subdirectory, and a file in it.
fn write_dir(fs: &FaultyFs, target: &Path, overwrite: Overwrite) -> Result<()> {
    let fs: Arc<dyn Fs> = Arc::new(fs.clone());
    let mut dir = DirWriter::create_on(fs, target, overwrite)?;
    let specs = ["a", "b"].map(|name| TensorSpec::new(name, DType::F32, [2]));
    let mut model = ModelWriter::new(&mut dir, specs.to_vec(), BTreeMap::new(), 8)?;
    model.bytes("a", &[2; 8])?;
    model.bytes("b", &[3; 8])?;
    model.finish()?;
    dir.subdir("logs")?;
    dir.write_bytes("logs/text", &big(4))?;
    dir.write_bytes("config.json", b"{}")?;
    dir.commit()
}

/// Runs `write` once for every call that can fail, and for every way to fail. Before it, `scratch` holds what `prepare` made; after it,
/// the name `out` holds what it held before, or all of what a run without faults gives.
fn all_faults(prepare: impl Fn(&Path), write: impl Fn(&FaultyFs, &Path) -> Result<()>) {
    let run = |fs: &FaultyFs| {
        let scratch = Scratch::new();
        prepare(&scratch.path("out"));
        let before = tree(scratch.dir());
        let result = write(fs, &scratch.path("out"));
        (scratch, before, result)
    };
    let (scratch, old, result) = run(&FaultyFs::recording());
    result.unwrap();
    let new = tree(scratch.dir());
    assert!(old != new && leftovers(scratch.dir()).is_empty());

    for op in [Op::Any, Op::Write, Op::Sync, Op::Create, Op::Rename] {
        for fault in [Kind::Io, Kind::NoSpace, Kind::Crash] {
            for nth in 0.. {
                let fs = FaultyFs::failing(op, nth, fault);
                let (scratch, _, result) = run(&fs);
                let mut now = tree(scratch.dir());
                let case = format!("{fault:?} at {op:?} number {nth}");
                if !fs.reached() {
                    assert!(3 < nth || op != Op::Any, "{case}: a run has more calls than that");
                    result.unwrap();
                    assert_eq!(now, new, "{case}");
                    break;
                }
                let error = result.expect_err(&case);
                assert!(matches!(error, Error::Write { .. }) && !error.is_input(), "{case}: {error:?}");
                assert_eq!(error.to_string().contains("free some space"), fault == Kind::NoSpace, "{case}: {error}");
                // A process that died cannot clean up; one that failed has, unless the removal of the old directory is what failed.
                let hidden = leftovers(scratch.dir());
                let removes = error.to_string().contains("remove the directory that was replaced");
                let after_rename =
                    now.iter().any(|(p, c)| p.starts_with("out") && new.get(p) == Some(c) && old.get(p) != Some(c));
                assert!(
                    hidden.is_empty() || fault == Kind::Crash || removes || after_rename,
                    "{case}: left {hidden:?}"
                );
                now.retain(|path, _| !path.to_str().unwrap().starts_with('.'));
                assert!(now == old || now == new, "{case}: neither old nor new: {:?}", now.keys());
            }
        }
    }
}

#[test]
fn a_file_is_old_or_new_whatever_fails() {
    all_faults(|_| {}, write_big);
    all_faults(|out| std::fs::write(out, big(1)).unwrap(), write_big);
}

#[test]
fn a_directory_is_old_or_new_whatever_fails() {
    all_faults(|_| {}, |fs, out| write_dir(fs, out, Overwrite::Refuse));
    let old = |out: &Path| {
        std::fs::create_dir(out).unwrap();
        std::fs::write(out.join("config.json"), "{\"old\":1}").unwrap();
        std::fs::write(out.join("other"), "old").unwrap();
    };
    all_faults(old, |fs, out| write_dir(fs, out, Overwrite::Replace));
}

#[test]
fn data_are_durable_before_they_have_their_name() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    for write in [write_big, |fs: &FaultyFs, out: &Path| write_dir(fs, &out.with_extension("d"), Overwrite::Refuse)] {
        let fs = FaultyFs::recording();
        write(&fs, &out).unwrap();
        let events = fs.events();
        let renames: Vec<usize> = (0..events.len()).filter(|&i| matches!(events[i], Event::Rename(..))).collect();
        let [rename] = renames[..] else { panic!("one rename, not {renames:?}") };
        let at = |wanted: &dyn Fn(&Event) -> bool| events.iter().rposition(wanted);
        for event in &events[..rename] {
            match event {
                // Whatever was written is synced after its last write.
                Event::Write(path, _) => {
                    let write = at(&|e| matches!(e, Event::Write(p, _) if p == path));
                    let sync = at(&|e| matches!(e, Event::Sync(p) if p == path));
                    assert!(write < sync && sync < Some(rename), "{path:?}");
                }
                // Whatever was created is an entry of a directory that is synced later.
                Event::Create(path) | Event::CreateDir(path) => {
                    let parent = path.parent().unwrap();
                    let created = at(&|e| matches!(e, Event::Create(p) | Event::CreateDir(p) if p == path));
                    assert!(created < at(&|e| matches!(e, Event::SyncDir(p) if p == parent)), "{path:?}");
                }
                _ => {}
            }
        }
        assert_eq!(events.last(), Some(&Event::SyncDir(scratch.dir().into())), "the rename itself is synced");
    }
}

#[test]
fn one_byte_at_a_time_gives_the_same() {
    let (a, b) = (Scratch::new(), Scratch::new());
    write_dir(&FaultyFs::recording(), &a.path("out"), Overwrite::Refuse).unwrap();
    write_dir(&FaultyFs::one_byte_at_a_time(), &b.path("out"), Overwrite::Refuse).unwrap();
    assert_eq!(tree(a.dir()), tree(b.dir()));
}

#[test]
fn file_systems_that_cannot_exchange_two_names() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    write_dir(&FaultyFs::recording(), &out, Overwrite::Refuse).unwrap();
    let new = tree(scratch.dir());
    std::fs::write(out.join("config.json"), "old").unwrap();
    write_dir(&FaultyFs::failing(Op::Rename, 0, Kind::Unsupported), &out, Overwrite::Replace).unwrap();
    assert_eq!(tree(scratch.dir()), new);
}

#[test]
fn what_a_closure_says_is_the_error() {
    let scratch = Scratch::new();
    let path = scratch.path("out");
    let error = atomic::write_file(&path, |w| {
        w.write_all(b"half")?;
        Err(std::io::Error::other("no more"))
    });
    assert!(error.unwrap_err().to_string().contains("out: cannot write: no more"));
    assert!(tree(scratch.dir()).is_empty());
}

#[test]
fn only_regular_files_are_replaced() {
    let scratch = Scratch::new();
    for path in [Path::new("/dev/null"), Path::new("/dev/full"), scratch.dir()] {
        let error = atomic::write_bytes(path, b"x").unwrap_err();
        assert_eq!(kind(&error), "NotAFile", "{error}");
    }
    for path in ["", "/", "..", "a/.."] {
        assert!(atomic::write_bytes(Path::new(path), b"x").is_err(), "{path:?}");
    }
    let missing = atomic::write_bytes(&scratch.path("no/such/file"), b"x").unwrap_err();
    assert!(kind(&missing) == "Write" && missing.is_input(), "{missing}");
    // A name of 255 bytes leaves no room for a suffix.
    let long = scratch.path(&"é".repeat(127));
    atomic::write_bytes(&long, b"x").unwrap();
    assert_eq!(std::fs::read(long).unwrap(), b"x");
}

#[test]
fn a_real_full_disk() {
    // `/dev/full` says ENOSPC to every write. A closure that writes there is a disk that fills up in the middle of the file.
    let scratch = Scratch::new();
    let path = scratch.write("out", b"old");
    let error = atomic::write_file(&path, |w| {
        w.write_all(&big(1))?;
        let mut full = std::fs::OpenOptions::new().write(true).open("/dev/full")?;
        full.write_all(b"x")
    });
    let error = error.unwrap_err();
    assert!(error.to_string().contains("free some space or write to another disk"), "{error}");
    assert!(!error.is_input());
    assert_eq!(tree(scratch.dir()), BTreeMap::from([("out".into(), Some(b"old".to_vec()))]));
}

#[test]
fn leftovers_of_dead_processes_are_removed_and_nothing_else() {
    let scratch = Scratch::new();
    let crash = FaultyFs::failing(Op::Write, 0, Kind::Crash);
    write_big(&crash, &scratch.path("out")).unwrap_err();
    write_dir(&FaultyFs::failing(Op::Write, 3, Kind::Crash), &scratch.path("dir"), Overwrite::Refuse).unwrap_err();
    let mine = leftovers(scratch.dir());
    assert_eq!(mine.len(), 2);
    // This process lives, so what it left may be another thread's work.
    assert!(atomic::remove_leftovers(scratch.dir()).unwrap().is_empty());
    let pid = format!("-{}-", std::process::id());
    let mut dead: Vec<PathBuf> = mine.iter().map(|p| p.to_str().unwrap().replace(&pid, "-1-").into()).collect();
    for (from, to) in mine.iter().zip(&dead) {
        std::fs::rename(from, to).unwrap();
    }
    let kept = ["out", ".hidden", "x.paring-tmp-1-2", ".x.paring-tmp-1-2.txt", ".x.paring-tmp-", ".x.paring-tmp-a-b"];
    for name in kept {
        scratch.write(name, b"");
    }
    let mut removed = atomic::remove_leftovers(scratch.dir()).unwrap();
    removed.sort();
    dead.sort();
    assert_eq!(removed, dead);
    assert_eq!(tree(scratch.dir()).len(), kept.len());
}

#[test]
fn directories_above_are_made_and_removed() {
    let scratch = Scratch::new();
    let deep = scratch.path("a/b/c");
    atomic::create_dir_all(&deep).unwrap();
    atomic::create_dir_all(&deep).unwrap();
    scratch.write("a/file", b"");
    assert!(atomic::create_dir_all(&scratch.path("a/file/x")).unwrap_err().is_input());
    atomic::remove_dir_all(&scratch.path("a")).unwrap();
    assert!(tree(scratch.dir()).is_empty());
    assert!(atomic::remove_dir_all(&scratch.path("a")).unwrap_err().is_input());
}

#[test]
fn what_was_written_is_a_model() {
    let scratch = Scratch::new();
    write_dir(&FaultyFs::recording(), &scratch.path("m"), Overwrite::Refuse).unwrap();
    let dir = SafetensorsDir::open(&scratch.path("m"), &Limits::default()).unwrap();
    assert_eq!((dir.bytes("a").unwrap(), dir.bytes("b").unwrap()), ([2; 8].as_slice(), [3; 8].as_slice()));
    let Ok(mut file) = RealFs.create_new(&scratch.path("f")) else { panic!("a new file") };
    file.write_all(b"123").unwrap();
    assert!(RealFs.create_new(&scratch.path("f")).is_err_and(|e| e.kind() == std::io::ErrorKind::AlreadyExists));
}
