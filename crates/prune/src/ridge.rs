//! Ridge regression of a linear map from second moments, with the ridge chosen on tokens that the fit did not see.
//!
//! The map after a cut, `y = x W^T`, is to be near a target `t` over calibration tokens: `|X W^T - T|^2 + lambda |W - A|^2`, where the anchor
//! `A` is the sliced weight or zero. Everything that this needs is `G = X^T X`, `C = T^T X` and `|T|^2`: setting the gradient to zero gives
//! `W (G + lambda I) = C + lambda A`. Solved is the change from the slice, `D (G + lambda I) = C - S G (- lambda S for the anchor zero)`: it is
//! exactly zero where the slice is already right.
use crate::compensate::{Anchor, Ridge};
use crate::linalg::{Mat, cholesky, cholesky_solve, gemm};
use crate::plan::ascending;
use crate::{Error, Result};

/// Strengths that are tried, as parts of the mean diagonal: a geometric grid, from what only just keeps a solve well posed to what leaves
/// little to be solved.
pub const RIDGE_GRID: [f64; 11] = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0];
/// Where the search begins: the strength of the specification's measurements.
const FIRST: usize = 6;
/// Outputs by which a ridge is chosen: all share one Gram matrix, so some of them tell enough.
const OUTPUTS: usize = 96;
/// Strengths beyond the one asked for that are tried when a Gram matrix cannot be factored: each ten times the one before.
const RAISES: u32 = 8;

/// Second moments of the inputs `x` of a map and of its target `t` over some tokens. They add.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    inputs: usize,
    gram: Vec<f64>,
    cross: Vec<f64>,
    energy: f64,
}

impl Moments {
    /// - `gram`: `[K, K]`, the sum of `x x^T`, both triangles;
    /// - `cross`: `[N, K]`, the sum of `t x^T`;
    /// - `energy`: the sum of `|t|^2`.
    ///
    /// # Errors
    /// [`Error::Matrix`], [`Error::NotFinite`].
    pub fn new<G: Copy + Into<f64>>(inputs: usize, gram: &[G], cross: &[G], energy: f64) -> Result<Self> {
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
        if !cross.len().is_multiple_of(inputs) {
            return Err(Error::Matrix { matrix: "cross", got: cross.len(), want: format!("a multiple of {inputs}") });
        }
        if !energy.is_finite() {
            return Err(Error::NotFinite { matrix: "target", index: 0 });
        }
        Ok(Moments { inputs, gram: finite("Gram", gram)?, cross: finite("cross", cross)?, energy })
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
        let n = w.len() / inputs;
        let w: Vec<f64> = w.iter().map(|&v| f64::from(v)).collect();
        if let Some(index) = w.iter().position(|v| !v.is_finite()) {
            return Err(Error::NotFinite { matrix: "weight", index });
        }
        let all = Moments::new(inputs, gram, &[], 0.0)?;
        let product = times(&w, &all.gram, inputs);
        let energy = dot(&product, &w);
        let columns = |m: &[f64]| -> Vec<f64> {
            m.chunks_exact(inputs).flat_map(|row| kept.iter().map(move |&i| row[i])).collect()
        };
        let rows: Vec<f64> = kept
            .iter()
            .flat_map(|&i| kept.iter().map(move |&j| (i, j)))
            .map(|(i, j)| all.gram[i * inputs + j])
            .collect();
        let cross = if n == 0 { Vec::new() } else { columns(&product) };
        Ok(Moments { inputs: kept.len(), gram: rows, cross, energy })
    }

    /// From what the slice misses: `residual` `[N, K]` is the sum of `(t - S x) x^T`, which loses nothing to rounding where the slice `[N, K]`
    /// is nearly right.
    ///
    /// # Errors
    /// [`Error::Matrix`], [`Error::NotFinite`].
    pub fn of_residual<G: Copy + Into<f64>>(
        inputs: usize,
        gram: &[G],
        residual: &[G],
        slice: &[f32],
        energy: f64,
    ) -> Result<Self> {
        let mut moments = Moments::new(inputs, gram, residual, energy)?;
        moments.check_weight(slice)?;
        let slice: Vec<f64> = slice.iter().map(|&v| f64::from(v)).collect();
        let sliced = times(&slice, &moments.gram, inputs);
        moments.cross.iter_mut().zip(sliced).for_each(|(c, s)| *c += s);
        Ok(moments)
    }

