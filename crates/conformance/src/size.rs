//! What rounding errors of an output are measured by: the sum of the absolute values of the terms that make it.
//!
//! A result's own value is no measure where terms cancel, and the largest value of a tensor is none for its small entries, which an outlier
//! would hide. Errors of terms count as well: `exp(x - max)` inherits the rounding of its argument, so its size is `1 + |x - max|` times it.
use crate::{
    activation,
    call::{Call, wide},
    case::{Case, EPS, SCALE},
    check::Outcome,
    op::Op,
};
use paring_ops::{Accum, AttnSpec, Backend, IGNORE, Result};
use paring_reference::Reference;
use paring_tensor::{DType, block::LEN, round_to};

/// How one output tensor is compared.
pub(crate) enum Size {
    /// Bit by bit.
    Exact,
    /// By the size of each element, in the bounds of a type.
    Rounded(DType, Vec<f64>),
    /// By the size of each element, where one side may have rounded factors to bf16 and the other not.
    Factors(Vec<f64>),
}

/// Sizes of the output tensors, and of the returned numbers, where 0 is exact.
type Sizes = (Vec<Size>, Vec<f64>);

/// Exponentials may be flushed to zero below the smallest normal f32 (2^-126); 2^-100 times the bound of f32 allows for that.
pub(crate) const UNDERFLOW: f64 = 1.0 / (1u128 << 100) as f64;

pub(crate) fn sizes(case: &Case, call: &Call, want: &Outcome) -> Result<Sizes> {
    let f32s = |sizes: Vec<Vec<f64>>| sizes.into_iter().map(|s| Size::Rounded(DType::F32, s)).collect::<Vec<Size>>();
    Ok(match &case.op {
        Op::Alloc { .. } | Op::Zeros { .. } | Op::Upload { .. } | Op::UploadBytes { .. } => exact(),
        Op::Convert { .. } | Op::Fill { .. } | Op::WriteRows { .. } => exact(),
        // One rounding each, which IEEE 754 prescribes.
        Op::Add { .. } | Op::Accumulate { .. } | Op::Scale { .. } => exact(),
        Op::Embed { .. } | Op::EmbedView { .. } => exact(),
        Op::SumSquares { .. } => (Vec::new(), want.numbers.clone()),
        Op::EmbedBackward { .. } => (f32s(absolute(call)?), Vec::new()),
        Op::Linear { .. } | Op::LinearView { .. } | Op::LinearDx { .. } | Op::LinearDw { .. } => {
            (f32s(absolute(call)?), Vec::new())
        }
        Op::RmsNorm { .. } => (f32s(absolute(call)?), Vec::new()),
        Op::AddRmsNorm { d, .. } => (add_rms_norm(call, *d), Vec::new()),
        Op::Gated { act, .. } => (f32s(vec![activation::gated(call, *act)]), Vec::new()),
        Op::GatedBackward { act, .. } => (f32s(activation::gated_backward(call, *act)), Vec::new()),
        Op::Activation { act, .. } => (f32s(vec![activation::activation(call, *act)]), Vec::new()),
        Op::ActivationBackward { act, .. } => (f32s(vec![activation::activation_backward(call, *act)]), Vec::new()),
        Op::RmsNormBackward { d, accum, .. } => (f32s(rms_norm_backward(call, *d, *accum)), Vec::new()),
        Op::Rope { heads, h, .. } => (f32s(vec![rope(call, *heads, *h)]), Vec::new()),
        Op::Attention { spec, .. } => (attended(spec, attention(call, spec)), Vec::new()),
        Op::AttentionBackward { spec } => (attended(spec, attention_backward(call, spec)), Vec::new()),
        Op::CrossEntropyRows { t, v, ignore_every } => {
            let (gradient, loss) = cross_entropy(&wide(&call.outputs[0]), &case.targets(*t, *v, *ignore_every), *v);
            (f32s(vec![gradient]), vec![loss])
        }
        Op::KlRows { v, .. } => {
            let (gradient, loss) = kl(&wide(&call.outputs[0]), &call.input(0), *v);
            (f32s(vec![gradient]), vec![loss])
        }
        Op::CompareRows { t, v, ignore_every } => {
            let targets = case.targets(*t, *v, *ignore_every);
            let (student, teacher) = (call.input(0), call.input(1));
            let nll = |logits: &[f64]| cross_entropy(logits, &targets, *v).1;
            (Vec::new(), vec![0.0, nll(&student), nll(&teacher), kl(&student, &teacher, *v).1, 0.0])
        }
        Op::HeadCrossEntropy { t, d, v, dtype, ignore_every, .. } => {
            let targets = case.targets(*t, *v, *ignore_every);
            let head = Logits::of(call, 0, *d, *dtype);
            head_gradients(call, &head, *dtype, *v, |row, i| match targets[row] {
                IGNORE => 0.0,
                target => head.size(row, i) + f64::from(target == i as u32),
            })
        }
        Op::HeadKl { d, e, v, dtype, .. } => {
            let (head, teacher) = (Logits::of(call, 0, *d, *dtype), Logits::of(call, 2, *e, *dtype));
            let (tensors, numbers) =
                head_gradients(call, &head, *dtype, *v, |row, i| head.size(row, i) + teacher.size(row, i));
            (tensors, vec![numbers[0] + teacher.loss])
        }
        Op::HeadCompare { d, e, dtype, .. } => {
            let (head, teacher) = (Logits::of(call, 0, *d, *dtype), Logits::of(call, 2, *e, *dtype));
            (Vec::new(), vec![0.0, head.loss, teacher.loss, head.loss + teacher.loss, 0.0])
        }
        Op::Split { .. } => (vec![Size::Exact, Size::Exact], Vec::new()),
        Op::Join { .. } => exact(),
        Op::AdamW { moments, .. } => (adamw(call, want, [DType::F32, *moments, *moments]), Vec::new()),
        Op::AdamWSplit { moments, .. } => {
            let mut sizes = adamw(call, want, [DType::F32, *moments, *moments]);
            // The upper half is the weight, rounded.
            sizes.push(Size::Rounded(DType::BF16, wide_of(&want.tensors[0])));
            (sizes, Vec::new())
        }
    })
}

