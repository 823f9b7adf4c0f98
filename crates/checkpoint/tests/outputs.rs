//! The rules around outputs: which directories are replaced, who may write, and what a log is cut back to.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{Scratch, kind};
use paring_checkpoint::{
    AppendLog, DirWriter, Lock, Overwrite, Result,
    atomic::{FaultyFs, Kind, Op},
};
use std::{
    fmt::Debug,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

#[track_caller]
fn fails<T: Debug>(result: Result<T>, want: &str, word: &str) {
    let error = result.unwrap_err();
    assert!(
        kind(&error) == want && error.to_string().contains(word),
        "expected {want} with `{word}`, got {error:?}: {error}"
    );
}

fn write(target: &Path, overwrite: Overwrite) -> Result<()> {
    let mut dir = DirWriter::create(target, overwrite)?;
    dir.write_bytes("config.json", b"new")?;
    dir.commit()
}

#[test]
fn what_is_replaced() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    write(&out, Overwrite::Refuse).unwrap();
    fails(write(&out, Overwrite::Refuse), "Exists", "out: exists already");
    write(&out, Overwrite::Replace).unwrap();

    // A directory with anything else in it may be somebody's home.
    let home = scratch.path("home");
    std::fs::create_dir(&home).unwrap();
    write(&home, Overwrite::Replace).unwrap(); // It was empty.
    std::fs::remove_file(home.join("config.json")).unwrap();
    std::fs::write(home.join("letter.txt"), "dear").unwrap();
    fails(write(&home, Overwrite::Replace), "NotOurs", "no config.json, no manifest.json");
    std::fs::create_dir(home.join("config.json")).unwrap();
    fails(write(&home, Overwrite::Replace), "NotOurs", "home");
    std::fs::write(home.join("manifest.json"), "{}").unwrap();
    write(&home, Overwrite::Replace).unwrap();
    assert!(!home.join("letter.txt").exists());

    // Files and links are never replaced by a directory.
    let file = scratch.write("file", b"text");
    std::os::unix::fs::symlink(&out, scratch.path("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", scratch.path("dangling")).unwrap();
    for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
        for path in [file.clone(), scratch.path("link"), scratch.path("dangling")] {
            fails(write(&path, overwrite), "Exists", path.file_name().unwrap().to_str().unwrap());
        }
    }
    assert_eq!(std::fs::read(file).unwrap(), b"text");
    fails(write(&scratch.path("no/parent"), Overwrite::Refuse), "Write", "cannot create a directory");
    fails(write(&scratch.path(".x.paring-tmp-1-2"), Overwrite::Refuse), "Name", "temporary name");
}

#[test]
fn somebody_else_makes_the_directory_meanwhile() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    for overwrite in [Overwrite::Refuse, Overwrite::Replace] {
        let mut dir = DirWriter::create(&out, overwrite).unwrap();
        dir.write_bytes("config.json", b"mine").unwrap();
        std::fs::create_dir(&out).unwrap();
        std::fs::write(out.join("theirs"), "x").unwrap();
        fails(dir.commit(), if overwrite == Overwrite::Refuse { "Exists" } else { "NotOurs" }, "out");
        assert_eq!(std::fs::read_dir(scratch.dir()).unwrap().count(), 1, "what was written is removed");
        std::fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_directory_that_is_not_committed_is_removed() {
    let scratch = Scratch::new();
    let mut dir = DirWriter::create(&scratch.path("out"), Overwrite::Refuse).unwrap();
    dir.write_bytes("a", b"x").unwrap();
    assert_eq!(std::fs::read_dir(scratch.dir()).unwrap().count(), 1);
    drop(dir);
    assert_eq!(std::fs::read_dir(scratch.dir()).unwrap().count(), 0);
}

#[test]
fn names_in_a_directory() {
    let scratch = Scratch::new();
    let mut dir = DirWriter::create(&scratch.path("out"), Overwrite::Refuse).unwrap();
    let long = "x".repeat(256);
    for name in ["", ".", "..", "/abs", "../x", "a\\b", "C:x", "x\0", "x\n", &long, "none/x"] {
        fails(dir.file(name), "Name", "out");
    }
    for name in ["", "..", "a/b", "/"] {
        fails(dir.subdir(name), "Name", "out");
    }
    dir.subdir("sub").unwrap();
    dir.write_bytes("sub/a", b"1").unwrap();
    dir.write_bytes("a", b"22").unwrap();
    for name in ["sub/", "sub/..", "sub/b/c"] {
        fails(dir.file(name), "Name", "out");
    }
    for name in ["a", "sub/a", "sub"] {
        fails(dir.file(name), "Announced", "is there already");
    }
    fails(dir.subdir("a"), "Announced", "is there already");
    fails(dir.subdir("sub"), "Announced", "is there already");
    let files = dir.files();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["a", "sub/a"]);
    assert_eq!((files["a"].bytes, files["a"].blake3), (2, blake3::hash(b"22")));
    let unfinished = dir.file("b").unwrap();
    assert_eq!(unfinished.path(), scratch.path("out/b"));
    drop(unfinished);
    fails(dir.commit(), "Announced", "writing `b`: is not finished");
}

