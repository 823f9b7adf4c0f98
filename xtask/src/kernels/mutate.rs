//! `cargo xtask kernels --mutate`: are the tests of a kernel good enough to notice when one instruction of it is wrong?
//!
//! Random mutants of the committed PTX run through the project's own tests, as they are. A mutant whose machine code is the original's, or that
//! ptxas refuses, is not counted. Only tests that come to the changed instruction are asked, those first that noticed most in the least time.
use super::{
    Toolkit,
    build::{self, Source},
    fates::{self, Fate, Fates},
    files,
    operators::{self, Mutant},
    ptx::{self, Entry},
    ptxas,
    suite::{self, Answer, Test},
};
use crate::{
    error::{Error, Result},
    project::read,
};
use std::{
    collections::HashMap,
    ffi::OsStr,
    path::Path,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Mutants at a time.
const WORKERS: usize = 2;

/// Seconds of the longest test that is asked: whole models are left to the gate.
const LONGEST: f64 = 20.0;

/// The part of the mutants that has to be noticed.
const ENOUGH: f64 = 0.85;

/// How many mutants, which, and how hard to try.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// For each kernel.
    pub count: usize,
    pub seed: u64,
    /// Seconds of tests that a mutant has to pass to have survived, in terms of what they take as they are. At least one is asked.
    pub patience: f64,
    /// Whether what an earlier run found out counts.
    pub resume: bool,
}

/// A kernel with its mutants and the tests that launch it.
struct Target<'a> {
    source: &'a Source,
    lines: Vec<&'a str>,
    entry: Entry,
    mutants: Vec<Mutant>,
    tests: Vec<&'a Test>,
    tests_number: u64,
    /// The machine code of the kernel as it is.
    original: OnceLock<Option<Vec<u8>>>,
}

/// The PTX of a source, and the name of a test.
type TestOfSource<'a> = (&'a Path, &'a str);

/// What the workers share.
struct Campaign<'a> {
    toolkit: &'a Toolkit,
    sample: Sample,
    targets: Vec<Target<'a>>,
    fates: Mutex<Fates>,
    /// For each kernel what is known of its mutants.
    found: Mutex<Vec<Vec<Option<Fate>>>>,
    /// For each test of a source how often it was asked, and how often it noticed something.
    record: Mutex<HashMap<TestOfSource<'a>, (u32, u32)>>,
}

/// Mutates every kernel whose name contains one of `only`, and asks the tests of programs whose file names contain `programs`.
///
/// # Errors
/// [`Error::Kernels`] with the number of kernels of which fewer than 85 % of the mutants are noticed; [`Error::NoKernel`]; those of cargo and of
/// the tools.
pub(super) fn run(toolkit: &Toolkit, only: &[String], programs: &str, sample: Sample) -> Result<()> {
    let tests = suite::run_all(programs, LONGEST)?;
    let sources = build::sources()?;
    let texts = sources.iter().map(|source| read(&source.ptx)).collect::<Result<Vec<_>>>()?;
    let mut targets = Vec::new();
    for (source, text) in sources.iter().zip(&texts) {
        for entry in ptx::entries(text) {
            if only.is_empty() || only.iter().any(|o| entry.name.contains(o.as_str())) {
                targets.push(target(source, text, entry, &tests, sample));
            }
        }
    }
    if targets.is_empty() {
        return Err(Error::NoKernel(only.join(" ")));
    }
    let found = targets.iter().map(|t| vec![None; t.mutants.len()]).collect();
    let fates = Mutex::new(Fates::open(sample.resume)?);
    let campaign =
        Campaign { toolkit, sample, targets, fates, found: Mutex::new(found), record: Mutex::new(HashMap::new()) };
    let weak = campaign.run()?;
    campaign.total();
    match weak {
        0 => Ok(()),
        n => Err(Error::Kernels(n)),
    }
}

fn target<'a>(source: &'a Source, text: &'a str, entry: Entry, tests: &'a [Test], sample: Sample) -> Target<'a> {
    let lines: Vec<&str> = text.lines().collect();
    let mutants = pick(operators::mutants(&lines, entry.lines.clone()), sample);
    let tests: Vec<&Test> = tests.iter().filter(|t| t.launches.iter().any(|l| l.kernel == entry.name)).collect();
    let tests_number = fates::tests_number(&entry.name, &tests);
    Target { source, lines, entry, mutants, tests, tests_number, original: OnceLock::new() }
}

