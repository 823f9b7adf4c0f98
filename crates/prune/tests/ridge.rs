//! Fits with a chosen ridge: against Gaussian elimination, against every nearby map, and on what breaks them.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{Anchor, Error, Fit, Moments, RIDGE_GRID, Ridge, fit_held_out, fit_with, least_squares};

/// Reproducible values in -1..1.
fn noise(len: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Inputs, targets that depend on them through `map` and noise, and a slice that is not the map.
struct Problem {
    x: Vec<f64>,
    t: Vec<f64>,
    inputs: usize,
    outputs: usize,
    slice: Vec<f32>,
}

fn problem(tokens: usize, inputs: usize, outputs: usize, noisy: f64, seed: u64) -> Problem {
    let x: Vec<f64> = noise(tokens * inputs, seed)
        .into_iter()
        .enumerate()
        .map(|(at, v)| if at % inputs % 4 == 0 { 6.0 * v } else { v })
        .collect();
    let map = noise(inputs * outputs, 77);
    let rest = noise(tokens * outputs, seed + 1);
    let t = (0..tokens * outputs)
        .map(|at| {
            let (row, o) = (at / outputs, at % outputs);
            let y: f64 = (0..inputs).map(|i| x[row * inputs + i] * map[o * inputs + i]).sum();
            y + noisy * rest[at]
        })
        .collect();
    let slice = noise(inputs * outputs, 78).into_iter().zip(&map).map(|(n, m)| (m + 0.3 * n) as f32).collect();
    Problem { x, t, inputs, outputs, slice }
}

impl Problem {
    fn moments(&self) -> Moments {
        let (k, n) = (self.inputs, self.outputs);
        let tokens = self.x.len() / k;
        let sum = |f: &dyn Fn(usize) -> f64| -> f64 { (0..tokens).map(f).sum() };
        let gram: Vec<f64> = (0..k * k).map(|at| sum(&|t| self.x[t * k + at / k] * self.x[t * k + at % k])).collect();
        let missing = |t: usize, o: usize| -> f64 {
            let y: f64 = (0..k).map(|i| self.x[t * k + i] * f64::from(self.slice[o * k + i])).sum();
            self.t[t * n + o] - y
        };
        let residual: Vec<f64> = (0..n * k).map(|at| sum(&|t| missing(t, at / k) * self.x[t * k + at % k])).collect();
        let energy = self.t.iter().map(|v| v * v).sum();
        Moments::new(k, &gram, &residual, self.loss(&self.slice), energy).unwrap()
    }

    /// `|X W^T - T|^2`.
    fn loss(&self, w: &[f32]) -> f64 {
        let (k, n) = (self.inputs, self.outputs);
        let rows = self.x.chunks(k).zip(self.t.chunks(n));
        rows.map(|(x, t)| {
            let y = |o: usize| -> f64 { (0..k).map(|i| x[i] * f64::from(w[o * k + i])).sum() };
            (0..n).map(|o| (y(o) - t[o]).powi(2)).sum::<f64>()
        })
        .sum()
    }

    fn mean_diagonal(&self) -> f64 {
        self.x.iter().map(|v| v * v).sum::<f64>() / self.inputs as f64
    }

    /// `|X W^T - T|^2 + lambda |W - A|^2`.
    fn objective(&self, w: &[f32], ridge: &Ridge) -> f64 {
        let anchor = |i: usize| if ridge.anchor == Anchor::Teacher { f64::from(self.slice[i]) } else { 0.0 };
        let pull: f64 = w.iter().enumerate().map(|(i, &w)| (f64::from(w) - anchor(i)).powi(2)).sum();
        self.loss(w) + ridge.strength * self.mean_diagonal() * pull
    }
}

/// Gaussian elimination with partial pivoting: `a [n, n]`, one right side.
fn eliminate(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for c in 0..n {
        let pivot = (c..n).max_by(|&i, &j| a[i][c].abs().total_cmp(&a[j][c].abs())).unwrap();
        a.swap(c, pivot);
        b.swap(c, pivot);
        for r in c + 1..n {
            let factor = a[r][c] / a[c][c];
            for j in c..n {
                a[r][j] -= factor * a[c][j];
            }
            b[r] -= factor * b[c];
        }
    }
    for c in (0..n).rev() {
        b[c] = (b[c] - (c + 1..n).map(|j| a[c][j] * b[j]).sum::<f64>()) / a[c][c];
    }
    b
}

fn close(got: &[f32], want: &[f64], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (&g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(g) - w).abs() <= 2e-6 * w.abs().max(1.0), "{what}: {g} and not {w} at {i}");
    }
}

