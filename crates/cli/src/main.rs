//! The program: reads flags and recipes, runs one command, says what was wrong in one or two lines.

/// Says something on stderr. That nobody can read it (a full disk, a reader that went away) is no reason to stop, as `eprintln!` would.
macro_rules! tell {
    ($($text:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{}\n", format_args!($($text)*)));
    }};
}

mod args; // flags
mod args_depth; // flags about layers
mod args_importance; // flags of importance
mod args_scores; // which scores to rank by
mod args_search; // flags of `search`
mod calibration; // the calibration pass
mod card; // the model card
mod commands; // what can be done
mod compensation; // what is done about what a cut breaks
mod coverage; // which windows were seen
mod data; // windows of token ids
mod describe; // models in numbers, tables
mod device; // where the arithmetic happens
mod drop_by; // which layers go
mod embedded; // the embedded teacher and its text
mod error; // messages and exit codes
mod fetch; // named models
mod importance_file; // scores as a file
mod measure; // quality and speed
mod origin; // where statistics come from
mod preflight; // what a run will take
mod progress; // bars and lines on stderr
mod recipe; // flags from TOML
mod session; // what all commands share
mod signals; // an orderly stop
mod source; // what --model names
mod target; // what is asked of the student
mod tasks; // multiple choice
mod training; // distillation
mod verify; // self-tests of pruning
mod workplace; // unfinished runs

use args::{Cli, Command, NotBuilt};
use args_importance::ImportanceCommand;
use clap::{CommandFactory, Parser, error::ErrorKind};
use error::{Failure, Result};
use std::{
    panic,
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

fn main() -> ExitCode {
    // A panic is a mistake of this program, never an answer: it is said in one line, and outputs are written under temporary names.
    panic::set_hook(Box::new(|_| {}));
    // A file that grows past the limit of its size is an error of the write, not the end of the program.
    let ignored = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::new(AtomicBool::new(false)));
    let result = match ignored {
        Err(e) => Err(Failure::work(format!("cannot listen for signals: {e}"))),
        Ok(_) => panic::catch_unwind(|| dispatch(parse()?.command)).unwrap_or_else(|cause| {
            let text = cause.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| cause.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(Failure::work(format!("internal error, please report it: {}", paring_checkpoint::shown(&text))))
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                // Names and paths from outside are in it: whatever a terminal would obey is escaped, wherever it came from.
                tell!("error: {}", paring_checkpoint::shown_path(Path::new(&failure.message)));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// The command line. What clap says about a wrong one becomes one line like any other error.
fn parse() -> Result<Cli> {
    let error = match Cli::try_parse() {
        Ok(cli) => return Ok(cli),
        Err(e) if !e.use_stderr() || e.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => e.exit(),
        Err(e) => e.render().to_string(),
    };
    let lines =
        error.lines().map(str::trim).take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"));
    let said: Vec<&str> = lines.filter(|l| !l.is_empty()).collect();
    let said = said.join("; ");
    Err(Failure::input(format!("{} (--help says more)", said.strip_prefix("error: ").unwrap_or(&said))))
}

fn dispatch(command: Command) -> Result<()> {
    /// Completes the flags by the recipe that they name.
    macro_rules! with_recipe {
        ($args:ident, $name:literal, $run:expr) => {{
            let recipe = $args.common.recipe.clone();
            $run(&recipe::merge($args, recipe.as_deref(), &flags_of($name), None)?)
        }};
    }
    match command {
        Command::Compress(a) => {
            let recipe = a.common.recipe.clone();
            let base = a.model.is_none().then_some(embedded::RECIPE);
            commands::compress::run(&recipe::merge(a, recipe.as_deref(), &flags_of("compress"), base)?)
        }
        Command::Importance(mut a) => match a.what.take() {
            Some(ImportanceCommand::Merge(merge)) => commands::merge::run(&merge),
            None => with_recipe!(a, "importance", commands::importance::run),
        },
        Command::Prune(a) => with_recipe!(a, "prune", commands::prune::run),
        Command::Distill(a) => with_recipe!(a, "distill", commands::distill::run),
        Command::Eval(a) => with_recipe!(a, "eval", commands::eval::run),
        Command::Generate(a) => with_recipe!(a, "generate", commands::generate::run),
        Command::Inspect(a) => with_recipe!(a, "inspect", commands::inspect::run),
        Command::Fetch(a) => with_recipe!(a, "fetch", fetch::run),
        Command::Bench(a) => commands::bench::run(&a),
        Command::Search(a) => {
            let a = *a;
            with_recipe!(a, "search", commands::search::run)
        }
        Command::Correct(n) => not_built("correct", &n),
        Command::Compare(n) => not_built("compare", &n),
        Command::Export(n) => not_built("export", &n),
        Command::Report(n) => not_built("report", &n),
        Command::Doctor(n) => not_built("doctor", &n),
    }
}

fn not_built(name: &str, _: &NotBuilt) -> Result<()> {
    Err(Failure::input(format!(
        "`paring {name}` is not built yet; what works: compress, importance, prune, search, distill, eval, generate, inspect, fetch, bench"
    )))
}

/// The definition of a command, which knows every flag's name.
fn flags_of(name: &str) -> clap::Command {
    Cli::command().find_subcommand(name).cloned().unwrap_or_default()
}

/// The command line of this run, for provenance.
fn command_line() -> String {
    let words = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned());
    let quoted = words.map(|w| {
        if w.is_empty() || w.contains(|c: char| c.is_whitespace() || "'\"\\$`".contains(c)) {
            format!("{w:?}")
        } else {
            w
        }
    });
    std::iter::once("paring".to_string()).chain(quoted).collect::<Vec<_>>().join(" ")
}
