//! The table: every operation on shapes around the sizes of tiles and on none of them a multiple, and on numbers that are hard.
use crate::{Case, Op, Values, Wanted};
use paring_ops::{Accum, Activation, AttnSpec};
use paring_tensor::DType::{self, BF16, F16, F32};

const OUTLIERS: [Values; 2] = [Values::Outliers(20.0), Values::Outliers(1e4)];
const ACCUMS: [Accum; 2] = [Accum::Set, Accum::Add];

/// All cases.
pub fn cases() -> Vec<Case> {
    let parts = [memory(), elementwise(), rows(), products(), norms(), attention(), losses(), heads(), optimizer()];
    parts.into_iter().flatten().collect()
}

/// Each operation on each kind of numbers.
fn cross(ops: impl IntoIterator<Item = Op>, values: &[Values]) -> Vec<Case> {
    let each = |op: Op| values.iter().map(move |&values| Case::new(op.clone(), values));
    ops.into_iter().flat_map(each).collect()
}

/// Lengths: nothing, less than a vector, a vector and a tail, more than a piece of work.
const LENGTHS: [usize; 5] = [0, 1, 13, 259, 40_001];

fn memory() -> Vec<Case> {
    let dtypes = [F32, BF16, F16];
    let mut ops = Vec::new();
    for n in LENGTHS {
        ops.push(Op::Fill { n });
        for dtype in dtypes {
            ops.push(Op::Alloc { n, dtype });
            ops.push(Op::Zeros { n, dtype });
            ops.push(Op::Upload { n, dtype });
            ops.push(Op::UploadBytes { n, dtype });
            ops.extend(dtypes.map(|to| Op::Convert { n, from: dtype, to }));
        }
    }
    for (rows, cols, at, src_rows) in [(1, 1, 0, 1), (5, 7, 2, 3), (9, 64, 0, 9), (4, 3, 4, 0), (3, 0, 1, 1)] {
        ops.push(Op::WriteRows { rows, cols, at, src_rows });
    }
    cross(ops, &[Values::Normal, Values::Special])
}

fn elementwise() -> Vec<Case> {
    let moves = LENGTHS.into_iter().flat_map(|n| {
        let accumulate = ACCUMS.map(|accum| Op::Accumulate { n, accum });
        accumulate.into_iter().chain([Op::Add { n }, Op::Scale { n }])
    });
    let mut cases = cross(moves, &[Values::Normal, Values::Special, Values::Tiny]);
    let values = [Values::Normal, OUTLIERS[0], OUTLIERS[1], Values::Zeros, Values::Tiny];
    cases.extend(cross(LENGTHS.map(|n| Op::SumSquares { n }), &values));
    let activations = LENGTHS.into_iter().flat_map(|n| Activation::ALL.map(|act| (n, act))).flat_map(|(n, act)| {
        let gated = [Op::Gated { n, act }, Op::GatedBackward { n, act }];
        gated.into_iter().chain([Op::Activation { n, act }, Op::ActivationBackward { n, act }])
    });
    cases.extend(cross(activations, &values));
    cases
}

fn rows() -> Vec<Case> {
    let mut ops = Vec::new();
    for (t, v, d) in [(1, 1, 1), (5, 3, 7), (0, 3, 4), (65, 17, 33), (200, 1000, 64)] {
        ops.extend([F32, BF16].map(|dtype| Op::Embed { t, v, d, dtype }));
        ops.push(Op::EmbedBackward { t, v, d });
        ops.extend([(F32, 1), (BF16, 3), (BF16, 8)].map(|(dtype, gap)| Op::EmbedView { t, v, d, gap, dtype }));
    }
    let mut cases = cross(ops, &[Values::Normal, OUTLIERS[1]]);
    cases.extend(cross([Op::Embed { t: 9, v: 5, d: 20, dtype: BF16 }], &[Values::Special]));
    cases
}

/// Tokens, inputs, outputs.
const PRODUCTS: [(usize, usize, usize); 16] = [
    (1, 1, 1),
    (1, 7, 130),
    (1, 576, 192),
    (2, 64, 65),
    (3, 5, 7),
    (4, 33, 16),
    (5, 8, 16),
    (6, 16, 16),
    (7, 289, 17),
    (13, 577, 5),
    (17, 33, 65),
    (64, 128, 96),
    (121, 3, 33),
    (170, 20, 2050),
    (3, 2049, 9),
    (48, 300, 64),
];

fn linear(t: usize, k: usize, n: usize, dtype: DType) -> Vec<Op> {
    let dx = ACCUMS.map(|accum| Op::LinearDx { t, k, n, dtype, accum });
    dx.into_iter().chain([Op::Linear { t, k, n, dtype }, Op::LinearDw { t, k, n, dtype }]).collect()
}

