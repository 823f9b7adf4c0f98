//! Losses of candidates on a few thousand tokens: as views of the sorted teacher.
use crate::{Error, Nested, Result};
use paring_exec::Ctx;
use paring_model::{Batch, Model};
use paring_ops::Compared;
use paring_prune::Dims;
use paring_tensor::Tensor;
use serde::{Deserialize, Serialize};

/// What a candidate is scored by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proxy {
    /// The mean negative log-likelihood of the text, nats per predicted token.
    Nll,
    /// The mean of KL(teacher || student) over predicted tokens, nats: needs no truth, and costs a second head.
    Kl,
}

/// Scores candidates on the first windows of a text.
#[derive(Debug)]
pub struct Losses<'b> {
    nested: Nested<'b>,
    windows: Vec<Vec<u32>>,
    proxy: Proxy,
    /// For KL: the teacher, and its final states of the windows that were asked for.
    teacher: Option<(Model, Vec<Tensor>)>,
}

impl<'b> Losses<'b> {
    /// `windows` are those that rungs take the first of.
    ///
    /// # Errors
    /// [`Error::NoWindows`].
    pub fn new(nested: Nested<'b>, windows: Vec<Vec<u32>>, proxy: Proxy) -> Result<Self> {
        if windows.iter().all(|w| w.len() < 2) {
            return Err(Error::NoWindows { what: "to score candidates on" });
        }
        Ok(Losses { nested, windows, proxy, teacher: None })
    }

    /// The sorted teacher.
    pub fn nested(&mut self) -> &mut Nested<'b> {
        &mut self.nested
    }

    /// Windows that hold at least `tokens` tokens, as far as there are any.
    pub fn windows_of(&self, tokens: u64) -> usize {
        let mut sum = 0;
        let reached = self.windows.iter().position(|w| {
            sum += w.len() as u64;
            tokens <= sum
        });
        reached.map_or(self.windows.len(), |i| i + 1)
    }

    /// The score of a student of these sizes on the first `windows` windows.
    ///
    /// Window by window: what a candidate's score is does not depend on how many others were scored, nor on memory.
    ///
    /// # Errors
    /// Those of the model.
    pub fn loss(&mut self, student: &Dims, windows: usize) -> Result<f64> {
        let model = self.nested.model(student)?;
        let backend = self.nested.backend();
        if self.proxy == Proxy::Kl && self.teacher.is_none() {
            let dims = *self.nested.ranking().teacher();
            self.teacher = Some((self.nested.model(&dims)?, Vec::new()));
        }
        let (mut nll, mut tokens, mut compared) = (0.0, 0u64, Compared::default());
        for (i, window) in self.windows.iter().take(windows).enumerate() {
            let batch = Batch::pack([window.as_slice()]);
            let x = model.hidden(&mut Ctx::infer(backend), &batch, None)?.tensor;
            let targets = batch.next_tokens();
            match &mut self.teacher {
                None => nll += backend.head_cross_entropy(None, &x, &model.head().tensor, &targets, 1.0)?,
                Some((teacher, states)) => {
                    if states.len() == i {
                        states.push(teacher.hidden(&mut Ctx::infer(backend), &batch, None)?.tensor);
                    }
                    let heads = (&model.head().tensor, &teacher.head().tensor);
                    compared += backend.head_compare(&x, heads.0, &states[i], heads.1, &targets)?;
                }
            }
            tokens += batch.n_targets() as u64;
        }
        Ok(match self.proxy {
            Proxy::Nll => nll / tokens.max(1) as f64,
            Proxy::Kl => compared.kl / compared.rows.max(1) as f64,
        })
    }
}
