//! Calls that every backend has to refuse, with an error of the right kind and before it writes: each operation with each of its operands
//! misshapen, mistyped, shared or of another backend, and what only some operations can get wrong.
use crate::{
    Case, Op, Values, Wanted,
    call::{Call, Operand, Rows, Types},
    case::{ADAMW, EPS, SCALE},
    check::{Failure, Reason, fenced},
};
use paring_ops::{Accum, Activation, AttnSpec, Backend, Error, HeadGrads, IGNORE, Result};
use paring_tensor::{Buffer, DType, Shape, Tensor};
use std::sync::Arc;

/// A kind of error.
#[derive(Clone, Copy)]
struct Expected {
    name: &'static str,
    is: fn(&Error) -> bool,
}

const SHAPE: Expected = Expected {
    name: "an error about a shape or an index",
    is: |e| matches!(e, Error::Shape { .. } | Error::Index { .. }),
};
const TYPE: Expected = Expected {
    name: "an error about an element type",
    is: |e| matches!(e, Error::Tensor { source: paring_tensor::Error::DType { .. }, .. } | Error::Unsupported { .. }),
};
const ALIASED: Expected =
    Expected { name: "`Aliased`", is: |e| matches!(e, Error::Tensor { source: paring_tensor::Error::Aliased, .. }) };
const FOREIGN: Expected = Expected {
    name: "`ForeignBuffer`",
    is: |e| matches!(e, Error::Tensor { source: paring_tensor::Error::ForeignBuffer, .. }),
};
const STRIDED: Expected = Expected {
    name: "`Strided`",
    is: |e| matches!(e, Error::Tensor { source: paring_tensor::Error::Strided { .. }, .. }),
};
const INDEX: Expected = Expected { name: "`Index`", is: |e| matches!(e, Error::Index { .. }) };
const UNSUPPORTED: Expected = Expected { name: "`Unsupported`", is: |e| matches!(e, Error::Unsupported { .. }) };
const NOT_RECORDING: Expected = Expected { name: "`NotRecording`", is: |e| matches!(e, Error::NotRecording { .. }) };
const LENGTH: Expected = Expected {
    name: "`Length`",
    is: |e| matches!(e, Error::Tensor { source: paring_tensor::Error::Length { .. }, .. }),
};
const MEMORY: Expected = Expected {
    name: "`OutOfMemory`",
    is: |e| matches!(e, Error::Tensor { source: paring_tensor::Error::OutOfMemory { .. }, .. } | Error::Device { .. }),
};

/// Memory that belongs to no backend.
#[derive(Debug)]
struct Foreign(usize);

impl Buffer for Foreign {
    fn len(&self) -> usize {
        self.0
    }
}

/// What is done to one operand.
#[derive(Clone, Copy)]
enum Change {
    Rows(usize),
    Cols,
    Transposed,
    Type(DType),
    Shared,
    Foreign,
    /// The first columns of a wider matrix.
    View,
}

/// Every call that should have been refused and was not, or not in time.
pub fn check_refusals(backend: &dyn Backend) -> Vec<Failure> {
    let (mut failures, mut wrong) = (Vec::new(), Vec::new());
    let mut attempt = |name: String, call: &Call, change: Option<(usize, Change)>, expected: Expected| {
        // The default methods of the heads write rows as they go: what is wrong with a later operand shows after that. And only a backend
        // knows whose memory is its own: the default of a fused norm finds a stranger when it comes to it.
        let foreign = matches!(change, Some((_, Change::Foreign)));
        let exempt = name.starts_with("head_") || (name.starts_with("add_rms_norm") && foreign);
        failures.extend(
            refused(backend, call, change, expected, !exempt).map(|reason| Failure::new(backend, name, reason)),
        );
    };
    for op in operations() {
        let case = Case::new(op, Values::Normal);
        let call = match case.call() {
            Ok(call) => call,
            Err(error) => {
                wrong.push(Failure::new(backend, case.to_string(), Reason::Case(error)));
                continue;
            }
        };
        for i in 0..call.outputs.len() + call.inputs.len() {
            for (what, change, expected) in changes(case.op.name(), &call, i) {
                attempt(format!("{} with {what}", case.op.name()), &call, Some((i, change)), expected);
            }
        }
    }
    for (name, call, expected) in misuses() {
        attempt(name, &call, None, expected);
    }
    failures.extend(wrong);
    failures
}

