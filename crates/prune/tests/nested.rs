//! One factorisation serves all widths: held against the problem of each width on its own.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{Anchor, Error, NestedLeastSquares, Ridge, least_squares};

/// Numbers that look random.
fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 - 0.5
    };
    (0..n).map(|_| next()).collect()
}

/// `x^T x` of `tokens` inputs that are correlated, as activations are.
fn gram(f: usize, tokens: usize) -> Vec<f64> {
    let (x, mix) = (noise(tokens * f, 1), noise(f * f, 2));
    let x: Vec<f64> = (0..tokens * f)
        .map(|at| (0..f).map(|p| x[at / f * f + p] * (mix[p * f + at % f] + f64::from(u8::from(p == at % f)))).sum())
        .collect();
    (0..f * f).map(|at| (0..tokens).map(|t| x[t * f + at / f] * x[t * f + at % f]).sum()).collect()
}

#[test]
fn every_width_is_solved_as_if_it_were_alone() {
    for (f, n) in [(1, 1), (5, 3), (64, 7), (65, 4), (150, 9)] {
        let g = gram(f, 2 * f + 3);
        let w: Vec<f32> = noise(n * f, 3).into_iter().map(|v| v as f32).collect();
        let nested = NestedLeastSquares::new(&g, f, &w, 0.01).unwrap();
        let mean = |k: usize| (0..k).map(|i| g[i * f + i]).sum::<f64>() / k as f64;
        for k in [1, 2, f / 2, f - 1, f].into_iter().filter(|k| (1..=f).contains(k)) {
            let kept: Vec<usize> = (0..k).collect();
            // The same lambda: there it is a part of the mean of those that are kept.
            let ridge = Ridge { strength: 0.01 * mean(f) / mean(k), anchor: Anchor::Zero };
            let want = least_squares(&g, f, &w, &kept, &ridge).unwrap();
            let got = nested.solve(k).unwrap();
            assert_eq!(got.len(), n * k);
            for (g, w) in got.iter().zip(&want) {
                assert!((g - w).abs() < 1e-5 * w.abs().max(1.0), "{k} of {f}: {g} and not {w}");
            }
        }
    }
}

#[test]
fn what_cannot_be_solved_is_refused() {
    let g = gram(4, 9);
    let w = [0.5f32; 8];
    let new = |g: &[f64], w: &[f32], strength| NestedLeastSquares::new(g, 4, w, strength).unwrap_err();
    assert!(matches!(new(&g[1..], &w, 0.1), Error::Matrix { matrix: "Gram", .. }));
    assert!(matches!(new(&g, &w[1..], 0.1), Error::Matrix { matrix: "weight", .. }));
    assert!(matches!(new(&g, &w, -0.1), Error::RidgeStrength { .. }));
    assert!(matches!(new(&[0.0; 16], &w, 0.0), Error::NotPositiveDefinite { channel: 0, .. }));
    let mut nan = g.clone();
    nan[5] = f64::NAN;
    assert_eq!(new(&nan, &w, 0.1), Error::NotFinite { matrix: "Gram", index: 5 });
    let nested = NestedLeastSquares::new(&g, 4, &w, 0.1).unwrap();
    assert_eq!(nested.solve(5), Err(Error::Index { got: 5, len: 4 }));
    assert_eq!(nested.solve(0), Err(Error::Zero { axis: "inputs" }));
}
