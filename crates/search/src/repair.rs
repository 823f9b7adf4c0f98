//! What is known from one pass over the calibration text, for all widths at once: least squares for the `down_proj` of every width, from one
//! factorisation per layer, and the energy of the residual stream's channels, from which the norms' gains of every width follow.
use crate::{Error, Nested, Result};
use paring_calibrate::Gram;
use paring_exec::{Ctx, Observer, Site, Tap};
use paring_model::Batch;
use paring_ops::Backend;
use paring_prune::NestedLeastSquares;
use paring_tensor::Tensor;

/// What is solved for.
#[derive(Clone, Debug)]
pub struct Widths {
    /// Numbers of neurons.
    pub ffn: Vec<usize>,
    /// The ridge as a part of the mean diagonal of the Gram matrix.
    pub strength: f64,
    /// Bytes of Gram matrices that may be in memory at a time; more layers need more passes over the text.
    pub gram_bytes: usize,
    /// Layers that are solved at a time, each on a thread of its own.
    pub threads: usize,
}

/// Sums squares behind every norm.
struct Energies {
    layers: usize,
    sums: Vec<Vec<f64>>,
    tokens: u64,
}

impl Energies {
    fn see(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> paring_ops::Result<()> {
        let norm = match site.tap {
            Tap::AttnNorm => 2 * site.layer,
            Tap::MlpNorm => 2 * site.layer + 1,
            Tap::FinalNorm => 2 * self.layers,
            _ => return Ok(()),
        };
        if site.tap == Tap::FinalNorm {
            self.tokens += x.n_rows() as u64;
        }
        let values = backend.download(x)?;
        let sums = &mut self.sums[norm];
        for row in values.chunks_exact(sums.len()) {
            sums.iter_mut().zip(row).for_each(|(s, v)| *s += f64::from(*v).powi(2));
        }
        Ok(())
    }

    /// Mean squares of the unit-RMS stream: the norms' gains are taken out. A channel whose gain is zero shows nothing, and counts for nothing.
    fn means(self, gains: &[Vec<f32>]) -> Vec<Vec<f64>> {
        let tokens = self.tokens.max(1) as f64;
        let mean = |(sum, gain): (&f64, &f32)| match f64::from(*gain).powi(2) {
            0.0 => 0.0,
            square => sum / tokens / square,
        };
        self.sums.iter().zip(gains).map(|(sums, gains)| sums.iter().zip(gains).map(mean).collect()).collect()
    }
}

/// Both observers in one pass.
struct Both {
    gram: Gram,
    energies: Option<Energies>,
}

impl Observer for Both {
    fn activation(&mut self, backend: &dyn Backend, site: Site, x: &Tensor) -> paring_ops::Result<()> {
        self.gram.activation(backend, site, x)?;
        self.energies.as_mut().map_or(Ok(()), |e| e.see(backend, site, x))
    }
}

/// Runs `windows` through the teacher, `batch` of them at a time, and repairs the `down_proj` of every layer for every width, and the norms'
/// gains for every width of the residual stream. `progress` is
/// told the layers done; when it answers `false`, the work ends and so does this, with `false`.
///
/// # Errors
/// [`Error::NoWindows`], those of the model, and those of [`NestedLeastSquares::new`].
pub fn repair(
    nested: &mut Nested<'_>,
    windows: &[Vec<u32>],
    batch: usize,
    widths: &Widths,
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<bool> {
    if windows.is_empty() {
        return Err(Error::NoWindows { what: "of calibration" });
    }
    let (backend, arch) = (nested.backend(), nested.arch().clone());
    let teacher = nested.model(&nested.ranking().teacher().clone())?;
    let bytes = |l: usize| 4 * arch.layers[l].ffn.pow(2);
    let narrower = arch.layers.iter().any(|l| widths.ffn.iter().any(|&k| k < l.ffn));
    let mut first = 0;
    let sums = vec![vec![0.0; arch.hidden]; 2 * arch.layers.len() + 1];
    let mut energies = Some(Energies { layers: arch.layers.len(), sums, tokens: 0 });
    while first < arch.layers.len() {
        let mut end = first + 1;
        while end < arch.layers.len() && (first..=end).map(bytes).sum::<usize>() <= widths.gram_bytes {
            end += 1;
        }
        // Where no neurons go there is nothing to solve, and one pass shows all.
        let (end, solved) = if narrower { (end, first..end) } else { (arch.layers.len(), 0..0) };
        let mut both = Both { gram: Gram::new(backend, &arch, solved.clone())?, energies: energies.take() };
        for chunk in windows.chunks(batch.max(1)) {
            let batch = Batch::pack(chunk.iter().map(Vec::as_slice));
            teacher.hidden(&mut Ctx::infer(backend).observe(&mut both), &batch, None)?;
            if !progress(first) {
                return Ok(false);
            }
        }
        let Both { gram, energies: seen } = both;
        if let Some(seen) = seen {
            let gains = nested.gains()?;
            nested.set_energies(seen.means(&gains));
        }
        let layers: Vec<usize> = solved.collect();
        for group in layers.chunks(widths.threads.max(1)) {
            for (layer, solved) in solve(nested, &gram, group, widths)? {
                for (ffn, values) in solved {
                    nested.set_repaired(layer, ffn, &values)?;
                }
            }
            if !progress(group.iter().max().map_or(end, |l| l + 1)) {
                return Ok(false);
            }
        }
        first = end;
    }
    Ok(true)
}

/// Solutions of one layer by width.
type Solved = (usize, Vec<(usize, Vec<f32>)>);

/// A layer per thread: a solve is serial, and layers do not depend on one another.
fn solve(nested: &Nested<'_>, gram: &Gram, layers: &[usize], widths: &Widths) -> Result<Vec<Solved>> {
    let (backend, arch) = (nested.backend(), nested.arch());
    let mut problems = Vec::new();
    for &layer in layers {
        let ffn = arch.layers[layer].ffn;
        let sum = gram.layer(backend, layer)?.ok_or(Error::NoWindows { what: "of calibration" })?;
        problems.push((layer, ffn, sum, nested.down_proj(layer)?));
    }
    let one = |(layer, ffn, gram, w): (usize, usize, Vec<f32>, Vec<f32>)| -> Result<Solved> {
        // The teacher that ran was the sorted one, and so are the Gram matrices of its neurons.
        let problem = NestedLeastSquares::new(&gram, ffn, &w, widths.strength)?;
        drop((gram, w));
        let smaller = widths.ffn.iter().filter(|&&k| k < ffn);
        Ok((layer, smaller.map(|&k| Ok((k, problem.solve(k)?))).collect::<Result<_>>()?))
    };
    std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = problems.into_iter().map(|p| scope.spawn(move || one(p))).collect();
        let lost = || Error::Latency { what: "a thread of least squares failed; please report this".into() };
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| Err(lost()))).collect()
    })
}