    /// Those of both sets of tokens together.
    ///
    /// # Errors
    /// [`Error::Matrix`] when the sizes differ.
    pub fn plus(&self, other: &Moments) -> Result<Self> {
        if self.gram.len() != other.gram.len() || self.cross.len() != other.cross.len() {
            let want = format!("{} as in the other set of tokens", self.cross.len());
            return Err(Error::Matrix { matrix: "cross", got: other.cross.len(), want });
        }
        let add = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a + b).collect();
        Ok(Moments {
            inputs: self.inputs,
            gram: add(&self.gram, &other.gram),
            cross: add(&self.cross, &other.cross),
            energy: self.energy + other.energy,
        })
    }

    /// Outputs of the map.
    pub fn outputs(&self) -> usize {
        self.cross.len() / self.inputs
    }

    /// Inputs of the map.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// `|X W^T - T|^2 / |T|^2` of a weight `[N, K]`: 0 is a perfect fit, 1 as bad as no output at all. A target without energy has nothing to
    /// lose: 0.
    ///
    /// # Errors
    /// [`Error::Matrix`].
    pub fn error(&self, w: &[f32]) -> Result<f64> {
        self.check_weight(w)?;
        Ok(self.error_of(&w.iter().map(|&v| f64::from(v)).collect::<Vec<_>>()))
    }

    fn error_of(&self, w: &[f64]) -> f64 {
        if self.energy <= 0.0 {
            return 0.0;
        }
        let lost = dot(&times(w, &self.gram, self.inputs), w) - 2.0 * dot(&self.cross, w) + self.energy;
        (lost / self.energy).max(0.0)
    }

    fn check_weight(&self, w: &[f32]) -> Result<()> {
        if w.len() != self.cross.len() {
            let want = format!("{} ({} outputs of {} inputs)", self.cross.len(), self.outputs(), self.inputs);
            return Err(Error::Matrix { matrix: "weight", got: w.len(), want });
        }
        match w.iter().position(|v| !v.is_finite()) {
            Some(index) => Err(Error::NotFinite { matrix: "weight", index }),
            None => Ok(()),
        }
    }

    /// Some of the outputs, evenly spread. The energy is not theirs: errors of such a part compare with one another only.
    fn some_outputs(&self, w: &[f32], count: usize) -> (Moments, Vec<f32>) {
        let n = self.outputs();
        if n <= count {
            return (self.clone(), w.to_vec());
        }
        let k = self.inputs;
        let rows = || (0..count).map(|i| i * n / count);
        let cross = rows().flat_map(|r| self.cross[r * k..(r + 1) * k].iter().copied()).collect();
        let w = rows().flat_map(|r| w[r * k..(r + 1) * k].iter().copied()).collect();
        (Moments { cross, gram: self.gram.clone(), ..*self }, w)
    }

    fn mean_diagonal(&self) -> f64 {
        (0..self.inputs).map(|i| self.gram[i * self.inputs + i]).sum::<f64>() / self.inputs as f64
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

/// Fits on `fit` with every candidate ridge, takes the one whose map is nearest on `held_out`, and solves with it on both together.
///
/// `slice` `[N, K]` is the map without a fit: the anchor of [`Anchor::Teacher`], and itself a candidate.
///
/// Strengths are tried from 0.01 on in the direction that improves: the error over a ridge has one valley.
///
/// # Errors
/// [`Error::Matrix`], [`Error::NotFinite`].
pub fn fit_held_out(fit: &Moments, held_out: &Moments, slice: &[f32]) -> Result<Fit> {
    let all = fit.plus(held_out)?;
    all.check_weight(slice)?;
    if held_out.energy <= 0.0 {
        return fit_with(&all, slice, &Ridge::default());
    }
    let (part, part_slice) = fit.some_outputs(slice, OUTPUTS);
    let (held_part, _) = held_out.some_outputs(slice, OUTPUTS);
    let sliced = held_part.error_of(&part_slice.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    let mut best = (sliced, None);
    let mut tried = [None; RIDGE_GRID.len()];
    let mut at = |i: usize| -> f64 {
        *tried[i].get_or_insert_with(|| {
            let mut least = f64::INFINITY;
            for (anchor, w) in part.solutions(&part_slice, RIDGE_GRID[i]).into_iter().flatten() {
                let error = held_part.error_of(&w);
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
    // On the whole held-out set, so that errors of layers compare.
    let sliced = held_out.error(slice)?;
    match best.1 {
        None => Ok(Fit { w: slice.to_vec(), ridge: None, sliced, fitted: sliced, raised_from: None }),
        Some(ridge) => {
            let fitted = held_out.error(&fit_with(fit, slice, &ridge)?.w)?;
            Ok(Fit { sliced, fitted, ..fit_with(&all, slice, &ridge)? })
        }
    }
}

/// Fits with one ridge. Where the Gram matrix cannot be factored with it (constant inputs, fewer tokens than inputs), the strength is raised
/// tenfold until it can, and the result says so; where nothing helps, because the inputs are all zero, the slice stays.
///
/// # Errors
/// [`Error::Matrix`], [`Error::NotFinite`], [`Error::RidgeStrength`].
pub fn fit_with(moments: &Moments, slice: &[f32], ridge: &Ridge) -> Result<Fit> {
    moments.check_weight(slice)?;
    if !ridge.strength.is_finite() || ridge.strength < 0.0 {
        return Err(Error::RidgeStrength { got: ridge.strength });
    }
    let sliced = moments.error(slice)?;
    // From nothing, raise to the least of the grid first.
    let raised = (0..RAISES).map(|i| ridge.strength.max(RIDGE_GRID[0] / 10.0) * 10f64.powi(i as i32 + 1));
    for strength in std::iter::once(ridge.strength).chain(raised) {
        if let Some(w) = moments.solve(slice, strength, ridge.anchor) {
            let w: Vec<f32> = w.iter().map(|&v| v as f32).collect();
            let raised_from = (strength != ridge.strength).then_some(ridge.strength);
            let fitted = moments.error(&w)?;
            return Ok(Fit { w, ridge: Some(Ridge { strength, ..*ridge }), sliced, fitted, raised_from });
        }
    }
    let raised_from = Some(ridge.strength);
    Ok(Fit { w: slice.to_vec(), ridge: None, sliced, fitted: sliced, raised_from })
}

impl Moments {
    /// The factor of `G + lambda I`, and lambda; `None` when it is not positive definite.
    fn factor(&self, strength: f64) -> Option<(Vec<f64>, f64)> {
        let (k, lambda) = (self.inputs, strength * self.mean_diagonal());
        let mut factor = self.gram.clone();
        (0..k).for_each(|i| factor[i * k + i] += lambda);
        cholesky(&mut factor, k).ok()?;
        Some((factor, lambda))
    }

    /// What the change from the slice has to make up for: `C - S G`, `[N, K]`.
    fn residual(&self, slice: &[f64]) -> Vec<f64> {
        let mut residual = self.cross.clone();
        let k = self.inputs;
        gemm(&mut residual, k, [slice.len() / k, k, k], -1.0, Mat::rows(slice, k), Mat::rows(&self.gram, k));
        residual
    }

    fn solve(&self, slice: &[f32], strength: f64, anchor: Anchor) -> Option<Vec<f64>> {
        let (factor, lambda) = self.factor(strength)?;
        let slice: Vec<f64> = slice.iter().map(|&v| f64::from(v)).collect();
        let mut change = self.residual(&slice);
        if anchor == Anchor::Zero {
            change.iter_mut().zip(&slice).for_each(|(c, s)| *c -= lambda * s);
        }
        let k = self.inputs;
        let mut change = transposed(&change, k);
        cholesky_solve(&factor, k, &mut change, slice.len() / k);
        let change = transposed(&change, slice.len() / k);
        Some(slice.iter().zip(change).map(|(s, d)| s + d).collect())
    }

    /// The maps of both anchors, from one factor.
    fn solutions(&self, slice: &[f32], strength: f64) -> Option<[(Anchor, Vec<f64>); 2]> {
        let (factor, lambda) = self.factor(strength)?;
        let (k, n) = (self.inputs, self.outputs());
        let slice: Vec<f64> = slice.iter().map(|&v| f64::from(v)).collect();
        let mut right = self.residual(&slice);
        right.extend(slice.iter().map(|s| -lambda * s));
        let mut solved = transposed(&right, k);
        cholesky_solve(&factor, k, &mut solved, 2 * n);
        let solved = transposed(&solved, 2 * n);
        let (change, shrink) = solved.split_at(slice.len());
        let teacher: Vec<f64> = slice.iter().zip(change).map(|(s, c)| s + c).collect();
        let zero = teacher.iter().zip(shrink).map(|(w, d)| w + d).collect();
        Some([(Anchor::Teacher, teacher), (Anchor::Zero, zero)])
    }
}

/// The transpose of rows of `stride` values.
fn transposed(m: &[f64], stride: usize) -> Vec<f64> {
    let rows = m.len() / stride.max(1);
    (0..m.len()).map(|at| m[at % rows.max(1) * stride + at / rows.max(1)]).collect()
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
