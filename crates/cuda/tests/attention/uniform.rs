//! Queries that see every key alike: with q or k zero all scores are zero, so probabilities are one over the number of keys, and what is
//! rounded to bf16 is next to nothing. Then one key or query too many or too few, an element in the wrong place, or a row of another
//! sequence stands out from what rounding can do, at every shape.
use crate::{
    common,
    problem::{Backward, Forward, Problem},
};
use paring_cuda::Cuda;
use paring_ops::AttnSpec;
use paring_tensor::DType;

/// A sum, and the sum of its terms' sizes.
#[derive(Clone, Copy, Default)]
struct Sum {
    value: f64,
    size: f64,
}

impl Sum {
    fn add(&mut self, term: f64) {
        self.value += term;
        self.size += term.abs();
    }
}

/// What uniform attention gives, term by term: the trait's formulas with every score zero.
struct Want {
    y: Vec<Sum>,
    lse: Vec<Sum>,
    dq: Vec<Sum>,
    dk: Vec<Sum>,
    dv: Vec<Sum>,
}

/// The keys that query `t` sees.
fn keys(spec: &AttnSpec, t: usize) -> std::ops::Range<usize> {
    let first = spec.cu_len.iter().copied().filter(|&start| start <= t).max().unwrap_or(0);
    let last = spec.past + t;
    let low = spec.window.map_or(first, |window| first.max((last + 1).saturating_sub(window)));
    low..last + 1
}

fn want(problem: &Problem) -> Want {
    let Problem { spec, q, k, v, dy } = problem;
    let (h, qc, kc, scale) = (spec.head_dim, spec.q_cols(), spec.kv_cols(), f64::from(spec.scale));
    let sums = |n: usize| vec![Sum::default(); n];
    let mut want = Want {
        y: sums(q.len()),
        lse: sums(spec.n_tokens() * spec.heads),
        dq: sums(q.len()),
        dk: sums(k.len()),
        dv: sums(v.len()),
    };
    for t in 0..spec.n_tokens() {
        for head in 0..spec.heads {
            let (q_at, kv) = (t * qc + head * h, head / (spec.heads / spec.kv_heads) * h);
            let seen = keys(spec, t);
            let p = 1.0 / seen.len() as f64;
            want.lse[t * spec.heads + head] = Sum { value: (seen.len() as f64).ln(), size: 1.0 };
            let dp = |j: usize| (0..h).map(|c| f64::from(dy[q_at + c]) * f64::from(v[j * kc + kv + c])).sum::<f64>();
            let delta = p * seen.clone().map(dp).sum::<f64>();
            for j in seen {
                let ds = p * (dp(j) - delta);
                for c in 0..h {
                    let key = j * kc + kv + c;
                    want.y[q_at + c].add(p * f64::from(v[key]));
                    want.dv[key].add(p * f64::from(dy[q_at + c]));
                    want.dq[q_at + c].add(scale * ds * f64::from(k[key]));
                    want.dk[key].add(scale * ds * f64::from(q[q_at + c]));
                }
            }
        }
    }
    want
}

fn near(what: &str, spec: &AttnSpec, got: &[f32], want: &[Sum], bound: f64) {
    // Terms that cancel in `dp - delta` are rounded before they do, the more the longer a head is.
    let floor = if 128 < spec.head_dim { 2e-5 } else { 1e-5 } * want.iter().map(|s| s.size).fold(0.0, f64::max);
    assert_eq!(got.len(), want.len(), "{what}: {spec:?}");
    for (i, (&got, want)) in got.iter().zip(want).enumerate() {
        let far = (f64::from(got) - want.value).abs();
        assert!(far <= bound * want.size + floor, "{what}[{i}] is {got}, not {}: {spec:?}", want.value);
    }
}

/// Runs `spec` with q zero, and then with k zero.
fn check(cuda: &Cuda, spec: &AttnSpec) {
    // Before they are divided by their sum, probabilities are one. In the gradients they lose up to 2^-8 to bf16, and next to nothing in f32.
    let bound = if spec.compute == DType::BF16 { 4.2e-3 } else { 1e-5 };
    for zero_q in [true, false] {
        let mut problem = Problem::new(spec.clone());
        let zeros = if zero_q { &mut problem.q } else { &mut problem.k };
        zeros.fill(0.0);
        // Of one sign: sums of them do not cancel.
        for x in [&mut problem.v, &mut problem.dy] {
            x.iter_mut().for_each(|x| *x = x.abs() + 0.5);
            x.iter_mut().for_each(|x| *x = paring_tensor::round_to(*x, DType::BF16));
        }
        let (Forward { y, lse }, backward) = problem.run(cuda);
        let want = want(&problem);
        near("y", spec, &y, &want.y, 1e-5);
        near("lse", spec, &lse, &want.lse, 1e-5);
        if let Some(Backward { dq, dk, dv }) = backward {
            near("dq", spec, &dq, &want.dq, bound);
            near("dk", spec, &dk, &want.dk, bound);
            near("dv", spec, &dv, &want.dv, bound);
        }
    }
}

