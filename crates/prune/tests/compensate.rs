//! Least squares after a cut: against Gaussian elimination, the normal equations, and plain slicing.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{Anchor, Error, Ridge, least_squares, reconstruction_error};

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

/// Correlated inputs of very different size, as in a real MLP.
struct Problem {
    inputs: usize,
    outputs: usize,
    x: Vec<f64>,
    gram: Vec<f64>,
    w: Vec<f32>,
    kept: Vec<usize>,
}

fn problem(tokens: usize, inputs: usize, outputs: usize, seed: u64) -> Problem {
    let (own, shared) = (noise(tokens * inputs, seed), noise(tokens * 3, seed + 1));
    let x: Vec<f64> = (0..tokens * inputs)
        .map(|at| {
            let (t, i) = (at / inputs, at % inputs);
            (0.4 * own[at] + shared[t * 3 + i % 2]) * if i % 5 == 0 { 8.0 } else { 1.0 }
        })
        .collect();
    let gram = (0..inputs * inputs)
        .map(|at| (0..tokens).map(|t| x[t * inputs + at / inputs] * x[t * inputs + at % inputs]).sum())
        .collect();
    let w = noise(inputs * outputs, seed + 2).into_iter().map(|v| v as f32).collect();
    let kept = (0..inputs).filter(|i| i % 3 != 1).collect();
    Problem { inputs, outputs, x, gram, w, kept }
}

impl Problem {
    fn solve(&self, strength: f64, anchor: Anchor) -> Vec<f32> {
        least_squares(&self.gram, self.inputs, &self.w, &self.kept, &Ridge { strength, anchor }).unwrap()
    }

    fn sliced(&self) -> Vec<f32> {
        self.w.chunks(self.inputs).flat_map(|row| self.kept.iter().map(|&i| row[i])).collect()
    }

