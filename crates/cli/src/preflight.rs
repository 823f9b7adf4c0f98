//! What a run will take, told before it starts and refused when it cannot fit: parameters, memory, disk, time.
use crate::{
    describe::count,
    error::{Failure, Result},
    session::Session,
};
use paring_model::{Arch, params};
use paring_ops::{Backend, head_chunk_rows};
use paring_tensor::{DType, Shape};
use paring_train::activation_bytes;
use serde_json::{Value, json};
use std::{path::Path, time::Instant};

/// Part of the speed of a bare matrix product that whole steps reach.
const EFFICIENCY: f64 = 0.5;
/// Bytes that the program itself, its tokenizer and packed operands take.
const BASE: u64 = 150 << 20;

/// The forecast of one command.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forecast {
    /// Parameters of the result.
    pub(crate) params: u64,
    pub(crate) peak_memory: u64,
    pub(crate) disk: u64,
    /// Tokens that run through a model.
    pub(crate) tokens: u64,
    /// Floating-point operations.
    pub(crate) flops: f64,
    /// What the shape of the result loses.
    pub(crate) warnings: Vec<String>,
}

/// Bytes of a model's weights in memory: matrices in `dtype`, vectors in f32.
pub(crate) fn weight_bytes(arch: &Arch, dtype: DType) -> u64 {
    let bytes = |p: &paring_model::ParamSpec| p.compute_dtype(dtype).bytes(p.elements());
    params(arch).iter().map(|p| bytes(p) as u64).sum()
}

/// Bytes of a block of the teacher and of the student's, in f32.
pub(crate) fn block_bytes(teacher: &Arch) -> u64 {
    8 * (teacher.n_params_non_embedding() / teacher.layers.len().max(1)) as u64
}

/// Bytes of a trainer: weights, what bf16 weights lack of f32 masters, two moments, gradients, and what the tape keeps of `micro` windows.
pub(crate) fn training_bytes(arch: &Arch, dtype: DType, context: usize, micro: usize) -> u64 {
    let n = arch.n_params() as u64;
    let masters = if dtype == DType::F32 { 0 } else { 2 * n };
    weight_bytes(arch, dtype) + masters + 12 * n + activation_bytes(arch, context * micro) as u64 + head_bytes(arch)
}

/// Bytes of a forward that keeps nothing: a few buffers of the widest activation.
pub(crate) fn inference_bytes(arch: &Arch, tokens: usize) -> u64 {
    let widest =
        arch.layers.iter().map(|l| 3 * l.ffn + 4 * arch.hidden + 2 * l.heads * arch.head_dim).max().unwrap_or(0);
    4 * (widest * tokens) as u64 + head_bytes(arch)
}

/// Logits of a chunk, of teacher and student.
fn head_bytes(arch: &Arch) -> u64 {
    8 * (head_chunk_rows(arch.vocab) * arch.vocab) as u64
}

impl Forecast {
    /// Sets the memory: what the phases take, the largest counts.
    pub(crate) fn memory(&mut self, phases: &[u64]) {
        self.peak_memory = BASE + phases.iter().max().copied().unwrap_or(0);
    }

    /// Seconds, from a short measurement of this machine.
    pub(crate) fn seconds(&self, session: &Session) -> Result<f64> {
        Ok(self.flops / (EFFICIENCY * flops_per_second(session.backend())?))
    }

    /// Refuses what does not fit, unless `force`. `out` is where the result goes, which need not exist.
    pub(crate) fn check(&self, session: &Session, out: &Path, force: bool) -> Result<()> {
        let mut problems = Vec::new();
        let memory = session.device.own_memory().or_else(available_memory);
        if let Some(have) = memory.filter(|&have| have < self.peak_memory) {
            let (need, have) = (mib(self.peak_memory), mib(have));
            problems.push(format!(
                "about {need} of memory are needed and {have} are free: lower --context or --micro-batch"
            ));
        }
        if let Some(have) = free_disk(out).filter(|&have| have < self.disk) {
            let (need, have, at) = (mib(self.disk), mib(have), paring_checkpoint::shown_path(out));
            problems.push(format!(
                "about {need} of disk are needed and {have} are free at {at}: free some space or choose another --out"
            ));
        }
        if problems.is_empty() {
            return Ok(());
        }
        let text = problems.join("; ");
        if force {
            tell!("going on although {text}");
            return Ok(());
        }
        Err(Failure::work(format!("{text} (--force goes on all the same)")))
    }

    pub(crate) fn json(&self, seconds: f64) -> Value {
        json!({
            "params": self.params, "peak_memory_bytes": self.peak_memory, "disk_bytes": self.disk, "tokens": self.tokens,
            "seconds": seconds, "warnings": self.warnings,
        })
    }

    pub(crate) fn text(&self, seconds: f64) -> String {
        let mut rows = vec![
            vec!["plan".to_string(), "expected".to_string()],
            vec!["parameters of the result".into(), count(self.params)],
            vec!["peak memory".into(), mib(self.peak_memory)],
            vec!["disk, checkpoints included".into(), mib(self.disk)],
            vec!["tokens through a model".into(), count(self.tokens)],
            vec!["time on this machine".into(), format!("{seconds:.0} s")],
        ];
        rows.extend(self.warnings.iter().map(|w| vec![format!("note: {w}")]));
        crate::describe::table(&rows)
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", count(bytes.div_ceil(1 << 20)))
}

/// About a quarter of a second of matrix products, in rounds that double: some backends only queue a product, so each round ends with a
/// result.
fn flops_per_second(backend: &dyn Backend) -> Result<f64> {
    const N: usize = 384;
    let shape = Shape::new(&[N, N]).map_err(paring_ops::Error::in_op("probe"))?;
    let upload = || backend.upload(&vec![0.5; N * N], DType::F32, shape);
    let (x, w, mut y) = (upload()?, upload()?, backend.alloc(DType::F32, shape)?);
    let mut round = |products: u32| -> Result<()> {
        (0..products).try_for_each(|_| backend.linear(&mut y, &x, &w))?;
        backend.download(&y)?;
        Ok(())
    };
    round(1)?;
    let (start, mut done, mut products) = (Instant::now(), 0_u32, 1_u32);
    while start.elapsed().as_millis() < 125 {
        round(products)?;
        done += products;
        products = products.saturating_mul(2);
    }
    Ok(f64::from(done) * 2.0 * (N as f64).powi(3) / start.elapsed().as_secs_f64().max(1e-9))
}

/// Memory that can be had without swapping; `None` where the system does not say.
fn available_memory() -> Option<u64> {
    proc_kib("/proc/meminfo", "MemAvailable:")
}

/// The most memory that this process has held.
pub(crate) fn peak_memory() -> Option<u64> {
    proc_kib("/proc/self/status", "VmHWM:")
}

fn proc_kib(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix(key))?;
    value.trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Free space on the volume that `out` will be on.
fn free_disk(out: &Path) -> Option<u64> {
    let mut at = std::path::absolute(out).ok()?;
    loop {
        match rustix::fs::statvfs(&at) {
            Ok(stat) => return Some(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(_) => at = at.parent()?.to_path_buf(),
        }
    }
}
