//! A case: an operation, its shapes, the kind of numbers, and a seed. What is to be uploaded and called is made from these four.
use crate::{
    call::{Call, Operand, Rows},
    op::{Op, Wanted},
    values::{Values, indices, logits, targets},
};
use paring_ops::{Accum, AdamWStep, AttnSpec, Backend, Compared, HeadGrads, Result};
use paring_reference::Reference;
use paring_tensor::{DType, Shape, Tensor};
use std::fmt;

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The operation and its shapes.
    pub op: Op,
    /// What it computes with.
    pub values: Values,
    /// Which numbers of that kind.
    pub seed: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, values {:?}, seed {}", self.op, self.values, self.seed)
    }
}

/// A case whose operands lie in a backend's memory: [`Prepared::run`] is the operation and nothing else, so it can be timed.
pub struct Prepared<'b> {
    backend: &'b dyn Backend,
    call: Call,
    outputs: Vec<Tensor>,
    inputs: Vec<Tensor>,
}

impl Prepared<'_> {
    /// Runs the operation. Outputs that accumulate go on accumulating; the losses of rows turn their own gradients into gradients, which
    /// takes as long as logits do.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn run(&mut self) -> Result<Vec<f64>> {
        self.call.run(self.backend, &mut self.outputs, &self.inputs)
    }
}

pub(crate) const SCALE: f32 = 0.37;
pub(crate) const EPS: f32 = 1e-5;
pub(crate) const ADAMW: AdamWStep = AdamWStep {
    lr: 1e-2,
    beta1: 0.9,
    beta2: 0.95,
    eps: 1e-8,
    weight_decay: 0.1,
    bias1: 0.271,
    bias2_sqrt: 0.377,
    grad_scale: 0.5,
};

/// An operation that returns no number.
fn none((): ()) -> Vec<f64> {
    Vec::new()
}

fn one(x: f64) -> Vec<f64> {
    vec![x]
}

fn compared(c: Compared) -> Vec<f64> {
    vec![c.rows as f64, c.student_nll, c.teacher_nll, c.kl, c.agree as f64]
}

impl Case {
    /// A case with the seed 1.
    pub fn new(op: Op, values: Values) -> Self {
        Case { op, values, seed: 1 }
    }

