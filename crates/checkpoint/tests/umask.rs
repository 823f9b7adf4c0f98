//! Modes of files and directories are what the umask says. The umask belongs to the process, so this test has a file for itself.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::Scratch;
use paring_checkpoint::{AppendLog, DirWriter, Lock, Overwrite, atomic};
use rustix::{fs::Mode, process::umask};
use std::os::unix::fs::PermissionsExt;

#[test]
fn modes_follow_the_umask() {
    for (mask, file_mode, dir_mode) in
        [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775), (0, 0o666, 0o777)]
    {
        let scratch = Scratch::new();
        umask(Mode::from_raw_mode(mask));
        // A file that is replaced does not keep its old mode.
        let old = scratch.write("file", b"");
        std::fs::set_permissions(old, std::fs::Permissions::from_mode(0o400)).unwrap();
        atomic::write_bytes(&scratch.path("file"), b"x").unwrap();
        AppendLog::open(&scratch.path("log")).unwrap().line("x").unwrap();
        let _lock = Lock::acquire(&scratch.path("lock")).unwrap();
        let mut dir = DirWriter::create(&scratch.path("dir"), Overwrite::Refuse).unwrap();
        dir.subdir("sub").unwrap();
        dir.write_bytes("sub/a", b"x").unwrap();
        dir.commit().unwrap();
        atomic::create_dir_all(&scratch.path("above/below")).unwrap();
        let mode = |name: &str| std::fs::metadata(scratch.path(name)).unwrap().permissions().mode() & 0o7777;
        for name in ["file", "log", "lock", "dir/sub/a"] {
            assert_eq!(mode(name), file_mode, "{name} under umask {mask:o}");
        }
        for name in ["dir", "dir/sub", "above", "above/below"] {
            assert_eq!(mode(name), dir_mode, "{name} under umask {mask:o}");
        }
    }
}
