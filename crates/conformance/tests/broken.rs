//! A checker that cannot fail is none: a backend whose every operation is wrong in its last element, by one part in ten thousand, and that
//! refuses badly. Each of these faults has to be found, and the same backend without faults has to pass.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_conformance::{Failure, Reason, cases, check_all, random_shapes};
use paring_ops::{Accum, Activation, AdamWStep, AttnSpec, Backend, Compared, Error, Result};
use paring_reference::Reference;
use paring_tensor::{DType, HostBuffer, Shape, Tensor};
use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU32, Ordering},
};

const B: Reference = Reference;
const NUDGE: f32 = 1.0 + 1e-4;

#[derive(Debug, Default)]
struct Broken {
    /// Sums of squares made so far.
    sums: AtomicU32,
}

/// The last element a little larger.
fn nudge(t: &mut Tensor) -> Result<()> {
    let wrong = |e| Error::Tensor { op: "nudge", source: e };
    match t.dtype() {
        DType::F32 => {
            let values: &mut [f32] = HostBuffer::slice_mut(t).map_err(wrong)?;
            values.last_mut().into_iter().for_each(|x| *x *= NUDGE);
        }
        // Of a short float, another last bit.
        _ => {
            let any: &mut dyn std::any::Any = t.buffer_mut().map_err(wrong)?;
            let buffer = any.downcast_mut::<HostBuffer>().ok_or(wrong(paring_tensor::Error::ForeignBuffer))?;
            buffer.bytes_mut().iter_mut().rev().nth(1).into_iter().for_each(|low| *low ^= 1);
        }
    }
    Ok(())
}

/// Runs an operation of the reference, then nudges an output.
macro_rules! nudged {
    ($($name:ident($($out:ident),+; $($arg:ident: $ty:ty),*) $wrong:ident;)+) => {
        $(fn $name(&self, $($out: &mut Tensor,)+ $($arg: $ty),*) -> Result<()> {
            B.$name($($out,)+ $($arg),*)?;
            nudge($wrong)
        })+
    };
}

impl Backend for Broken {
    fn name(&self) -> &'static str {
        "broken"
    }
    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        // Of the two short floats always the other one.
        let other = match dtype {
            DType::F16 => DType::BF16,
            DType::BF16 => DType::F16,
            same => same,
        };
        B.alloc(other, shape)
    }
    fn zeros(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        // Not zero.
        let zeroed = B.zeros(dtype, shape)?;
        B.upload(&vec![1e-30; zeroed.elements()], dtype, shape)
    }
    fn upload(&self, values: &[f32], dtype: DType, shape: Shape) -> Result<Tensor> {
        // Loses the sign of zero.
        B.upload(&values.iter().map(|x| x + 0.0).collect::<Vec<f32>>(), dtype, shape)
    }
    fn upload_bytes(&self, bytes: &[u8], dtype: DType, shape: Shape) -> Result<Tensor> {
        // Goes by way of f32, which blocks do not survive.
        B.upload(&paring_tensor::to_f32(bytes, dtype).iter().map(|x| x + 0.0).collect::<Vec<f32>>(), dtype, shape)
    }
    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        B.download(x)
    }

    nudged! {
        convert(y; x: &Tensor) y;
        fill(y; value: f32) y;
        add(y; a: &Tensor, b: &Tensor) y;
        accumulate(y; accum: Accum, x: &Tensor) y;
        gated(y; act: Activation, gate: &Tensor, up: &Tensor) y;
        gated_backward(dgate, dup; act: Activation, dy: &Tensor, gate: &Tensor, up: &Tensor) dgate;
        activation(y; act: Activation, x: &Tensor) y;
        activation_backward(dx; act: Activation, dy: &Tensor, x: &Tensor) dx;
        embed_backward(dw; dy: &Tensor, ids: &[u32]) dw;
        linear(y; x: &Tensor, w: &Tensor) y;
        linear_dx(dx; accum: Accum, dy: &Tensor, w: &Tensor) dx;
        linear_dw(dw; dy: &Tensor, x: &Tensor, compute: DType) dw;
        rms_norm(y, rstd; x: &Tensor, w: &Tensor, eps: f32) rstd;
        rope(x; table: &Tensor, positions: &[u32], inverse: bool) x;
        attention(y, lse; q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttnSpec) y;
        split(high, low; w: &Tensor) high;
        join(w; high: &Tensor, low: &Tensor) w;
    }

    fn write_rows(&self, dst: &mut Tensor, at: usize, src: &Tensor) -> Result<()> {
        assert!(at < 1000, "an offset of {at}");
        B.write_rows(dst, at, src)?;
        nudge(dst)
    }
    fn scale(&self, y: &mut Tensor, factor: f32) -> Result<()> {
        B.scale(y, factor).map_err(|_| Error::Device { op: "scale", message: "something is wrong".into() })?;
        nudge(y)
    }
    fn sum_squares(&self, x: &Tensor) -> Result<f64> {
        // As near as can be, and never the same twice.
        let drift = f64::from(self.sums.fetch_add(1, Ordering::Relaxed)) * 1e-15;
        Ok(B.sum_squares(x)? * (1.0 + drift))
    }
    fn embed(&self, y: &mut Tensor, ids: &[u32], w: &Tensor) -> Result<()> {
        // Indices past the end are the last row.
        let ids: Vec<u32> = ids.iter().map(|&i| i.min(w.n_rows().saturating_sub(1) as u32)).collect();
        B.embed(y, &ids, w)?;
        nudge(y)
    }
    fn rms_norm_backward(
        &self,
        dx: &mut Tensor,
        accum: Accum,
        dw: &mut Tensor,
        dy: &Tensor,
        x: &Tensor,
        w: &Tensor,
        rstd: &Tensor,
    ) -> Result<()> {
        B.rms_norm_backward(dx, accum, dw, dy, x, w, rstd)?;
        nudge(dw)
    }
    fn attention_backward(
        &self,
        dq: &mut Tensor,
        dk: &mut Tensor,
        dv: &mut Tensor,
        dy: &Tensor,
        y: &Tensor,
        lse: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spec: &AttnSpec,
    ) -> Result<()> {
        B.attention_backward(dq, dk, dv, dy, y, lse, q, k, v, spec)?;
        nudge(dk)
    }
    fn cross_entropy_rows(&self, logits: &mut Tensor, targets: &[u32], scale: f32) -> Result<f64> {
        let loss = B.cross_entropy_rows(logits, targets, scale)?;
        nudge(logits)?;
        Ok(loss)
    }
    fn kl_rows(&self, student: &mut Tensor, teacher: &Tensor, scale: f32) -> Result<f64> {
        Ok(B.kl_rows(student, teacher, scale)? * f64::from(NUDGE))
    }
    fn compare_rows(&self, student: &Tensor, teacher: &Tensor, targets: &[u32]) -> Result<Compared> {
        let compared = B.compare_rows(student, teacher, targets)?;
        Ok(Compared { agree: compared.rows - compared.agree, ..compared })
    }
    fn adamw(&self, w: &mut Tensor, m: &mut Tensor, v: &mut Tensor, grad: &Tensor, step: &AdamWStep) -> Result<()> {
        // The weights are written before it is known that the second moment can be.
        nudge(w)?;
        B.adamw(w, m, v, grad, step)
    }
    fn as_dyn(&self) -> &dyn Backend {
        self
    }
}

