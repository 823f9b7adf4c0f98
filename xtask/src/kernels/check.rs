//! `cargo xtask kernels --check`: the committed PTX is what the sources compile to, and its machine code keeps `kernels/budget.toml`.
use super::{
    ARCHITECTURES, Measured, Toolkit,
    budget::{Budgets, Violation},
    build::{self, Source, shown},
    ptx, ptxas,
};
use crate::{
    error::{Error, Result},
    project::{read, root},
};
use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

/// What can be checked without NVIDIA's compiler: sources and PTX belong together, kernels and budgets cover each other.
///
/// # Errors
/// [`Error::Kernels`] when something does not hold; [`Error::Read`], [`Error::Toml`].
pub(super) fn without_toolkit() -> Result<()> {
    let (sources, _, failures) = covered()?;
    println!("{} sources, each with its PTX; every kernel has a budget", sources.len());
    done(&failures)
}

/// Sources, budgets, and what is wrong with them before anything is compiled.
fn covered() -> Result<(Vec<Source>, Budgets, Vec<String>)> {
    let sources = build::sources()?;
    let budgets = Budgets::read(&root().join("kernels/budget.toml"))?;
    let orphans = build::orphans(&sources)?;
    let mut failures: Vec<String> = orphans.iter().map(|p| format!("{}: has no source", shown(p))).collect();
    let mut names: Vec<String> = Vec::new();
    for source in &sources {
        if !source.ptx.exists() {
            failures.push(format!(
                "{}: has no {}; `cargo xtask kernels` makes it",
                shown(&source.cu),
                shown(&source.ptx)
            ));
            continue;
        }
        let entries = ptx::entries(&read(&source.ptx)?);
        if entries.is_empty() {
            failures.push(format!("{}: has no kernel", shown(&source.ptx)));
        }
        for entry in entries {
            if names.contains(&entry.name) {
                failures.push(format!("{}: another file has a kernel of this name", entry.name));
            }
            if entry.max_threads.is_none() {
                failures.push(format!("{}: has no __launch_bounds__", entry.name));
            }
            names.push(entry.name);
        }
    }
    failures.extend(budgets.uncovered(&names.iter().map(String::as_str).collect::<Vec<_>>()));
    Ok((sources, budgets, failures))
}

