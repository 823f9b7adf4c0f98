//! A side: a process that answers lines.
use crate::Result;
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

pub(crate) const TORCH: &str = "PyTorch";
pub(crate) const LLAMA: &str = "llama.cpp";

/// How sides are started.
pub(crate) struct Start<'a> {
    pub(crate) python: &'a Path,
    pub(crate) threads: usize,
}

impl Start<'_> {
    /// This program again.
    pub(crate) fn ours(&self) -> Result<Side> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--serve", "--threads", &self.threads.to_string()]);
        Side::start(command)
    }

    /// A peer by its name; the error says why it is missing.
    pub(crate) fn peer(&self, name: &str) -> Result<Side> {
        let script = if name == TORCH { "torch_peer.py" } else { "llama_peer.py" };
        let mut command = Command::new(self.python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(script)).arg(self.threads.to_string());
        // Libraries size their pools when they are loaded.
        command.env("OMP_NUM_THREADS", self.threads.to_string());
        Side::start(command)
    }
}

/// A running side.
pub(crate) struct Side {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// What it calls itself.
    pub(crate) name: String,
    /// With versions and options.
    pub(crate) version: String,
    /// Formats of models that it reads.
    formats: Vec<String>,
}

impl Side {
    fn start(mut command: Command) -> Result<Side> {
        let program = command.get_program().display().to_string();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("cannot start {program}: {e}"))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("{program} has no standard input or output").into());
        };
        let (name, version, formats) = (program, String::new(), Vec::new());
        let mut side = Side { child, stdin, stdout: BufReader::new(stdout), name, version, formats };
        let hello = side.ask(&json!({"do": "hello"}))?;
        let text = |key: &str| hello[key].as_str().unwrap_or("?").to_owned();
        (side.name, side.version) = (text("name"), text("version"));
        side.formats =
            hello["formats"].as_array().into_iter().flatten().filter_map(|f| f.as_str()).map(str::to_owned).collect();
        Ok(side)
    }

    /// One line there, one line back.
    pub(crate) fn ask(&mut self, request: &Value) -> Result<Value> {
        // A side that has said why it is missing has gone: what it said is still to be read.
        let sent = writeln!(self.stdin, "{request}").and_then(|()| self.stdin.flush());
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        if line.is_empty() {
            return Err(format!(
                "{} ended without an answer{}",
                self.name,
                sent.err().map_or(String::new(), |e| format!(": {e}"))
            )
            .into());
        }
        let answer: Value = serde_json::from_str(&line).map_err(|e| format!("{} answered {line:?}: {e}", self.name))?;
        match ["missing", "error"].iter().find_map(|key| answer[key].as_str()) {
            Some(problem) => Err(problem.into()),
            None => Ok(answer),
        }
    }

    /// Whether it can run a model of this format.
    pub(crate) fn reads(&self, format: Option<&str>) -> bool {
        match format {
            Some(format) => self.formats.iter().any(|f| f == format),
            None => self.name != LLAMA,
        }
    }

    /// Makes `case` the one that [`Side::run`] times.
    pub(crate) fn set_up(&mut self, case: &Value) -> Result<()> {
        self.ask(&json!({"do": "setup", "case": case})).map(drop)
    }

    /// Seconds of one run, the mean of as many as fill `at_least`.
    pub(crate) fn run(&mut self, at_least: f64) -> Result<f64> {
        let answer = self.ask(&json!({"do": "run", "seconds": at_least}))?;
        answer["seconds"].as_f64().ok_or_else(|| format!("{} answered {answer}", self.name).into())
    }

    /// The peak of resident memory in bytes, and whether to begin a new one.
    pub(crate) fn memory(&mut self, reset: bool) -> Result<Option<u64>> {
        Ok(self.ask(&json!({"do": "memory", "reset": reset}))?["peak"].as_u64())
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // It would end by itself when its standard input closes, but not before it has freed gigabytes.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
