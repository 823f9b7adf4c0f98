//! Least squares for the `down_proj` of every width that candidates have, from one factorisation per layer.
use crate::{Error, Nested, Result};
use paring_calibrate::Gram;
use paring_exec::Ctx;
use paring_model::Batch;
use paring_prune::NestedLeastSquares;

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

/// Runs `windows` through the teacher, `batch` of them at a time, and repairs the `down_proj` of every layer for every width. `progress` is
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
    let mut first = 0;
    while first < arch.layers.len() {
        let mut end = first + 1;
        while end < arch.layers.len() && (first..=end).map(bytes).sum::<usize>() <= widths.gram_bytes {
            end += 1;
        }
        let mut gram = Gram::new(backend, &arch, first..end)?;
        for chunk in windows.chunks(batch.max(1)) {
            let batch = Batch::pack(chunk.iter().map(Vec::as_slice));
            teacher.hidden(&mut Ctx::infer(backend).observe(&mut gram), &batch, None)?;
            if !progress(first) {
                return Ok(false);
            }
        }
        let layers: Vec<usize> = (first..end).collect();
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