fn products() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [F32, BF16] {
        // Behind the columns of a view there are numbers.
        for (t, k, n) in PRODUCTS {
            let views = [1, 24].map(|gap| Op::LinearView { t, k, n, gap, dtype });
            cases.extend(cross(views, &[Values::Normal]));
        }
        cases.extend(cross(PRODUCTS.iter().flat_map(|&(t, k, n)| linear(t, k, n, dtype)), &[Values::Normal]));
        let hard = [OUTLIERS[0], OUTLIERS[1], Values::Zeros, Values::Tiny];
        for (t, k, n) in [(3, 5, 7), (33, 300, 47)] {
            cases.extend(cross(linear(t, k, n, dtype), &hard));
        }
        // No tokens, no outputs, and an inner dimension of nothing: a sum of nothing.
        for (t, k, n) in [(0, 4, 3), (2, 4, 0), (2, 0, 3)] {
            cases.extend(cross(linear(t, k, n, dtype), &[Values::Normal]));
        }
    }
    cases
}

fn norms() -> Vec<Case> {
    let mut norms = Vec::new();
    for (t, d) in [(1, 1), (3, 5), (17, 33), (64, 576), (0, 8), (100, 96)] {
        for dtype in [F32, BF16] {
            norms.push(Op::RmsNorm { t, d, dtype });
            norms.push(Op::AddRmsNorm { t, d, dtype });
            norms.extend(ACCUMS.map(|accum| Op::RmsNormBackward { t, d, dtype, accum }));
        }
    }
    let values = [Values::Normal, OUTLIERS[0], OUTLIERS[1], Values::Zeros, Values::Equal, Values::Tiny];
    let mut cases = cross(norms, &values);
    let heads = [(1, 1, 2), (3, 2, 6), (0, 2, 4), (33, 3, 64), (5, 0, 4), (70, 9, 10)];
    let ropes =
        heads.into_iter().flat_map(|(t, heads, h)| [false, true].map(|inverse| Op::Rope { t, heads, h, inverse }));
    cases.extend(cross(ropes, &[Values::Normal, OUTLIERS[1], Values::Zeros]));
    cases
}

fn attention() -> Vec<Case> {
    let packed = |heads, kv, h, cu: &[usize]| AttnSpec::packed(heads, kv, h, cu.to_vec());
    // Query heads per key/value head: 1, 2, 3, 4. Sequences: one token, empty ones first, last and between, around a tile's length.
    let specs = [
        packed(1, 1, 1, &[0, 1]),
        packed(2, 1, 8, &[0, 3, 3, 10]),
        packed(3, 3, 5, &[0, 130]),
        packed(6, 2, 32, &[0, 49, 50, 196]),
        packed(9, 3, 64, &[0, 60, 124]),
        packed(4, 1, 17, &[0, 0, 64, 121, 121]),
        packed(2, 2, 4, &[0]),
        packed(2, 1, 4, &[0, 0]),
    ];
    let caches = [(4, 2, 8, 1, 0), (4, 2, 8, 1, 200), (3, 1, 33, 3, 95), (2, 2, 16, 60, 77), (9, 3, 64, 1, 64)];
    let values = [Values::Normal, OUTLIERS[0], Values::Zeros, Values::Equal, Values::Tiny];
    let forward = specs.iter().map(|spec| Op::Attention { spec: spec.clone(), spare: 0 });
    let backward = specs.iter().map(|spec| Op::AttentionBackward { spec: spec.clone() });
    let mut cases = cross(forward.chain(backward), &values);
    for spare in [0, 5] {
        let cached = caches
            .map(|(heads, kv, h, t, past)| Op::Attention { spec: AttnSpec::cached(heads, kv, h, t, past), spare });
        cases.extend(cross(cached, &[Values::Normal, OUTLIERS[0]]));
    }
    // A window of the query itself, of a few keys, of a tile's length and one more, and longer than any sequence; behind a cache as well.
    let windows = [(1, 0), (3, 1), (64, 2), (65, 1), (1000, 2), (90, 3)].map(|(window, i)| {
        let specs = [
            packed(2, 1, 8, &[0, 3, 3, 10]),
            packed(3, 3, 5, &[0, 130]),
            packed(6, 2, 32, &[0, 49, 50, 196]),
            packed(2, 1, 8, &[0, 300]),
        ];
        AttnSpec { window: Some(window), ..specs[i].clone() }
    });
    let behind = [(1, 1, 200), (7, 3, 95), (64, 60, 77), (70, 1, 64), (500, 2, 130)]
        .map(|(window, t, past)| AttnSpec { window: Some(window), ..AttnSpec::cached(6, 2, 16, t, past) });
    // A cap as Gemma 2 has it, and one that scores of outliers run into.
    let caps = [50.0, 2.0].map(|cap| AttnSpec { softcap: Some(cap), ..packed(6, 2, 17, &[0, 70, 71, 135]) });
    let both = AttnSpec { softcap: Some(5.0), window: Some(20), ..packed(4, 1, 16, &[0, 90]) };
    let cached = AttnSpec { softcap: Some(5.0), window: Some(20), ..AttnSpec::cached(4, 1, 16, 1, 90) };
    let specs = windows.into_iter().chain(behind).chain(caps).chain([both, cached]).flat_map(|spec| {
        let backward = (spec.past == 0).then(|| Op::AttentionBackward { spec: spec.clone() });
        backward.into_iter().chain([Op::Attention { spec, spare: 1 }])
    });
    cases.extend(cross(specs, &values));
    // Where factors may be rounded to bf16: heads of the widths that tensor cores are used for, and one that is none of them.
    let rounded = [
        packed(2, 1, 64, &[0, 3, 3, 70]),
        packed(4, 1, 128, &[0, 65]),
        packed(3, 1, 80, &[0, 17, 33]),
        packed(2, 2, 96, &[0, 129]),
        packed(2, 1, 20, &[0, 40]),
        AttnSpec { window: Some(20), softcap: Some(5.0), ..packed(4, 2, 64, &[0, 90, 150]) },
        AttnSpec::cached(4, 2, 64, 1, 130),
        AttnSpec { window: Some(50), ..AttnSpec::cached(2, 1, 128, 33, 70) },
    ];
    let rounded = rounded.into_iter().flat_map(|spec| {
        let spec = AttnSpec { compute: BF16, ..spec };
        let backward = (spec.past == 0).then(|| Op::AttentionBackward { spec: spec.clone() });
        backward.into_iter().chain([Op::Attention { spec, spare: 2 }])
    });
    cases.extend(cross(rounded, &[Values::Normal, OUTLIERS[0], Values::Zeros]));
    // Scores of some thousands: one key takes all, and which one depends on the last bits of none.
    let steep = AttnSpec { scale: 0.25, ..packed(4, 2, 16, &[0, 5, 70]) };
    cases.extend(cross(
        [Op::Attention { spec: steep.clone(), spare: 0 }, Op::AttentionBackward { spec: steep }],
        &[OUTLIERS[1]],
    ));
    cases
}

