//! What all commands share: the backend, the seed, how results are printed.
use crate::{
    args::{Common, Dtype},
    error::{Failure, Result},
};
use paring_cpu::Cpu;
use paring_model::LoadAs;
use paring_tensor::DType;
use serde_json::Value;

/// The settings under "Common", resolved.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) cpu: Cpu,
    pub(crate) seed: u64,
    json: bool,
    verbose: bool,
    dtype: Option<Dtype>,
}

impl Session {
    pub(crate) fn new(common: &Common) -> Result<Self> {
        match common.device.as_deref() {
            None | Some("cpu") => {}
            Some(d) if d == "cuda" || d.starts_with("cuda:") => {
                return Err(Failure::input("--device cuda is not built yet; the CPU backend works: --device cpu"));
            }
            Some(d) => return Err(Failure::input(format!("--device {}: expected cpu", paring_checkpoint::shown(d)))),
        }
        if common.threads == Some(0) {
            return Err(Failure::input("--threads 0: expected at least 1"));
        }
        let cpu = Cpu::new(common.threads).map_err(|e| match common.threads {
            Some(n) => Failure::input(e).at(format!("--threads {n}")),
            None => Failure::input(e),
        })?;
        let (seed, json) = (common.seed.unwrap_or(0), common.json);
        Ok(Session { cpu, seed, json, verbose: common.verbose, dtype: common.dtype })
    }

    /// Type of matrices in products: the flag, or what suits the command. For commands that train, cut or measure a model's parts, which
    /// need all matrices alike.
    pub(crate) fn dtype(&self, default: DType) -> Result<DType> {
        match self.load_as(default.into()) {
            LoadAs::DType(dtype) => Ok(dtype),
            LoadAs::Stored => Err(Failure::input(
                "--dtype stored is for generate and eval: there is no gradient of quantised weights; expected f32 or bf16",
            )),
        }
    }

    /// What becomes of a model's matrices, for commands that only run it forward.
    pub(crate) fn load_as(&self, default: LoadAs) -> LoadAs {
        match self.dtype {
            Some(Dtype::F32) => DType::F32.into(),
            Some(Dtype::Bf16) => DType::BF16.into(),
            Some(Dtype::Stored) => LoadAs::Stored,
            None => default,
        }
    }

    /// Says something on stderr when `-v` asks for more.
    pub(crate) fn say(&self, text: impl std::fmt::Display) {
        if self.verbose {
            tell!("{text}");
        }
    }

    /// Prints the result: `json` as one object, or `text`.
    pub(crate) fn print(&self, json: &Value, text: &str) -> Result<()> {
        let text = if self.json { format!("{json}\n") } else { text.to_string() };
        print(&text)
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }
}

/// Writes to stdout. A reader that went away ends the program quietly: `paring inspect | head -1` is no failure.
pub(crate) fn print(text: &str) -> Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure { code: 0, message: String::new() }),
        Err(e) => Err(Failure::work(format!("cannot write to stdout: {e}"))),
    }
}
