//! A directory for one test, the program that is run in it, and what came out.
use crate::tiny;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io::Read,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The program.
pub(crate) const PARING: &str = env!("CARGO_BIN_EXE_paring");

/// No run here takes this long, unless it hangs.
const HANG: Duration = Duration::from_secs(120);

/// Paths below a directory, and what the files are.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// All regular files below `dir`.
pub(crate) fn files(dir: &Path) -> Files {
    let mut found = Files::new();
    walk(dir, dir, &mut |name, path| {
        if path.is_file() {
            found.insert(name, std::fs::read(path).unwrap());
        }
    });
    found
}

fn walk(root: &Path, dir: &Path, see: &mut impl FnMut(String, &Path)) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        see(path.strip_prefix(root).unwrap().to_string_lossy().into_owned(), &path);
        if path.is_dir() && !path.is_symlink() {
            walk(root, &path, see);
        }
    }
}

/// A directory with the tiny model in `model`, its text in `text.txt` and other text in `heldout.txt`: where the program runs.
pub(crate) struct Lab(TempDir);

impl Lab {
    pub(crate) fn new() -> Self {
        let lab = Lab(tempfile::tempdir().unwrap());
        for (name, bytes) in tiny::model() {
            lab.write(&format!("model/{name}"), bytes);
        }
        lab.write("text.txt", tiny::text());
        lab.write("heldout.txt", tiny::heldout());
        lab
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, with the directories above it.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        let path = self.path(name);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    pub(crate) fn read_json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).unwrap()
    }

    /// A copy of the tiny model, changed.
    pub(crate) fn model_with(&self, name: &str, change: impl FnOnce(&Lab, &str)) {
        for (file, bytes) in tiny::model() {
            self.write(&format!("{name}/{file}"), bytes);
        }
        change(self, name);
    }

    /// Everything in the directory: names, and lengths of files. The cache is not looked at.
    pub(crate) fn listing(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        walk(self.0.path(), self.0.path(), &mut |name, path| {
            if !name.starts_with("cache") {
                found.insert(name, path.symlink_metadata().map_or(0, |m| if m.is_file() { m.len() } else { 0 }));
            }
        });
        found
    }

    /// The program with `words`, in this directory, apart from the user's own settings.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(PARING);
        command.args(words);
        self.inside(command)
    }

    /// `script` for `sh`, in which `"$0"` is the program.
    pub(crate) fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script, PARING]);
        self.inside(command)
    }

    fn inside(&self, mut command: Command) -> Command {
        for name in ["HF_HOME", "HF_HUB_CACHE", "NO_COLOR", "COLUMNS", "CLICOLOR_FORCE"] {
            command.env_remove(name);
        }
        command.current_dir(self.0.path()).env("HOME", self.path("home")).env("XDG_CACHE_HOME", self.path("cache"));
        command.env("TMPDIR", self.0.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts the program with the words of `line`.
    pub(crate) fn start(&self, line: &str) -> Running {
        Running::start(self.command(line.split_whitespace()))
    }

    /// Runs the program with the words of `line`.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.start(line).wait()
    }

    /// Runs the program, which has to succeed.
    pub(crate) fn done(&self, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "{line}: {ran:?}");
        ran
    }

    /// Runs the program with `--json`, which has to succeed and print one object.
    pub(crate) fn json(&self, line: &str) -> Value {
        let ran = self.done(&format!("{line} --json"));
        let value: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{line}: {e}: {}", ran.stdout));
        assert!(value.is_object() && ran.stdout.lines().count() == 1, "{line}: {}", ran.stdout);
        value
    }

    /// Runs the program, which has to refuse: [`Ran::check_refusal`], and nothing in the directory is another than before.
    pub(crate) fn refused(&self, line: &str, says: &[&str]) {
        self.refuses(self.command(line.split_whitespace()), line, says);
    }

    /// As [`Lab::refused`], for a command that is no line of words. `name` is for messages.
    pub(crate) fn refuses(&self, command: Command, name: &str, says: &[&str]) {
        let before = self.listing();
        Running::start(command).wait().check_refusal(name, 2, says);
        assert_eq!(self.listing(), before, "{name}: left something behind");
    }
}

/// What a run printed, and how it ended: its exit code, or minus the signal that it died of.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// The exit code is `code`, and stderr has one to three lines, the last of which is an error that contains all of `says`, and nothing that a
    /// terminal would obey.
    pub(crate) fn check_refusal(&self, name: &str, code: i32, says: &[&str]) {
        let Ran { code: got, stderr, .. } = self;
        let last = stderr.lines().last().unwrap_or_default();
        assert!(*got == code && last.starts_with("error: "), "{name}: exit code {got}, expected {code}: {stderr}");
        assert!(stderr.lines().count() <= 3 && stderr.len() < 1500, "{name}: too much to read: {stderr}");
        for part in says {
            assert!(last.contains(part), "{name}: `{last}` does not say `{part}`");
        }
        let panicked = ["panicked", "internal error", "RUST_BACKTRACE"].iter().any(|p| stderr.contains(p));
        assert!(!panicked, "{name}: {stderr}");
        assert!(!stderr.chars().any(|c| c != '\n' && c.is_control()), "{name}: control characters in {stderr:?}");
    }
}

/// A run that has not ended. Killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(reader);
        let stderr = child.stderr.take().map(reader);
        Running { child, stdout, stderr }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until `seen`; false if the run ended before.
    pub(crate) fn until(&mut self, mut seen: impl FnMut() -> bool) -> bool {
        let start = Instant::now();
        while !seen() {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            assert!(start.elapsed() < HANG, "nothing happened for {HANG:?}");
            sleep(Duration::from_millis(1));
        }
        true
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ran {
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if HANG < start.elapsed() => panic!("it did not end within {HANG:?}"),
                None => sleep(Duration::from_millis(2)),
            }
        };
        let text = |handle: &mut Option<JoinHandle<String>>| handle.take().map_or(String::new(), |h| h.join().unwrap());
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or_default());
        Ran { code, stdout: text(&mut self.stdout), stderr: text(&mut self.stderr) }
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(self) -> Ran {
        self.signal(Signal::KILL);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion nobody waits for it. One that has ended cannot be killed, which is no matter.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a pipe to its end beside the test: a full pipe would stop the program.
fn reader(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
