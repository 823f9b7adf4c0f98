//! Principal directions: against the definition, and against random subspaces.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_prune::{Basis, Error, kept_gain};

const N: usize = 12;

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

/// `x^T x` of random rows whose channels differ in size.
fn covariance(rows: usize, seed: u64) -> Vec<f64> {
    let x = noise(rows * N, seed);
    let scaled = |t: usize, i: usize| x[t * N + i] * (1.0 + (i % 5) as f64);
    (0..N * N).map(|at| (0..rows).map(|t| scaled(t, at / N) * scaled(t, at % N)).sum()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn times(m: &[f64], v: &[f64]) -> Vec<f64> {
    m.chunks(N).map(|row| dot(row, v)).collect()
}

fn assert_orthonormal(basis: &Basis) {
    let rows: Vec<&[f64]> = basis.directions().chunks(N).collect();
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate() {
            assert!((dot(a, b) - f64::from(u8::from(i == j))).abs() < 1e-10, "{i} {j}");
        }
    }
}

#[test]
fn directions_are_eigenvectors_in_descending_order() {
    let c = covariance(40, 1);
    let basis = Basis::principal(&c, N).unwrap();
    assert_orthonormal(&basis);
    assert!(basis.values().windows(2).all(|w| w[0] >= w[1]));
    for (v, value) in basis.directions().chunks(N).zip(basis.values()) {
        for (a, b) in times(&c, v).iter().zip(v) {
            assert!((a - value * b).abs() < 1e-9 * basis.values()[0]);
        }
        let largest = v.iter().fold(0.0f64, |m, &x| if m.abs() < x.abs() { x } else { m });
        assert!(0.0 < largest, "the sign is a convention");
    }
    let trace: f64 = (0..N).map(|i| c[i * N + i]).sum();
    assert!((basis.values().iter().sum::<f64>() - trace).abs() < 1e-9 * trace);
}

/// `tr(M C) - tr(M C B (B^T C B)^-1 B^T C)` for the rows `b`, the inverse by orthogonalising in the inner product of `C`.
fn lost(m: &[f64], c: &[f64], b: &[Vec<f64>]) -> f64 {
    let mut done: Vec<Vec<f64>> = Vec::new();
    for v in b {
        let mut v = v.clone();
        for u in &done {
            let along = dot(&times(c, &v), u);
            v.iter_mut().zip(u).for_each(|(v, u)| *v -= along * u);
        }
        let length = dot(&times(c, &v), &v).sqrt();
        v.iter_mut().for_each(|v| *v /= length);
        done.push(v);
    }
    let all: f64 = (0..N * N).map(|at| m[at] * c[at]).sum();
    all - done
        .iter()
        .map(|u| {
            let cu = times(c, u);
            dot(&times(m, &cu), &cu)
        })
        .sum::<f64>()
}

#[test]
fn weighted_directions_lose_least_of_what_is_read() {
    let (c, m) = (covariance(40, 2), covariance(7, 3));
    let basis = Basis::weighted(&c, &m, N).unwrap();
    assert_orthonormal(&basis);
    for k in [1, 3, 6, 11] {
        let rows = |b: &[f64]| -> Vec<Vec<f64>> { b.chunks(N).take(k).map(<[f64]>::to_vec).collect() };
        let least = lost(&m, &c, &rows(basis.directions()));
        // What is lost is what the values of the other directions say.
        let tail: f64 = basis.values()[k..].iter().sum();
        assert!((least - tail).abs() < 1e-6 * basis.values()[0].max(tail), "{k}: {least} and not {tail}");
        let energy = lost(&m, &c, &rows(Basis::principal(&c, N).unwrap().directions()));
        assert!(least <= energy * (1.0 + 1e-9), "{k}: {least}, and {energy} by energy");
        for seed in 0..20 {
            let other = lost(&m, &c, &rows(&noise(N * N, 100 + seed)));
            assert!(least <= other * (1.0 + 1e-9), "{k}: {least}, and {other} at random");
        }
    }
}

#[test]
fn the_gain_is_the_root_mean_square_of_what_is_kept() {
    // Two tokens whose kept three channels have squares 1, 4, 4 and 9, 0, 0.
    assert!((kept_gain(18.0, 2, 3) - 3f64.sqrt()).abs() < 1e-15);
    assert_eq!(kept_gain(0.0, 0, 0), 0.0);
}

#[test]
fn what_is_no_covariance_is_refused() {
    assert!(matches!(Basis::principal(&[1.0; 3], 2), Err(Error::Matrix { .. })));
    assert!(matches!(Basis::principal(&[], 0), Err(Error::Matrix { .. })));
    assert!(matches!(Basis::principal(&[1.0, f64::NAN, 0.0, 1.0], 2), Err(Error::NotFinite { index: 1, .. })));
    assert!(matches!(Basis::weighted(&[1.0; 4], &[1.0; 3], 2), Err(Error::Matrix { .. })));
    // Rank one, and nothing at all: still a basis.
    assert_eq!(Basis::principal(&[0.0; 4], 2).unwrap().values(), [0.0, 0.0]);
    let basis = Basis::weighted(&[1.0, 1.0, 1.0, 1.0], &[1.0, 0.0, 0.0, 1.0], 2).unwrap();
    assert!(basis.directions().iter().all(|v| v.is_finite()));
}