fn exact() -> Sizes {
    (vec![Size::Exact], Vec::new())
}

/// An operation that is linear in each operand: what it makes of absolute values.
fn absolute(call: &Call) -> Result<Vec<Vec<f64>>> {
    let b = Reference;
    let upload = |operand: &crate::call::Operand| {
        let mut operand = operand.clone();
        match operand.dtype {
            // `d q + m` are two terms: the first is what lies above the block's minimum `m`.
            DType::Q4_1 => operand.values.chunks_mut(LEN).for_each(|block| {
                let least = block.iter().copied().fold(f32::INFINITY, f32::min);
                block.iter_mut().for_each(|w| *w = (*w - least) + least.abs());
            }),
            _ => operand.values.iter_mut().for_each(|x| *x = x.abs()),
        }
        operand.upload(&b)
    };
    let mut outputs = call.outputs.iter().map(upload).collect::<Result<Vec<_>>>()?;
    let inputs = call.inputs.iter().map(upload).collect::<Result<Vec<_>>>()?;
    call.run(&b, &mut outputs, &inputs)?;
    outputs.iter().map(|t| Ok(b.download(t)?.into_iter().map(f64::from).collect())).collect()
}

/// The sum is exact, and where its terms cancel the norm starts from what is left: it is sized by that.
fn add_rms_norm(call: &Call, d: usize) -> Vec<Size> {
    let (a, b, w) = (&call.inputs[0].values, &call.inputs[1].values, call.input(2));
    let sum: Vec<f64> = a.iter().zip(b).map(|(a, b)| f64::from(a + b)).collect();
    let rstd = |row: &[f64]| 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / d as f64 + f64::from(EPS)).sqrt();
    let rstd: Vec<f64> = sum.chunks(d.max(1)).map(rstd).collect();
    let y = (0..sum.len()).map(|i| (sum[i] * rstd[i / d] * w[i % d]).abs()).collect();
    vec![Size::Exact, Size::Rounded(DType::F32, y), Size::Rounded(DType::F32, rstd)]
}