/// One of each, with no two sizes alike.
fn operations() -> Vec<Op> {
    let (t, k, n, d, v) = (3, 4, 5, 6, 7);
    let (dtype, accum, act) = (DType::F32, Accum::Set, Activation::Silu);
    let spec = AttnSpec::packed(4, 2, 3, vec![0, 2, 5]);
    vec![
        Op::Convert { n, from: DType::F32, to: DType::BF16 },
        Op::Fill { n },
        Op::WriteRows { rows: 5, cols: 3, at: 3, src_rows: 2 },
        Op::Add { n },
        Op::Accumulate { n, accum },
        Op::Scale { n },
        Op::SumSquares { n },
        Op::Gated { n, act },
        Op::GatedBackward { n, act },
        Op::Activation { n, act },
        Op::ActivationBackward { n, act },
        Op::Embed { t, v, d, dtype },
        Op::EmbedBackward { t, v, d },
        Op::Linear { t, k, n, dtype },
        Op::LinearDx { t, k, n, dtype, accum },
        Op::LinearDw { t, k, n, dtype },
        Op::RmsNorm { t, d, dtype },
        Op::RmsNormBackward { t, d, dtype, accum },
        Op::AddRmsNorm { t, d, dtype },
        Op::Rope { t, heads: 2, h: 4, inverse: false },
        Op::Attention { spec: spec.clone(), spare: 0 },
        Op::AttentionBackward { spec },
        Op::CrossEntropyRows { t, v, ignore_every: 0 },
        Op::KlRows { t, v },
        Op::CompareRows { t, v, ignore_every: 0 },
        Op::HeadCrossEntropy { t, d, v, dtype, wanted: Wanted::DxDw, ignore_every: 0 },
        Op::HeadKl { t, d, e: 4, v, dtype, wanted: Wanted::DxDw },
        Op::HeadCompare { t, d, e: 4, v, dtype, ignore_every: 0 },
        Op::Split { n },
        Op::Join { n },
        Op::AdamW { n, moments: DType::F32 },
    ]
}

/// What can be wrong with operand `i`, outputs first, and how the operation has to say so.
fn changes(op: &str, call: &Call, i: usize) -> Vec<(String, Change, Expected)> {
    let outputs = call.outputs.len();
    let operand = if i < outputs { &call.outputs[i] } else { &call.inputs[i - outputs] };
    let what = operand.what;
    let mut changes = vec![(format!("{what} of another backend"), Change::Foreign, FOREIGN)];
    if i < outputs {
        changes.push((format!("{what} shared"), Change::Shared, ALIASED));
    }
    // An operand alone has no shape to differ from, unless there are targets.
    let alone = outputs + call.inputs.len() == 1 && operand.dims.len() == 1;
    if !alone {
        if operand.rows != Rows::OrMore {
            changes.push((format!("one row more of {what}"), Change::Rows(operand.dims[0] + 1), SHAPE));
        }
        if operand.rows != Rows::OrFewer {
            changes.push((format!("one row less of {what}"), Change::Rows(operand.dims[0] - 1), SHAPE));
        }
    }
    if operand.dims.len() > 1 && outputs + call.inputs.len() > 1 {
        changes.push((format!("one column more of {what}"), Change::Cols, SHAPE));
        changes.push((format!("{what} transposed"), Change::Transposed, SHAPE));
    }
    // A weight or a table may be a view; the heads' losses hand theirs on to products.
    let viewable = matches!(op, "linear" | "embed") && what == "w" || op.starts_with("head_");
    if !viewable && operand.dims.len() == 2 && 1 < operand.dims[0] && 0 < operand.dims[1] {
        changes.push((format!("{what} a view of columns"), Change::View, STRIDED));
    }
    let wrong: &[DType] = match operand.types {
        Types::F32 => &[DType::BF16, DType::F16],
        Types::BF16 => &[DType::F32, DType::F16],
        Types::Weight => &[DType::F16],
        Types::Any => &[],
    };
    for &dtype in wrong {
        changes.push((format!("{what} in {dtype}"), Change::Type(dtype), TYPE));
    }
    changes
}

/// The operand with another shape or type; its values do not matter.
fn changed(operand: &Operand, change: Change) -> Operand {
    let mut operand = operand.clone();
    match change {
        Change::Rows(rows) => operand.dims[0] = rows,
        Change::Cols => operand.dims[1] += 1,
        Change::Transposed => operand.dims.swap(0, 1),
        Change::Type(dtype) => operand.dtype = dtype,
        Change::View => operand.gap = 2,
        Change::Shared | Change::Foreign => {}
    }
    operand.values.resize(operand.dims.iter().product(), 0.5);
    operand
}

