//! What became of mutants, remembered under `target/kernels` line by line as it is found out, so that a long run can be stopped and resumed.
use super::{files, operators::Mutant, ptx::Entry, suite::Test};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    hash::{DefaultHasher, Hasher},
    io::Write,
    path::PathBuf,
};

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) enum Fate {
    /// A test failed.
    Killed,
    /// A test did not end.
    TimedOut,
    /// The tests that were asked passed.
    Survived,
    /// No test comes to the instruction.
    NotReached,
    /// ptxas makes the same machine code of it, or none, or the simulator does not know an instruction.
    NotCounted,
}

impl Fate {
    pub(super) fn is_noticed(self) -> bool {
        matches!(self, Fate::Killed | Fate::TimedOut)
    }

    pub(super) fn is_counted(self) -> bool {
        self != Fate::NotCounted
    }
}

/// A line of the file.
#[derive(Debug, Deserialize, Serialize)]
struct Known {
    /// The kernel's name, for whoever reads the file.
    kernel: String,
    /// Of the kernel's text, the changed line in it, and what it became.
    mutant: u64,
    /// Of what the tests did when they were asked.
    tests: u64,
    fate: Fate,
}

/// The file, open for more.
pub(super) struct Fates {
    path: PathBuf,
    file: File,
    known: HashMap<u64, (Fate, u64)>,
}

/// A number for pieces of text.
fn number<'a>(pieces: impl IntoIterator<Item = &'a str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for piece in pieces {
        hasher.write(piece.as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}

/// A number for a mutant: another one when the kernel changes, the same one when it moves within its file.
pub(super) fn mutant_number(lines: &[&str], entry: &Entry, mutant: &Mutant) -> u64 {
    let place = mutant.line.saturating_sub(entry.lines.start).to_string();
    let text = lines.get(entry.lines.clone()).unwrap_or_default();
    number(text.iter().copied().chain([place.as_str(), mutant.operator, &mutant.text]))
}

/// A number for what the tests of a kernel do with it: another one when there are more of them or they come further.
pub(super) fn tests_number(kernel: &str, tests: &[&Test]) -> u64 {
    let mut pieces: Vec<String> = Vec::new();
    for test in tests {
        let launches = test.launches.iter().filter(|l| l.kernel == kernel).count();
        let lines = test.reached.get(kernel).map_or(0, |r| r.lines.len());
        pieces.push(format!("{} {launches} {lines}", test.name));
    }
    // The order is that of their times.
    pieces.sort();
    number(pieces.iter().map(String::as_str))
}

impl Fates {
    /// Opens the file; what is in it counts only where a run is resumed.
    ///
    /// # Errors
    /// [`Error::Read`], [`Error::Write`].
    pub(super) fn open(resume: bool) -> Result<Fates> {
        let path = files::scratch("fates.jsonl")?;
        let text = match resume && path.is_file() {
            true => crate::project::read(&path)?,
            false => String::new(),
        };
        // A line that was cut off when a run was stopped is one that is not known.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Known>(line).ok());
        let known = lines.map(|line| (line.mutant, (line.fate, line.tests))).collect();
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(Fates { path, file, known })
    }

    /// What is known of a mutant. One that survived is asked for again when the tests are others.
    pub(super) fn get(&self, mutant: u64, tests: u64) -> Option<Fate> {
        let (fate, asked) = *self.known.get(&mutant)?;
        (fate.is_noticed() || !fate.is_counted() || asked == tests).then_some(fate)
    }

    /// # Errors
    /// [`Error::Write`].
    pub(super) fn add(&mut self, kernel: &str, mutant: u64, tests: u64, fate: Fate) -> Result<()> {
        let line = Known { kernel: kernel.into(), mutant, tests, fate };
        let line = serde_json::to_string(&line).unwrap_or_default() + "\n";
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutant_is_the_same_where_its_kernel_moves() {
        let entry = |lines| Entry { name: "a".into(), params: vec![], max_threads: None, lines };
        let mutant = |line| Mutant { line, operator: "forgotten", text: String::new() };
        let (here, there) = (["b", "c"], ["x", "b", "c"]);
        let of = |lines: &[&str], from: usize, line| mutant_number(lines, &entry(from..from + 2), &mutant(line));
        assert_eq!(of(&here, 0, 1), of(&there, 1, 2));
        assert_ne!(of(&here, 0, 1), of(&here, 0, 0));
        assert_ne!(of(&here, 0, 1), of(&["b", "d"], 0, 1));
    }

    #[test]
    fn survivors_are_asked_again_by_other_tests() {
        let path = files::scratch("fates.of.a.test.jsonl").unwrap();
        let file = File::create(&path).unwrap();
        let known = HashMap::from([(1, (Fate::Survived, 7)), (2, (Fate::Killed, 7)), (3, (Fate::NotCounted, 7))]);
        let mut fates = Fates { path: path.clone(), file, known };
        assert_eq!(
            [1, 2, 3, 4].map(|m| fates.get(m, 7)),
            [Some(Fate::Survived), Some(Fate::Killed), Some(Fate::NotCounted), None]
        );
        assert_eq!([1, 2, 3].map(|m| fates.get(m, 8)), [None, Some(Fate::Killed), Some(Fate::NotCounted)]);
        fates.add("a", 4, 8, Fate::NotReached).unwrap();
        let line: Known = serde_json::from_str(std::fs::read_to_string(&path).unwrap().trim()).unwrap();
        assert_eq!((line.mutant, line.tests, line.fate), (4, 8, Fate::NotReached));
    }
}