#[test]
fn fits_solve_the_normal_equations() {
    let p = problem(200, 70, 5, 0.1, 1);
    let (k, m) = (p.inputs, p.moments());
    for anchor in [Anchor::Teacher, Anchor::Zero] {
        for strength in [0.0, 0.01, 1.0] {
            let ridge = Ridge { strength, anchor };
            let lambda = strength * p.mean_diagonal();
            let a = |i: usize, j: usize| -> f64 {
                let g: f64 = p.x.chunks(k).map(|x| x[i] * x[j]).sum();
                g + if i == j { lambda } else { 0.0 }
            };
            let want: Vec<f64> = (0..p.outputs)
                .flat_map(|o| {
                    let right = (0..k).map(|i| {
                        let c: f64 = p.x.chunks(k).zip(p.t.chunks(p.outputs)).map(|(x, t)| x[i] * t[o]).sum();
                        c + if anchor == Anchor::Teacher { lambda * f64::from(p.slice[o * k + i]) } else { 0.0 }
                    });
                    eliminate((0..k).map(|i| (0..k).map(|j| a(i, j)).collect()).collect(), right.collect())
                })
                .collect();
            close(&fit_with(&m, &p.slice, &ridge, 2).unwrap().w, &want, &format!("{ridge:?}"));
        }
    }
}

#[test]
fn no_map_nearby_has_a_lower_objective() {
    let p = problem(60, 12, 3, 0.2, 2);
    let m = p.moments();
    for anchor in [Anchor::Teacher, Anchor::Zero] {
        let ridge = Ridge { strength: 0.03, anchor };
        let fit = fit_with(&m, &p.slice, &ridge, 2).unwrap();
        let least = p.objective(&fit.w, &ridge);
        for (i, step) in (0..fit.w.len()).flat_map(|i| [(i, 1e-2), (i, -1e-2)]) {
            let mut w = fit.w.clone();
            w[i] += step;
            assert!(least < p.objective(&w, &ridge), "{anchor:?}: better at {i} by {step}");
        }
        let energy: f64 = p.t.iter().map(|v| v * v).sum();
        assert!((fit.fitted - p.loss(&fit.w) / energy).abs() < 1e-9);
        assert!((fit.sliced - p.loss(&p.slice) / energy).abs() < 1e-9);
    }
}

#[test]
fn the_ridge_is_the_best_of_the_grid_on_held_out_tokens() {
    // Few and noisy tokens: the best ridge is neither the smallest nor the largest.
    for (tokens, noisy, seed) in [(60, 4.0, 3), (400, 0.05, 5), (50, 12.0, 7)] {
        let (p, held) = (problem(tokens, 40, 6, noisy, seed), problem(300, 40, 6, noisy, seed + 50));
        let fit = fit_held_out(&p.moments(), &held.moments(), &p.slice, 2).unwrap();
        let of =
            |strength, anchor| held.loss(&fit_with(&p.moments(), &p.slice, &Ridge { strength, anchor }, 1).unwrap().w);
        let grid = RIDGE_GRID.iter().flat_map(|&s| [(s, Anchor::Teacher), (s, Anchor::Zero)]);
        let best = grid.map(|(s, a)| (of(s, a), s, a)).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
        let sliced = held.loss(&p.slice);
        let Some(ridge) = fit.ridge else {
            assert!(sliced <= best.0, "kept the slice at {sliced}, but {best:?}");
            continue;
        };
        assert_eq!((ridge.strength, ridge.anchor), (best.1, best.2), "tokens {tokens}");
        assert!(best.0 < sliced);
        // What is returned was solved on all tokens.
        let all = p.moments().plus(&held.moments()).unwrap();
        assert_eq!(fit.w, fit_with(&all, &p.slice, &ridge, 2).unwrap().w);
        assert!(fit.fitted < fit.sliced);
    }
}

