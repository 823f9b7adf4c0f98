//! `cargo xtask bench`: the criterion benches, and where their figures go.
use crate::{
    error::Result,
    project::{cargo, root, run as run_command},
};
use std::ffi::OsString;

/// Runs the benches.
///
/// # Errors
/// Those of cargo.
pub(crate) fn run(args: &[OsString]) -> Result<()> {
    let mut command = cargo();
    command.current_dir(root()).args(["bench", "--package", "paring-benches", "--"]).args(args);
    run_command(&mut command)?;
    println!(
        "criterion keeps these figures under target/criterion; those that a document quotes go to benches/results/DATE-MACHINE.md, with \
         the command, the commit and the peer measured in the same run"
    );
    Ok(())
}
