//! Distillation as the commands run it: settings from flags, a log, progress, checkpoints, an orderly stop.
use crate::{
    args::Training,
    error::{Failure, Result},
    progress::Progress,
    session::Session,
    signals::Stop,
    workplace::Workplace,
};
use paring_checkpoint::AppendLog;
use paring_model::{Arch, Model};
use paring_optim::{AdamW, Schedule};
use paring_tensor::DType;
use paring_train::{
    CheckpointPolicy, Control, DataOrder, Monitor, Objective, Outcome, Resume, StepReport, TrainConfig, Trainer,
    load_latest, micro_windows, run,
};
use serde_json::{Value, json};
use std::time::Instant;

/// Tokens of a run that says nothing about them: one pass over the text, but at most this many.
const BUDGET: u64 = 2_000_000;
/// More than anybody trains on, and far from where products with it would wrap.
const MAX_BUDGET: u64 = 1_000_000_000_000_000;
/// Windows of a step.
const BATCH: usize = 8;
/// Peak learning rate: what the papers use for models of some billions (arXiv 2408.11796, table 4).
const LR: f32 = 1e-4;
/// Steps between checkpoints.
const EVERY: u64 = 200;

/// The flags under "Distillation", resolved.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: TrainConfig,
    /// Windows of a step.
    pub(crate) batch: usize,
    /// Windows that run at once.
    pub(crate) micro: usize,
    pub(crate) steps: u64,
    every: u64,
    seed: u64,
}

impl Settings {
    /// For a student of this architecture on `windows` windows of `context` tokens.
    pub(crate) fn new(
        flags: &Training,
        session: &Session,
        student: &Arch,
        context: usize,
        windows: usize,
    ) -> Result<Self> {
        let wrong = |flag: &str, got: &dyn std::fmt::Display, want: &str| {
            Failure::input(format!("--{flag} {got}: expected {want}"))
        };
        let batch = flags.batch.unwrap_or(BATCH);
        if batch == 0 || 1 << 16 < batch {
            return Err(wrong("batch", &batch, "1 to 65536"));
        }
        let per_step = (batch * context) as u64;
        let one_pass = (windows * context) as u64;
        let budget = flags.budget.unwrap_or(one_pass.min(BUDGET));
        if budget == 0 || MAX_BUDGET < budget {
            return Err(wrong("budget", &budget, &format!("1 to {MAX_BUDGET}")));
        }
        let steps = budget.div_ceil(per_step);
        let lr = flags.lr.unwrap_or(LR);
        if !(0.0 < lr && lr <= 1.0) {
            return Err(wrong("lr", &lr, "above 0 and at most 1"));
        }
        let floor = flags.lr_floor.unwrap_or(0.1);
        if !(0.0..=1.0).contains(&floor) {
            return Err(wrong("lr-floor", &floor, "0 to 1, a part of --lr"));
        }
        let weight_decay = flags.weight_decay.unwrap_or(0.1);
        if !(0.0..1.0).contains(&weight_decay) {
            return Err(wrong("weight-decay", &weight_decay, "0 to 1"));
        }
        let clip = flags.clip.unwrap_or(1.0);
        if !(clip.is_finite() && 0.0 <= clip) {
            return Err(wrong("clip", &clip, "0 or more"));
        }
        if flags.micro_batch == Some(0) {
            return Err(wrong("micro-batch", &0, "at least 1"));
        }
        let micro = flags.micro_batch.unwrap_or_else(|| micro_windows(student, context)).clamp(1, batch);
        let every = flags.checkpoint_every.unwrap_or(EVERY);
        if every == 0 {
            return Err(wrong("checkpoint-every", &every, "at least 1"));
        }
        let warmup = flags.warmup.unwrap_or((steps / 20).min(100));
        let config = TrainConfig {
            schedule: Schedule { peak: lr, floor: floor * lr, warmup, total: steps },
            adamw: AdamW { weight_decay, ..AdamW::default() },
            decay_vectors: false,
            clip,
            dtype: session.dtype(DType::BF16)?,
            moments: DType::F32,
            recompute: flags.recompute,
        };
        Ok(Settings { config, batch, micro, steps, every, seed: session.seed })
    }

    /// Tokens of the whole run.
    pub(crate) fn tokens(&self, context: usize) -> u64 {
        self.steps * (self.batch * context) as u64
    }
}

