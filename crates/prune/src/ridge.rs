//! Ridge regression of a linear map from second moments, with the ridge chosen on tokens that the fit did not see.
//!
//! The map after a cut, `y = x W^T`, is to be near a target `t` over calibration tokens: `|X W^T - T|^2 + lambda |W - A|^2`, where the anchor
//! `A` is the sliced weight `S` or zero. Everything is said about the change `D = W - S`, and what the slice misses, `R = T - X S^T`: with
//! `G = X^T X` and `C = R^T X`, setting the gradient to zero gives `D (G + lambda I) = C`, less `lambda S` for the anchor zero. Nothing is lost to
//! rounding where the slice is nearly right, and the change is exactly zero where it is right.
use crate::compensate::{Anchor, Ridge};
use crate::linalg::{Mat, cholesky, cholesky_solve, gemm};
use crate::plan::ascending;
use crate::{Error, Result};
use std::ops::Range;

/// Strengths that are tried, as parts of the mean diagonal: a geometric grid, from what only just keeps a solve well posed to what leaves
/// little to be solved: a few channels of large energy make the mean diagonal many times that of most channels.
pub const RIDGE_GRID: [f64; 13] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0];
/// Where the search begins: the strength of the specification's measurements.
const FIRST: usize = 6;
/// Outputs by which a ridge is chosen: all share one Gram matrix, so some of them tell enough.
const OUTPUTS: usize = 96;
/// Strengths beyond the one asked for that are tried when a Gram matrix cannot be factored: each ten times the one before.
const RAISES: i32 = 8;
/// Outputs that a thread takes at a time. Fixed, so that results do not depend on the number of threads.
const BLOCK: usize = 32;

/// Second moments over some tokens: of the inputs `x` of a map, and of what the sliced map misses of its target, `r = t - S x`. They add.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    inputs: usize,
    gram: Vec<f64>,
    residual: Vec<f64>,
    missing: f64,
    energy: f64,
}