/// The whole check.
///
/// # Errors
/// [`Error::Kernels`] when something does not hold; each failure is printed. Those of the tools.
pub(super) fn run(toolkit: &Toolkit) -> Result<()> {
    let (sources, budgets, mut failures) = covered()?;
    // Compiling runs beside assembling, which takes longer.
    let (measured, different) = std::thread::scope(|scope| {
        let different = scope.spawn(|| different(toolkit, &sources));
        let measured = measure(toolkit, &sources);
        (measured, different.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    failures.extend(different?);
    let measured = measured?;
    let (mut violations, mut missed) = (Vec::new(), Vec::new());
    for kernel in &measured {
        let (broken, beyond) = budgets.broken(kernel);
        violations.extend(broken);
        missed.extend(beyond);
    }
    print!("{}", table(&measured));
    if !missed.is_empty() {
        println!("\ntargets that are not reached yet:");
        Violation::joined(missed).iter().for_each(|m| println!("  {m}"));
    }
    failures.extend(Violation::joined(violations).iter().map(ToString::to_string));
    done(&failures)
}

/// A sentence for each committed PTX that is not what its source compiles to. Its version may be another: an assembler accepts it or not.
fn different(toolkit: &Toolkit, sources: &[Source]) -> Result<Vec<String>> {
    let nvrtc = toolkit.nvrtc()?;
    let mut found = Vec::new();
    for source in sources.iter().filter(|s| s.ptx.exists()) {
        let committed = read(&source.ptx)?;
        let text = build::compile(toolkit, &nvrtc, source)?;
        if ptx::with_version(&text, ptx::version(&committed).unwrap_or_default()) != committed {
            let (ptx, cu) = (shown(&source.ptx), shown(&source.cu));
            found.push(format!("{ptx}: is not what {cu} compiles to; `cargo xtask kernels` makes it"));
        }
    }
    Ok(found)
}

fn done(failures: &[String]) -> Result<()> {
    failures.iter().for_each(|f| println!("FAILED: {f}"));
    match failures.len() {
        0 => Ok(()),
        n => Err(Error::Kernels(n)),
    }
}

/// Every kernel of every source on every architecture: two at a time, for ptxas takes most of the check.
fn measure(toolkit: &Toolkit, sources: &[Source]) -> Result<Vec<Measured>> {
    let jobs: Vec<_> =
        sources.iter().filter(|s| s.ptx.exists()).flat_map(|s| ARCHITECTURES.map(|arch| (s, arch))).collect();
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((source, arch)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let measured = ptxas::measure(toolkit, &source.ptx, *arch);
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(measured);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut measured: Vec<Measured> = results.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
    measured.sort_by(|a, b| (&a.file, &a.kernel, a.arch).cmp(&(&b.file, &b.kernel, b.arch)));
    Ok(measured)
}

/// One line a kernel: registers for each architecture, and the worst of them for the rest.
fn table(measured: &[Measured]) -> String {
    let mut text = format!(
        "{:<42} {:>15} {:>6} {:>6} {:>5} {:>5} {:>5} {:>5} {:>6} {:>6} {:>5}\n",
        "kernel",
        "regs 80/86/89/90",
        "shared",
        "instrs",
        "HMMA",
        "/LDSM",
        "share",
        "sm/tc",
        "16B ld",
        "16B st",
        "inflt"
    );
    for kernel in measured.chunk_by(|a, b| a.kernel == b.kernel) {
        let Some(first) = kernel.first() else { continue };
        let registers: Vec<_> = kernel.iter().map(|m| m.resources.registers.to_string()).collect();
        let worst = |of: &dyn Fn(&Measured) -> f64, pick: fn(f64, f64) -> f64| {
            kernel.iter().map(of).reduce(pick).unwrap_or(0.0)
        };
        let ratio = |v: f64| if v.is_finite() && 0 < first.mix.hmma { format!("{v:.2}") } else { "-".into() };
        let fewest = |of: &dyn Fn(&Measured) -> usize| kernel.iter().map(of).min().unwrap_or(0);
        text += &format!(
            "{:<42} {:>15} {:>6} {:>6} {:>5} {:>5} {:>5} {:>5} {:>6} {:>6} {:>5}\n",
            first.kernel,
            registers.join("/"),
            first.resources.shared,
            kernel.iter().map(|m| m.mix.instructions).max().unwrap_or(0),
            fewest(&|m| m.mix.hmma),
            ratio(worst(&|m| m.mix.hot.hmma_per_ldsm(), f64::min)),
            ratio(worst(&|m| m.mix.hot.hmma_share(), f64::min)),
            ratio(worst(&|m| m.mix.hot.shared_over_tensor(), f64::max)),
            fewest(&|m| m.mix.wide_loads),
            fewest(&|m| m.mix.wide_stores),
            fewest(&|m| m.mix.loads_in_flight),
        );
    }
    let kernels = measured.chunk_by(|a, b| a.kernel == b.kernel).count();
    text + &format!("{kernels} kernels, assembled for {}\n", ARCHITECTURES.map(|a| format!("sm_{a}")).join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_ptx_and_budgets_cover_each_other() {
        let (sources, _, failures) = covered().unwrap();
        assert_eq!(failures, [] as [String; 0]);
        assert!(!sources.is_empty());
    }

    /// And the little that is read of PTX here agrees with the simulator's parser.
    #[test]
    fn the_simulator_knows_every_instruction() {
        for source in build::sources().unwrap() {
            let text = read(&source.ptx).unwrap();
            let module = paring_ptx_sim::Module::parse(&text).unwrap_or_else(|e| panic!("{}: {e}", source.stem));
            for entry in ptx::entries(&text) {
                let kernel = module.kernel(&entry.name).unwrap_or_else(|| panic!("{} is not found", entry.name));
                assert_eq!(kernel.params().len(), entry.params.len(), "{}", entry.name);
                assert_eq!(kernel.max_threads(), entry.max_threads, "{}", entry.name);
            }
        }
    }
}
