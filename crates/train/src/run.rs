//! The loop: steps, checkpoints now and then, and an orderly stop.
use crate::{DataOrder, Error, Objective, Result, StepReport, Trainer, state};
use paring_model::Batch;
use serde_json::Value;
use std::path::PathBuf;

/// Where training windows come from.
pub trait Windows {
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Token ids of one.
    fn window(&self, i: usize) -> &[u32];
}

impl Windows for Vec<Vec<u32>> {
    fn len(&self) -> usize {
        Vec::len(self)
    }
    fn window(&self, i: usize) -> &[u32] {
        &self[i]
    }
}

/// What to do after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Go on.
    Continue,
    /// Save a checkpoint and go on.
    Checkpoint,
    /// Save a checkpoint and stop.
    Stop,
}

/// Watches a run.
pub trait Monitor {
    /// Called after every step.
    ///
    /// # Errors
    /// Whatever the monitor cannot go on with; it ends the run.
    fn step(&mut self, trainer: &Trainer<'_>, report: &StepReport) -> Result<Control>;

    /// Called before a checkpoint is written: makes durable what the monitor keeps elsewhere, and returns what it wants to find in
    /// [`crate::Resume::At`] (the length of a log).
    ///
    /// # Errors
    /// Whatever the monitor cannot go on with; it ends the run.
    fn note(&mut self) -> Result<Value> {
        Ok(Value::Null)
    }
}

/// Where and how often to save.
#[derive(Clone, Debug)]
pub struct CheckpointPolicy {
    /// The directory that holds one directory per checkpoint.
    pub dir: PathBuf,
    /// Steps between two.
    pub every: u64,
    /// What identifies the run; a checkpoint with another one is refused.
    pub identity: Value,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// All steps were taken.
    Finished,
    /// The monitor stopped it; a checkpoint was written if there is a policy.
    Stopped,
}

/// Trains until the trainer has taken `steps` steps, each on `per_step` windows, `micro` of them at a time.
///
/// # Errors
/// [`Error::NoData`], [`Error::Diverged`], those of the model, the checkpoints and the monitor.
pub fn run(
    trainer: &mut Trainer<'_>,
    windows: &dyn Windows,
    order: &DataOrder,
    micro: usize,
    steps: u64,
    objective: Objective<'_>,
    checkpoints: Option<&CheckpointPolicy>,
    monitor: &mut dyn Monitor,
) -> Result<Outcome> {
    if windows.is_empty() {
        return Err(Error::NoData { windows: 0 });
    }
    while trainer.step_count() < steps {
        let chosen = order.windows(trainer.step_count());
        let batches: Vec<Batch> =
            chosen.chunks(micro.max(1)).map(|c| Batch::pack(c.iter().map(|&i| windows.window(i)))).collect();
        let report = trainer.train_step(&batches, objective)?;
        let control = monitor.step(trainer, &report)?;
        let last = trainer.step_count() == steps;
        if let Some(policy) = checkpoints {
            let due = report.step % policy.every.max(1) == 0 && !last;
            if due || control != Control::Continue {
                state::save(trainer, &policy.dir, &policy.identity, &monitor.note()?)?;
            }
        }
        if control == Control::Stop && !last {
            return Ok(Outcome::Stopped);
        }
    }
    Ok(Outcome::Finished)
}
