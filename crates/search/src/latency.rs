//! Seconds of a shape on this machine: measured at a few shapes, fitted, and then a formula.
//!
//! A layer's time is taken to be linear in what it does,
//!
//! `layer = c0 + c1 * (2 H Nq d + 2 H Nkv d) + c2 * 3 H F + c3 * Nq d`
//!
//! the matrices of attention, those of the MLP, and attention itself over a fixed context; the head's is `h0 + h1 * V H`. The coefficients
//! are fitted to timed runs of real layers, with relative errors, and none is negative. A decoded token reads all weights from memory, so
//! enough layers run behind one another that they do not stay in a cache.
use crate::{Error, Result};
use paring_exec::{Ctx, KvCache};
use paring_model::{Arch, Batch, Model, params};
use paring_ops::{Backend, Error as OpsError};
use paring_prune::Dims;
use paring_surgery::arch_of;
use paring_tensor::{DType, Shape, Tensor};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// One more token for one sequence, `context` tokens in the cache.
    Decode,
    /// A prompt of `context` tokens at once, logits of the last one.
    Prefill,
}

/// The fitted times of one phase.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// What is timed.
    pub phase: Phase,
    /// Tokens in the cache, or of the prompt.
    pub context: usize,
    /// Of a layer, in seconds: its constant, per value of attention's matrices, per value of the MLP's, per channel of the queries.
    pub layer: [f64; 4],
    /// Of the head, in seconds: its constant, and per value.
    pub head: [f64; 2],
    /// The largest part by which a timed layer differs from the fit.
    pub worst_error: f64,
    /// Timed shapes.
    pub shapes: usize,
}

/// Bytes of weights that no cache keeps from token to token.
const BEYOND_CACHES: usize = 128 << 20;
/// Rows of the embedding while layers are timed: it is no part of a layer.
const FEW_TOKENS: usize = 16;
/// Times that a run is repeated; the shortest counts, because other programs only ever take time away.
const REPEATS: usize = 12;

impl Latency {
    /// Seconds of a model of these sizes: all layers and the head.
    pub fn seconds(&self, d: &Dims) -> f64 {
        let layer: f64 = self.layer.iter().zip(regressors(d)).map(|(c, x)| c * x).sum();
        d.layers as f64 * layer + self.head[0] + self.head[1] * (d.vocab * d.hidden) as f64
    }

    /// Times layers of the teacher's shape and of smaller ones, and the head.
    ///
    /// # Errors
    /// [`Error::Latency`] for no context; those of the model and of the backend.
    pub fn measure(
        backend: &dyn Backend,
        teacher: &Arch,
        dims: &Dims,
        dtype: DType,
        phase: Phase,
        context: usize,
    ) -> Result<Latency> {
        if context == 0 {
            return Err(Error::Latency { what: "a context of 0 tokens, expected at least 1".into() });
        }
        let half = |n: usize, unit: usize| (n / 2 / unit * unit).max(unit).min(n);
        let (h, f) = ([dims.hidden, half(dims.hidden, 8)], [dims.ffn, half(dims.ffn, 8)]);
        // Fewer groups; where there is only one, fewer heads in it.
        let few = match dims.kv_groups {
            1 => (half(dims.heads, 1), 1),
            groups => (half(groups, 1) * dims.heads_per_group(), half(groups, 1)),
        };
        let mut points = Vec::new();
        for (heads, kv_groups) in [(dims.heads, dims.kv_groups), few] {
            for hidden in h {
                for ffn in f {
                    let shape = Dims { hidden, ffn, heads, kv_groups, vocab: FEW_TOKENS, tied: true, ..*dims };
                    points.push((shape, layer_seconds(backend, teacher, &shape, dtype, phase, context)?));
                }
            }
        }
        let rows: Vec<([f64; 4], f64)> = points.iter().map(|(d, seconds)| (regressors(d), *seconds)).collect();
        let layer = fit(&rows);
        let error = |(x, t): &([f64; 4], f64)| {
            let fitted: f64 = layer.iter().zip(x).map(|(c, x)| c * x).sum();
            (fitted / t - 1.0).abs()
        };
        let head: Vec<([f64; 2], f64)> = h
            .iter()
            .map(|&hidden| Ok(([1.0, (dims.vocab * hidden) as f64], head_seconds(backend, dims.vocab, hidden, dtype)?)))
            .collect::<Result<_>>()?;
        let worst_error = rows.iter().map(error).fold(0.0, f64::max);
        Ok(Latency { phase, context, layer, head: fit(&head), worst_error, shapes: points.len() + head.len() })
    }
}