#[test]
fn too_few_tokens_leave_the_slice() {
    // Three tokens of forty inputs, targets of noise: whatever is fitted is wrong elsewhere.
    let (p, held) = (problem(3, 40, 4, 0.0, 9), problem(100, 40, 4, 0.0, 10));
    let exact: Vec<f32> = noise(160, 77).into_iter().map(|v| v as f32).collect();
    let noisy = problem(3, 40, 4, 30.0, 9);
    let (noisy, held) = (Problem { slice: exact.clone(), ..noisy }, Problem { slice: exact.clone(), ..held });
    let fit = fit_held_out(&noisy.moments(), &held.moments(), &exact, 1).unwrap();
    assert_eq!((&fit.w, fit.ridge), (&exact, None));
    assert_eq!(fit.sliced, fit.fitted);
    // Without any held-out tokens there is nothing to choose by: the default, which pulls to the slice.
    let none = Moments::new(40, &[0f64; 1600], &[0f64; 160], 0.0, 0.0).unwrap();
    assert_eq!(fit_held_out(&p.moments(), &none, &p.slice, 1).unwrap().ridge, Some(Ridge::default()));
}

#[test]
fn a_singular_matrix_gets_a_larger_ridge_and_says_so() {
    // The same input twice, a slice that takes the first, and a target of twice the input.
    let singular = Moments::new(2, &[1.0, 1.0, 1.0, 1.0], &[1.0, 1.0], 1.0, 4.0).unwrap();
    let fit = fit_with(&singular, &[1.0, 0.0], &Ridge { strength: 0.0, anchor: Anchor::Zero }, 1).unwrap();
    assert_eq!(fit.raised_from, Some(0.0));
    assert!((fit.w[0] - 1.0).abs() < 1e-3 && (fit.w[1] - 1.0).abs() < 1e-3, "{fit:?}");
    // Inputs that are always zero cannot be fitted at all.
    let dead = Moments::new(2, &[0.0; 4], &[0.0; 2], 1.0, 1.0).unwrap();
    let want = Fit { w: vec![3.0, 4.0], ridge: None, sliced: 1.0, fitted: 1.0, raised_from: Some(0.01) };
    assert_eq!(fit_with(&dead, &[3.0, 4.0], &Ridge::default(), 1).unwrap(), want);
    assert_eq!(fit_held_out(&dead, &dead, &[3.0, 4.0], 1).unwrap().w, [3.0, 4.0]);
}

#[test]
fn results_do_not_depend_on_threads() {
    let (p, held) = (problem(300, 50, 150, 0.5, 30), problem(100, 50, 150, 0.5, 31));
    let run = |threads| fit_held_out(&p.moments(), &held.moments(), &p.slice, threads).unwrap();
    let one = run(1);
    assert!(one.ridge.is_some());
    for threads in [2, 3, 64] {
        assert_eq!(run(threads), one, "{threads}");
    }
}

#[test]
fn a_slice_that_is_right_stays_bit_for_bit() {
    let p = problem(100, 20, 4, 0.0, 40);
    let exact: Vec<f32> = p.slice.clone();
    let t = p.x.chunks(20).flat_map(|x| {
        exact.chunks(20).map(|w| x.iter().zip(w).map(|(x, w)| x * f64::from(*w)).sum()).collect::<Vec<f64>>()
    });
    let right = Problem { t: t.collect(), slice: exact.clone(), x: p.x.clone(), ..p };
    let fit = fit_held_out(&right.moments(), &right.moments(), &exact, 1).unwrap();
    assert_eq!(fit.w, exact);
    assert!(fit.fitted < 1e-25);
}

