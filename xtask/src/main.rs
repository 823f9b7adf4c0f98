//! The project's own tasks, as `cargo xtask TASK`. Two of them do all the set-up on a machine that has Rust: `compress` runs the program,
//! `test` runs every check that CI runs. The others are what these two are made of, and what is done by hand now and then.
mod bench; // our speed beside others' and beside the machine's limits
mod compress; // the program, built in release mode
mod error;
mod fixtures; // the embedded teacher and its corpus
mod kernels; // CUDA: compiled, and checked as far as no GPU is needed
mod project; // where the project is, and how its commands are run
mod test; // the gate
mod tidy; // arrows and invariants

use clap::{Parser, Subcommand};
use std::{ffi::OsString, process::ExitCode};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tasks", max_term_width = 120)]
struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build `paring` in release mode and run `paring compress ARGS` in the current directory
    #[command(disable_help_flag = true)]
    Compress {
        /// Handed to `paring compress` as they are; `--help` too
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Every check that CI runs, in order; stops at the first that fails
    Test(test::Options),
    /// The arrows and invariants of ARCHITECTURE.md, from `cargo metadata` and from the sources
    Tidy {
        /// Print the table of arrows, for ARCHITECTURE.md
        #[arg(long)]
        arrows: bool,
    },
    /// Our speed beside PyTorch's and llama.cpp's in the same run, and beside the machine's limits
    #[command(disable_help_flag = true)]
    Bench {
        /// Handed to the program that measures; `--help` tells what it takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Make the committed fixtures again
    #[command(subcommand)]
    Fixtures(fixtures::Fixture),
    /// Compile the CUDA kernels to PTX, or check what they became
    Kernels(kernels::Options),
}

fn main() -> ExitCode {
    let done = match Args::parse().task {
        Task::Compress { args } => compress::run(&args),
        Task::Test(options) => test::run(&options),
        Task::Tidy { arrows: true } => tidy::print_arrows(),
        Task::Tidy { arrows: false } => tidy::run(),
        Task::Bench { args } => bench::run(&args),
        Task::Fixtures(fixture) => fixtures::run(&fixture),
        Task::Kernels(options) => kernels::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn bench_hands_every_argument_on() {
        let args = Args::try_parse_from(["xtask", "bench", "--help", "--peers", "none"]).unwrap();
        let Task::Bench { args } = args.task else { panic!("not bench") };
        assert_eq!(args, ["--help", "--peers", "none"]);
    }

    #[test]
    fn compress_hands_every_argument_on() {
        let args = Args::try_parse_from(["xtask", "compress", "--help", "--model", "x", "--", "-v"]).unwrap();
        let Task::Compress { args } = args.task else { panic!("not compress") };
        assert_eq!(args, ["--help", "--model", "x", "--", "-v"]);
    }
}