#[test]
fn every_fault_is_found() {
    let failures = check_all(&[&Broken::default()]);
    // The failing cases print as `Op { .. }`.
    let failing: BTreeSet<&str> = failures.iter().filter_map(|f| f.case.split_once(" {").map(|(op, _)| op)).collect();
    let all: Vec<String> = cases().iter().map(|case| format!("{:?}", case.op)).collect();
    let all: BTreeSet<&str> = all.iter().filter_map(|op| op.split_once(" {").map(|(op, _)| op)).collect();
    assert_eq!(failing, all);
    let unrepeatable =
        |f: &&Failure| f.case.starts_with("SumSquares") && matches!(*f.reason, Reason::Unrepeatable { .. });
    assert!(failures.iter().any(|f| unrepeatable(&f)));

    let reason = |case: &str| {
        let found: Vec<&Failure> = failures.iter().filter(|f| f.case == case).collect();
        assert!(found.len() == 1, "{case}: {found:?}");
        &*found[0].reason
    };
    assert!(matches!(reason("embed with ids [0, 5, 1] of 5"), Reason::Accepted { .. }));
    assert!(matches!(reason("scale with y shared"), Reason::Accepted { .. }));
    let offset = format!("write_rows of 2 rows into 3 at {}", usize::MAX);
    assert!(matches!(reason(&offset), Reason::Panicked(message) if message.contains("an offset of")));
    assert_eq!(*reason("adamw with v shared"), Reason::Wrote { output: "w" });
    // And nothing is said to be wrong that is not: the reference's own refusals are right.
    let refusals = |f: &&Failure| {
        !f.case.contains('{') && !["embed ", "scale ", "write_rows ", "adamw "].iter().any(|op| f.case.starts_with(op))
    };
    let others: Vec<String> = failures.iter().filter(refusals).map(Failure::to_string).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[test]
fn random_shapes_shrink_to_a_small_case() {
    let failure = random_shapes(&Broken::default(), 100).unwrap_err();
    assert!(matches!(*failure.reason, Reason::Element { .. }), "{failure}");
    let text = failure.to_string();
    assert!(text.starts_with("Broken { sums: 0 }: ") && text.contains("expected"), "{text}");
}
