//! `cargo xtask kernels --mutate`: are the tests of a kernel good enough to notice when one instruction of it is wrong?
//!
//! Random mutants of the committed PTX run through the project's own tests, as they are. A mutant whose machine code is the original's, or that
//! ptxas refuses, is not counted.
use super::{
    Toolkit,
    build::{self, Source},
    files,
    operators::{self, Mutant},
    ptx, ptxas,
    suite::{self, Answer, Test},
};
use crate::{
    error::{Error, Result},
    project::read,
};
use std::{
    sync::{
        Mutex, PoisonError,
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

/// How many mutants, and which.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// For each kernel.
    pub count: usize,
    pub seed: u64,
}

/// What became of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    TimedOut,
    Survived,
    /// ptxas makes the same machine code of it, or none, or the simulator does not know an instruction.
    NotCounted,
}

/// Mutates every kernel whose name contains one of `only`.
///
/// # Errors
/// [`Error::Kernels`] with the number of kernels of which fewer than 85 % of the mutants are noticed; [`Error::NoKernel`]; those of cargo and of
/// the tools.
pub(super) fn run(toolkit: &Toolkit, only: &[String], sample: Sample) -> Result<()> {
    let mut tests = suite::run_all()?;
    tests.retain(|test| test.seconds <= LONGEST);
    let (mut weak, mut n_kernels, mut all) = (0, 0, [0; 4]);
    for source in build::sources()? {
        let text = read(&source.ptx)?;
        for entry in ptx::entries(&text) {
            if !only.is_empty() && !only.iter().any(|o| entry.name.contains(o.as_str())) {
                continue;
            }
            n_kernels += 1;
            let lines: Vec<&str> = text.lines().collect();
            let mutants = pick(operators::mutants(&lines, entry.lines.clone()), sample);
            let tests: Vec<&Test> =
                tests.iter().filter(|t| t.launches.iter().any(|l| l.kernel == entry.name)).collect();
            let fates = try_all(toolkit, &source, &text, &mutants, &tests)?;
            weak += usize::from(!report(&entry.name, &tests, &lines, &mutants, &fates));
            for fate in fates {
                all[fate as usize] += 1;
            }
        }
    }
    if n_kernels == 0 {
        return Err(Error::NoKernel(only.join(" ")));
    }
    let [killed, timed_out, survived, not_counted] = all;
    let n = killed + timed_out + survived;
    println!(
        "{n_kernels} kernels, {n} mutants ({not_counted} more not counted): {} noticed ({:.1} %), {timed_out} of them by the clock",
        killed + timed_out,
        100.0 * (killed + timed_out) as f64 / n.max(1) as f64,
    );
    match weak {
        0 => Ok(()),
        n => Err(Error::Kernels(n)),
    }
}

/// Prints what became of a kernel's mutants; whether enough were noticed.
fn report(kernel: &str, tests: &[&Test], lines: &[&str], mutants: &[Mutant], fates: &[Fate]) -> bool {
    let count = |fate| fates.iter().filter(|f| **f == fate).count();
    let (survived, not_counted) = (count(Fate::Survived), count(Fate::NotCounted));
    let n = fates.len() - not_counted;
    let part = (n - survived) as f64 / n.max(1) as f64;
    println!(
        "{kernel}: {} of {n} noticed ({:.0} %; {not_counted} not counted), by {} tests",
        n - survived,
        100.0 * part,
        tests.len()
    );
    for (mutant, _) in mutants.iter().zip(fates).filter(|(_, fate)| **fate == Fate::Survived) {
        let before = lines.get(mutant.line).map_or("", |l| l.trim());
        println!("  survived, line {}: {}: `{before}` -> `{}`", mutant.line + 1, mutant.operator, mutant.text.trim());
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

/// The fate of each mutant.
fn try_all(toolkit: &Toolkit, source: &Source, text: &str, mutants: &[Mutant], tests: &[&Test]) -> Result<Vec<Fate>> {
    let cubin = files::scratch(&format!("mutants/{}.cubin", source.stem))?;
    ptxas::assemble(toolkit, &source.ptx, 80, &cubin)?;
    let original = std::fs::read(&cubin).map_err(|source| Error::Read { path: cubin.clone(), source })?;
    let next = AtomicUsize::new(0);
    let fates = Mutex::new(vec![Fate::NotCounted; mutants.len()]);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for worker in 0..WORKERS {
            let (next, fates, failed, original) = (&next, &fates, &failed, &original);
            scope.spawn(move || {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = mutants.get(i) else { break };
                    match try_one(toolkit, source, text, mutant, tests, worker, original) {
                        Ok(fate) => fates.lock().unwrap_or_else(PoisonError::into_inner)[i] = fate,
                        Err(error) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => Ok(fates.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

fn try_one(
    toolkit: &Toolkit,
    source: &Source,
    text: &str,
    mutant: &Mutant,
    tests: &[&Test],
    worker: usize,
    original: &[u8],
) -> Result<Fate> {
    // A directory for each worker, so that the file's name, which the machine code may contain, stays the same.
    let path = files::scratch(&format!("mutants/{worker}/{}.ptx", source.stem))?;
    let mutated = text.lines().enumerate().map(|(i, line)| if i == mutant.line { &mutant.text } else { line });
    files::write(&path, &mutated.map(|l| format!("{l}\n")).collect::<String>())?;
    match ptxas::cubin(toolkit, &path)? {
        None => return Ok(Fate::NotCounted),
        Some(cubin) if cubin == original => return Ok(Fate::NotCounted),
        Some(_) => {}
    }
    for test in tests {
        let limit = Duration::from_secs_f64(10.0 + 10.0 * test.seconds);
        match suite::ask(test, &[("PTX_SIM_REPLACE", &path)], limit) {
            Answer::Passed => {}
            Answer::Failed => return Ok(Fate::Killed),
            Answer::TimedOut => return Ok(Fate::TimedOut),
            Answer::NotLoaded => return Ok(Fate::NotCounted),
        }
    }
    Ok(Fate::Survived)
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
        let lines = |seed| -> Vec<usize> {
            pick(all.clone(), Sample { count: 10, seed }).into_iter().map(|m| m.line).collect()
        };
        assert_eq!(lines(7), lines(7));
        assert_ne!(lines(7), lines(8));
        assert!(lines(7).is_sorted() && lines(7).len() == 10);
        assert_eq!(pick(all.clone(), Sample { count: 1000, seed: 7 }), all);
    }

    #[test]
    fn too_few_noticed_is_a_failure() {
        let mutants: Vec<_> = (0..20).map(mutant).collect();
        let fates = |survived: usize| -> Vec<Fate> {
            (0..20).map(|i| if i < survived { Fate::Survived } else { Fate::Killed }).collect()
        };
        assert!(report("a", &[], &[], &mutants, &fates(3)));
        assert!(!report("a", &[], &[], &mutants, &fates(4)));
    }
}
