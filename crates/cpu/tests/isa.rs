//! Every instruction set that this machine has, on small products, also with quantised weights, attentions and heads: the part of the
//! table that vector kernels can get wrong, small enough for an emulator of a machine with more instructions than this one.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_conformance::{Case, Op, Values, cases, check};
use paring_cpu::{Cpu, Isa};
use paring_ops::Accum;
use paring_tensor::DType;

/// Work of a case, as of a product of 100 x 100 x 100: seconds in an emulator.
const MOST_FLOPS: f64 = 2e6;

/// One tile, several and a part of one, and an inner dimension of odd length, for each direction of a linear map.
fn products(dtype: DType) -> Vec<Op> {
    // More rows than products of few have.
    let sizes = [(66, 33, 32), (84, 64, 64), (71, 131, 71), (65, 1, 33)];
    let each = |(t, k, n)| {
        [
            Op::Linear { t, k, n, dtype },
            Op::LinearDx { t, k, n, dtype, accum: Accum::Set },
            Op::LinearDx { t, k, n, dtype, accum: Accum::Add },
            Op::LinearDw { t, k, n, dtype },
        ]
    };
    sizes.into_iter().flat_map(each).collect()
}

/// One to four rows at a time, whole groups of rows of weights and a part of one, whole vectors and a part of one.
fn products_of_few_rows(dtype: DType) -> Vec<Case> {
    let rows = [1, 2, 3, 4, 5, 7];
    let sizes = [(32, 24), (71, 25), (96, 11), (31, 1), (160, 49)];
    let each = |t| sizes.map(|(k, n)| Case::new(Op::Linear { t, k, n, dtype }, Values::Normal));
    rows.into_iter().flat_map(each).collect()
}

fn every_set(cases: &[Case]) {
    assert!(!cases.is_empty(), "no case is left");
    let mut failures = Vec::new();
    for isa in Isa::all_available() {
        let cpu = Cpu::with_isa(Some(1), isa).unwrap();
        failures.extend(cases.iter().filter_map(|case| check(&cpu, case).err()).map(|failure| failure.to_string()));
        println!("{isa:?}: {} cases", cases.len());
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// The cases of the table whose operation's name begins with `name`.
fn of_table(name: &str) -> Vec<Case> {
    let small = |case: &Case| case.values == Values::Normal && case.flops() <= MOST_FLOPS;
    cases().into_iter().filter(|case| case.op.name().starts_with(name) && small(case)).collect()
}

#[test]
fn products_in_f32() {
    every_set(&products(DType::F32).into_iter().map(|op| Case::new(op, Values::Normal)).collect::<Vec<_>>());
}

#[test]
fn products_in_bf16() {
    let values = [Values::Normal, Values::Outliers(1e4), Values::Tiny];
    let each = |op: Op| values.map(|values| Case::new(op.clone(), values));
    every_set(&products(DType::BF16).into_iter().flat_map(each).collect::<Vec<_>>());
}

#[test]
fn few_rows() {
    every_set(&products_of_few_rows(DType::F32));
    every_set(&products_of_few_rows(DType::BF16));
}

#[test]
fn products_of_the_table() {
    every_set(&of_table("linear"));
}

/// One row of x with whole groups of four blocks and without, one to four rows at a time, and one to four of w; packed, tiles and parts
/// of them.
#[test]
fn quantised_products() {
    let sizes = [
        [(1, 32, 1), (1, 96, 7), (1, 128, 5), (1, 416, 9)],
        [(2, 64, 4), (3, 288, 13), (4, 160, 12), (7, 64, 6)],
        [(12, 32, 1), (13, 96, 31), (18, 544, 64), (29, 128, 77)],
    ];
    let sizes = sizes.into_iter().flatten();
    let ops = sizes.flat_map(|(t, k, n)| DType::QUANTISED.map(|dtype| Op::Linear { t, k, n, dtype }));
    every_set(
        &ops.flat_map(|op| {
            [Values::Normal, Values::Zeros, Values::Outliers(20.0)].map(|values| Case::new(op.clone(), values))
        })
        .collect::<Vec<_>>(),
    );
}

#[test]
fn attention() {
    every_set(&of_table("attention"));
}

#[test]
fn heads() {
    every_set(&of_table("head"));
}
