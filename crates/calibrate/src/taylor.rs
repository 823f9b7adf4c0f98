//! Activation times gradient, summed over the tokens of a sequence: what Taylor scores are made from. The definition is in
//! `paring-importance`; here the two factors are brought together while the tape is walked.
use crate::observe::failed;
use paring_exec::{Site, Tap};
use paring_importance::{Stat, TaylorSequence};
use paring_model::{Arch, Batch};
use paring_ops::{Backend, IGNORE, Result};
use paring_tensor::Tensor;
use std::ops::Range;

/// The sequences of the batch that is on its way back.
#[derive(Debug)]
pub(crate) struct Taylor {
    arch: Arch,
    /// Rows of each sequence, and its sums.
    sequences: Vec<(Range<usize>, TaylorSequence)>,
    /// Predicted tokens of each.
    targets: Vec<usize>,
}

impl Taylor {
    pub(crate) fn new(arch: &Arch) -> Self {
        Taylor { arch: arch.clone(), sequences: Vec::new(), targets: Vec::new() }
    }

    pub(crate) fn begin(&mut self, batch: &Batch, sequences: impl Iterator<Item = Range<usize>>) {
        let zero = || TaylorSequence {
            hidden: vec![0.0; self.arch.hidden],
            ffn: self.arch.layers.iter().map(|l| vec![0.0; l.ffn]).collect(),
            heads: self.arch.layers.iter().map(|l| vec![0.0; l.heads]).collect(),
        };
        self.sequences = sequences.map(|rows| (rows, zero())).collect();
        let next = batch.next_tokens();
        let count = |rows: &Range<usize>| next[rows.clone()].iter().filter(|&&t| t != IGNORE).count();
        self.targets = self.sequences.iter().map(|(rows, _)| count(rows)).collect();
    }

    /// The batch's sequences: sums of losses become means over each sequence's predicted tokens.
    pub(crate) fn take(&mut self) -> Vec<TaylorSequence> {
        let scale = |((_, mut sums), targets): ((Range<usize>, TaylorSequence), &usize)| {
            let n = (*targets).max(1) as f64;
            let all = std::iter::once(&mut sums.hidden).chain(&mut sums.ffn).chain(&mut sums.heads);
            all.flatten().for_each(|v| *v /= n);
            sums
        };
        self.sequences.drain(..).zip(&self.targets).map(scale).collect()
    }

    pub(crate) fn gradient(&mut self, backend: &dyn Backend, site: Site, x: &Tensor, dx: &Tensor) -> Result<()> {
        let stat = match site.tap {
            Tap::AttnNorm => Stat::AttnNorm,
            // The final norm is no site of a layer; it reads the stream like any other norm.
            Tap::MlpNorm | Tap::FinalNorm => Stat::MlpNorm,
            Tap::MlpHidden => Stat::Ffn,
            Tap::AttnOut => Stat::Heads,
            Tap::BlockIn | Tap::MlpGate | Tap::BlockOut => return Ok(()),
        };
        let columns = x.n_cols();
        let (x, dx) = (backend.download(x)?, backend.download(dx)?);
        let mut products = vec![0f64; columns];
        for (rows, sums) in &mut self.sequences {
            let range = rows.start * columns..rows.end * columns;
            products.fill(0.0);
            for (x, dx) in x[range.clone()].chunks_exact(columns).zip(dx[range].chunks_exact(columns)) {
                for ((p, &a), &g) in products.iter_mut().zip(x).zip(dx) {
                    *p += f64::from(a) * f64::from(g);
                }
            }
            if let Some(index) = products.iter().position(|p| !p.is_finite()) {
                let place = if site.tap == Tap::FinalNorm { "output of the final norm" } else { stat.describe() };
                let error = Box::new(paring_importance::Error::NotFinite { unit: "channel", index });
                let site = format!("layer {}, activation times gradient at the {place}", site.layer);
                return Err(failed(&paring_importance::Error::Site { site, error }));
            }
            match stat {
                Stat::Ffn => sums.ffn[site.layer].copy_from_slice(&products),
                Stat::Heads => {
                    let heads = products.chunks(self.arch.head_dim).map(|head| head.iter().sum());
                    sums.heads[site.layer].iter_mut().zip(heads).for_each(|(to, head): (_, f64)| *to = head);
                }
                _ => sums.hidden.iter_mut().zip(&products).for_each(|(to, p)| *to += p),
            }
        }
        Ok(())
    }
}