/// Packed sequences around tiles, windows that begin and end inside of them, caps, groups.
fn packed(head_dim: usize) -> Vec<AttnSpec> {
    let spec = |heads, kv_heads, cu_len: &[usize], window, softcap| AttnSpec {
        window,
        softcap,
        ..AttnSpec::packed(heads, kv_heads, head_dim, cu_len.to_vec())
    };
    vec![
        spec(2, 1, &[0, 3, 3, 70, 135], None, None),
        spec(1, 1, &[0, 65], Some(20), None),
        spec(3, 1, &[0, 33, 33, 34], Some(33), Some(5.0)),
        spec(2, 2, &[0, 129], Some(64), None),
    ]
}

/// Few and many queries behind a cache.
fn cached(head_dim: usize) -> Vec<AttnSpec> {
    let spec = |heads, kv_heads, tokens, past, window| AttnSpec {
        window,
        ..AttnSpec::cached(heads, kv_heads, head_dim, tokens, past)
    };
    vec![
        spec(2, 1, 33, 70, None),
        spec(1, 1, 33, 70, Some(50)),
        spec(8, 1, 1, 130, None),
        spec(3, 3, 4, 67, Some(65)),
        spec(9, 1, 2, 40, Some(7)),
    ]
}

fn check_all(compute: DType, head_dim: usize) {
    let cuda = common::open().cuda;
    for spec in packed(head_dim).into_iter().chain(cached(head_dim)) {
        check(&cuda, &AttnSpec { compute, ..spec });
    }
}

macro_rules! widths {
    ($($test:ident: $compute:ident $head_dim:literal;)+) => {
        $(#[test]
        fn $test() {
            check_all(DType::$compute, $head_dim);
        })+
    };
}

widths! {
    tensor_cores_20: BF16 20;
    tensor_cores_32: BF16 32;
    tensor_cores_61: BF16 61;
    tensor_cores_64: BF16 64;
    tensor_cores_80: BF16 80;
    tensor_cores_90: BF16 90;
    tensor_cores_96: BF16 96;
    tensor_cores_127: BF16 127;
    tensor_cores_128: BF16 128;
    exact_5: F32 5;
    exact_64: F32 64;
    exact_100: F32 100;
    exact_130: F32 130;
}

/// Each of some widths, with few rows: every column is the last of some head.
fn check_widths(compute: DType, widths: impl IntoIterator<Item = usize>) {
    let cuda = common::open().cuda;
    for head_dim in widths {
        let t = [17, 3, 33][head_dim % 3];
        check(&cuda, &AttnSpec { compute, ..AttnSpec::packed(2, 1, head_dim, vec![0, t]) });
    }
}

#[test]
fn every_width_to_32() {
    check_widths(DType::BF16, 1..=32);
}

#[test]
fn every_width_to_64() {
    check_widths(DType::BF16, 33..=64);
}

#[test]
fn every_width_to_80() {
    check_widths(DType::BF16, 65..=80);
}

#[test]
fn every_width_to_96() {
    check_widths(DType::BF16, 81..=96);
}

#[test]
fn every_width_to_128() {
    check_widths(DType::BF16, 97..=128);
}

/// Of every 32 elements, which lanes have in fours, widths that end behind each of the four.
fn widths_in_f32(groups_of_32: std::ops::Range<usize>) -> impl Iterator<Item = usize> {
    groups_of_32.flat_map(|i| [5, 14, 23, 32].map(|width| 32 * i + width))
}

#[test]
fn exact_widths_to_64() {
    check_widths(DType::F32, widths_in_f32(0..2).chain([1, 3]));
}

#[test]
fn exact_widths_to_128() {
    check_widths(DType::F32, widths_in_f32(2..4).chain([65]));
}

#[test]
fn exact_widths_to_192() {
    check_widths(DType::F32, widths_in_f32(4..6).chain([129]));
}

#[test]
fn exact_widths_to_256() {
    check_widths(DType::F32, widths_in_f32(6..8));
}