fn rms_norm_backward(call: &Call, d: usize, accum: Accum) -> Vec<Vec<f64>> {
    let (dy, x, w, rstd) = (call.input(0), call.input(1), call.input(2), call.input(3));
    let mut dx = match accum {
        Accum::Set => vec![0.0; dy.len()],
        Accum::Add => wide(&call.outputs[0]).iter().map(|x| x.abs()).collect(),
    };
    let mut dw: Vec<f64> = wide(&call.outputs[1]).iter().map(|x| x.abs()).collect();
    for (t, r) in rstd.iter().enumerate() {
        let at = t * d;
        let mean = (0..d).map(|j| (dy[at + j] * w[j] * x[at + j]).abs()).sum::<f64>() / d as f64;
        for i in 0..d {
            dx[at + i] += r * ((dy[at + i] * w[i]).abs() + x[at + i].abs() * r * r * mean);
            dw[i] += (dy[at + i] * x[at + i] * r).abs();
        }
    }
    vec![dx, dw]
}

/// A pair turns by cosines and sines, neither above 1.
fn rope(call: &Call, heads: usize, h: usize) -> Vec<f64> {
    let x = wide(&call.outputs[0]);
    let half = h / 2;
    let pair = |i: usize| if i % h < half { i + half } else { i - half };
    (0..x.len()).map(|i| if heads == 0 { 0.0 } else { x[i].abs() + x[pair(i)].abs() }).collect()
}

/// Calls `f` with (query head's first element in q, row of lse, key rows, first column in k and v).
fn each_query(spec: &AttnSpec, mut f: impl FnMut(usize, usize, std::ops::Range<usize>, usize)) {
    for bounds in spec.cu_len.windows(2) {
        for t in bounds[0]..bounds[1] {
            for head in 0..spec.heads {
                let kv = head / spec.group() * spec.head_dim;
                let first = bounds[0] + spec.first_key(spec.past + t - bounds[0]);
                f(t * spec.q_cols() + head * spec.head_dim, t * spec.heads + head, first..spec.past + t + 1, kv);
            }
        }
    }
}

/// Probabilities of one query, with their size: relative to the probability, what the scores' sums are.
struct Probabilities {
    p: Vec<f64>,
    size: f64,
    /// Size of each score's derivative, which is 1 without a soft cap.
    slope: Vec<f64>,
}

fn probabilities(q: &[f64], k: &[f64], keys: std::ops::Range<usize>, kv: usize, spec: &AttnSpec) -> Probabilities {
    let scale = f64::from(spec.scale);
    let products = |j: usize| q.iter().zip(&k[j * spec.kv_cols() + kv..]).map(|(q, k)| scale * q * k);
    let (mut scores, mut slope, mut largest) = (Vec::new(), Vec::new(), 0f64);
    for j in keys {
        let (x, terms) = (products(j).sum::<f64>(), products(j).map(f64::abs).sum::<f64>());
        match spec.softcap.map(f64::from) {
            None => {
                scores.push(x);
                slope.push(1.0);
                largest = largest.max(terms);
            }
            // An error of x shrinks by the derivative of cap * tanh(x / cap), and changes that derivative by 2 tanh of itself.
            Some(cap) => {
                let (score, derivative) = (cap * (x / cap).tanh(), (x / cap).cosh().powi(-2));
                scores.push(score);
                slope.push(derivative * (1.0 + 2.0 * terms / cap) + UNDERFLOW);
                largest = largest.max(derivative * terms + score.abs());
            }
        }
    }
    let (p, lse, _) = softmax(&scores);
    // The log of the normaliser is kept in f32, and backward starts from that.
    Probabilities { p, size: 1.0 + largest + lse.abs(), slope }
}

