//! `cargo xtask bench`: this project beside PyTorch and llama.cpp on the same machine in the same run, and beside the machine's limits.
//!
//! Every side is a process of its own that is told what to time, one JSON object a line, so rounds alternate between sides while no two of
//! them share threads, caches of memory or an allocator. This program is the driver, and with `--serve` also our side.
mod cases; // what is timed
mod machine; // what the figures were measured on
mod ours; // our side
mod report; // the tables
mod roofline; // shares of the machine's limits
mod rounds; // sides take turns
mod side; // a side's process

use clap::{Parser, ValueEnum};
use std::{error::Error, fs::OpenOptions, io::Write, path::PathBuf, process::ExitCode};

/// What may go wrong: the message is all that anybody does with it.
type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// This project beside PyTorch and llama.cpp, and beside the machine's limits; the criterion benches are `cargo bench -p paring-benches`
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench", max_term_width = 120)]
struct Args {
    /// Whom to compare with: those that the Python has, or one of them, or nobody
    #[arg(long, value_enum, default_value_t = Peers::Auto)]
    peers: Peers,
    /// The Python that has PyTorch and Transformers, or a package with llama.cpp (xllamacpp, llama-cpp-python)
    #[arg(long, default_value = "python3", value_name = "PATH")]
    python: PathBuf,
    /// Models for prefill, decoding and training: a Hugging Face directory (beside PyTorch), GGUF files (beside llama.cpp)
    #[arg(long, num_args = 1.., value_name = "DIR|GGUF")]
    model: Vec<PathBuf>,
    /// Only the cases whose name contains one of these, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "FILTER")]
    cases: Vec<String>,
    /// Rounds of every case [default: 9, fewer for a case that takes seconds]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Threads of every side [default: one for each processor]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Also append the tables to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print the names of the cases and run none
    #[arg(long)]
    list: bool,
    /// Instead of time: the peak of resident memory of distillation steps, each side in a fresh process
    #[arg(long)]
    memory: bool,
    /// Be our side: answer the lines of standard input
    #[arg(long, hide = true)]
    serve: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Peers {
    Auto,
    None,
    Torch,
    Llama,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.serve {
        true => ours::serve(threads(&args)),
        false => drive(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn threads(args: &Args) -> usize {
    args.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1)
}

fn drive(args: &Args) -> Result<()> {
    let start = side::Start { python: &args.python, threads: threads(args) };
    let mut ours = start.ours()?;
    let models = args.model.iter().map(|path| cases::Model::of(&mut ours, path)).collect::<Result<Vec<_>>>()?;
    let mut cases = if args.memory { cases::memory(&models) } else { cases::all(&models) };
    cases.retain(|case| args.cases.is_empty() || args.cases.iter().any(|only| case.name.contains(only.as_str())));
    if args.list {
        cases.iter().for_each(|case| println!("{}", case.name));
        return Ok(());
    }
    if cases.is_empty() {
        return Err(format!("no case contains {}; --list names them", args.cases.join(" or ")).into());
    }
    let mut peers = Vec::new();
    for (peer, wanted) in [(side::TORCH, Peers::Torch), (side::LLAMA, Peers::Llama)] {
        if args.peers == Peers::Auto || args.peers == wanted {
            match start.peer(peer) {
                Ok(side) => peers.push(side),
                Err(missing) => println!("without {peer}: {missing}"),
            }
        }
    }
    if models.is_empty() {
        println!("without models: prefill, decoding and training need --model, a Hugging Face directory or GGUF files");
    }
    let mut text = report::heading(&machine::describe(), &ours, &peers);
    print!("{text}");
    let table = match args.memory {
        true => rounds::memory(&start, &cases, &peers)?,
        false => rounds::times(&mut ours, &mut peers, &cases, args.rounds)?,
    };
    text += &table;
    if let Some(path) = &args.out {
        OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())?;
        println!("appended to {}", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed() {
        Args::command().debug_assert();
    }
}