/// How a training run went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trained {
    pub(crate) steps: u64,
    /// Mean over the last tenth of the steps of this start, at most 20; nats per token. `None` when no step was left.
    pub(crate) loss: Option<f64>,
    pub(crate) tokens: u64,
    /// Of this start.
    pub(crate) tokens_per_second: f64,
}

impl Trained {
    pub(crate) fn json(&self) -> Value {
        json!({"steps": self.steps, "loss": self.loss, "tokens": self.tokens, "tokens_per_second": self.tokens_per_second})
    }
}

struct Watcher<'a> {
    log: AppendLog,
    progress: Progress,
    stop: &'a Stop,
    losses: Vec<f64>,
}

impl Monitor for Watcher<'_> {
    fn step(&mut self, trainer: &Trainer<'_>, r: &StepReport) -> paring_train::Result<Control> {
        // No times in the log: a run that was resumed leaves the same file as one that was not.
        let line = json!({"step": r.step, "loss": r.loss, "grad_norm": r.grad_norm, "lr": r.lr, "tokens": trainer.token_count()});
        self.log.line(&line.to_string())?;
        self.progress.set(trainer.token_count(), &format!("step {} loss {:.3}", r.step, r.loss));
        self.losses.push(r.loss);
        Ok(if self.stop.asked() { Control::Stop } else { Control::Continue })
    }

    fn note(&mut self) -> paring_train::Result<Value> {
        self.log.sync()?;
        Ok(json!({"log": self.log.len()}))
    }
}

/// Puts the newest checkpoint of `place` into `trainer`; says where it goes on.
pub(crate) fn resume(trainer: &mut Trainer<'_>, place: &Workplace, identity: &Value) -> Result<Resume> {
    let resume = load_latest(trainer, &place.path("checkpoints"), identity)?;
    if let Resume::At { step, skipped, .. } = &resume {
        for damaged in skipped {
            tell!("passed over a damaged checkpoint: {damaged}");
        }
        tell!("going on after step {step}");
    }
    Ok(resume)
}

/// Trains to the end of `settings`, from where `at` says the trainer stands.
pub(crate) fn train(
    trainer: &mut Trainer<'_>,
    teacher: &Model,
    windows: &Vec<Vec<u32>>,
    settings: &Settings,
    place: &Workplace,
    identity: &Value,
    at: &Resume,
    stop: &Stop,
) -> Result<Trained> {
    let log_path = place.path("metrics.jsonl");
    let log = match at {
        Resume::Fresh => AppendLog::resume(&log_path, 0)?,
        Resume::At { note, .. } => {
            let damaged = || Failure::input(format!("{}: the checkpoint does not know its length", log_path.display()));
            AppendLog::resume(&log_path, note["log"].as_u64().ok_or_else(damaged)?)?
        }
    };
    let context = windows.iter().map(Vec::len).max().unwrap_or(1);
    let (begin, tokens_before) = (Instant::now(), trainer.token_count());
    let progress = Progress::new("distil", "tokens", settings.tokens(context), tokens_before);
    let policy = CheckpointPolicy { dir: place.path("checkpoints"), every: settings.every, identity: identity.clone() };
    let order = DataOrder::new(windows.len(), settings.batch, settings.seed);
    let mut watcher = Watcher { log, progress, stop, losses: Vec::new() };
    let objective = Objective::ForwardKl(teacher);
    let outcome =
        run(trainer, windows, &order, settings.micro, settings.steps, objective, Some(&policy), &mut watcher)?;
    watcher.progress.finish();
    watcher.log.sync()?;
    if outcome == Outcome::Stopped {
        return Err(stop.failure(&format!(
            "the checkpoint of step {} is kept; the same command goes on from it",
            trainer.step_count()
        )));
    }
    let seconds = begin.elapsed().as_secs_f64().max(1e-9);
    let last = (watcher.losses.len() / 10).clamp(1, 20).min(watcher.losses.len());
    let tail = &watcher.losses[watcher.losses.len() - last..];
    Ok(Trained {
        steps: trainer.step_count(),
        loss: (!tail.is_empty()).then(|| tail.iter().sum::<f64>() / last as f64),
        tokens: trainer.token_count(),
        tokens_per_second: (trainer.token_count() - tokens_before) as f64 / seconds,
    })
}
