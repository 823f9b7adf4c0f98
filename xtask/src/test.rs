//! `cargo xtask test`: every check that CI runs. Each step is announced as the command one would type to run it alone; a table of the
//! seconds ends the run.
//!
//! Each crate is built and tested on its own, because `--workspace` unifies features and so hides a feature that a crate forgot to ask for.
//! That builds some dependencies more than once; so no test runs twice: the run over the whole workspace is that of the documentation's
//! examples, and clippy compiles every target of it.
use crate::{
    error::{Error, Result},
    kernels,
    project::{cargo, root, run as run_command, shown},
    tidy,
};
use clap::Args;
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// How the gate runs.
#[derive(Args)]
pub(crate) struct Options {
    /// Go on after a step that failed
    #[arg(long)]
    keep_going: bool,
    /// Print the steps and run none
    #[arg(long, visible_alias = "dry-run")]
    list: bool,
    /// Run only the steps whose name contains one of these
    #[arg(value_name = "STEP")]
    only: Vec<String>,
}

/// One check.
struct Step {
    name: String,
    action: Action,
}

enum Action {
    /// A command of its own.
    Run(Box<Command>),
    /// Another task of this program, as it is typed.
    Task(&'static str, fn() -> Result<()>),
}

impl Step {
    fn cargo(name: impl Into<String>, args: &[&str]) -> Step {
        let mut command = cargo();
        command.args(args).current_dir(root());
        Step { name: name.into(), action: Action::Run(Box::new(command)) }
    }

    fn with(mut self, key: &str, value: &str) -> Step {
        if let Action::Run(command) = &mut self.action {
            command.env(key, value);
        }
        self
    }

    fn shown(&self) -> String {
        match &self.action {
            Action::Run(command) => shown(command),
            Action::Task(typed, _) => (*typed).into(),
        }
    }

    fn run(&mut self) -> Result<()> {
        match &mut self.action {
            Action::Run(command) => run_command(command),
            Action::Task(_, task) => task(),
        }
    }
}

/// The gate: cheap steps first, then from the leaf crates up.
fn steps(crates: &[String]) -> Vec<Step> {
    let mut steps = vec![
        Step::cargo("format", &["fmt", "--all", "--check"]),
        Step { name: "tidy".into(), action: Action::Task("cargo xtask tidy", tidy::run) },
        Step { name: "kernels".into(), action: Action::Task("cargo xtask kernels --check", kernels::check) },
        Step::cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    ];
    for name in crates {
        steps.push(Step::cargo(format!("test {name}"), &["test", "--package", name, "--tests", "--examples"]));
    }
    steps.push(Step::cargo("doc tests", &["test", "--workspace", "--doc"]));
    steps.push(Step::cargo("docs", &["doc", "--workspace", "--no-deps"]).with("RUSTDOCFLAGS", "-D warnings"));
    // In the test profile, where criterion runs each bench once: what is proved is that they run.
    steps.push(Step::cargo("benches", &["test", "--package", "paring-benches", "--benches"]));
    steps
}

/// Runs the gate.
///
/// # Errors
/// [`Error::Red`] when a step failed, [`Error::NoStep`] for a name that no step has, and those of `cargo metadata`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut steps = steps(&tidy::members_in_order()?);
    if let Some(name) = options.only.iter().find(|only| !steps.iter().any(|s| s.name.contains(only.as_str()))) {
        return Err(Error::NoStep(name.clone()));
    }
    steps.retain(|s| options.only.is_empty() || options.only.iter().any(|only| s.name.contains(only.as_str())));
    if options.list {
        for step in &steps {
            println!("{}: {}", step.name, step.shown());
        }
        return Ok(());
    }
    let mut done = Vec::new();
    let n_steps = steps.len();
    for (i, step) in steps.iter_mut().enumerate() {
        println!("\n=== [{}/{n_steps}] {}: {}", i + 1, step.name, step.shown());
        let start = Instant::now();
        let error = step.run().err();
        let seconds = start.elapsed();
        match &error {
            None => println!("=== {}: passed in {:.1} s", step.name, seconds.as_secs_f64()),
            Some(error) => println!("=== {}: FAILED in {:.1} s: {error}", step.name, seconds.as_secs_f64()),
        }
        done.push((step.name.clone(), error.is_none(), seconds));
        if error.is_some() && !options.keep_going {
            break;
        }
    }
    let (table, failed) = summary(&done, n_steps);
    print!("{table}");
    match failed {
        0 => Ok(()),
        n => Err(Error::Red(n)),
    }
}

/// The table, and its last line alone; and how many failed.
fn summary(done: &[(String, bool, Duration)], n_steps: usize) -> (String, usize) {
    let mut text = String::from("\n");
    for (name, passed, seconds) in done {
        let result = if *passed { "passed" } else { "FAILED" };
        text += &format!("{name:<28} {result} {:>8.1} s\n", seconds.as_secs_f64());
    }
    let total: Duration = done.iter().map(|(_, _, seconds)| *seconds).sum();
    text += &format!("{:<28} {:>15.1} s\n", "together", total.as_secs_f64());
    if done.len() < n_steps {
        text += &format!("{} of {n_steps} steps were not run\n", n_steps - done.len());
    }
    let failed = done.iter().filter(|(_, passed, _)| !passed).count();
    text += &format!("\n{} passed, {failed} failed\n", done.len() - failed);
    (text, failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_of_the_gate_is_a_step() {
        let shown: Vec<_> = steps(&["paring-tensor".into(), "xtask".into()]).iter().map(Step::shown).collect();
        assert_eq!(
            shown,
            [
                "cargo fmt --all --check",
                "cargo xtask tidy",
                "cargo xtask kernels --check",
                "cargo clippy --workspace --all-targets -- -D warnings",
                "cargo test --package paring-tensor --tests --examples",
                "cargo test --package xtask --tests --examples",
                "cargo test --workspace --doc",
                "RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps",
                "cargo test --package paring-benches --benches",
            ]
        );
    }

    #[test]
    fn every_member_is_tested() {
        let members = tidy::members_in_order().unwrap();
        let steps = steps(&members);
        for name in ["paring-tensor", "paring-cli", "xtask"] {
            assert!(steps.iter().any(|s| s.name == format!("test {name}")), "{members:?}");
        }
    }

    #[test]
    fn the_last_line_counts() {
        let done = |passed| ("a".to_owned(), passed, Duration::from_millis(1500));
        let (text, failed) = summary(&[done(true), done(true)], 2);
        assert!(text.ends_with("\n2 passed, 0 failed\n") && failed == 0, "{text}");
        let (text, failed) = summary(&[done(true), done(false)], 5);
        assert!(text.contains("3 of 5 steps were not run") && text.ends_with("\n1 passed, 1 failed\n"), "{text}");
        assert_eq!(failed, 1);
    }

    #[test]
    fn a_name_that_no_step_has_is_refused() {
        let options = Options { keep_going: false, list: true, only: vec!["no such step".into()] };
        assert!(matches!(run(&options), Err(Error::NoStep(_))));
    }
}