fn upload(backend: &dyn Backend, operand: &Operand, change: Option<Change>) -> Result<Tensor> {
    let Some(change) = change else { return operand.upload(backend) };
    let operand = changed(operand, change);
    if !matches!(change, Change::Foreign) {
        return operand.upload(backend);
    }
    let foreign = |e| Error::Tensor { op: "conformance", source: e };
    let shape = Shape::new(&operand.dims).map_err(foreign)?;
    let buffer = Arc::new(Foreign(operand.dtype.bytes(shape.elements())));
    Tensor::new(buffer, operand.dtype, shape).map_err(foreign)
}

/// Runs `call` with one operand changed; `None` if it is refused as `expected`, and, if `clean`, with every output as it was.
fn refused(
    backend: &dyn Backend,
    call: &Call,
    change: Option<(usize, Change)>,
    expected: Expected,
    clean: bool,
) -> Option<Reason> {
    let attempt = || {
        let change_of = |i: usize| change.filter(|(at, _)| *at == i).map(|(_, change)| change);
        let operands = call.outputs.iter().chain(&call.inputs).enumerate();
        let mut outputs: Vec<Tensor> =
            operands.map(|(i, o)| upload(backend, o, change_of(i))).collect::<Result<_>>()?;
        let inputs = outputs.split_off(call.outputs.len());
        let shared = match change {
            Some((i, Change::Shared)) => outputs.get(i).cloned(),
            _ => None,
        };
        let readable = |i: usize| !matches!(change_of(i), Some(Change::Foreign | Change::View));
        let bits = |outputs: &[Tensor]| -> Result<Vec<Vec<u32>>> {
            let read = outputs.iter().enumerate().filter(|(i, _)| readable(*i)).map(|(_, t)| backend.download(t));
            read.map(|values| Ok(values?.iter().map(|x| x.to_bits()).collect())).collect()
        };
        let before = bits(&outputs)?;
        let answer = call.run(backend, &mut outputs, &inputs);
        let after = bits(&outputs)?;
        drop(shared);
        let names = call.outputs.iter().enumerate().filter(|(i, _)| readable(*i)).map(|(_, o)| o.what);
        let written = names.zip(before.iter().zip(&after)).find(|(_, (a, b))| a != b).map(|(what, _)| what);
        Ok((answer, written))
    };
    match fenced(attempt) {
        Err(panicked) => Some(panicked),
        // Not the call, but an upload or a download around it.
        Ok(Err(error)) => Some(Reason::Refused(error)),
        Ok(Ok((Ok(_), _))) => Some(Reason::Accepted { got: "with success".into(), want: expected.name }),
        Ok(Ok((Err(error), _))) if !(expected.is)(&error) => {
            Some(Reason::Accepted { got: format!("with \"{error}\""), want: expected.name })
        }
        Ok(Ok((Err(_), written))) => written.filter(|_| clean).map(|output| Reason::Wrote { output }),
    }
}

/// A name, a call, and how it has to be refused.
type Misuse = (String, Call, Expected);

/// What is not an operand: lists of indices, sequences, types to compute in, sizes.
fn misuses() -> Vec<Misuse> {
    [memory(), indices(), targets(), rotations(), sequences(), shared()].into_iter().flatten().collect()
}

/// An operand of halves.
fn halves(what: &'static str, dims: &[usize]) -> Operand {
    Operand::f32(what, dims, vec![0.5; dims.iter().product()])
}

fn none((): ()) -> Vec<f64> {
    Vec::new()
}

fn one(x: f64) -> Vec<f64> {
    vec![x]
}

fn memory() -> Vec<Misuse> {
    let shape = |dims: &[usize]| Shape::new(dims).map_err(Error::in_op("conformance"));
    let upload = |n: usize| {
        let call = Call::new([], [], move |b, [], []| {
            b.upload(&vec![1.0; n], DType::F32, shape(&[2, 3])?).map(|_| Vec::new())
        });
        (format!("upload of {n} values to [2, 3]"), call, LENGTH)
    };
    let bytes = |n: usize| {
        let call = Call::new([], [], move |b, [], []| {
            b.upload_bytes(&vec![0; n], DType::BF16, shape(&[2, 3])?).map(|_| Vec::new())
        });
        (format!("upload_bytes of {n} bytes to 6 of two"), call, LENGTH)
    };
    // A shape that can be said and not be had.
    let alloc = Call::new([], [], move |b, [], []| b.alloc(DType::F32, shape(&[1 << 58])?).map(|_| Vec::new()));
    let zeros = Call::new([], [], move |b, [], []| b.zeros(DType::F32, shape(&[1 << 58])?).map(|_| Vec::new()));
    let write = |at: usize| {
        let call = Call::new([halves("dst", &[3, 4])], [halves("src", &[2, 4])], move |b, [dst], [src]| {
            b.write_rows(dst, at, src).map(none)
        });
        (format!("write_rows of 2 rows into 3 at {at}"), call, INDEX)
    };
    let compute =
        Call::new([halves("dw", &[5, 4])], [halves("dy", &[3, 5]), halves("x", &[3, 4])], |b, [dw], [dy, x]| {
            b.linear_dw(dw, dy, x, DType::F16).map(none)
        });
    vec![
        upload(5),
        upload(7),
        bytes(11),
        bytes(14),
        ("alloc of 2^60 bytes".into(), alloc, MEMORY),
        ("zeros of 2^60 bytes".into(), zeros, MEMORY),
        write(2),
        write(usize::MAX),
        ("linear_dw computing in f16".into(), compute, UNSUPPORTED),
    ]
}