/// What a layer's time is made of.
fn regressors(d: &Dims) -> [f64; 4] {
    let [h, f, q, kv, w] = [d.hidden, d.ffn, d.heads, d.kv_groups, d.head_dim].map(|n| n as f64);
    [1.0, 2.0 * h * w * (q + kv), 3.0 * h * f, q * w]
}

/// The shortest of a few runs, after one that is not counted.
fn shortest(repeats: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..repeats {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn zeros(backend: &dyn Backend, dims: &[usize], dtype: DType) -> Result<Tensor> {
    Ok(backend.zeros(dtype, Shape::new(dims).map_err(OpsError::in_op("latency"))?)?)
}

/// Seconds of one layer of this shape.
fn layer_seconds(
    backend: &dyn Backend,
    teacher: &Arch,
    shape: &Dims,
    dtype: DType,
    phase: Phase,
    context: usize,
) -> Result<f64> {
    let bytes = {
        let one = arch_of(teacher, &Dims { layers: 1, ..*shape });
        params(&one)
            .iter()
            .filter(|p| p.layer.is_some())
            .map(|p| p.compute_dtype(dtype).bytes(p.elements()))
            .sum::<usize>()
    };
    let layers = match phase {
        Phase::Decode => BEYOND_CACHES.div_ceil(bytes.max(1)).clamp(2, shape.layers.max(2)),
        Phase::Prefill => 2,
    };
    let arch = arch_of(teacher, &Dims { layers, ..*shape });
    // A tied head and a small vocabulary, whatever the teacher has; as many positions as the run takes.
    let arch = Arch { vocab: shape.vocab, tied: true, max_positions: context + 1 + REPEATS, ..arch };
    let tensors =
        params(&arch).iter().map(|p| zeros(backend, &p.shape, p.compute_dtype(dtype))).collect::<Result<_>>()?;
    let model = Model::from_tensors(arch, backend, tensors)?;
    let seconds = match phase {
        Phase::Decode => {
            let mut cache = KvCache::new(backend, &model.arch().kv_cols(), context + 1 + REPEATS)?;
            cache.advance(context);
            shortest(REPEATS, || {
                let batch = Batch::continuing(&[0], cache.len());
                let x = model.hidden(&mut Ctx::infer(backend), &batch, Some(&mut cache))?.tensor;
                backend.download(&x)?;
                Ok(())
            })?
        }
        Phase::Prefill => {
            let ids = vec![0; context];
            shortest(REPEATS.min(3), || {
                let batch = Batch::pack([ids.as_slice()]);
                let x = model.hidden(&mut Ctx::infer(backend), &batch, None)?.tensor;
                let last = x.rows(context - 1..context).map_err(OpsError::in_op("latency"))?;
                backend.download(&last)?;
                Ok(())
            })?
        }
    };
    Ok(seconds / layers as f64)
}

/// Seconds of the logits of one token.
fn head_seconds(backend: &dyn Backend, vocab: usize, hidden: usize, dtype: DType) -> Result<f64> {
    let (x, w) = (zeros(backend, &[1, hidden], DType::F32)?, zeros(backend, &[vocab, hidden], dtype)?);
    let mut y = zeros(backend, &[1, vocab], DType::F32)?;
    shortest(REPEATS, || {
        backend.linear(&mut y, &x, &w)?;
        backend.download(&y)?;
        Ok(())
    })
}

/// Coefficients that are not negative and leave the smallest sum of squared relative errors: least squares on the coefficients that are
/// allowed, of which the most negative one is struck out until none is negative.
fn fit<const N: usize>(rows: &[([f64; N], f64)]) -> [f64; N] {
    // The sizes of regressors differ by many orders of magnitude: each is scaled to at most 1.
    let mut scale = [0f64; N];
    for (x, _) in rows {
        (0..N).for_each(|i| scale[i] = scale[i].max(x[i].abs()));
    }
    let scaled = |x: &[f64; N], t: f64, i: usize| if scale[i] > 0.0 { x[i] / scale[i] / t } else { 0.0 };
    let mut allowed = [true; N];
    loop {
        let mut a = [[0f64; N]; N];
        let mut b = [0f64; N];
        for (x, t) in rows.iter().filter(|(_, t)| *t > 0.0) {
            for i in 0..N {
                b[i] += scaled(x, *t, i);
                for j in 0..N {
                    a[i][j] += scaled(x, *t, i) * scaled(x, *t, j);
                }
            }
        }
        for i in (0..N).filter(|&i| !allowed[i]) {
            (0..N).for_each(|j| (a[i][j], a[j][i]) = (0.0, 0.0));
            (a[i][i], b[i]) = (1.0, 0.0);
        }
        let c = solve(a, b);
        match (0..N).filter(|&i| allowed[i]).min_by(|&i, &j| c[i].total_cmp(&c[j])) {
            Some(i) if c[i] < 0.0 => allowed[i] = false,
            _ => {
                let mut out = [0f64; N];
                (0..N).filter(|&i| allowed[i] && scale[i] > 0.0).for_each(|i| out[i] = c[i].max(0.0) / scale[i]);
                return out;
            }
        }
    }
}

/// `a x = b` for a symmetric `a` that is not negative, with a trace of ridge so that regressors that say the same share what they say.
fn solve<const N: usize>(mut a: [[f64; N]; N], mut b: [f64; N]) -> [f64; N] {
    let trace: f64 = (0..N).map(|i| a[i][i]).sum();
    (0..N).for_each(|i| a[i][i] += 1e-9 * trace.max(f64::MIN_POSITIVE));
    for i in 0..N {
        for r in i + 1..N {
            let factor = a[r][i] / a[i][i];
            (i..N).for_each(|c| a[r][c] -= factor * a[i][c]);
            b[r] -= factor * b[i];
        }
    }
    for i in (0..N).rev() {
        let rest: f64 = (i + 1..N).map(|c| a[i][c] * b[c]).sum();
        b[i] = (b[i] - rest) / a[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(hidden: usize, ffn: usize, heads: usize) -> Dims {
        Dims { layers: 3, hidden, ffn, heads, kv_groups: 2, head_dim: 16, vocab: 100, tied: true }
    }

    #[test]
    fn the_fit_finds_the_times_that_it_was_made_of() {
        let truth = [3e-5, 2e-10, 1e-10, 4e-8];
        let time = |d: &Dims| regressors(d).iter().zip(truth).map(|(x, c)| x * c).sum::<f64>();
        let mut rows = Vec::new();
        for hidden in [256, 512] {
            for ffn in [512, 1024] {
                rows.extend([4, 8].map(|heads| dims(hidden, ffn, heads)).map(|d| (regressors(&d), time(&d))));
            }
        }
        let latency = Latency {
            phase: Phase::Decode,
            context: 10,
            layer: fit(&rows),
            head: [1e-6, 1e-9],
            worst_error: 0.0,
            shapes: 8,
        };
        let d = dims(384, 700, 6);
        let want = 3.0 * time(&d) + 1e-6 + 1e-9 * 38_400.0;
        assert!((latency.seconds(&d) / want - 1.0).abs() < 1e-4, "{} and not {want}", latency.seconds(&d));
    }

    #[test]
    fn coefficients_are_never_negative() {
        // Twice the work in less time: noise, not a rule.
        let rows = [([1.0, 100.0], 2.0), ([1.0, 200.0], 1.9)];
        let c = fit(&rows);
        assert!(c[0] > 1.8 && c[1] == 0.0, "{c:?}");
        assert_eq!(fit::<2>(&[]), [0.0, 0.0]);
    }
}
