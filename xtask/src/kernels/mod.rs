//! `cargo xtask kernels`: from CUDA C++ to the committed PTX, and what can be proved of it on a machine without a GPU.
//!
//! Building and checking need NVIDIA's compiler, which pip installs (`--install`); the rest of the project needs neither, because the PTX is
//! committed. What every check says, and what it found, is in `kernels/README.md`.
mod budget; // kernels/budget.toml
mod build; // NVRTC over all sources
mod cfg; // loops of machine code
mod check; // the gate's step
mod fates; // what became of mutants
mod files; // what is written, and programs that are run for their output
mod mutate; // would the tests notice?
mod nvrtc; // NVIDIA's compiler as a function
mod operators; // what a mutant is
mod ptx; // the little that is read of PTX here
mod ptxas; // machine code and resources
mod race; // a static verifier on launches
mod record; // launches of the tests, for the verifier
mod sass; // what the machine code is made of
mod suite; // the project's tests of the kernels, one by one
mod toolkit; // where NVIDIA's programs are

use crate::error::Result;
use clap::Args;
use std::path::PathBuf;
use toolkit::Toolkit;

/// Architectures that machine code is looked at for. The PTX itself is for compute_80, and runs on everything from there.
const ARCHITECTURES: [u32; 4] = [80, 86, 89, 90];

/// What to do with the kernels; without a flag they are compiled.
#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    what: What,
    /// Site-packages with NVIDIA's compiler, where it is not in target/kernels-venv
    #[arg(long, value_name = "DIR")]
    wheels: Option<PathBuf>,
    /// Mutants of each kernel
    #[arg(long, default_value_t = 40, requires = "mutate")]
    count: usize,
    /// Which mutants: the same for the same seed
    #[arg(long, default_value_t = 7, requires = "mutate")]
    seed: u64,
    /// Seconds of tests that a mutant has to pass, as long as the tests take with the kernel as it is
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, requires = "mutate")]
    patience: f64,
    /// Ask only tests of programs whose file names contain this, where a few kernels are of interest
    #[arg(long, value_name = "PROGRAM", default_value = "", requires = "mutate")]
    tests: String,
    /// Take over what an earlier run found out of mutants that are the same
    #[arg(long, requires = "mutate")]
    resume: bool,
}

#[derive(Args)]
#[group(multiple = false)]
struct What {
    /// Compile into memory, compare with the committed PTX, and hold the machine code against kernels/budget.toml
    #[arg(long)]
    check: bool,
    /// Install NVIDIA's compiler and the race prover into target/kernels-venv (Python 3 with venv; about 170 MB)
    #[arg(long)]
    install: bool,
    /// Prove the absence of races at the launches of kernels/race.toml, or only for kernels whose names contain one of these
    #[arg(long, num_args = 0.., value_name = "KERNEL")]
    race: Option<Vec<String>>,
    /// Write kernels/race.toml anew, from launches of the project's tests
    #[arg(long)]
    record: bool,
    /// Change single instructions, and see whether the tests notice; all kernels, or those whose names contain one of these
    #[arg(long, num_args = 0.., value_name = "KERNEL")]
    mutate: Option<Vec<String>>,
}

/// What is known of a kernel's machine code on one architecture.
#[derive(Clone, Debug)]
struct Measured {
    kernel: String,
    /// Stem of its source.
    file: String,
    arch: u32,
    resources: ptxas::Resources,
    mix: sass::Mix,
}

/// Does what `options` say.
///
/// # Errors
/// [`crate::error::Error::NoWheels`] without NVIDIA's compiler, and those of what is done.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.what.install {
        return toolkit::install();
    }
    let toolkit = Toolkit::find(options.wheels.as_deref())?;
    match &options.what {
        What { check: true, .. } => check::run(&toolkit),
        What { race: Some(only), .. } => race::run(&toolkit, only),
        What { record: true, .. } => record::run(&toolkit),
        What { mutate: Some(only), .. } => {
            let Options { count, seed, patience, resume, .. } = *options;
            mutate::run(&toolkit, only, &options.tests, mutate::Sample { count, seed, patience, resume })
        }
        _ => build::run(&toolkit),
    }
}

/// The step of the gate: the whole check where NVIDIA's compiler is, else what can be checked without, and a line that says what was not.
///
/// # Errors
/// [`crate::error::Error::Kernels`]; [`crate::error::Error::NoWheels`] where `PARING_REQUIRE_KERNEL_TOOLS` is set.
pub(crate) fn check() -> Result<()> {
    match Toolkit::find(None) {
        Ok(toolkit) => check::run(&toolkit),
        Err(error) if toolkit::is_required() => Err(error),
        Err(error) => {
            println!(
                "skipped: PTX was not compiled again, nor assembled, nor held against kernels/budget.toml: {error}"
            );
            check::without_toolkit()
        }
    }
}