fn losses() -> Vec<Case> {
    let values = [
        Values::Normal,
        OUTLIERS[0],
        OUTLIERS[1],
        Values::Zeros,
        Values::Equal,
        Values::Tiny,
        Values::Masked,
        Values::Excluded,
        Values::Undefined,
    ];
    let mut ops = Vec::new();
    for (t, v) in [(1, 1), (1, 7), (5, 3), (6, 33), (9, 1000)] {
        for ignore_every in [0, 3] {
            ops.push(Op::CrossEntropyRows { t, v, ignore_every });
            ops.push(Op::CompareRows { t, v, ignore_every });
        }
        ops.push(Op::KlRows { t, v });
    }
    let mut cases = cross(ops, &values);
    // Every row ignored; no rows; no vocabulary.
    for (t, v, ignore_every) in [(4, 9, 1), (0, 9, 0), (4, 0, 1)] {
        let ops =
            [Op::CrossEntropyRows { t, v, ignore_every }, Op::CompareRows { t, v, ignore_every }, Op::KlRows { t, v }];
        cases.extend(cross(ops, &[Values::Normal]));
    }
    cases
}

fn heads() -> Vec<Case> {
    let mut ops = Vec::new();
    for (t, d, e, v) in [(1, 1, 1, 1), (5, 3, 7, 11), (33, 24, 32, 501), (0, 3, 4, 5)] {
        for dtype in [F32, BF16] {
            for wanted in [Wanted::Loss, Wanted::Dx, Wanted::DxDw] {
                ops.push(Op::HeadCrossEntropy { t, d, v, dtype, wanted, ignore_every: 4 });
                ops.push(Op::HeadKl { t, d, e, v, dtype, wanted });
            }
            ops.push(Op::HeadCompare { t, d, e, v, dtype, ignore_every: 4 });
        }
    }
    let mut cases = cross(ops, &[Values::Normal, Values::Outliers(20.0), Values::Zeros]);
    // More rows than are in memory at a time: 4096 of a small vocabulary.
    let (t, d, e, v, wanted) = (4099, 3, 2, 5, Wanted::DxDw);
    let chunked = [
        Op::HeadCrossEntropy { t, d, v, dtype: F32, wanted, ignore_every: 4 },
        Op::HeadKl { t, d, e, v, dtype: F32, wanted },
        Op::HeadCompare { t, d, e, v, dtype: F32, ignore_every: 4 },
    ];
    cases.extend(cross(chunked, &[Values::Normal]));
    cases
}

fn optimizer() -> Vec<Case> {
    let ops = |n| {
        let of = [F32, BF16].map(|moments| [Op::AdamW { n, moments }, Op::AdamWSplit { n, moments }]);
        of.into_iter().flatten().chain([Op::Split { n }, Op::Join { n }])
    };
    let ops = LENGTHS.into_iter().flat_map(ops);
    cross(ops, &[Values::Normal, OUTLIERS[0], OUTLIERS[1], Values::Zeros, Values::Tiny])
}