/// Sizes in the bound of what the spec allows to be rounded.
fn attended(spec: &AttnSpec, sizes: Vec<Vec<f64>>) -> Vec<Size> {
    let size = |sizes| match spec.compute {
        DType::BF16 => Size::Factors(sizes),
        _ => Size::Rounded(DType::F32, sizes),
    };
    sizes.into_iter().map(size).collect()
}

fn attention(call: &Call, spec: &AttnSpec) -> Vec<Vec<f64>> {
    let (q, k, v) = (call.input(0), call.input(1), call.input(2));
    let (h, kc) = (spec.head_dim, spec.kv_cols());
    let (mut y, mut lse) = (vec![0.0; q.len()], vec![0.0; spec.n_tokens() * spec.heads]);
    each_query(spec, |at, row, keys, kv| {
        let Probabilities { p, size: factor, .. } = probabilities(&q[at..at + h], &k, keys.clone(), kv, spec);
        lse[row] = factor;
        for (p, j) in p.iter().zip(keys) {
            (0..h).for_each(|c| y[at + c] += factor * p * v[j * kc + kv + c].abs());
        }
    });
    vec![y, lse]
}

fn attention_backward(call: &Call, spec: &AttnSpec) -> Vec<Vec<f64>> {
    let [dy, _, _, q, k, v] = [0, 1, 2, 3, 4, 5].map(|i| call.input(i));
    let (h, kc, scale) = (spec.head_dim, spec.kv_cols(), f64::from(spec.scale).abs());
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    each_query(spec, |at, _, keys, kv| {
        let Probabilities { p, size: factor, slope } = probabilities(&q[at..at + h], &k, keys.clone(), kv, spec);
        let dp = |j: usize| (0..h).map(|c| (dy[at + c] * v[j * kc + kv + c]).abs()).sum::<f64>();
        let dp: Vec<f64> = keys.clone().map(dp).collect();
        let mean: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
        for (i, j) in keys.enumerate() {
            let ds = scale * factor * slope[i] * p[i] * (dp[i] + mean);
            let key = j * kc + kv;
            for c in 0..h {
                dq[at + c] += ds * k[key + c].abs();
                dk[key + c] += ds * q[at + c].abs();
                dv[key + c] += factor * p[i] * dy[at + c].abs();
            }
        }
    });
    vec![dq, dk, dv]
}

/// Softmax, the log of its normaliser, and the maximum.
fn softmax(row: &[f64]) -> (Vec<f64>, f64, f64) {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + row.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
    (row.iter().map(|x| (x - lse).exp()).collect(), lse, max)
}

/// `p (1 + |x - max|)`; what has no probability has no error, though x be infinite.
fn sized(p: f64, x: f64, max: f64) -> f64 {
    if p == 0.0 { 0.0 } else { p * (1.0 + (x - max).abs()) }
}

fn cross_entropy(logits: &[f64], targets: &[u32], v: usize) -> (Vec<f64>, f64) {
    let scale = f64::from(SCALE);
    let (mut gradient, mut loss) = (vec![0.0; logits.len()], 0.0);
    for (t, &target) in targets.iter().enumerate().filter(|(_, target)| **target != IGNORE) {
        let row = &logits[t * v..][..v];
        let (p, lse, max) = softmax(row);
        loss += 1.0 + lse.abs() + row[target as usize].abs();
        for i in 0..v {
            gradient[t * v + i] = scale * (sized(p[i], row[i], max) + f64::from(i == target as usize));
        }
    }
    (gradient, loss)
}