impl Moments {
    /// - `gram`: `[K, K]`, the sum of `x x^T`, both triangles;
    /// - `residual`: `[N, K]`, the sum of `r x^T`;
    /// - `missing`: the sum of `|r|^2`;
    /// - `energy`: the sum of `|t|^2`.
    ///
    /// # Errors
    /// [`Error::Matrix`], [`Error::NotFinite`].
    pub fn new<G: Copy + Into<f64>>(
        inputs: usize,
        gram: &[G],
        residual: &[G],
        missing: f64,
        energy: f64,
    ) -> Result<Self> {
        let finite = |matrix: &'static str, values: &[G]| -> Result<Vec<f64>> {
            let values: Vec<f64> = values.iter().map(|&v| v.into()).collect();
            match values.iter().position(|v| !v.is_finite()) {
                Some(index) => Err(Error::NotFinite { matrix, index }),
                None => Ok(values),
            }
        };
        if inputs == 0 || inputs.checked_mul(inputs) != Some(gram.len()) {
            return Err(Error::Matrix { matrix: "Gram", got: gram.len(), want: format!("{inputs} squared") });
        }
        if !residual.len().is_multiple_of(inputs) {
            let want = format!("a multiple of {inputs}");
            return Err(Error::Matrix { matrix: "residual", got: residual.len(), want });
        }
        if let Some(index) = [missing, energy].iter().position(|v| !v.is_finite()) {
            return Err(Error::NotFinite { matrix: "target", index });
        }
        Ok(Moments { inputs, gram: finite("Gram", gram)?, residual: finite("residual", residual)?, missing, energy })
    }

    /// Those of a cut alone: the inputs are the old ones on `kept`, the target is the old output, `W x`.
    ///
    /// - `gram`: `[F, F]` of all old inputs;
    /// - `w`: `[N, F]`, the old weight;
    /// - `kept`: ascending inputs.
    ///
    /// # Errors
    /// [`Error::Matrix`], [`Error::NotFinite`], [`Error::Plan`] for a bad `kept`.
    pub fn of_cut<G: Copy + Into<f64>>(gram: &[G], inputs: usize, w: &[f32], kept: &[usize]) -> Result<Self> {
        ascending("kept inputs", kept, inputs)?;
        if !w.len().is_multiple_of(inputs) {
            return Err(Error::Matrix { matrix: "weight", got: w.len(), want: format!("a multiple of {inputs}") });
        }
        check_finite("weight", w)?;
        let all = Moments::new(inputs, gram, &[], 0.0, 0.0)?;
        let mut keep = vec![false; inputs];
        kept.iter().for_each(|&i| keep[i] = true);
        // What the slice misses is what the dropped inputs added.
        let w: Vec<f64> = w.iter().map(|&v| f64::from(v)).collect();
        let dropped: Vec<f64> = w.iter().enumerate().map(|(at, &v)| if keep[at % inputs] { 0.0 } else { v }).collect();
        let product = times(&dropped, &all.gram, inputs);
        let missing = dot(&product, &dropped).max(0.0);
        let energy = dot(&times(&w, &all.gram, inputs), &w).max(0.0);
        let columns = |m: &[f64]| m.chunks_exact(inputs).flat_map(|row| kept.iter().map(|&i| row[i])).collect();
        let rows: Vec<f64> =
            kept.iter().flat_map(|&i| all.gram[i * inputs..(i + 1) * inputs].iter().copied()).collect();
        Ok(Moments { inputs: kept.len(), gram: columns(&rows), residual: columns(&product), missing, energy })
    }

    /// Those of both sets of tokens together.
    ///
    /// # Errors
    /// [`Error::Matrix`] when the sizes differ.
    pub fn plus(&self, other: &Moments) -> Result<Self> {
        if self.gram.len() != other.gram.len() || self.residual.len() != other.residual.len() {
            let want = format!("{} as in the other set of tokens", self.residual.len());
            return Err(Error::Matrix { matrix: "residual", got: other.residual.len(), want });
        }
        let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        Ok(Moments {
            inputs: self.inputs,
            gram: add(&self.gram, &other.gram),
            residual: add(&self.residual, &other.residual),
            missing: self.missing + other.missing,
            energy: self.energy + other.energy,
        })
    }

    /// Outputs of the map.
    pub fn outputs(&self) -> usize {
        self.residual.len() / self.inputs
    }

    /// Inputs of the map.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// `|X W^T - T|^2 / |T|^2` of a weight `[N, K]` in place of the slice: 0 is a perfect fit, 1 as bad as no output at all. A target without
    /// energy has nothing to lose: 0.
    ///
    /// # Errors
    /// [`Error::Matrix`], [`Error::NotFinite`].
    pub fn error(&self, slice: &[f32], w: &[f32]) -> Result<f64> {
        self.check_weight(slice)?;
        self.check_weight(w)?;
        let change: Vec<f64> = w.iter().zip(slice).map(|(w, s)| f64::from(*w) - f64::from(*s)).collect();
        Ok(self.error_of(&change, 1))
    }

    /// The same of a change of the slice: `|R - X D^T|^2 = |R|^2 - 2 D.C + D.(D G)`.
    fn error_of(&self, change: &[f64], threads: usize) -> f64 {
        if self.energy <= 0.0 {
            return 0.0;
        }
        let k = self.inputs;
        let gained = by_outputs(threads, self.outputs(), &|outputs| {
            let at = outputs.start * k..outputs.end * k;
            let (change, residual) = (&change[at.clone()], &self.residual[at]);
            vec![dot(&times(change, &self.gram, k), change) - 2.0 * dot(residual, change)]
        });
        ((self.missing + gained.iter().sum::<f64>()) / self.energy).max(0.0)
    }

    fn check_weight(&self, w: &[f32]) -> Result<()> {
        if w.len() != self.residual.len() {
            let want = format!("{} ({} outputs of {} inputs)", self.residual.len(), self.outputs(), self.inputs);
            return Err(Error::Matrix { matrix: "weight", got: w.len(), want });
        }
        check_finite("weight", w)
    }

    /// Some of the outputs, evenly spread. The energies are those of all: errors of such a part compare with one another only.
    fn some_outputs(&self, slice: &[f64]) -> (Moments, Vec<f64>) {
        let (n, k) = (self.outputs(), self.inputs);
        let count = n.min(OUTPUTS);
        let pick =
            |m: &[f64]| -> Vec<f64> { (0..count).flat_map(|i| m[i * n / count * k..][..k].iter().copied()).collect() };
        (Moments { residual: pick(&self.residual), gram: self.gram.clone(), ..*self }, pick(slice))
    }

    fn mean_diagonal(&self) -> f64 {
        (0..self.inputs).map(|i| self.gram[i * self.inputs + i]).sum::<f64>() / self.inputs as f64
    }

    /// The factor of `G + lambda I`, and lambda; `None` when it is not positive definite.
    fn factor(&self, strength: f64) -> Option<(Vec<f64>, f64)> {
        let (k, lambda) = (self.inputs, strength * self.mean_diagonal());
        let mut factor = self.gram.clone();
        (0..k).for_each(|i| factor[i * k + i] += lambda);
        cholesky(&mut factor, k).ok()?;
        Some((factor, lambda))
    }

    /// The change from the slice that `ridge` gives.
    fn solve(&self, slice: &[f64], ridge: &Ridge, threads: usize) -> Option<Vec<f64>> {
        let (factor, lambda) = self.factor(ridge.strength)?;
        Some(self.change(&factor, slice, if ridge.anchor == Anchor::Zero { lambda } else { 0.0 }, threads))
    }

    /// `(C - pull S) (G + lambda I)^-1` from the factor.
    fn change(&self, factor: &[f64], slice: &[f64], pull: f64, threads: usize) -> Vec<f64> {
        let k = self.inputs;
        by_outputs(threads, self.outputs(), &|outputs| {
            let (n, at) = (outputs.len(), outputs.start * k..outputs.end * k);
            let right: Vec<f64> = self.residual[at.clone()].iter().zip(&slice[at]).map(|(c, s)| c - pull * s).collect();
            let mut right = transposed(&right, n, k);
            cholesky_solve(factor, k, &mut right, n);
            transposed(&right, k, n)
        })
    }
}

