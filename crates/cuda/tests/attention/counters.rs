//! What the kernels on tensor cores execute: products of the tiles on and below the diagonal and no others, two or more of them for each
//! ldmatrix, no bank conflicts.
use crate::{
    problem::{Problem, TensorCores},
    sim::Sim,
};
use paring_ops::AttnSpec;
use paring_ptx_sim::{Class, Counters};

/// Rows of a warp, and keys of a tile, of the forward for a head of this many elements.
fn forward_tile(padded: usize) -> (usize, usize) {
    match padded {
        128 => (16, 64),
        80 | 96 => (32, 32),
        _ => (32, 64),
    }
}

/// Products of two matrices for one pair of tiles: 16 x 8 x 16 each.
fn products(rows: usize, keys: usize, d: usize) -> usize {
    rows / 16 * keys / 8 * d / 16
}

/// Pairs of a warp's rows and a step's rows of which some see each other, over all warps that have rows at all.
fn pairs(spec: &AttnSpec, [owned, streamed]: [usize; 2], sees: impl Fn(usize, usize) -> bool) -> usize {
    let t = spec.n_tokens();
    let tile = |first: usize, rows: usize| first..(first + rows).min(t);
    let any = |a: usize, b: usize| tile(a, owned).any(|i| tile(b, streamed).any(|j| sees(i, j)));
    (0..t).step_by(owned).map(|a| (0..t).step_by(streamed).filter(|&b| any(a, b)).count()).sum()
}

fn no_conflicts(what: &str, counters: &Counters) {
    assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts, "{what}");
    assert!(0 < counters.shared_wavefronts, "{what}");
}

fn specs() -> impl Iterator<Item = AttnSpec> {
    let of = |(heads, kv_heads, h, t)| AttnSpec::packed(heads, kv_heads, h, vec![0, t]);
    let plain = [(2, 1, 32, 129), (3, 1, 64, 200), (1, 1, 80, 190), (2, 2, 96, 65), (2, 1, 128, 150), (1, 1, 64, 17)];
    let windows = [(2, 1, 64, 300), (2, 1, 128, 300), (1, 1, 80, 260)];
    let windows = windows.into_iter().map(move |s| AttnSpec { window: Some(70), ..of(s) });
    plain.into_iter().map(of).chain(windows)
}

#[test]
fn only_tiles_that_are_seen_are_multiplied() {
    for spec in specs() {
        let mut run = TensorCores::new(&Problem::new(spec.clone()), Sim::new());
        let sees = |query: usize, key: usize| key <= query && spec.first_key(query) <= key;
        let d = spec.head_dim;

        let (_, forward) = run.forward();
        let (rows, keys) = forward_tile(d);
        let want = spec.heads * pairs(&spec, [rows, keys], sees) * 2 * products(rows, keys, d);
        assert_eq!(forward.warp(Class::Mma), want as u64, "forward of {spec:?}");
        assert!(
            2 * (forward.warp(Class::Ldmatrix) - q_fragments(&spec, rows)) <= forward.warp(Class::Mma),
            "forward of {spec:?}"
        );
        no_conflicts("forward", &forward);

        let (_, [of_keys, of_queries]) = run.backward();
        let want = spec.heads * pairs(&spec, [16, 32], |key, query| sees(query, key)) * 4 * products(16, 32, d);
        assert_eq!(of_keys.warp(Class::Mma), want as u64, "dk and dv of {spec:?}");
        no_conflicts("dk and dv", &of_keys);
        let keys = if d <= 64 { 64 } else { 32 };
        let want = spec.heads * pairs(&spec, [16, keys], sees) * 3 * products(16, keys, d);
        assert_eq!(of_queries.warp(Class::Mma), want as u64, "dq of {spec:?}");
        no_conflicts("dq", &of_queries);
    }
}

/// Loads of Q, once a warp, whether it has rows or not.
fn q_fragments(spec: &AttnSpec, rows: usize) -> u64 {
    let warps = spec.n_tokens().div_ceil(4 * rows) * 4 * spec.heads;
    (warps * rows / 16 * spec.head_dim / 16) as u64
}
