//! Random shapes, values and seeds, shrunk to the smallest case that fails.
use crate::{Case, Failure, Op, Reason, Values, Wanted, check};
use paring_ops::{Accum, Activation, AttnSpec, Backend};
use paring_tensor::DType;
use proptest::{
    prelude::*,
    test_runner::{Config, TestError, TestRunner},
};

/// Checks `cases` random cases, the same on every run, and answers with the smallest failure found.
///
/// # Errors
/// The failure.
pub fn random_shapes(backend: &dyn Backend, cases: u32) -> Result<(), Failure> {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let result = TestRunner::new_with_rng(config, rng).run(&case(), |case| {
        check(backend, &case).map(|_| ()).map_err(|failure| TestCaseError::fail(failure.to_string()))
    });
    let gave_up = |case: String, message: String| Failure::new(backend, case, Reason::GaveUp(message));
    match result {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, case)) => match check(backend, &case) {
            Err(failure) => Err(failure),
            Ok(_) => Err(gave_up(case.to_string(), format!("passes now, and did not before: {reason}"))),
        },
        Err(TestError::Abort(reason)) => Err(gave_up("random shapes".into(), reason.to_string())),
    }
}

fn case() -> impl Strategy<Value = Case> {
    let values = prop_oneof![Just(Values::Normal), Just(Values::Outliers(20.0)), Just(Values::Equal)];
    (op(), values, 0..u64::from(u32::MAX)).prop_map(|(op, values, seed)| Case { op, values, seed })
}

fn op() -> impl Strategy<Value = Op> {
    let size = || prop_oneof![3 => 1..20usize, 2 => 20..100usize];
    let dtype = || prop_oneof![Just(DType::F32), Just(DType::BF16)];
    let accum = || prop_oneof![Just(Accum::Set), Just(Accum::Add)];
    let product = || (size(), size(), size(), dtype());
    let head = || (1..20usize, 1..20usize, 1..20usize, 1..80usize, dtype(), 0..4usize);
    prop_oneof![
        product().prop_map(|(t, k, n, dtype)| Op::Linear { t, k, n, dtype }),
        (product(), accum()).prop_map(|((t, k, n, dtype), accum)| Op::LinearDx { t, k, n, dtype, accum }),
        product().prop_map(|(t, k, n, dtype)| Op::LinearDw { t, k, n, dtype }),
        (size(), size(), dtype()).prop_map(|(t, d, dtype)| Op::RmsNorm { t, d, dtype }),
        (size(), size(), dtype(), accum()).prop_map(|(t, d, dtype, accum)| Op::RmsNormBackward { t, d, dtype, accum }),
        (size(), 0..5usize, 1..20usize, any::<bool>()).prop_map(|(t, heads, half, inverse)| Op::Rope {
            t,
            heads,
            h: 2 * half,
            inverse
        }),
        (packed(), 0..3usize).prop_map(|(spec, spare)| Op::Attention { spec, spare }),
        (cached(), 0..3usize).prop_map(|(spec, spare)| Op::Attention { spec, spare }),
        packed().prop_map(|spec| Op::AttentionBackward { spec }),
        (size(), size(), 0..4usize).prop_map(|(t, v, ignore_every)| Op::CrossEntropyRows { t, v, ignore_every }),
        (size(), size()).prop_map(|(t, v)| Op::KlRows { t, v }),
        (size(), size(), 0..4usize).prop_map(|(t, v, ignore_every)| Op::CompareRows { t, v, ignore_every }),
        (head(), wanted()).prop_map(|((t, d, _, v, dtype, ignore_every), wanted)| Op::HeadCrossEntropy {
            t,
            d,
            v,
            dtype,
            wanted,
            ignore_every
        }),
        (head(), wanted()).prop_map(|((t, d, e, v, dtype, _), wanted)| Op::HeadKl { t, d, e, v, dtype, wanted }),
        head().prop_map(|(t, d, e, v, dtype, ignore_every)| Op::HeadCompare { t, d, e, v, dtype, ignore_every }),
        (size(), size(), size(), dtype()).prop_map(|(t, v, d, dtype)| Op::Embed { t, v, d, dtype }),
        (size(), size(), size()).prop_map(|(t, v, d)| Op::EmbedBackward { t, v, d }),
        (size(), act()).prop_map(|(n, act)| Op::Gated { n, act }),
        (size(), act()).prop_map(|(n, act)| Op::GatedBackward { n, act }),
        (size(), act()).prop_map(|(n, act)| Op::Activation { n, act }),
        (size(), act()).prop_map(|(n, act)| Op::ActivationBackward { n, act }),
        (size(), size(), dtype()).prop_map(|(t, d, dtype)| Op::AddRmsNorm { t, d, dtype }),
        size().prop_map(|n| Op::Split { n }),
        size().prop_map(|n| Op::Join { n }),
        (size(), dtype()).prop_map(|(n, moments)| Op::AdamW { n, moments }),
        (size(), dtype()).prop_map(|(n, moments)| Op::AdamWSplit { n, moments }),
    ]
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![Just(Wanted::Loss), Just(Wanted::Dx), Just(Wanted::DxDw)]
}

/// Up to four sequences, empty ones among them.
fn packed() -> impl Strategy<Value = AttnSpec> {
    let lengths = proptest::collection::vec(0..70usize, 0..4);
    let spec = (1..4usize, 1..4usize, 1..20usize, lengths).prop_map(|(kv, group, h, lengths)| {
        let mut cu_len = vec![0];
        lengths.iter().for_each(|len| cu_len.push(cu_len[cu_len.len() - 1] + len));
        AttnSpec::packed(kv * group, kv, h, cu_len)
    });
    limited(spec)
}

/// Half of them with a window, half with a soft cap.
fn limited(spec: impl Strategy<Value = AttnSpec>) -> impl Strategy<Value = AttnSpec> {
    let (window, softcap) = (proptest::option::of(1..100usize), proptest::option::of(1.0..60f32));
    (spec, window, softcap).prop_map(|(spec, window, softcap)| AttnSpec { window, softcap, ..spec })
}

fn act() -> impl Strategy<Value = Activation> {
    proptest::sample::select(&Activation::ALL[..])
}

fn cached() -> impl Strategy<Value = AttnSpec> {
    let spec = (1..4usize, 1..4usize, 1..20usize, 1..5usize, 0..150usize)
        .prop_map(|(kv, group, h, t, past)| AttnSpec::cached(kv * group, kv, h, t, past));
    limited(spec)
}