    /// Uploads the operands.
    ///
    /// # Errors
    /// Those of [`Backend::upload`], and of the reference backend where the case needs a forward first.
    pub fn prepare<'b>(&self, backend: &'b dyn Backend) -> Result<Prepared<'b>> {
        let call = self.call()?;
        let (outputs, inputs) = call.upload(backend)?;
        Ok(Prepared { backend, call, outputs, inputs })
    }

    /// See [`Op::flops`].
    pub fn flops(&self) -> f64 {
        self.op.flops()
    }

    /// Bytes that the operation has to read and write at least: every operand once, twice where it accumulates.
    ///
    /// # Errors
    /// Those of [`Case::prepare`].
    pub fn bytes(&self) -> Result<f64> {
        let bytes = match self.op {
            // Of the table, only the rows that are named.
            Op::Embed { t, d, dtype, .. } | Op::EmbedView { t, d, dtype, .. } => t * (4 * d + dtype.bytes(d)),
            Op::EmbedBackward { t, d, .. } => t * d * 3 * 4,
            _ => self.call()?.bytes(),
        };
        Ok(bytes as f64)
    }

    /// `dims` f32 or weights, filled with operand number `i`.
    fn take(&self, i: u64, dims: &[usize]) -> Vec<f32> {
        self.values.take(self.seed, i, dims.iter().product())
    }

    fn f32(&self, i: u64, what: &'static str, dims: &[usize]) -> Operand {
        Operand::f32(what, dims, self.take(i, dims))
    }

    fn weight(&self, i: u64, what: &'static str, dims: &[usize], dtype: DType) -> Operand {
        Operand::weight(what, dims, dtype, self.take(i, dims))
    }

    fn sum(&self, i: u64, what: &'static str, dims: &[usize]) -> Operand {
        Operand::sum(what, dims, self.take(i, dims))
    }

    /// An activation's gradient.
    fn activation(&self, i: u64, what: &'static str, dims: &[usize], accum: Accum) -> Operand {
        match accum {
            Accum::Set => Operand::out(what, dims),
            Accum::Add => self.sum(i, what, dims),
        }
    }

    pub(crate) fn targets(&self, t: usize, v: usize, ignore_every: usize) -> Vec<u32> {
        targets(self.seed, t, v, ignore_every)
    }

    pub(crate) fn indices(&self, t: usize, v: usize) -> Vec<u32> {
        indices(self.seed, t, v)
    }

    pub(crate) fn call(&self) -> Result<Call> {
        let seed = self.seed;
        Ok(match self.op.clone() {
            Op::Alloc { n, dtype } => Call::new(
                [Operand::any("y", &[n], dtype, vec![7.0; n])],
                [self.f32(0, "x", &[n])],
                move |b, [y], [x]| {
                    *y = b.alloc(dtype, y.shape())?;
                    b.convert(y, x).map(none)
                },
            ),
            Op::Zeros { n, dtype } => {
                Call::new([Operand::any("y", &[n], dtype, vec![7.0; n])], [], move |b, [y], []| {
                    *y = b.zeros(dtype, y.shape())?;
                    Ok(Vec::new())
                })
            }
            Op::Upload { n, dtype } => {
                let values = self.take(0, &[n]);
                Call::new([Operand::any("y", &[n], dtype, vec![7.0; n])], [], move |b, [y], []| {
                    *y = b.upload(&values, dtype, y.shape())?;
                    Ok(Vec::new())
                })
            }
            Op::UploadBytes { n, dtype } => {
                let bytes = paring_tensor::from_f32(&self.take(0, &[n]), dtype);
                Call::new([Operand::any("y", &[n], dtype, vec![7.0; n])], [], move |b, [y], []| {
                    *y = b.upload_bytes(&bytes, dtype, y.shape())?;
                    Ok(Vec::new())
                })
            }
            Op::Convert { n, from, to } => Call::new(
                [Operand::any("y", &[n], to, vec![f32::NAN; n])],
                [Operand::any("x", &[n], from, self.take(0, &[n]))],
                |b, [y], [x]| b.convert(y, x).map(none),
            ),
            Op::Fill { n } => {
                let value = self.take(0, &[1])[0];
                Call::new([Operand::out("y", &[n])], [], move |b, [y], []| b.fill(y, value).map(none))
            }
            Op::WriteRows { rows, cols, at, src_rows } => Call::new(
                [self.sum(1, "dst", &[rows, cols]).with_rows(Rows::OrMore)],
                [self.f32(0, "src", &[src_rows, cols]).with_rows(Rows::OrFewer)],
                move |b, [dst], [src]| b.write_rows(dst, at, src).map(none),
            ),
            Op::Add { n } => Call::new(
                [Operand::out("y", &[n])],
                [self.f32(0, "a", &[n]), self.f32(1, "b", &[n])],
                |b, [y], [a, c]| b.add(y, a, c).map(none),
            ),
            Op::Accumulate { n, accum } => {
                Call::new([self.activation(1, "y", &[n], accum)], [self.f32(0, "x", &[n])], move |b, [y], [x]| {
                    b.accumulate(y, accum, x).map(none)
                })
            }
            Op::Scale { n } => Call::new([self.sum(0, "y", &[n])], [], |b, [y], []| b.scale(y, SCALE).map(none)),
            Op::SumSquares { n } => Call::new([], [self.f32(0, "x", &[n])], |b, [], [x]| b.sum_squares(x).map(one)),
            Op::Gated { n, act } => Call::new(
                [Operand::out("y", &[n])],
                [self.f32(0, "gate", &[n]), self.f32(1, "up", &[n])],
                move |b, [y], [gate, up]| b.gated(y, act, gate, up).map(none),
            ),
            Op::GatedBackward { n, act } => Call::new(
                [Operand::out("dgate", &[n]), Operand::out("dup", &[n])],
                [self.f32(0, "dy", &[n]), self.f32(1, "gate", &[n]), self.f32(2, "up", &[n])],
                move |b, [dgate, dup], [dy, gate, up]| b.gated_backward(dgate, dup, act, dy, gate, up).map(none),
            ),
            Op::Activation { n, act } => {
                Call::new([Operand::out("y", &[n])], [self.f32(0, "x", &[n])], move |b, [y], [x]| {
                    b.activation(y, act, x).map(none)
                })
            }
            Op::ActivationBackward { n, act } => Call::new(
                [Operand::out("dx", &[n])],
                [self.f32(0, "dy", &[n]), self.f32(1, "x", &[n])],
                move |b, [dx], [dy, x]| b.activation_backward(dx, act, dy, x).map(none),
            ),
            Op::Embed { t, v, d, dtype } => {
                let ids = self.indices(t, v);
                let w = self.weight(0, "w", &[v, d], dtype).with_rows(Rows::OrMore);
                Call::new([Operand::out("y", &[t, d])], [w], move |b, [y], [w]| b.embed(y, &ids, w).map(none))
            }
            Op::EmbedView { t, v, d, gap, dtype } => {
                let ids = self.indices(t, v);
                let w = self.weight(0, "w", &[v, d], dtype).with_rows(Rows::OrMore).with_gap(gap);
                Call::new([Operand::out("y", &[t, d])], [w], move |b, [y], [w]| b.embed(y, &ids, w).map(none))
            }
            Op::LinearView { t, k, n, gap, dtype } => Call::new(
                [Operand::out("y", &[t, n])],
                [self.f32(0, "x", &[t, k]), self.weight(1, "w", &[n, k], dtype).with_gap(gap)],
                |b, [y], [x, w]| b.linear(y, x, w).map(none),
            ),
            Op::EmbedBackward { t, v, d } => {
                let ids = self.indices(t, v);
                Call::new(
                    [self.sum(1, "dw", &[v, d]).with_rows(Rows::OrMore)],
                    [self.f32(0, "dy", &[t, d])],
                    move |b, [dw], [dy]| b.embed_backward(dw, dy, &ids).map(none),
                )
            }
            Op::Linear { t, k, n, dtype } => Call::new(
                [Operand::out("y", &[t, n])],
                [self.f32(0, "x", &[t, k]), self.weight(1, "w", &[n, k], dtype)],
                |b, [y], [x, w]| b.linear(y, x, w).map(none),
            ),
            Op::LinearDx { t, k, n, dtype, accum } => Call::new(
                [self.activation(2, "dx", &[t, k], accum)],
                [self.f32(0, "dy", &[t, n]), self.weight(1, "w", &[n, k], dtype)],
                move |b, [dx], [dy, w]| b.linear_dx(dx, accum, dy, w).map(none),
            ),
            Op::LinearDw { t, k, n, dtype } => Call::new(
                [self.sum(2, "dw", &[n, k])],
                [self.f32(0, "dy", &[t, n]), self.f32(1, "x", &[t, k])],
                move |b, [dw], [dy, x]| b.linear_dw(dw, dy, x, dtype).map(none),
            ),
            Op::RmsNorm { t, d, dtype } => Call::new(
                [Operand::out("y", &[t, d]), Operand::out("rstd", &[t])],
                [self.f32(0, "x", &[t, d]), Operand::any("w", &[d], dtype, self.take(1, &[d]))],
                |b, [y, rstd], [x, w]| b.rms_norm(y, rstd, x, w, EPS).map(none),
            ),
            Op::RmsNormBackward { t, d, dtype, accum } => {
                let x = self.f32(1, "x", &[t, d]);
                let rstd = Operand::f32("rstd", &[t], rstd(&x.values, t, d));
                Call::new(
                    [self.activation(3, "dx", &[t, d], accum), self.sum(4, "dw", &[d])],
                    [self.f32(0, "dy", &[t, d]), x, Operand::any("w", &[d], dtype, self.take(2, &[d])), rstd],
                    move |b, [dx, dw], [dy, x, w, r]| b.rms_norm_backward(dx, accum, dw, dy, x, w, r).map(none),
                )
            }
            Op::AddRmsNorm { t, d, dtype } => Call::new(
                [Operand::out("sum", &[t, d]), Operand::out("y", &[t, d]), Operand::out("rstd", &[t])],
                [
                    self.f32(0, "a", &[t, d]),
                    self.f32(1, "b", &[t, d]),
                    Operand::any("w", &[d], dtype, self.take(2, &[d])),
                ],
                |b, [sum, y, rstd], [a, c, w]| b.add_rms_norm(sum, y, rstd, a, c, w, EPS).map(none),
            ),
            Op::Rope { t, heads, h, inverse } => {
                let (rows, cols) = (t + 3, heads * h);
                let positions = self.indices(t, rows);
                let table = Operand::f32("table", &[rows, h], turns(rows, h)).with_rows(Rows::OrMore);
                Call::new([self.sum(0, "x", &[t, cols])], [table], move |b, [x], [table]| {
                    b.rope(x, table, &positions, inverse).map(none)
                })
            }
            Op::Attention { spec, spare } => {
                let (t, keys) = (spec.n_tokens(), spec.past + spec.n_tokens() + spare);
                let (q, kv) = ([t, spec.q_cols()], [keys, spec.kv_cols()]);
                Call::new(
                    [Operand::out("y", &q), Operand::out("lse", &[t, spec.heads])],
                    [
                        self.f32(0, "q", &q),
                        self.f32(1, "k", &kv).with_rows(Rows::OrMore),
                        self.f32(2, "v", &kv).with_rows(Rows::OrMore),
                    ],
                    move |b, [y, lse], [q, k, v]| b.attention(y, lse, q, k, v, &spec).map(none),
                )
            }
            Op::AttentionBackward { spec } => self.attention_backward(spec)?,
            Op::CrossEntropyRows { t, v, ignore_every } => {
                let targets = self.targets(t, v, ignore_every);
                let (x, _) = logits(self.values, seed, t, v, &targets);
                Call::new([Operand::sum("logits", &[t, v], x)], [], move |b, [x], []| {
                    b.cross_entropy_rows(x, &targets, SCALE).map(one)
                })
            }
            Op::KlRows { t, v } => {
                let (student, teacher) = logits(self.values, seed, t, v, &[]);
                Call::new(
                    [Operand::sum("student", &[t, v], student)],
                    [Operand::f32("teacher", &[t, v], teacher)],
                    |b, [student], [teacher]| b.kl_rows(student, teacher, SCALE).map(one),
                )
            }
            Op::CompareRows { t, v, ignore_every } => {
                let targets = self.targets(t, v, ignore_every);
                let (student, teacher) = logits(self.values, seed, t, v, &targets);
                let inputs = [Operand::f32("student", &[t, v], student), Operand::f32("teacher", &[t, v], teacher)];
                Call::new([], inputs, move |b, [], [student, teacher]| {
                    b.compare_rows(student, teacher, &targets).map(compared)
                })
            }
            Op::HeadCrossEntropy { t, d, v, dtype, wanted, ignore_every } => {
                let targets = self.targets(t, v, ignore_every);
                let inputs = [self.f32(0, "x", &[t, d]), self.weight(1, "w", &[v, d], dtype)];
                self.head(wanted, t, d, v, inputs, move |b, grads, [x, w]| {
                    b.head_cross_entropy(grads, x, w, &targets, SCALE)
                })
            }
            Op::HeadKl { t, d, e, v, dtype, wanted } => {
                let inputs = [
                    self.f32(0, "x", &[t, d]),
                    self.weight(1, "w", &[v, d], dtype),
                    self.f32(2, "teacher's x", &[t, e]),
                    self.weight(3, "teacher's w", &[v, e], dtype),
                ];
                self.head(wanted, t, d, v, inputs, |b, grads, [x, w, tx, tw]| b.head_kl(grads, x, w, tx, tw, SCALE))
            }
            Op::HeadCompare { t, d, e, v, dtype, ignore_every } => {
                let targets = self.targets(t, v, ignore_every);
                let inputs = [
                    self.f32(0, "x", &[t, d]),
                    self.weight(1, "w", &[v, d], dtype),
                    self.f32(2, "teacher's x", &[t, e]),
                    self.weight(3, "teacher's w", &[v, e], dtype),
                ];
                Call::new([], inputs, move |b, [], [x, w, tx, tw]| b.head_compare(x, w, tx, tw, &targets).map(compared))
            }
            Op::Split { n } => {
                let half = |what| Operand::short(what, &[n], vec![f32::NAN; n]);
                Call::new([half("high"), half("low")], [self.f32(0, "w", &[n])], |b, [high, low], [w]| {
                    b.split(high, low, w).map(none)
                })
            }
            Op::Join { n } => Call::new([Operand::out("w", &[n])], [self.f32(0, "whole", &[n])], |b, [w], [whole]| {
                let mut halves = [halves(b, whole.shape())?, halves(b, whole.shape())?];
                let [high, low] = &mut halves;
                b.split(high, low, whole)?;
                b.join(w, high, low).map(none)
            }),
            Op::AdamW { n, moments } => {
                let [m, v, grad] = self.moments(n, moments);
                Call::new([self.sum(0, "w", &[n]), m, v], [grad], |b, [w, m, v], [grad]| {
                    b.adamw(w, m, v, grad, &ADAMW).map(none)
                })
            }
            Op::AdamWSplit { n, moments } => {
                let [m, v, grad] = self.moments(n, moments);
                let high = Operand::short("high", &[n], vec![f32::NAN; n]);
                Call::new([self.sum(0, "w", &[n]), m, v, high], [grad], |b, [w, m, v, high], [grad]| {
                    let mut low = halves(b, high.shape())?;
                    b.split(high, &mut low, w)?;
                    b.adamw_split(high, &mut low, m, v, grad, &ADAMW)?;
                    b.join(w, high, &low).map(none)
                })
            }
        })
    }

    /// Both moments of an optimizer, and a gradient.
    fn moments(&self, n: usize, dtype: DType) -> [Operand; 3] {
        let (m, mut v) = (self.sum(1, "m", &[n]), self.sum(2, "v", &[n]));
        v.values.iter_mut().for_each(|v| *v *= *v);
        [Operand { dtype, ..m }, Operand { dtype, ..v }, self.f32(3, "grad", &[n])]
    }

    /// The gradient of what the reference's forward made.
    fn attention_backward(&self, spec: AttnSpec) -> Result<Call> {
        let t = spec.n_tokens();
        let (q_dims, kv_dims, lse_dims) = ([t, spec.q_cols()], [t, spec.kv_cols()], [t, spec.heads]);
        let (q, k, v) = (self.f32(0, "q", &q_dims), self.f32(1, "k", &kv_dims), self.f32(2, "v", &kv_dims));
        let (mut y, mut lse) = (Operand::out("y", &q_dims), Operand::out("lse", &lse_dims));
        let b = Reference;
        let (mut y_t, mut lse_t) = (y.upload(&b)?, lse.upload(&b)?);
        b.attention(&mut y_t, &mut lse_t, &q.upload(&b)?, &k.upload(&b)?, &v.upload(&b)?, &spec)?;
        (y.values, lse.values) = (b.download(&y_t)?, b.download(&lse_t)?);
        Ok(Call::new(
            [Operand::out("dq", &q_dims), Operand::out("dk", &kv_dims), Operand::out("dv", &kv_dims)],
            [self.f32(3, "dy", &q_dims), y, lse, q, k, v],
            move |b, [dq, dk, dv], [dy, y, lse, q, k, v]| {
                b.attention_backward(dq, dk, dv, dy, y, lse, q, k, v, &spec).map(none)
            },
        ))
    }

    /// A fused head with the gradients that are wanted as outputs.
    fn head<const I: usize>(
        &self,
        wanted: Wanted,
        t: usize,
        d: usize,
        v: usize,
        inputs: [Operand; I],
        head: impl Fn(&dyn Backend, Option<HeadGrads<'_>>, &[Tensor; I]) -> Result<f64> + Send + Sync + 'static,
    ) -> Call {
        let (dx, dw) = (Operand::out("dx", &[t, d]), self.sum(9, "dw", &[v, d]));
        match wanted {
            Wanted::Loss => Call::new([], inputs, move |b, [], inputs| head(b, None, inputs).map(one)),
            Wanted::Dx => Call::new([dx], inputs, move |b, [dx_td], inputs| {
                head(b, Some(HeadGrads { dx_td, dw_vd: None }), inputs).map(one)
            }),
            Wanted::DxDw => Call::new([dx, dw], inputs, move |b, [dx_td, dw_vd], inputs| {
                head(b, Some(HeadGrads { dx_td, dw_vd: Some(dw_vd) }), inputs).map(one)
            }),
        }
    }
}

/// What a forward of RMSNorm keeps.
fn rstd(x: &[f32], t: usize, d: usize) -> Vec<f32> {
    let mean_square = |row: usize| {
        let row = &x[row * d..][..d];
        row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / d as f64
    };
    (0..t).map(|row| (1.0 / (mean_square(row) + f64::from(EPS)).sqrt()) as f32).collect()
}

/// A rotary table of `rows` positions: cosines, then sines.
fn turns(rows: usize, h: usize) -> Vec<f32> {
    let angle = |p: usize, i: usize| p as f64 * 10_000f64.powf(-2.0 * i as f64 / h.max(1) as f64);
    let row = |p: usize| {
        let cos = (0..h / 2).map(move |i| angle(p, i).cos() as f32);
        cos.chain((0..h / 2).map(move |i| angle(p, i).sin() as f32))
    };
    (0..rows).flat_map(row).collect()
}

/// Room for one half of weights.
fn halves(b: &dyn Backend, shape: Shape) -> Result<Tensor> {
    b.upload(&vec![0.5; shape.elements()], DType::BF16, shape)
}
