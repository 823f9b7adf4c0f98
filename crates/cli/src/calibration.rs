//! The calibration pass: importance and, for least squares, Gram matrices.
use crate::{
    error::{Failure, Result},
    progress::Progress,
    session::Session,
    signals::Stop,
    student::{Student, needs_compensation, set_down_proj, solve},
};
use paring_calibrate::{Gram, Importance};
use paring_exec::{Ctx, Observer, Site};
use paring_importance::ImportanceSet;
use paring_model::{Arch, Batch, Model};
use paring_ops::Backend;
use paring_tensor::Tensor;
use paring_train::micro_windows;
use std::ops::Range;

/// Memory that Gram matrices may take at a time: those of a small model are gathered with the importance, in one pass.
pub(crate) const GRAM_BYTES: u64 = 1 << 30;

/// A model on a text, as calibration sees it.
pub(crate) struct Calibration<'a> {
    pub(crate) session: &'a Session,
    pub(crate) model: &'a Model,
    pub(crate) windows: &'a [Vec<u32>],
    pub(crate) stop: &'a Stop,
}

/// Both observers in one pass.
struct Both {
    importance: Option<Importance>,
    gram: Option<Gram>,
}

impl Observer for Both {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> paring_ops::Result<()> {
        self.importance.as_mut().map_or(Ok(()), |o| o.activation(backend, site, x))?;
        self.gram.as_mut().map_or(Ok(()), |o| o.activation(backend, site, x))
    }
}

/// Bytes of the Gram matrices of `layers`.
pub(crate) fn gram_bytes(arch: &Arch, layers: Range<usize>) -> u64 {
    arch.layers[layers].iter().map(|l| 4 * (l.ffn as u64).pow(2)).sum()
}

impl Calibration<'_> {
    /// Importance, and the Gram matrices of all layers with it if they are wanted and small enough to be gathered at once.
    pub(crate) fn run(&self, gram: bool) -> Result<(ImportanceSet, Option<Gram>)> {
        let arch = self.model.arch();
        let all = 0..arch.layers.len();
        let gram = if gram && gram_bytes(arch, all.clone()) <= GRAM_BYTES {
            Some(Gram::new(self.session.backend(), arch, all)?)
        } else {
            None
        };
        let mut both = Both { importance: Some(Importance::new(arch)?), gram };
        self.pass("calibrate", &mut both)?;
        let importance = both.importance.take().ok_or_else(|| Failure::work("calibration lost its observer"))?;
        Ok((importance.into_set(), both.gram))
    }

    /// Compensates the `down_proj` of every layer of which neurons go, from `gram` or from further passes.
    pub(crate) fn compensate(&self, cut: &mut Student<'_>, gram: Option<Gram>) -> Result<()> {
        let arch = self.model.arch();
        let tokens: usize = self.windows.iter().map(Vec::len).sum();
        if let Some(ffn) = arch.layers.iter().map(|l| l.ffn).max().filter(|ffn| tokens < 8 * ffn) {
            tell!(
                "note: {tokens} calibration tokens are few for least squares over {ffn} neurons; expect little of it below {}",
                8 * ffn
            );
        }
        if let Some(gram) = gram {
            return self.solve(cut, &gram, 0..arch.layers.len());
        }
        let mut first = 0;
        while first < arch.layers.len() {
            let mut end = first + 1;
            while end < arch.layers.len() && gram_bytes(arch, first..end + 1) <= GRAM_BYTES {
                end += 1;
            }
            if (first..end).any(|l| needs_compensation(cut, l)) {
                let mut both =
                    Both { importance: None, gram: Some(Gram::new(self.session.backend(), arch, first..end)?) };
                self.pass("statistics", &mut both)?;
                let gram = both.gram.take().ok_or_else(|| Failure::work("calibration lost its observer"))?;
                self.solve(cut, &gram, first..end)?;
            }
            first = end;
        }
        Ok(())
    }

    /// Least squares, a layer per thread: a solve is serial, and layers do not depend on one another.
    fn solve(&self, cut: &mut Student<'_>, gram: &Gram, layers: Range<usize>) -> Result<()> {
        let needed: Vec<usize> = layers.filter(|&l| needs_compensation(cut, l)).collect();
        let mut progress = Progress::new("least squares", "layers", needed.len() as u64, 0);
        for (i, group) in needed.chunks(self.session.device.threads()).enumerate() {
            if self.stop.asked() {
                return Err(self.stop.failure("nothing was written"));
            }
            let one = |layer: usize| -> Result<Vec<f32>> {
                let sum = gram.layer(self.session.backend(), layer)?;
                solve(cut, layer, &sum.ok_or_else(|| Failure::work(format!("no statistics of layer {layer}")))?)
            };
            let solved: Vec<Result<Vec<f32>>> = std::thread::scope(|scope| {
                let one = &one;
                let threads: Vec<_> = group.iter().map(|&l| scope.spawn(move || one(l))).collect();
                let join = |t: std::thread::ScopedJoinHandle<'_, Result<Vec<f32>>>| {
                    t.join().unwrap_or_else(|_| Err(Failure::work("a least-squares thread failed; please report this")))
                };
                threads.into_iter().map(join).collect()
            });
            for (&layer, w) in group.iter().zip(solved) {
                set_down_proj(cut, layer, &w?)?;
            }
            progress.set((i * self.session.device.threads() + group.len()) as u64, "");
        }
        progress.finish();
        Ok(())
    }

    fn pass(&self, name: &str, both: &mut Both) -> Result<()> {
        let context = self.windows.iter().map(Vec::len).max().unwrap_or(1);
        let total = self.windows.iter().map(|w| w.len() as u64).sum();
        let mut progress = Progress::new(name, "tokens", total, 0);
        let mut done = 0;
        for chunk in self.windows.chunks(micro_windows(self.model.arch(), context)) {
            if self.stop.asked() {
                return Err(self.stop.failure("nothing was written"));
            }
            let batch = Batch::pack(chunk.iter().map(Vec::as_slice));
            if let Some(importance) = &mut both.importance {
                importance.begin(&batch);
            }
            self.model.hidden(&mut Ctx::infer(self.session.backend()).observe(both), &batch, None)?;
            done += batch.n_tokens() as u64;
            progress.set(done, "");
        }
        progress.finish();
        Ok(())
    }
}
