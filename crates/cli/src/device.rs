//! `--device`: where the arithmetic happens.
use crate::error::{Failure, Result};
use paring_cpu::Cpu;
use paring_cuda::Cuda;
use paring_ops::Backend;

/// What a value of `--device` may be.
const EXPECTED: &str = "expected cpu, cuda or cuda:N";

/// The device that computes.
#[derive(Debug)]
pub(crate) enum Device {
    Cpu(Cpu),
    Cuda { ordinal: usize, threads: usize, cuda: Cuda },
}

impl Device {
    /// The device of this name. Threads are those of the CPU backend, and of what stays on the CPU where another one computes.
    pub(crate) fn open(name: Option<&str>, threads: Option<usize>) -> Result<Self> {
        let name = name.unwrap_or("cpu");
        let shown = || format!("--device {}", paring_checkpoint::shown(name));
        let ordinal = match name.strip_prefix("cuda") {
            None if name == "cpu" => return Ok(Device::Cpu(on_threads(threads, Cpu::new)?)),
            Some("") => 0,
            Some(rest) => match rest.strip_prefix(':').map(str::parse::<u16>) {
                Some(Ok(ordinal)) => ordinal.into(),
                _ => return Err(Failure::input(EXPECTED).at(shown())),
            },
            None => return Err(Failure::input(EXPECTED).at(shown())),
        };
        // So that a number of threads that cannot be is refused here as well.
        let threads = on_threads(threads, Cpu::thread_count)?;
        match Cuda::new(ordinal) {
            Ok(cuda) => Ok(Device::Cuda { ordinal, threads, cuda }),
            Err(paring_ops::Error::Device { message, .. }) => Err(Failure::input(message).at(shown())),
            Err(e) => Err(Failure::input(e).at(shown())),
        }
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        match self {
            Device::Cpu(cpu) => cpu,
            Device::Cuda { cuda, .. } => cuda,
        }
    }

    /// Threads for work that stays on the CPU.
    pub(crate) fn threads(&self) -> usize {
        match self {
            Device::Cpu(cpu) => cpu.threads(),
            Device::Cuda { threads, .. } => *threads,
        }
    }

    /// As `--device` takes it.
    pub(crate) fn name(&self) -> String {
        match self {
            Device::Cpu(_) => "cpu".into(),
            Device::Cuda { ordinal, .. } => format!("cuda:{ordinal}"),
        }
    }

    /// What it is, for people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Device::Cpu(cpu) => format!("cpu, {} threads", cpu.threads()),
            Device::Cuda { ordinal, cuda, .. } => format!("cuda:{ordinal}, {}", cuda.device_name()),
        }
    }

    /// Bytes that are free on a device with memory of its own.
    pub(crate) fn own_memory(&self) -> Option<u64> {
        match self {
            Device::Cpu(_) => None,
            Device::Cuda { cuda, .. } => cuda.memory().ok().map(|(free, _)| free as u64),
        }
    }
}

/// What `make` makes of the number of threads that was asked for; an error names the flag.
fn on_threads<T>(threads: Option<usize>, make: fn(Option<usize>) -> paring_ops::Result<T>) -> Result<T> {
    if threads == Some(0) {
        return Err(Failure::input("--threads 0: expected at least 1"));
    }
    make(threads).map_err(|e| match threads {
        Some(n) => Failure::input(e).at(format!("--threads {n}")),
        None => Failure::input(e),
    })
}