fn indices() -> Vec<Misuse> {
    let mut list = Vec::new();
    // A table of five rows, three tokens.
    for (ids, expected) in [(vec![0, 5, 1], INDEX), (vec![0, IGNORE, 1], INDEX), (vec![0, 1], SHAPE)] {
        let (name, of) = (format!("with ids {ids:?} of 5"), ids.clone());
        let embed =
            Call::new([halves("y", &[3, 4])], [halves("w", &[5, 4])], move |b, [y], [w]| b.embed(y, &of, w).map(none));
        list.push((format!("embed {name}"), embed, expected));
        let backward = Call::new([halves("dw", &[5, 4])], [halves("dy", &[3, 4])], move |b, [dw], [dy]| {
            b.embed_backward(dw, dy, &ids).map(none)
        });
        list.push((format!("embed_backward {name}"), backward, expected));
    }
    list
}

fn targets() -> Vec<Misuse> {
    let mut list = Vec::new();
    // A vocabulary of four, three tokens.
    for (targets, expected) in [(vec![0, 4, 1], INDEX), (vec![0, 1], SHAPE)] {
        let name = format!("with targets {targets:?} of 4");
        let [of_rows, of_comparison, of_head, of_heads] = [0; 4].map(|_| targets.clone());
        let rows = Call::new([halves("logits", &[3, 4])], [], move |b, [logits], []| {
            b.cross_entropy_rows(logits, &of_rows, SCALE).map(one)
        });
        list.push((format!("cross_entropy_rows {name}"), rows, expected));
        let both = [halves("student", &[3, 4]), halves("teacher", &[3, 4])];
        let comparison = Call::new([], both, move |b, [], [student, teacher]| {
            b.compare_rows(student, teacher, &of_comparison).map(|_| Vec::new())
        });
        list.push((format!("compare_rows {name}"), comparison, expected));
        let (dx, x, w) = (halves("dx", &[3, 2]), halves("x", &[3, 2]), halves("w", &[4, 2]));
        let heads = Call::new([], [x.clone(), w.clone()], move |b, [], [x, w]| {
            b.head_compare(x, w, x, w, &of_heads).map(|_| Vec::new())
        });
        list.push((format!("head_compare {name}"), heads, expected));
        let head = Call::new([dx], [x, w], move |b, [dx_td], [x, w]| {
            b.head_cross_entropy(Some(HeadGrads { dx_td, dw_vd: None }), x, w, &of_head, SCALE).map(one)
        });
        list.push((format!("head_cross_entropy {name}"), head, expected));
    }
    list
}

fn rotations() -> Vec<Misuse> {
    let rotation = |(positions, h, expected): (Vec<u32>, usize, Expected)| {
        let name = format!("rope of rows of 4 in heads of {h} at {positions:?} of 9");
        let call = Call::new([halves("x", &[3, 4])], [halves("table", &[9, h])], move |b, [x], [table]| {
            b.rope(x, table, &positions, false).map(none)
        });
        (name, call, expected)
    };
    let wrong = [
        (vec![0, 9, 1], 4, INDEX),
        (vec![0, 1], 4, SHAPE),
        (vec![0, 1, 2], 1, SHAPE),
        (vec![0, 1, 2], 0, SHAPE),
        (vec![0, 1, 2], 6, SHAPE),
    ];
    wrong.map(rotation).into()
}