#[test]
fn one_writer_at_a_time() {
    let scratch = Scratch::new();
    let path = scratch.path("lock");
    let lock = Lock::acquire(&path).unwrap();
    assert_eq!(lock.path(), path);
    fails(Lock::acquire(&path), "Locked", &format!("another run works here (process {} on ", std::process::id()));
    drop(lock);
    // The file stays, the lock does not; a longer text in it is no trouble.
    assert!(path.exists());
    std::fs::write(&path, "x".repeat(1000)).unwrap();
    let _lock = Lock::acquire(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("process ") && text.lines().count() == 1, "{text}");
    fails(Lock::acquire(&scratch.path("no/lock")), "Write", "open the lock file");
}

#[test]
fn of_many_at_once_exactly_one_gets_the_lock() {
    let scratch = Scratch::new();
    let path = scratch.path("lock");
    let barrier = std::sync::Barrier::new(50);
    let locks: Vec<_> = std::thread::scope(|s| {
        let attempt = || {
            barrier.wait();
            Lock::acquire(&path)
        };
        let threads: Vec<_> = (0..50).map(|_| s.spawn(attempt)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(locks.iter().filter(|l| l.is_ok()).count(), 1);
    assert!(locks.iter().all(|l| l.as_ref().err().is_none_or(|e| kind(e) == "Locked")));
}

#[test]
fn a_lock_ends_with_its_process() {
    let scratch = Scratch::new();
    let path = scratch.write("lock", b"process 1 on elsewhere\n");
    // flock(1) is in util-linux, which every Linux has; without a fork, the process that sleeps is the one that holds the lock.
    let mut holder = Command::new("flock")
        .args(["--exclusive", "--no-fork"])
        .arg(&path)
        .args(["sh", "-c", "echo held; exec sleep 60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
    fails(Lock::acquire(&path), "Locked", "process 1 on elsewhere");
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(&line, b"held\n");
    Lock::acquire(&path).unwrap();
}

#[test]
fn logs_are_cut_back_to_whole_lines() {
    let scratch = Scratch::new();
    let path = scratch.path("metrics.jsonl");
    let read = || std::fs::read_to_string(&path).unwrap();
    let mut log = AppendLog::open(&path).unwrap();
    assert!(log.is_empty());
    log.line("{\"step\":1}").unwrap();
    log.line("two\nlines").unwrap();
    log.sync().unwrap();
    assert_eq!((read().as_str(), log.len()), ("{\"step\":1}\ntwo lines\n", 21));
    drop(log);

    // A killed run leaves a line without its end; a long one needs more than one look backwards.
    for rest in ["{\"ste".to_string(), "x".repeat(10_000)] {
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(rest.as_bytes()).unwrap();
        let mut log = AppendLog::open(&path).unwrap();
        assert_eq!(log.len(), 21);
        log.line("more").unwrap();
        assert_eq!(read(), "{\"step\":1}\ntwo lines\nmore\n");
        drop(log);
        assert_eq!(AppendLog::resume(&path, 21).unwrap().len(), 21);
        assert_eq!(read(), "{\"step\":1}\ntwo lines\n");
    }
    // The checkpoint knows a length: the end of a line, and not beyond the log.
    for len in [1, 20, 22, u64::MAX] {
        fails(AppendLog::resume(&path, len), "Corrupt", &format!("but the checkpoint was made when it had {len}"));
    }
    assert_eq!(read().len(), 21, "a log that does not fit is left alone");
    assert_eq!(AppendLog::resume(&path, 11).unwrap().len(), 11);
    assert_eq!(read(), "{\"step\":1}\n");
    assert!(AppendLog::resume(&path, 0).unwrap().is_empty());
    fails(AppendLog::resume(&scratch.path("none"), 5), "Corrupt", "has 0 bytes");
    scratch.write("metrics.jsonl", b"no end of line");
    assert!(AppendLog::open(&path).unwrap().is_empty());
    fails(AppendLog::open(scratch.dir()), "NotAFile", "is a directory");
    fails(AppendLog::open(Path::new("/dev/full")), "NotAFile", "is a device");
}

#[test]
fn a_line_is_in_the_log_or_it_is_not() {
    for fault in [Kind::NoSpace, Kind::Io] {
        let scratch = Scratch::new();
        let path = scratch.path("log");
        let mut log = AppendLog::open_on(&FaultyFs::failing(Op::Write, 1, fault), &path, None).unwrap();
        log.line("first").unwrap();
        fails(log.line("second, of which half fits"), "Write", "cannot append");
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), log.len()), ("first\n", 6));
        log.line("third").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "first\nthird\n");
    }
    let scratch = Scratch::new();
    let path = scratch.path("log");
    let mut log = AppendLog::open_on(&FaultyFs::one_byte_at_a_time(), &path, None).unwrap();
    log.line("slowly").unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "slowly\n");
    let mut log = AppendLog::open_on(&FaultyFs::failing(Op::Sync, 0, Kind::Io), &path, None).unwrap();
    fails(log.sync(), "Write", "cannot fsync");
    fails(AppendLog::open_on(&FaultyFs::failing(Op::Create, 0, Kind::Io), &path, None), "Write", "open for appending");
    // The process dies between the bytes of a line; the next one cuts it off.
    let mut log = AppendLog::open_on(&FaultyFs::failing(Op::Write, 0, Kind::Crash), &path, None).unwrap();
    fails(log.line("lost"), "Write", "cannot append");
    assert_eq!(AppendLog::open(&path).unwrap().len(), 7);
}
