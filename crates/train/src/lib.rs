#![doc = include_str!("../README.md")]

mod data; // which windows a step sees
mod error;
mod init; // weights before the first step
mod run; // the loop: steps, checkpoints, stopping
mod state; // what a checkpoint holds
mod trainer; // one step

pub use data::DataOrder;
pub use error::{Error, Result};
pub use init::initial_values;
pub use run::{CheckpointPolicy, Control, Monitor, Outcome, Windows, run};
pub use state::{FORMAT_VERSION, Resume, load_latest, save};
pub use trainer::{Objective, StepReport, TrainConfig, Trainer, activation_bytes, micro_windows};