/// A fitted map.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// `[N, K]`.
    pub w: Vec<f32>,
    /// The ridge of the solve; `None` when the slice was kept, because no fit came nearer to tokens that it had not seen.
    pub ridge: Option<Ridge>,
    /// [`Moments::error`] of the slice on the held-out tokens (of a solve without any: on all tokens).
    pub sliced: f64,
    /// The same of what was chosen, fitted without these tokens.
    pub fitted: f64,
    /// The ridge that was asked for, when it had to be raised because the Gram matrix could not be factored with it.
    pub raised_from: Option<f64>,
}

impl Fit {
    fn slice(slice: &[f32], error: f64, raised_from: Option<f64>) -> Self {
        Fit { w: slice.to_vec(), ridge: None, sliced: error, fitted: error, raised_from }
    }
}

/// Fits on `fit` with every candidate ridge, takes the one whose map is nearest on `held_out`, and solves with it on both together.
///
/// `slice` `[N, K]` is the map without a fit: the anchor of [`Anchor::Teacher`], and itself a candidate. Strengths are tried from 0.01 on in the
/// direction that improves, for the error over a ridge has one valley. Without held-out tokens there is nothing to choose by, and the ridge is
/// the default. Results do not depend on `threads`.
///
/// # Errors
/// [`Error::Matrix`], [`Error::NotFinite`].
pub fn fit_held_out(fit: &Moments, held_out: &Moments, slice: &[f32], threads: usize) -> Result<Fit> {
    let all = fit.plus(held_out)?;
    all.check_weight(slice)?;
    if held_out.energy <= 0.0 {
        return fit_with(&all, slice, &Ridge::default(), threads);
    }
    let wide: Vec<f64> = slice.iter().map(|&v| f64::from(v)).collect();
    let (part, part_slice) = fit.some_outputs(&wide);
    let (held_part, _) = held_out.some_outputs(&wide);
    let mut best = (held_part.error_of(&vec![0.0; part_slice.len()], 1), None);
    let mut tried = [None; RIDGE_GRID.len()];
    let mut at = |i: usize| -> f64 {
        *tried[i].get_or_insert_with(|| {
            let Some((factor, lambda)) = part.factor(RIDGE_GRID[i]) else { return f64::INFINITY };
            let mut least = f64::INFINITY;
            for (anchor, pull) in [(Anchor::Teacher, 0.0), (Anchor::Zero, lambda)] {
                let error = held_part.error_of(&part.change(&factor, &part_slice, pull, threads), threads);
                least = least.min(error);
                if error < best.0 {
                    best = (error, Some(Ridge { strength: RIDGE_GRID[i], anchor }));
                }
            }
            least
        })
    };
    let mut i = FIRST;
    let down = at(i - 1) < at(i);
    while if down { 0 < i && at(i - 1) < at(i) } else { i + 1 < RIDGE_GRID.len() && at(i + 1) < at(i) } {
        if down { i -= 1 } else { i += 1 }
    }
    // From here on all outputs count, so that errors of different maps compare.
    let sliced = held_out.error_of(&vec![0.0; slice.len()], threads);
    let Some(ridge) = best.1 else { return Ok(Fit::slice(slice, sliced, None)) };
    let change = fit.solve(&wide, &ridge, threads);
    let fitted = change.map_or(sliced, |change| held_out.error_of(&change, threads));
    if sliced <= fitted {
        return Ok(Fit::slice(slice, sliced, None));
    }
    Ok(Fit { sliced, fitted, ..fit_with(&all, slice, &ridge, threads)? })
}