impl<'a> Campaign<'a> {
    /// Tries all mutants and reports on each kernel when its last one is known; how many kernels were too weak.
    fn run(&self) -> Result<usize> {
        let places = self.targets.iter().enumerate();
        let jobs: Vec<(usize, usize)> = places.flat_map(|(t, of)| (0..of.mutants.len()).map(move |m| (t, m))).collect();
        let (next, weak) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let failed = Mutex::new(None);
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let (jobs, next, weak, failed) = (&jobs, &next, &weak, &failed);
                scope.spawn(move || {
                    while let Some(&(t, m)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match self.find_out(t, m, worker) {
                            Ok(is_weak) => _ = weak.fetch_add(usize::from(is_weak), Ordering::Relaxed),
                            Err(error) => {
                                *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                                next.store(jobs.len(), Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(weak.into_inner()),
        }
    }

    /// Tries one mutant, or remembers it. True when the kernel is through and was too weak.
    fn find_out(&self, t: usize, m: usize, worker: usize) -> Result<bool> {
        let target = &self.targets[t];
        let number = fates::mutant_number(&target.lines, &target.entry, &target.mutants[m]);
        let fates = || self.fates.lock().unwrap_or_else(PoisonError::into_inner);
        let known = fates().get(number, target.tests_number);
        let fate = match known {
            Some(fate) => fate,
            None => {
                let fate = self.try_one(target, &target.mutants[m], worker)?;
                fates().add(&target.entry.name, number, target.tests_number, fate)?;
                fate
            }
        };
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found[t][m] = Some(fate);
        let all: Option<Vec<Fate>> = found[t].iter().copied().collect();
        Ok(all.is_some_and(|fates| !report(target, &fates)))
    }

    /// The fate of a mutant.
    fn try_one(&self, target: &Target<'a>, mutant: &Mutant, worker: usize) -> Result<Fate> {
        // A directory for each worker, so that the file's name, which the machine code may contain, stays the same.
        let path = files::scratch(&format!("mutants/{}.{worker}/{}.ptx", std::process::id(), target.source.stem))?;
        let original = match target.original.get() {
            Some(original) => original,
            None => {
                files::write(&path, &alone(target, None))?;
                let made = ptxas::cubin(self.toolkit, &path)?;
                target.original.get_or_init(|| made)
            }
        };
        files::write(&path, &alone(target, Some(mutant)))?;
        match ptxas::cubin(self.toolkit, &path)? {
            None => return Ok(Fate::NotCounted),
            Some(cubin) if original.as_ref() == Some(&cubin) => return Ok(Fate::NotCounted),
            Some(_) => {}
        }
        let line = mutant.line as u32 + 1;
        let comes_there = |test: &&Test| test.reached.get(&target.entry.name).is_some_and(|r| r.lines.contains(&line));
        let mut open: Vec<&Test> = target.tests.iter().copied().filter(comes_there).collect();
        if open.is_empty() {
            return Ok(Fate::NotReached);
        }
        let mut spent = 0.0;
        while let Some(test) = self.next_test(target, &mut open) {
            if 0.0 < spent && self.sample.patience < spent + test.seconds {
                continue;
            }
            spent += test.seconds;
            // An endless loop is known by what the kernel executes as it is; the clock is for what goes on outside of it.
            let most = test.reached.get(&target.entry.name).map_or(0, |r| r.instructions);
            let most = (10 * most + 1_000_000).to_string();
            let limit = Duration::from_secs_f64(10.0 + 10.0 * test.seconds);
            let variables = [("PTX_SIM_REPLACE", path.as_os_str()), ("PTX_SIM_LIMIT", OsStr::new(&most))];
            let (answer, _) = suite::ask(test, &variables, limit);
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            let (asked, noticed) = record.entry((&target.source.ptx, &test.name)).or_default();
            *asked += 1;
            *noticed += u32::from(answer != Answer::Passed);
            match answer {
                Answer::Passed => {}
                Answer::Failed => return Ok(Fate::Killed),
                Answer::TimedOut => return Ok(Fate::TimedOut),
                Answer::NotLoaded => return Ok(Fate::NotCounted),
            }
        }
        Ok(Fate::Survived)
    }

    /// Takes out of `open` the test of which most is to be expected for its time.
    fn next_test(&self, target: &Target<'a>, open: &mut Vec<&'a Test>) -> Option<&'a Test> {
        let record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let cost = |test: &Test| {
            let (asked, noticed) =
                record.get(&(target.source.ptx.as_path(), test.name.as_str())).copied().unwrap_or_default();
            // As if every test had been asked twice before and noticed one: nobody is written off.
            (0.05 + test.seconds) * f64::from(asked + 2) / f64::from(noticed + 1)
        };
        let best = (0..open.len()).min_by(|a, b| cost(open[*a]).total_cmp(&cost(open[*b])))?;
        Some(open.remove(best))
    }

    /// Prints the sum of all kernels.
    fn total(&self) {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let all: Vec<Fate> = found.iter().flatten().copied().flatten().collect();
        let count = |wanted: &dyn Fn(Fate) -> bool| all.iter().filter(|fate| wanted(**fate)).count();
        let (n, noticed) = (count(&Fate::is_counted), count(&Fate::is_noticed));
        println!(
            "{} kernels, {n} mutants ({} more not counted): {noticed} noticed ({:.1} %), {} of them by the clock; no test comes to {}",
            self.targets.len(),
            all.len() - n,
            100.0 * noticed as f64 / n.max(1) as f64,
            count(&|fate| fate == Fate::TimedOut),
            count(&|fate| fate == Fate::NotReached),
        );
    }
}

/// The text of a kernel without the others of its file, with a line changed. Lines keep their numbers.
fn alone(target: &Target<'_>, mutant: Option<&Mutant>) -> String {
    let mut text = String::new();
    let others = ptx::entries(&target.lines.join("\n")).into_iter().filter(|e| e.name != target.entry.name);
    let others: Vec<_> = others.map(|entry| entry.lines).collect();
    for (i, line) in target.lines.iter().enumerate() {
        match mutant {
            Some(mutant) if mutant.line == i => text += &mutant.text,
            _ if others.iter().any(|lines| lines.contains(&i)) => {}
            _ => text += line,
        }
        text.push('\n');
    }
    text
}

/// Prints what became of a kernel's mutants; whether enough were noticed.
fn report(target: &Target<'_>, fates: &[Fate]) -> bool {
    let n = fates.iter().filter(|fate| fate.is_counted()).count();
    let noticed = fates.iter().filter(|fate| fate.is_noticed()).count();
    let part = noticed as f64 / n.max(1) as f64;
    println!(
        "{}: {noticed} of {n} noticed ({:.0} %; {} not counted), by {} tests",
        target.entry.name,
        100.0 * part,
        fates.len() - n,
        target.tests.len()
    );
    for (mutant, fate) in target.mutants.iter().zip(fates) {
        let what = match fate {
            Fate::Survived => "survived",
            Fate::NotReached => "not reached",
            Fate::Killed | Fate::TimedOut | Fate::NotCounted => continue,
        };
        let before = target.lines.get(mutant.line).map_or("", |l| l.trim());
        println!("  {what}, line {}: {}: `{before}` -> `{}`", mutant.line + 1, mutant.operator, mutant.text.trim());
    }
    n == 0 || ENOUGH <= part
}

/// `count` of `mutants`, the same ones for the same seed, in the order of the file.
fn pick(mut mutants: Vec<Mutant>, sample: Sample) -> Vec<Mutant> {
    let mut state = sample.seed;
    // SplitMix64: every seed is good.
    let mut random = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for i in (1..mutants.len()).rev() {
        let j = (random() % (i as u64 + 1)) as usize;
        mutants.swap(i, j);
    }
    mutants.truncate(sample.count);
    mutants.sort_by_key(|m| m.line);
    mutants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(line: usize) -> Mutant {
        Mutant { line, operator: "forgotten", text: String::new() }
    }

    #[test]
    fn a_seed_is_a_sample() {
        let all: Vec<_> = (0..100).map(mutant).collect();
        let sample = |count, seed| Sample { count, seed, patience: 1.0, resume: false };
        let lines = |seed| -> Vec<usize> { pick(all.clone(), sample(10, seed)).into_iter().map(|m| m.line).collect() };
        assert_eq!(lines(7), lines(7));
        assert_ne!(lines(7), lines(8));
        assert!(lines(7).is_sorted() && lines(7).len() == 10);
        assert_eq!(pick(all.clone(), sample(1000, 7)), all);
    }

    fn source() -> Source {
        Source { stem: "a".into(), cu: "a.cu".into(), ptx: "a.ptx".into() }
    }

    const TEXT: &str =
        ".version 7.4\n.visible .entry a()\n{\n\tret;\n}\n.visible .entry b()\n{\n\tbar.sync 0;\n\tret;\n}\n";

    #[test]
    fn too_few_noticed_is_a_failure() {
        let source = source();
        let mut target = target(
            &source,
            TEXT,
            ptx::entries(TEXT).remove(1),
            &[],
            Sample { count: 0, seed: 1, patience: 1.0, resume: false },
        );
        target.mutants = (0..20).map(mutant).collect();
        let fates = |survived: usize, fate| -> Vec<Fate> {
            (0..20).map(|i| if i < survived { fate } else { Fate::Killed }).collect()
        };
        assert!(report(&target, &fates(3, Fate::Survived)));
        assert!(!report(&target, &fates(4, Fate::Survived)));
        assert!(!report(&target, &fates(4, Fate::NotReached)));
        assert!(report(&target, &fates(20, Fate::NotCounted)));
    }

    #[test]
    fn a_kernel_stands_alone_where_it_stood() {
        let source = source();
        let target = target(
            &source,
            TEXT,
            ptx::entries(TEXT).remove(1),
            &[],
            Sample { count: 0, seed: 1, patience: 1.0, resume: false },
        );
        let alone = alone(&target, Some(&mutant(7)));
        assert_eq!(alone, ".version 7.4\n\n\n\n\n.visible .entry b()\n{\n\n\tret;\n}\n");
    }
}