    fn error(&self, w_new: &[f32]) -> f64 {
        reconstruction_error(&self.gram, self.inputs, &self.w, &self.kept, w_new).unwrap()
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

#[test]
fn both_ridges_solve_the_equations_as_they_are_written() {
    // Sizes on both sides of the block of the factorisation.
    for (inputs, outputs) in [(9, 4), (100, 3), (200, 5)] {
        let p = problem(3 * inputs, inputs, outputs, inputs as u64);
        for anchor in [Anchor::Zero, Anchor::Teacher] {
            let got = p.solve(0.01, anchor);
            let g = |i: usize, j: usize| p.gram[i * inputs + j];
            let lambda = 0.01 * p.kept.iter().map(|&i| g(i, i)).sum::<f64>() / p.kept.len() as f64;
            for o in 0..outputs {
                let w = |i: usize| f64::from(p.w[o * inputs + i]);
                let a = p
                    .kept
                    .iter()
                    .map(|&i| p.kept.iter().map(|&j| g(i, j) + if i == j { lambda } else { 0.0 }).collect());
                // G_k: w, plus lambda w_k where the ridge pulls to the teacher.
                let b = p.kept.iter().map(|&i| {
                    let pull = if anchor == Anchor::Teacher { lambda * w(i) } else { 0.0 };
                    (0..inputs).map(|j| g(i, j) * w(j)).sum::<f64>() + pull
                });
                let want = eliminate(a.collect(), b.collect());
                for (i, want) in want.iter().enumerate() {
                    let got = f64::from(got[o * p.kept.len() + i]);
                    assert!(
                        (got - want).abs() < 1e-6 * want.abs().max(1.0),
                        "{inputs} {anchor:?}: {got} and not {want}"
                    );
                }
            }
        }
    }
}

#[test]
fn without_a_ridge_the_rest_is_orthogonal_to_the_kept_inputs() {
    let p = problem(120, 30, 4, 5);
    let w_new = p.solve(0.0, Anchor::Teacher);
    let (k, scale) = (p.kept.len(), p.gram.iter().fold(0f64, |m, g| m.max(g.abs())));
    for o in 0..p.outputs {
        let rest: Vec<f64> =
            p.x.chunks(p.inputs)
                .map(|x| {
                    let old: f64 = (0..p.inputs).map(|i| x[i] * f64::from(p.w[o * p.inputs + i])).sum();
                    let new: f64 = p.kept.iter().enumerate().map(|(at, &i)| x[i] * f64::from(w_new[o * k + at])).sum();
                    old - new
                })
                .collect();
        assert!(rest.iter().any(|r| r.abs() > 0.01), "something was lost");
        for &i in &p.kept {
            let dot: f64 = p.x.chunks(p.inputs).zip(&rest).map(|(x, r)| x[i] * r).sum();
            assert!(dot.abs() < 1e-6 * scale, "input {i}: {dot}");
        }
    }
}

#[test]
fn nothing_dropped_changes_nothing() {
    let mut p = problem(60, 20, 3, 9);
    p.kept = (0..20).collect();
    assert_eq!(p.solve(0.01, Anchor::Teacher), p.w);
    // Towards zero the weight shrinks by the ridge, and no more.
    let shrunk = p.solve(1e-9, Anchor::Zero);
    assert!(shrunk.iter().zip(&p.w).all(|(a, b)| (a - b).abs() < 1e-4));
    assert!(p.error(&p.solve(0.01, Anchor::Zero)) > 0.0);
}

#[test]
fn a_ridge_to_the_teacher_is_never_worse_than_slicing() {
    for seed in 0..20 {
        // Fewer tokens than inputs too: only the ridge makes that solvable.
        let p = problem(if seed % 2 == 0 { 10 } else { 90 }, 24, 3, seed);
        let sliced = p.error(&p.sliced());
        let mut last = sliced * (1.0 + 1e-6);
        for strength in [1e6, 10.0, 1.0, 0.1, 0.01, 1e-4] {
            let error = p.error(&p.solve(strength, Anchor::Teacher));
            assert!(error <= last, "seed {seed}, ridge {strength}: {error} after {last}");
            last = error * (1.0 + 1e-6) + 1e-12;
        }
        assert!(last < 0.5 * sliced, "seed {seed}: {last} and {sliced} by slicing");
    }
}

#[test]
fn the_loss_is_that_of_the_outputs() {
    let p = problem(40, 12, 3, 2);
    let w_new = p.sliced();
    let (mut lost, mut energy) = (0.0, 0.0);
    for x in p.x.chunks(p.inputs) {
        for o in 0..p.outputs {
            let old: f64 = (0..p.inputs).map(|i| x[i] * f64::from(p.w[o * p.inputs + i])).sum();
            let new: f64 = p.kept.iter().map(|&i| x[i] * f64::from(p.w[o * p.inputs + i])).sum();
            lost += (old - new).powi(2);
            energy += old * old;
        }
    }
    assert!((p.error(&w_new) - lost / energy).abs() < 1e-9);
    assert_eq!(p.error(&vec![0.0; w_new.len()]), 1.0);
    assert_eq!(reconstruction_error(&[0.0; 4], 2, &[1.0, 1.0], &[0], &[1.0]), Ok(0.0));
}

#[test]
fn a_gram_matrix_in_f32_does_as_well() {
    let p = problem(90, 24, 3, 4);
    let short: Vec<f32> = p.gram.iter().map(|&g| g as f32).collect();
    let got = least_squares(&short, 24, &p.w, &p.kept, &Ridge::default()).unwrap();
    assert!(got.iter().zip(p.solve(0.01, Anchor::Teacher)).all(|(a, b)| (a - b).abs() < 1e-4));
}

#[test]
fn what_cannot_be_solved_is_explained() {
    let solve = |gram: &[f64], w: &[f32], kept: &[usize], strength| {
        least_squares(gram, 2, w, kept, &Ridge { strength, anchor: Anchor::Zero }).unwrap_err().to_string()
    };
    let (identity, singular) = ([1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]);
    assert_eq!(
        solve(&singular, &[1.0; 2], &[0, 1], 0.0),
        "the Gram matrix is not positive definite at channel 1 (pivot 0e0); calibrate on more tokens or raise the ridge"
    );
    assert!(solve(&[0.0; 4], &[1.0; 2], &[1], 0.01).contains("at channel 1"));
    assert!(
        least_squares(&singular, 2, &[1.0; 2], &[0, 1], &Ridge { anchor: Anchor::Zero, ..Ridge::default() }).is_ok()
    );
    assert_eq!(solve(&identity[..3], &[1.0; 2], &[0], 0.0), "the Gram matrix has 3 values, expected 2 squared");
    assert_eq!(solve(&identity, &[1.0; 3], &[0], 0.0), "the weight matrix has 3 values, expected a multiple of 2");
    assert_eq!(solve(&identity, &[1.0; 2], &[0], -1.0), "ridge -1, expected a finite number that is not negative");
    assert_eq!(
        solve(&[1.0, f64::NAN, 0.0, 1.0], &[1.0; 2], &[0], 0.0),
        "value 1 of the Gram matrix is not a finite number; check the checkpoint and the calibration"
    );
    for kept in [&[][..], &[1, 0], &[0, 0], &[2]] {
        let error = least_squares(&identity, 2, &[1.0; 2], kept, &Ridge::default()).unwrap_err();
        assert!(matches!(error, Error::Plan { .. }), "{kept:?}: {error}");
    }
    assert!(matches!(least_squares::<f64>(&[], 0, &[], &[0], &Ridge::default()), Err(Error::Plan { .. })));
    assert!(matches!(reconstruction_error(&identity, 2, &[1.0; 2], &[0], &[1.0; 2]), Err(Error::Matrix { .. })));
}
