//! Prefill the prompt in one forward, then decode token by token.
use paring_exec::Ctx;
use paring_model::{Batch, Model};
use paring_ops::Backend;
use paring_sampling::Sampler;
use paring_tensor::Tensor;
use std::{fmt, time::Instant};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// Ids of the prompt; at least one.
    pub prompt: Vec<u32>,
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// How to choose.
    pub sampler: Sampler,
    /// Tokens that end the text; they are not part of it.
    pub stop: Vec<u32>,
}

/// What was generated, and how fast.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// New ids.
    pub tokens: Vec<u32>,
    /// Whether a stop token ended it.
    pub stopped: bool,
    /// Prompt tokens per second.
    pub prefill_tokens_per_second: f64,
    /// New tokens per second.
    pub decode_tokens_per_second: f64,
}

/// Why nothing was generated.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// There is no token to start from.
    EmptyPrompt,
    /// Prompt and new tokens do not fit the model's positions.
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// New tokens asked for.
        max_tokens: usize,
        /// Positions of the model.
        positions: usize,
    },
    /// The model could not be run.
    Model(paring_model::Error),
    /// No token could be chosen.
    Sampling(paring_sampling::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::EmptyPrompt => write!(f, "the prompt has no tokens; give --prompt at least one character"),
            Error::TooLong { prompt, max_tokens, positions } => write!(
                f,
                "{prompt} prompt tokens and {max_tokens} new ones do not fit the model's {positions} positions; lower --max-tokens"
            ),
            Error::Model(e) => e.fmt(f),
            Error::Sampling(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Model(e) => Some(e),
            Error::Sampling(e) => Some(e),
            _ => None,
        }
    }
}

impl From<paring_model::Error> for Error {
    fn from(e: paring_model::Error) -> Self {
        Error::Model(e)
    }
}

impl From<paring_ops::Error> for Error {
    fn from(e: paring_ops::Error) -> Self {
        Error::Model(e.into())
    }
}

/// Generates; `emit` is given each new token as it is chosen and ends the run by returning false.
///
/// # Errors
/// [`Error`].
pub fn generate(
    backend: &dyn Backend,
    model: &Model,
    request: &Request,
    emit: &mut dyn FnMut(u32) -> bool,
) -> Result<Generated, Error> {
    let (prompt, positions) = (request.prompt.len(), model.arch().max_positions);
    if prompt == 0 {
        return Err(Error::EmptyPrompt);
    }
    let capacity = prompt.saturating_add(request.max_tokens);
    if positions < capacity {
        return Err(Error::TooLong { prompt, max_tokens: request.max_tokens, positions });
    }
    let mut cache = model.kv_cache(backend, capacity)?;
    let mut cx = Ctx::infer(backend);
    let start = Instant::now();
    let x = model.hidden(&mut cx, &Batch::continuing(&request.prompt, 0), Some(&mut cache))?.tensor;
    let last = x.rows(prompt - 1..prompt).map_err(paring_ops::Error::in_op("generate"))?;
    let mut logits = backend.download(&model.logits(backend, &last)?)?;
    let prefill = start.elapsed().as_secs_f64();

    let start = Instant::now();
    let (mut tokens, mut stopped) = (Vec::new(), false);
    while tokens.len() < request.max_tokens {
        let token = request.sampler.sample(&logits, tokens.len() as u64).map_err(Error::Sampling)?;
        if request.stop.contains(&token) {
            stopped = true;
            break;
        }
        tokens.push(token);
        if !emit(token) || tokens.len() == request.max_tokens {
            break;
        }
        // One token is hundreds of small operations: a device may take them as one.
        let mut step = || -> Result<Tensor, paring_model::Error> {
            let x = model.hidden(&mut cx, &Batch::continuing(&[token], cache.len()), Some(&mut cache))?.tensor;
            model.logits(backend, &x)
        };
        let mut stepped = None;
        let queued = backend.graph(&mut || {
            let result = stepped.insert(step());
            result
                .as_ref()
                .map(|_| ())
                .map_err(|e| paring_ops::Error::Device { op: "generate", message: e.to_string() })
        });
        let next = stepped.transpose()?;
        queued?;
        logits = match next {
            Some(next) => backend.download(&next)?,
            None => {
                let message = "the step was not run".into();
                return Err(paring_ops::Error::Device { op: "generate", message }.into());
            }
        };
    }
    let decode = start.elapsed().as_secs_f64();
    let rate = |n: usize, seconds: f64| if n == 0 { 0.0 } else { n as f64 / seconds.max(1e-9) };
    let decode_rate = rate(tokens.len(), decode);
    Ok(Generated {
        tokens,
        stopped,
        prefill_tokens_per_second: rate(prompt, prefill),
        decode_tokens_per_second: decode_rate,
    })
}
