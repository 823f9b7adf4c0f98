//! What all commands share: the backend, the seed, how results are printed.
use crate::{
    args::{Common, Dtype},
    device::Device,
    error::{Failure, Result},
};
use paring_model::LoadAs;
use paring_ops::Backend;
use paring_tensor::DType;
use serde_json::{Value, json};

/// The settings under "Common", resolved.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) device: Device,
    pub(crate) seed: u64,
    json: bool,
    verbose: bool,
    dtype: Option<Dtype>,
}

impl Session {
    pub(crate) fn new(common: &Common) -> Result<Self> {
        let device = Device::open(common.device.as_deref(), common.threads)?;
        if common.verbose {
            tell!("computing on {}", device.describe());
        }
        let (seed, json) = (common.seed.unwrap_or(0), common.json);
        Ok(Session { device, seed, json, verbose: common.verbose, dtype: common.dtype })
    }

    /// What computes.
    pub(crate) fn backend(&self) -> &dyn Backend {
        self.device.backend()
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

    /// Prints the result: `json` as one object that names the device as well, or `text`.
    pub(crate) fn print(&self, json: &Value, text: &str) -> Result<()> {
        if !self.json {
            return print(text);
        }
        let mut json = json.clone();
        if let Value::Object(map) = &mut json {
            map.insert("device".into(), json!(self.device.name()));
        }
        print(&format!("{json}\n"))
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