fn kl(student: &[f64], teacher: &[f64], v: usize) -> (Vec<f64>, f64) {
    let scale = f64::from(SCALE);
    let (mut gradient, mut loss) = (Vec::new(), 0.0);
    for (student, teacher) in student.chunks(v.max(1)).zip(teacher.chunks(v.max(1))) {
        let ((q, _, q_max), (p, _, p_max)) = (softmax(student), softmax(teacher));
        for i in 0..v {
            let (q_size, p_size) = (sized(q[i], student[i], q_max), sized(p[i], teacher[i], p_max));
            gradient.push(scale * (q_size + p_size));
            loss += p_size + if p[i] == 0.0 { 0.0 } else { p[i] * (1.0 + (student[i] - q_max).abs()) };
        }
    }
    (gradient, loss)
}

/// The logits of one head, as probabilities with their sizes.
struct Logits {
    v: usize,
    p: Vec<f64>,
    /// Per row: `1 +` the largest sum of absolute products.
    factor: Vec<f64>,
    /// Of a loss summed over all rows.
    loss: f64,
}

impl Logits {
    /// Of the product of inputs `first` and `first + 1`.
    fn of(call: &Call, first: usize, d: usize, dtype: DType) -> Logits {
        let x: Vec<f64> = call.inputs[first].values.iter().map(|&x| f64::from(round_to(x, dtype))).collect();
        let w = call.input(first + 1);
        let (t, v) = (call.inputs[first].dims[0], call.inputs[first + 1].dims[0]);
        let mut logits = Logits { v, p: Vec::new(), factor: Vec::new(), loss: 0.0 };
        for row in 0..t {
            let products = |i: usize| (0..d).map(move |j| (row * d + j, i * d + j)).map(|(a, b)| x[a] * w[b]);
            let (p, lse, _) = softmax(&(0..v).map(|i| products(i).sum()).collect::<Vec<f64>>());
            let factor = 1.0 + (0..v).map(|i| products(i).map(f64::abs).sum::<f64>()).fold(0.0, f64::max);
            logits.loss += if v == 0 { 0.0 } else { factor + lse.abs() };
            logits.factor.push(factor);
            logits.p.extend(p);
        }
        logits
    }

    fn size(&self, row: usize, i: usize) -> f64 {
        self.factor[row] * self.p[row * self.v + i]
    }
}

/// Sizes of dx and dw, as far as they are asked for, when that of the gradient of logit `i` of a row is `size(row, i)`.
///
/// That gradient is rounded to the type of the head. Where two backends differ in the last digit of f32 they may round to neighbours, so
/// the bounds are those of that type.
fn head_gradients(call: &Call, head: &Logits, dtype: DType, v: usize, size: impl Fn(usize, usize) -> f64) -> Sizes {
    let (x, w, scale) = (call.input(0), call.input(1), f64::from(SCALE));
    let d = call.inputs[0].dims[1];
    let mut dx = vec![0.0; x.len()];
    let mut dw: Vec<f64> =
        call.outputs.get(1).map_or(vec![0.0; w.len()], |o| wide(o).iter().map(|x| x.abs()).collect());
    for row in 0..call.inputs[0].dims[0] {
        for i in 0..v {
            let g = scale * size(row, i);
            for j in 0..d {
                dx[row * d + j] += g * w[i * d + j].abs();
                dw[i * d + j] += g * x[row * d + j].abs();
            }
        }
    }
    let tensors = [dx, dw].into_iter().take(call.outputs.len()).map(|s| Size::Rounded(dtype, s)).collect();
    (tensors, vec![head.loss])
}

/// The old value and the change, which is at most old and new together; the second moment only grows from zero.
fn adamw(call: &Call, want: &Outcome, dtypes: [DType; 3]) -> Vec<Size> {
    let both = |i: usize| {
        let old = wide(&call.outputs[i]);
        old.iter().zip(&want.tensors[i]).map(|(old, &new)| old.abs() + f64::from(new).abs()).collect::<Vec<f64>>()
    };
    dtypes.into_iter().enumerate().map(|(i, dtype)| Size::Rounded(dtype, both(i))).collect()
}

fn wide_of(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x).abs()).collect()
}
