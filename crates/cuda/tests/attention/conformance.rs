//! Beside the table of conformance (`../conformance.rs`) a sweep over the lengths, widths and groups at which the kernels of attention take
//! other paths: at and beside the sizes of tiles, through windows, caps, packed and cached sequences, in f32 and in bf16.
use crate::{
    common,
    problem::{Problem, numbers},
};
use paring_conformance::{Case, Failure, Op, Values, check, check_refusals};
use paring_cuda::{Allocation, Cuda};
use paring_ops::{AttnSpec, Backend};
use paring_ptx_sim::Rounding;
use paring_tensor::{DType, Shape};
use ptx_sim_driver::Config;

/// A device of this test's own, with all checkers on.
fn cuda() -> Cuda {
    common::open().cuda
}

fn cuda_that_rounds(rounding: Rounding) -> Cuda {
    let mut config = Config::default();
    config.rounding = rounding;
    common::open_with(&config, Allocation::Exact).cuda
}

fn check_each(cases: impl IntoIterator<Item = Case>) {
    check_each_on(&cuda(), cases);
}

fn check_each_on(cuda: &Cuda, cases: impl IntoIterator<Item = Case>) {
    let failures: Vec<Failure> = cases.into_iter().filter_map(|case| check(cuda, &case).err()).take(3).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn refusals() {
    let failures = check_refusals(&cuda());
    let failures: Vec<_> = failures.into_iter().filter(|failure| failure.case.starts_with("attention")).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    let wide = Case::new(Op::Attention { spec: AttnSpec::packed(1, 1, 257, vec![0, 2]), spare: 0 }, Values::Normal);
    let failure = check(&cuda(), &wide).unwrap_err();
    assert!(failure.to_string().contains("heads of 257 elements"), "{failure}");
}

/// The bounds of the table have room for any operands that are rounded. Here nothing is lost but of probabilities.
fn check_closely(specs: impl IntoIterator<Item = AttnSpec>) {
    let cuda = cuda();
    for spec in specs {
        let problem = Problem::new(AttnSpec { compute: DType::BF16, ..spec });
        let (forward, backward) = problem.run(&cuda);
        problem.check("on the simulated driver", &forward, backward.as_ref());
    }
}

/// Every length at one width; group, window, cap and packing take turns so that each meets each.
fn sweep(compute: DType, head_dim: usize) -> impl Iterator<Item = AttnSpec> {
    let lengths = [1, 15, 16, 17, 63, 64, 65, 127, 128, 129];
    let heads = [(1, 1), (3, 1), (4, 1), (8, 1), (4, 2)];
    let (windows, caps) = ([None, Some(1), None, Some(31), None, Some(64), Some(100)], [None, None, Some(4.0)]);
    lengths.into_iter().enumerate().map(move |(i, t)| {
        let n = i + head_dim / 16;
        // An empty sequence first, in the middle and last, and one before that is shorter than any tile.
        let cu_len = match n % 3 {
            0 => vec![0, t],
            1 => vec![0, 0, t, t],
            _ => vec![0, 5, 5, 5 + t],
        };
        let (heads, kv_heads) = heads[n % heads.len()];
        let (window, softcap) = (windows[n % windows.len()], caps[n / 2 % caps.len()]);
        AttnSpec { window, softcap, compute, ..AttnSpec::packed(heads, kv_heads, head_dim, cu_len) }
    })
}

fn both_ways(spec: AttnSpec) -> [Case; 2] {
    let case = |op| Case::new(op, Values::Normal);
    [case(Op::Attention { spec: spec.clone(), spare: 0 }), case(Op::AttentionBackward { spec })]
}

#[test]
fn lengths_around_tiles_on_tensor_cores_64() {
    check_closely(sweep(DType::BF16, 64));
}

#[test]
fn lengths_around_tiles_on_tensor_cores_80() {
    check_closely(sweep(DType::BF16, 80));
}

#[test]
fn lengths_around_tiles_on_tensor_cores_96() {
    check_closely(sweep(DType::BF16, 96));
}

#[test]
fn lengths_around_tiles_on_tensor_cores_128() {
    check_closely(sweep(DType::BF16, 128));
}

#[test]
fn lengths_around_tiles_on_tensor_cores_of_narrow_heads() {
    check_closely([20, 21, 32].into_iter().flat_map(|h| sweep(DType::BF16, h)));
}

/// Fewer of them than on tensor cores: these kernels have half the tile.
fn check_f32(head_dim: usize) {
    check_each(sweep(DType::F32, head_dim).skip(head_dim / 16 % 3).step_by(3).flat_map(both_ways));
}

#[test]
fn lengths_around_tiles_in_f32_64() {
    check_f32(64);
}

#[test]
fn lengths_around_tiles_in_f32_80() {
    check_f32(80);
}

#[test]
fn lengths_around_tiles_in_f32_96() {
    check_f32(96);
}

#[test]
fn lengths_around_tiles_in_f32_128() {
    check_f32(128);
}

/// Few queries over a cache, for each width of a head. Each number of lanes that share a row, full and not; groups of 1, 3, 4, 8 and more than a
/// block takes.
fn check_few_queries(head_dim: usize) {
    let (widths, groups) = ([40, 64, 100, 128, 200, 256], [1, 3, 4, 8, 9]);
    let (pasts, windows, caps) = ([0, 1, 63, 64, 130, 300], [None, Some(1), Some(65), None], [None, Some(3.0), None]);
    let spec = |n: usize, h, group| {
        let (window, softcap) = (windows[n % windows.len()], caps[n / 2 % caps.len()]);
        let (kv_heads, tokens, past) = (1 + n % 2, 1 + n % 4, pasts[n / 3 % pasts.len()]);
        AttnSpec { window, softcap, ..AttnSpec::cached(group * kv_heads, kv_heads, h, tokens, past) }
    };
    let turns = (0..3).flat_map(|turn| groups.into_iter().flat_map(move |group| widths.map(|h| (turn, group, h))));
    let specs = turns.enumerate().map(|(n, (turn, group, h))| spec(n + 2 * turn, h, group));
    let specs = specs.filter(|spec| spec.head_dim == head_dim);
    check_each(specs.map(|spec| Case::new(Op::Attention { spec, spare: 2 }, Values::Normal)));
}

macro_rules! few_queries {
    ($($test:ident: $head_dim:literal;)+) => {
        $(#[test]
        fn $test() {
            check_few_queries($head_dim);
        })+
    };
}

few_queries! {
    few_queries_40: 40;
    few_queries_64: 64;
    few_queries_100: 100;
    few_queries_128: 128;
    few_queries_200: 200;
    few_queries_256: 256;
}

/// More splits than a warp has lanes.
#[test]
fn one_query_over_a_long_cache() {
    let spec = AttnSpec::cached(2, 1, 40, 1, 2300);
    check_each([Case::new(Op::Attention { spec, spare: 2 }, Values::Normal)]);
}

/// Scores whose exponentials overflow unless the largest of a row is taken off, in whatever tile it stands.
fn check_large_scores(compute: DType, head_dim: usize) {
    let cuda = cuda();
    for (cu_len, window) in [(vec![0, 40, 105], None), (vec![0, 70], Some(33))] {
        let spec = AttnSpec { window, compute, scale: 8.0, ..AttnSpec::packed(2, 1, head_dim, cu_len) };
        let problem = Problem::new(spec);
        let (forward, _) = problem.run(&cuda);
        problem.check("large scores", &forward, None);
    }
}

macro_rules! large_scores {
    ($($test:ident: $compute:ident $head_dim:literal;)+) => {
        $(#[test]
        fn $test() {
            check_large_scores(DType::$compute, $head_dim);
        })+
    };
}

large_scores! {
    large_scores_32: BF16 32;
    large_scores_64: BF16 64;
    large_scores_80: BF16 80;
    large_scores_96: BF16 96;
    large_scores_128: BF16 128;
    large_scores_in_f32_64: F32 64;
    large_scores_in_f32_128: F32 128;
    large_scores_in_f32_256: F32 256;
}

/// The bounds hold whatever hardware does where it is free to choose.
fn check_rounding(rounding: Rounding) {
    let cuda = cuda_that_rounds(rounding);
    check_each_on(&cuda, sweep(DType::BF16, 64).chain(sweep(DType::BF16, 128)).step_by(2).flat_map(both_ways));
    check_each_on(&cuda, sweep(DType::F32, 64).step_by(4).flat_map(both_ways));
    let decode = [64, 100].map(|h| AttnSpec { softcap: Some(9.0), ..AttnSpec::cached(4, 2, h, 2, 150) });
    check_each_on(&cuda, decode.map(|spec| Case::new(Op::Attention { spec, spare: 0 }, Values::Normal)));
}

#[test]
fn sums_that_are_cut_off() {
    check_rounding(Rounding::TruncateAccumulate);
}

#[test]
fn functions_that_err_upwards() {
    check_rounding(Rounding::ApproxUp);
}

#[test]
fn functions_that_err_downwards() {
    check_rounding(Rounding::ApproxDown);
}

#[test]
fn roundings_of_every_kind() {
    check_rounding(Rounding::Mixed);
}

fn behind_a_cache(compute: DType, head_dim: usize) -> impl Iterator<Item = AttnSpec> {
    let pasts = [1, 15, 63, 64, 65, 127, 130];
    pasts.into_iter().enumerate().map(move |(i, past)| {
        let tokens = [1, 2, 4, 5, 16, 65][i % 6];
        let (heads, kv_heads) = [(3, 1), (4, 4), (8, 1)][i % 3];
        let window = [None, Some(20), Some(70)][i % 3];
        AttnSpec { window, compute, ..AttnSpec::cached(heads, kv_heads, head_dim, tokens, past) }
    })
}

fn check_behind_a_cache(head_dim: usize) {
    check_closely(behind_a_cache(DType::BF16, head_dim));
    let both = behind_a_cache(DType::BF16, head_dim).chain(behind_a_cache(DType::F32, head_dim));
    check_each(both.map(|spec| Case::new(Op::Attention { spec, spare: 3 }, Values::Normal)));
}

#[test]
fn behind_a_cache_64() {
    check_behind_a_cache(64);
}

#[test]
fn behind_a_cache_80() {
    check_behind_a_cache(80);
}

#[test]
fn behind_a_cache_128() {
    check_behind_a_cache(128);
}

fn check_wide_and_odd(compute: DType) {
    let specs = [(2, 1, 200, 40), (1, 1, 256, 35), (2, 2, 129, 20), (4, 1, 7, 33), (2, 1, 67, 40), (1, 1, 90, 66)];
    let spec = |(heads, kv_heads, h, t)| AttnSpec { compute, ..AttnSpec::packed(heads, kv_heads, h, vec![0, t]) };
    // Scores beyond their cap.
    let capped = AttnSpec { softcap: Some(1.5), scale: 1.0, ..spec((1, 1, 150, 40)) };
    check_each(specs.map(spec).into_iter().chain([capped]).flat_map(both_ways));
}

#[test]
fn wide_and_odd_heads() {
    check_wide_and_odd(DType::BF16);
}

#[test]
fn wide_and_odd_heads_in_f32() {
    check_wide_and_odd(DType::F32);
}

#[test]
fn scales_that_are_negative_or_zero() {
    let specs = [-0.2, 0.0].into_iter().flat_map(|scale| {
        let spec = AttnSpec { scale, compute: DType::BF16, ..AttnSpec::packed(2, 1, 64, vec![0, 70]) };
        [spec.clone(), AttnSpec { softcap: Some(2.0), ..spec }]
    });
    check_each(specs.flat_map(both_ways));
}

/// Rows of a larger tensor begin where they begin: at a multiple of 4 bytes, no more.
#[test]
fn operands_that_are_aligned_to_an_element() {
    let cuda = cuda();
    for (compute, tokens, past) in [(DType::F32, 20, 0), (DType::BF16, 20, 0), (DType::F32, 1, 70)] {
        let spec = AttnSpec { compute, ..AttnSpec::cached(4, 2, 64, tokens, past) };
        let odd = |n: usize, cols: usize, seed: u64| {
            let values = numbers(seed, n * cols);
            let longer = [&[0.0][..], &values].concat();
            let line = cuda.upload(&longer, DType::F32, Shape::new(&[longer.len()]).unwrap()).unwrap();
            let even = cuda.upload(&values, DType::F32, Shape::new(&[n, cols]).unwrap()).unwrap();
            let view = line.rows(1..longer.len()).and_then(|v| v.reshape(Shape::new(&[n, cols]).unwrap()));
            [even, view.unwrap()]
        };
        let (q, k) = (odd(tokens, spec.q_cols(), 1), odd(past + tokens, spec.kv_cols(), 2));
        let v = odd(past + tokens, spec.kv_cols(), 3);
        let run = |i: usize| {
            let alloc = |cols| cuda.alloc(DType::F32, Shape::new(&[tokens, cols]).unwrap()).unwrap();
            let (mut y, mut lse) = (alloc(spec.q_cols()), alloc(spec.heads));
            cuda.attention(&mut y, &mut lse, &q[i], &k[i], &v[i], &spec).unwrap();
            (cuda.download(&y).unwrap(), cuda.download(&lse).unwrap())
        };
        let (even, odd) = (run(0), run(1));
        // Over a cache that is not aligned another kernel runs, which adds up in another order.
        let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 2e-6 * (1.0 + a.abs()));
        assert!(near(&even.0, &odd.0) && near(&even.1, &odd.1), "{spec:?}");
    }
}