/// An output that is also an input, or a part of one.
fn shared() -> Vec<Misuse> {
    let own = Call::new([halves("y", &[3, 4])], [], |b, [y], []| {
        let x = y.clone();
        b.accumulate(y, Accum::Add, &x).map(none)
    });
    let rows = Call::new([halves("y", &[3, 4]), halves("rstd", &[1])], [halves("w", &[4])], |b, [y, rstd], [w]| {
        let row = y.rows(0..1).map_err(Error::in_op("conformance"))?;
        let mut other = y.rows(1..2).map_err(Error::in_op("conformance"))?;
        b.rms_norm(&mut other, rstd, &row, w, EPS).map(none)
    });
    let moments = Call::new(
        [halves("w", &[4]), halves("m", &[4]), halves("v", &[4])],
        [halves("grad", &[4])],
        |b, [w, m, v], [grad]| {
            let kept = v.clone();
            let answer = b.adamw(w, m, v, grad, &ADAMW).map(none);
            drop(kept);
            answer
        },
    );
    let halves_of = |what| Operand::short(what, &[4], vec![0.5; 4]);
    let low = Call::new(
        [halves_of("high"), halves_of("low"), halves("m", &[4]), halves("v", &[4])],
        [halves("grad", &[4])],
        |b, [high, low, m, v], [grad]| {
            let kept = low.clone();
            let answer = b.adamw_split(high, low, m, v, grad, &ADAMW).map(none);
            drop(kept);
            answer
        },
    );
    vec![
        ("accumulate of a tensor onto itself".into(), own, ALIASED),
        ("rms_norm from one row of a tensor into another".into(), rows, ALIASED),
        ("adamw with a clone of v alive".into(), moments, ALIASED),
        ("adamw_split with a clone of low alive".into(), low, ALIASED),
    ]
}

/// Attention over sequences that are none: forward and backward.
fn sequences() -> Vec<Misuse> {
    // Five tokens, two query heads of width two on one key/value head.
    let spec = |heads, kv_heads, cu_len: &[usize], past| AttnSpec {
        past,
        ..AttnSpec::packed(heads, kv_heads, 2, cu_len.to_vec())
    };
    let specs = [
        ("over sequences that do not ascend", spec(2, 1, &[0, 4, 2, 5], 0), UNSUPPORTED),
        ("over sequences that start late", spec(2, 1, &[1, 5], 0), UNSUPPORTED),
        ("without a list of sequences", spec(2, 1, &[], 0), UNSUPPORTED),
        ("without key/value heads", spec(2, 0, &[0, 5], 0), UNSUPPORTED),
        ("with heads that do not divide", spec(2, 3, &[0, 5], 0), UNSUPPORTED),
        ("with a cache for two sequences", spec(2, 1, &[0, 2, 5], 3), UNSUPPORTED),
        ("with a cache that is too short", spec(2, 1, &[0, 5], 3), SHAPE),
        ("over more tokens than there are", spec(2, 1, &[0, 6], 0), SHAPE),
        ("with a window of no keys", AttnSpec { window: Some(0), ..spec(2, 1, &[0, 5], 0) }, UNSUPPORTED),
        ("with a soft cap of zero", AttnSpec { softcap: Some(0.0), ..spec(2, 1, &[0, 5], 0) }, UNSUPPORTED),
        ("with a soft cap of NaN", AttnSpec { softcap: Some(f32::NAN), ..spec(2, 1, &[0, 5], 0) }, UNSUPPORTED),
    ];
    let forward = |spec: AttnSpec| {
        Call::new(
            [halves("y", &[5, 4]), halves("lse", &[5, 2])],
            [halves("q", &[5, 4]), halves("k", &[5, 2]), halves("v", &[5, 2])],
            move |b, [y, lse], [q, k, v]| b.attention(y, lse, q, k, v, &spec).map(none),
        )
    };
    let backward = |spec: AttnSpec, keys: usize| {
        let of_q = |what| halves(what, &[5, 4]);
        let of_k = |what| halves(what, &[keys, 2]);
        Call::new(
            [of_q("dq"), of_k("dk"), of_k("dv")],
            [of_q("dy"), of_q("y"), halves("lse", &[5, 2]), of_q("q"), of_k("k"), of_k("v")],
            move |b, [dq, dk, dv], [dy, y, lse, q, k, v]| {
                b.attention_backward(dq, dk, dv, dy, y, lse, q, k, v, &spec).map(none)
            },
        )
    };
    let mut list = Vec::new();
    for (what, spec, expected) in specs {
        list.push((format!("attention {what}"), forward(spec.clone()), expected));
        list.push((format!("attention_backward {what}"), backward(spec, 5), expected));
    }
    let cached = backward(spec(2, 1, &[0, 5], 3), 8);
    list.push(("attention_backward with a cache".into(), cached, NOT_RECORDING));
    list
}
