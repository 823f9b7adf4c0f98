//! The table of conformance where no pointer is aligned, longer rows than it has, and inexact instructions rounded either way. Each group of
//! operations is a test of its own, so that those of one kernel are quick.
use crate::{
    common::{open, open_with},
    odd::Odd,
};
use paring_conformance::{Case, Failure, Op, Values, cases, check};
use paring_cuda::Allocation;
use paring_ops::{Accum, Backend};
use paring_ptx_sim::Rounding;
use paring_tensor::DType::{BF16, F16, F32};
use ptx_sim_driver::Config;

fn check_each(backend: &dyn Backend, cases: impl IntoIterator<Item = Case>) {
    let failures: Vec<Failure> = cases.into_iter().filter_map(|case| check(backend, &case).err()).take(3).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The cases of some operations, on tensors that begin one element behind their buffers' beginnings.
fn check_odd(names: &[&str]) {
    let cases: Vec<Case> = cases().into_iter().filter(|case| names.contains(&case.op.name())).collect();
    assert!(!cases.is_empty(), "{names:?}");
    let opened = open();
    check_each(&Odd(&opened.cuda), cases);
    opened.clean();
}

/// Defines a test of some operations.
macro_rules! tables {
    ($($name:ident: $($op:literal),+;)+) => {
        $(#[test]
        fn $name() {
            check_odd(&[$($op),+]);
        })+
    };
}

tables! {
    memory: "alloc", "zeros", "upload", "upload_bytes", "convert", "fill", "write_rows";
    elementwise: "add", "accumulate", "scale", "sum_squares";
    activations: "gated", "gated_backward", "activation", "activation_backward";
    tables: "embed", "embed_backward";
    norms: "rms_norm", "add_rms_norm";
    gradients_of_norms: "rms_norm_backward";
    rotations: "rope";
    cross_entropy: "cross_entropy_rows";
    divergence: "kl_rows";
    comparison: "compare_rows";
    optimizer: "split", "join", "adamw", "adamw_split";
}

fn check_normal(ops: impl IntoIterator<Item = Op>) {
    let opened = open();
    check_each(&opened.cuda, ops.into_iter().map(|op| Case::new(op, Values::Normal)));
    opened.clean();
}

/// Around what a forward keeps of a row (12 032 floats), what a backward keeps (4010, and 12 032 of sums), and more rows than parts of sums.
const ROWS: [(usize, usize); 7] = [(2, 12_032), (2, 12_033), (3, 12_036), (3, 4008), (3, 4012), (1100, 5), (1025, 32)];

#[test]
fn norms_of_rows_that_do_not_fit_in_shared_memory_and_of_many() {
    check_normal(ROWS.into_iter().flat_map(|(t, d)| {
        let norms = [F32, BF16, F16].map(|dtype| Op::RmsNorm { t, d, dtype });
        norms.into_iter().chain([F32, BF16].map(|dtype| Op::AddRmsNorm { t, d, dtype }))
    }));
}

#[test]
fn gradients_of_rows_that_do_not_fit_in_shared_memory_and_of_many() {
    let accum = Accum::Add;
    let ops = |(t, d)| [F32, BF16, F16].map(|dtype| Op::RmsNormBackward { t, d, dtype, accum });
    check_normal(ROWS.into_iter().flat_map(ops));
}

#[test]
fn losses_of_long_rows() {
    for (t, v) in [(2, 32_000), (3, 4097)] {
        let ignore_every = 2;
        check_normal([
            Op::CrossEntropyRows { t, v, ignore_every },
            Op::KlRows { t, v },
            Op::CompareRows { t, v, ignore_every },
        ]);
    }
}

#[test]
fn many_tokens_of_few_ids_and_wide_heads() {
    let [wide, odd] =
        [(3, 5, 256, true), (2, 1, 1042, false)].map(|(t, heads, h, inverse)| Op::Rope { t, heads, h, inverse });
    let few = [(700, 3, 1030), (50, 3, 1032), (9, 2, 516)].map(|(t, v, d)| Op::EmbedBackward { t, v, d });
    check_normal(few.into_iter().chain([wide, odd]));
}

/// Approximate instructions may be two units off on a device, to either side.
#[test]
fn any_rounding_of_inexact_instructions_will_do() {
    let inexact = ["gated", "gated_backward", "activation", "activation_backward"];
    for rounding in [Rounding::ApproxUp, Rounding::ApproxDown] {
        let mut config = Config::default();
        config.rounding = rounding;
        let opened = open_with(&config, Allocation::Exact);
        check_each(&opened.cuda, cases().into_iter().filter(|case| inexact.contains(&case.op.name())));
    }
}
