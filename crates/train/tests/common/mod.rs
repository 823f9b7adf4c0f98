//! What the tests of training share: tiny models and windows, a monitor that writes down, and everything a trainer has as bytes.
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_checkpoint::{SafetensorsFile, TensorSource};
use paring_cpu::Cpu;
use paring_model::{Arch, Batch, Model, ParamSpec};
use paring_ops::Backend;
use paring_optim::{AdamW, Schedule};
use paring_sampling::rng::Rng;
use paring_tensor::{DType, Shape};
use paring_train::{
    CheckpointPolicy, Control, DataOrder, Error, Monitor, Objective, Outcome, Result, StepReport, TrainConfig, Trainer,
    run, save,
};
use serde_json::{Value, json};
use std::path::Path;

/// Steps of every whole run here.
pub(crate) const STEPS: u64 = 6;

pub(crate) fn arch(hidden: usize) -> Arch {
    let config = json!({
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 50, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": true, "max_position_embeddings": 32,
    });
    Arch::from_config(&config).unwrap()
}

/// Windows of random tokens.
pub(crate) fn windows(n: usize, length: usize) -> Vec<Vec<u32>> {
    (0..n as u64).map(|w| (0..length).map(|i| Rng::new(8).below(w, i as u64, 50) as u32).collect()).collect()
}

/// Values of a random model that says something: deviations of 1 / sqrt(inputs), gains near 1.
pub(crate) fn lively(spec: &ParamSpec, seed: u64) -> Vec<f32> {
    let normal = |i: usize| Rng::new(seed).normal(spec.id.0 as u64, i as u64);
    let value = |i: usize| match spec.shape[..] {
        [_] => 1.0 + 0.1 * normal(i),
        _ => normal(i) / (spec.shape[1] as f64).sqrt(),
    };
    (0..spec.elements()).map(|i| value(i) as f32).collect()
}

/// A teacher of width 24, f32.
pub(crate) fn teacher(backend: &dyn Backend) -> Model {
    let arch = arch(24);
    let upload = |p: &ParamSpec| backend.upload(&lively(p, 77), DType::F32, Shape::new(&p.shape).unwrap()).unwrap();
    let tensors = paring_model::params(&arch).iter().map(upload).collect();
    Model::from_tensors(arch, backend, tensors).unwrap()
}

pub(crate) fn train_config(dtype: DType) -> TrainConfig {
    TrainConfig {
        schedule: Schedule { peak: 1e-2, floor: 1e-3, warmup: 2, total: STEPS },
        adamw: AdamW::default(),
        decay_vectors: false,
        clip: 1.0,
        dtype,
        moments: DType::F32,
        recompute: false,
    }
}

/// A student of width 16.
pub(crate) fn trainer(backend: &dyn Backend, config: TrainConfig, seed: u64) -> Trainer<'_> {
    Trainer::new(backend, arch(16), config, |p| Ok::<_, Error>(lively(p, seed))).unwrap()
}

pub(crate) fn cpu(threads: usize) -> Cpu {
    Cpu::new(Some(threads)).unwrap()
}

pub(crate) fn identity() -> Value {
    json!({"recipe": {"lr": 0.01, "steps": 6}, "teacher": "abc"})
}

/// Everything that a trainer has, as the bytes of its checkpoint.
pub(crate) fn state(trainer: &Trainer<'_>) -> Vec<u8> {
    let tmp = tempfile::tempdir().unwrap();
    save(trainer, tmp.path(), &Value::Null, &Value::Null).unwrap();
    std::fs::read(step_dir(tmp.path(), trainer.step_count()).join("model.safetensors")).unwrap()
}

/// One part of the state of every parameter: `master`, `m` or `v`.
pub(crate) fn part(trainer: &Trainer<'_>, part: &str) -> Vec<(String, Vec<f32>)> {
    let tmp = tempfile::tempdir().unwrap();
    save(trainer, tmp.path(), &Value::Null, &Value::Null).unwrap();
    let file = SafetensorsFile::open(&step_dir(tmp.path(), trainer.step_count()).join("model.safetensors")).unwrap();
    let read = |p: &ParamSpec| (p.name.clone(), file.read_f32(&format!("{}.{part}", p.name)).unwrap());
    trainer.model().specs().iter().map(read).collect()
}

pub(crate) fn step_dir(dir: &Path, step: u64) -> std::path::PathBuf {
    dir.join(format!("step-{step:08}"))
}

/// Names in the directory of checkpoints.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let name = |e: std::io::Result<std::fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(dir).unwrap().map(name).collect();
    names.sort();
    names
}

/// Writes every report down, and stops after a step.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) reports: Vec<StepReport>,
    pub(crate) stop_after: Option<u64>,
    /// Saves after every step, instead of where the policy says.
    pub(crate) always: bool,
}

impl Monitor for Log {
    fn step(&mut self, trainer: &Trainer<'_>, report: &StepReport) -> Result<Control> {
        assert_eq!(trainer.step_count(), report.step);
        self.reports.push(*report);
        Ok(match self.stop_after {
            Some(step) if step == report.step => Control::Stop,
            _ if self.always => Control::Checkpoint,
            _ => Control::Continue,
        })
    }

    fn note(&mut self) -> Result<Value> {
        Ok(json!({"lines": self.reports.len()}))
    }
}

/// Runs to the end, or to where `log` stops it: steps of three of seven windows, two of them at a time.
pub(crate) fn train(
    trainer: &mut Trainer<'_>,
    objective: Objective<'_>,
    checkpoints: Option<&Path>,
    every: u64,
    log: &mut Log,
) -> Outcome {
    let policy = checkpoints.map(|dir| CheckpointPolicy { dir: dir.into(), every, identity: identity() });
    let order = DataOrder::new(7, 3, 5);
    run(trainer, &windows(7, 9), &order, 2, STEPS, objective, policy.as_ref(), log).unwrap()
}

pub(crate) fn batches(windows: &[Vec<u32>], micro: usize) -> Vec<Batch> {
    windows.chunks(micro).map(|c| Batch::pack(c.iter().map(Vec::as_slice))).collect()
}