#[test]
fn a_cut_alone_is_the_least_squares_of_its_gram_matrix() {
    let p = problem(90, 30, 4, 0.0, 20);
    let kept: Vec<usize> = (0..30).filter(|i| i % 3 != 1).collect();
    let gram: Vec<f64> = (0..900).map(|at| p.x.chunks(30).map(|x| x[at / 30] * x[at % 30]).sum()).collect();
    let m = Moments::of_cut(&gram, 30, &p.slice, &kept).unwrap();
    let sliced: Vec<f32> = p.slice.chunks(30).flat_map(|row| kept.iter().map(|&i| row[i])).collect();
    for anchor in [Anchor::Teacher, Anchor::Zero] {
        let ridge = Ridge { strength: 0.01, anchor };
        let want: Vec<f64> =
            least_squares(&gram, 30, &p.slice, &kept, &ridge).unwrap().into_iter().map(f64::from).collect();
        let fit = fit_with(&m, &sliced, &ridge, 1).unwrap();
        close(&fit.w, &want, &format!("{anchor:?}"));
        let error = paring_prune::reconstruction_error(&gram, 30, &p.slice, &kept, &fit.w).unwrap();
        assert!((fit.fitted - error).abs() < 1e-9);
    }
}

#[test]
fn what_is_no_moment_is_refused() {
    let refused = |r: paring_prune::Result<Moments>, part: &str| {
        let text = r.unwrap_err().to_string();
        assert!(text.contains(part), "{text}");
    };
    let unit = [1.0, 0.0, 0.0, 1.0];
    refused(Moments::new(2, &[1.0, 0.0, f64::NAN, 1.0], &[1.0, 1.0], 1.0, 1.0), "value 2 of the Gram matrix");
    refused(Moments::new(2, &unit, &[1.0, f64::INFINITY], 1.0, 1.0), "value 1 of the residual matrix");
    refused(Moments::new(2, &unit, &[1.0, 1.0], f64::NAN, 1.0), "target");
    refused(Moments::new(2, &unit, &[1.0, 1.0], 1.0, f64::INFINITY), "target");
    refused(Moments::new(2, &[1.0; 3], &[1.0, 1.0], 1.0, 1.0), "the Gram matrix has 3 values, expected 2 squared");
    refused(Moments::new(2, &[1.0; 4], &[1.0; 3], 1.0, 1.0), "residual");
    refused(Moments::new(0, &[] as &[f64], &[], 1.0, 1.0), "Gram");
    refused(Moments::of_cut(&[1.0; 4], 2, &[1.0; 3], &[0]), "weight");
    refused(Moments::of_cut(&[1.0; 4], 2, &[f32::NAN; 2], &[0]), "weight");
    refused(Moments::of_cut(&[1.0; 4], 2, &[1.0; 2], &[2]), "kept inputs");
    let m = Moments::new(2, &unit, &[1.0, 1.0], 1.0, 1.0).unwrap();
    for strength in [-1.0, f64::NAN, f64::INFINITY] {
        let error = fit_with(&m, &[1.0; 2], &Ridge { strength, ..Ridge::default() }, 1).unwrap_err();
        assert!(matches!(error, Error::RidgeStrength { .. }));
    }
    assert!(matches!(fit_with(&m, &[1.0; 3], &Ridge::default(), 1), Err(Error::Matrix { .. })));
    assert!(matches!(fit_held_out(&m, &m, &[1.0, f32::NAN], 1), Err(Error::NotFinite { .. })));
    assert!(matches!(m.error(&[1.0; 2], &[1.0; 3]), Err(Error::Matrix { .. })));
    let other = Moments::new(1, &[1.0], &[1.0], 1.0, 1.0).unwrap();
    assert!(matches!(fit_held_out(&m, &other, &[1.0; 2], 1), Err(Error::Matrix { .. })));
}