/// Fits with one ridge. Where the Gram matrix cannot be factored with it (constant inputs, fewer tokens than inputs), the strength is raised
/// tenfold until it can, and the result says so; where nothing helps, because the inputs are all zero, the slice stays.
///
/// # Errors
/// [`Error::Matrix`], [`Error::NotFinite`], [`Error::RidgeStrength`].
pub fn fit_with(moments: &Moments, slice: &[f32], ridge: &Ridge, threads: usize) -> Result<Fit> {
    moments.check_weight(slice)?;
    if !ridge.strength.is_finite() || ridge.strength < 0.0 {
        return Err(Error::RidgeStrength { got: ridge.strength });
    }
    let wide: Vec<f64> = slice.iter().map(|&v| f64::from(v)).collect();
    let sliced = moments.error_of(&vec![0.0; slice.len()], threads);
    // From nothing, raise to the least of the grid first.
    let raised = (0..RAISES).map(|i| ridge.strength.max(RIDGE_GRID[0] / 10.0) * 10f64.powi(i + 1));
    for strength in std::iter::once(ridge.strength).chain(raised) {
        let ridge_now = Ridge { strength, ..*ridge };
        if let Some(change) = moments.solve(&wide, &ridge_now, threads) {
            let w = wide.iter().zip(&change).map(|(s, d)| (s + d) as f32).collect();
            let raised_from = (strength != ridge.strength).then_some(ridge.strength);
            let fitted = moments.error_of(&change, threads);
            return Ok(Fit { w, ridge: Some(ridge_now), sliced, fitted, raised_from });
        }
    }
    Ok(Fit::slice(slice, sliced, Some(ridge.strength)))
}

/// `work` on all outputs, a block of them at a time, blocks shared among threads; the results in the order of the outputs.
fn by_outputs(threads: usize, outputs: usize, work: &(dyn Fn(Range<usize>) -> Vec<f64> + Sync)) -> Vec<f64> {
    let blocks: Vec<Range<usize>> = (0..outputs).step_by(BLOCK).map(|i| i..outputs.min(i + BLOCK)).collect();
    let threads = threads.clamp(1, blocks.len().max(1));
    let share = |t: usize| -> Vec<Vec<f64>> {
        blocks.iter().skip(t).step_by(threads).map(|block| work(block.clone())).collect()
    };
    if threads == 1 {
        return share(0).concat();
    }
    let shares: Vec<Vec<Vec<f64>>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|t| scope.spawn(move || share(t))).collect();
        let mut shares = vec![share(0)];
        for other in others {
            shares.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        shares
    });
    (0..blocks.len()).flat_map(|i| shares[i % threads][i / threads].iter().copied()).collect()
}

fn check_finite(matrix: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::NotFinite { matrix, index }),
        None => Ok(()),
    }
}

/// The transpose of `m` `[rows, columns]`.
fn transposed(m: &[f64], rows: usize, columns: usize) -> Vec<f64> {
    (0..rows * columns).map(|at| m[at % rows * columns + at / rows]).collect()
}

/// `w g` for `w` `[N, K]` and a square `g`.
fn times(w: &[f64], g: &[f64], k: usize) -> Vec<f64> {
    let mut product = vec![0.0; w.len()];
    gemm(&mut product, k, [w.len() / k, k, k], 1.0, Mat::rows(w, k), Mat::rows(g, k));
    product
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
