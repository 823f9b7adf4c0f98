//! The trait's methods: shapes and types are checked here, before anything is written; the loops are in the other files.
use crate::{activation, attention, elementwise, embed, linear, loss, norm, optimizer};
use half::{bf16, f16};
use paring_ops::{
    Accum, Activation, AdamWStep, AttnSpec, Backend, Compared, Error, Result, want_2d, want_attention, want_elements,
    want_gradients, want_halves, want_indices, want_len, want_moments, want_rope,
};
use paring_tensor::{DType, HostBuffer, Shape, Tensor, from_f32, round_to, to_f32};
use std::sync::Arc;

/// The backend. It has no state: memory belongs to the tensors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// An f32 operand, as it is.
fn read<'a>(op: &'static str, t: &'a Tensor) -> Result<&'a [f32]> {
    HostBuffer::slice(t).map_err(Error::in_op(op))
}

/// An f32 operand, rounded to `compute`, to be summed over.
fn rounded(op: &'static str, t: &Tensor, compute: DType) -> Result<Vec<f64>> {
    Ok(read(op, t)?.iter().map(|&x| f64::from(round_to(x, compute))).collect())
}

/// An f32 operand, to be summed over.
fn wide(op: &'static str, t: &Tensor) -> Result<Vec<f64>> {
    rounded(op, t, DType::F32)
}

/// An operand of any type, to be summed over.
fn wide_any(op: &'static str, t: &Tensor) -> Result<Vec<f64>> {
    Ok(HostBuffer::to_f32(t).map_err(Error::in_op(op))?.into_iter().map(f64::from).collect())
}

/// The type that a product with this weight computes in.
fn compute_type(op: &'static str, dtype: DType) -> Result<DType> {
    match dtype {
        DType::F32 | DType::BF16 => Ok(dtype),
        DType::F16 => Err(Error::Unsupported { op, what: "a product in f16 (convert to bf16 or f32)".into() }),
        DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => {
            Err(Error::Unsupported { op, what: format!("a product in {dtype} (convert to bf16 or f32)") })
        }
    }
}

/// Activations as a product with this weight sees them: rounded to its type, or to 8 bits beside a quantised one.
fn beside(op: &'static str, x: &Tensor, weight: DType) -> Result<Vec<f64>> {
    if weight.is_quantised() {
        Ok(linear::rounded_to_int8(read(op, x)?))
    } else {
        rounded(op, x, compute_type(op, weight)?)
    }
}

fn write<'a>(op: &'static str, t: &'a mut Tensor) -> Result<&'a mut [f32]> {
    HostBuffer::slice_mut(t).map_err(Error::in_op(op))
}

impl Backend for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    // ---- memory ----

    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        // Poison: bytes of ones are NaN in every type of float, so a caller who relies on zeros is seen.
        let poisoned = || {
            let mut buffer = HostBuffer::zeroed(dtype.bytes_of(shape)?)?;
            buffer.bytes_mut().fill(0xff);
            Tensor::new(Arc::new(buffer), dtype, shape)
        };
        poisoned().map_err(Error::in_op("alloc"))
    }

    fn zeros(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        HostBuffer::tensor_zeroed(dtype, shape).map_err(Error::in_op("zeros"))
    }

    fn upload(&self, values: &[f32], dtype: DType, shape: Shape) -> Result<Tensor> {
        HostBuffer::tensor_from_f32(values, dtype, shape).map_err(Error::in_op("upload"))
    }

    fn upload_bytes(&self, bytes: &[u8], dtype: DType, shape: Shape) -> Result<Tensor> {
        let buffer = dtype.bytes_of(shape).and_then(HostBuffer::zeroed);
        buffer.and_then(|buffer| buffer.into_tensor_of(bytes, dtype, shape)).map_err(Error::in_op("upload_bytes"))
    }

    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        HostBuffer::to_f32(x).map_err(Error::in_op("download"))
    }

    fn convert(&self, y: &mut Tensor, x: &Tensor) -> Result<()> {
        let op = "convert";
        want_elements(op, "x", x, y.elements())?;
        let x = HostBuffer::to_f32(x).map_err(Error::in_op(op))?;
        match y.dtype() {
            DType::F32 => write(op, y)?.copy_from_slice(&x),
            DType::BF16 => {
                let y: &mut [bf16] = HostBuffer::slice_mut(y).map_err(Error::in_op(op))?;
                y.iter_mut().zip(x).for_each(|(y, x)| *y = bf16::from_f32(x));
            }
            DType::F16 => {
                let y: &mut [f16] = HostBuffer::slice_mut(y).map_err(Error::in_op(op))?;
                y.iter_mut().zip(x).for_each(|(y, x)| *y = f16::from_f32(x));
            }
            dtype @ (DType::Q8_0 | DType::Q4_0 | DType::Q4_1) => {
                let y = HostBuffer::tensor_bytes_mut(y).map_err(Error::in_op(op))?;
                y.copy_from_slice(&from_f32(&x, dtype));
            }
        }
        Ok(())
    }

    fn fill(&self, y: &mut Tensor, value: f32) -> Result<()> {
        write("fill", y)?.fill(value);
        Ok(())
    }

    fn write_rows(&self, dst: &mut Tensor, at: usize, src: &Tensor) -> Result<()> {
        let op = "write_rows";
        let (cols, rows, total) = (dst.n_cols(), src.n_rows(), dst.n_rows());
        want_2d(op, "src", src, rows, cols)?;
        match at.checked_add(rows) {
            Some(end) if end <= total => {}
            _ => return Err(Error::Index { op, index: at.saturating_add(rows), len: total }),
        }
        let (src, dst) = (read(op, src)?, write(op, dst)?);
        dst[at * cols..][..src.len()].copy_from_slice(src);
        Ok(())
    }

    // ---- element-wise ----

    fn add(&self, y: &mut Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
        let op = "add";
        want_elements(op, "a", a, y.elements())?;
        want_elements(op, "b", b, y.elements())?;
        let (a, b) = (wide(op, a)?, wide(op, b)?);
        elementwise::add(write(op, y)?, &a, &b);
        Ok(())
    }

    fn accumulate(&self, y: &mut Tensor, accum: Accum, x: &Tensor) -> Result<()> {
        let op = "accumulate";
        want_elements(op, "x", x, y.elements())?;
        let x = wide(op, x)?;
        elementwise::accumulate(write(op, y)?, accum, &x);
        Ok(())
    }

    fn scale(&self, y: &mut Tensor, factor: f32) -> Result<()> {
        elementwise::scale(write("scale", y)?, factor);
        Ok(())
    }

    fn sum_squares(&self, x: &Tensor) -> Result<f64> {
        Ok(elementwise::sum_squares(&wide("sum_squares", x)?))
    }

    fn gated(&self, y: &mut Tensor, act: Activation, gate: &Tensor, up: &Tensor) -> Result<()> {
        let op = "gated";
        want_elements(op, "gate", gate, y.elements())?;
        want_elements(op, "up", up, y.elements())?;
        let (gate, up) = (wide(op, gate)?, wide(op, up)?);
        activation::gated(write(op, y)?, act, &gate, &up);
        Ok(())
    }

    fn gated_backward(
        &self,
        dgate: &mut Tensor,
        dup: &mut Tensor,
        act: Activation,
        dy: &Tensor,
        gate: &Tensor,
        up: &Tensor,
    ) -> Result<()> {
        let op = "gated_backward";
        for (what, t) in [("dgate", &*dgate), ("dup", &*dup), ("gate", gate), ("up", up)] {
            want_elements(op, what, t, dy.elements())?;
        }
        let (dy, gate, up) = (wide(op, dy)?, wide(op, gate)?, wide(op, up)?);
        activation::gated_backward(write(op, dgate)?, write(op, dup)?, act, &dy, &gate, &up);
        Ok(())
    }

    fn activation(&self, y: &mut Tensor, act: Activation, x: &Tensor) -> Result<()> {
        let op = "activation";
        want_elements(op, "x", x, y.elements())?;
        let x = wide(op, x)?;
        activation::activation(write(op, y)?, act, &x);
        Ok(())
    }

    fn activation_backward(&self, dx: &mut Tensor, act: Activation, dy: &Tensor, x: &Tensor) -> Result<()> {
        let op = "activation_backward";
        want_elements(op, "dy", dy, dx.elements())?;
        want_elements(op, "x", x, dx.elements())?;
        let (dy, x) = (wide(op, dy)?, wide(op, x)?);
        activation::activation_backward(write(op, dx)?, act, &dy, &x);
        Ok(())
    }

    // ---- rows of a table ----

    fn embed(&self, y_td: &mut Tensor, ids: &[u32], w_vd: &Tensor) -> Result<()> {
        let op = "embed";
        let d = w_vd.n_cols();
        want_2d(op, "y", y_td, ids.len(), d)?;
        want_indices(op, ids, w_vd.n_rows(), false)?;
        if !w_vd.dtype().is_quantised() {
            compute_type(op, w_vd.dtype())?;
        }
        let w: Vec<f64> = HostBuffer::gather_f32(w_vd).map_err(Error::in_op(op))?.into_iter().map(f64::from).collect();
        embed::embed(write(op, y_td)?, ids, &w, d);
        Ok(())
    }

    fn embed_backward(&self, dw_vd: &mut Tensor, dy_td: &Tensor, ids: &[u32]) -> Result<()> {
        let op = "embed_backward";
        let d = dw_vd.n_cols();
        want_2d(op, "dy", dy_td, ids.len(), d)?;
        want_indices(op, ids, dw_vd.n_rows(), false)?;
        let dy = wide(op, dy_td)?;
        embed::embed_backward(write(op, dw_vd)?, &dy, ids, d);
        Ok(())
    }

    // ---- linear maps ----

    fn linear(&self, y_tn: &mut Tensor, x_tk: &Tensor, w_nk: &Tensor) -> Result<()> {
        let op = "linear";
        let dims = linear::Dims { t: x_tk.n_rows(), n: w_nk.n_rows(), k: w_nk.n_cols() };
        want_2d(op, "x", x_tk, dims.t, dims.k)?;
        want_2d(op, "y", y_tn, dims.t, dims.n)?;
        let (x, w) = (beside(op, x_tk, w_nk.dtype())?, linear::weight(op, w_nk)?);
        linear::linear(write(op, y_tn)?, &x, &w, dims);
        Ok(())
    }

    fn linear_dx(&self, dx_tk: &mut Tensor, accum: Accum, dy_tn: &Tensor, w_nk: &Tensor) -> Result<()> {
        let op = "linear_dx";
        let dims = linear::Dims { t: dy_tn.n_rows(), n: w_nk.n_rows(), k: w_nk.n_cols() };
        want_2d(op, "dy", dy_tn, dims.t, dims.n)?;
        want_2d(op, "dx", dx_tk, dims.t, dims.k)?;
        want_gradients(op, w_nk.dtype())?;
        let compute = compute_type(op, w_nk.dtype())?;
        let (dy, w) = (rounded(op, dy_tn, compute)?, wide_any(op, w_nk)?);
        linear::linear_dx(write(op, dx_tk)?, accum, &dy, &w, dims);
        Ok(())
    }

    fn linear_dw(&self, dw_nk: &mut Tensor, dy_tn: &Tensor, x_tk: &Tensor, compute: DType) -> Result<()> {
        let op = "linear_dw";
        let dims = linear::Dims { t: dy_tn.n_rows(), n: dw_nk.n_rows(), k: dw_nk.n_cols() };
        want_2d(op, "dy", dy_tn, dims.t, dims.n)?;
        want_2d(op, "x", x_tk, dims.t, dims.k)?;
        want_gradients(op, compute)?;
        let compute = compute_type(op, compute)?;
        let (dy, x) = (rounded(op, dy_tn, compute)?, rounded(op, x_tk, compute)?);
        linear::linear_dw(write(op, dw_nk)?, &dy, &x, dims);
        Ok(())
    }

    // ---- normalisation, rotation, attention ----

    fn rms_norm(&self, y_td: &mut Tensor, rstd_t: &mut Tensor, x_td: &Tensor, w_d: &Tensor, eps: f32) -> Result<()> {
        let op = "rms_norm";
        let (t, d) = (x_td.n_rows(), x_td.n_cols());
        want_2d(op, "y", y_td, t, d)?;
        want_elements(op, "rstd", rstd_t, t)?;
        want_elements(op, "w", w_d, d)?;
        let (x, w) = (wide(op, x_td)?, wide_any(op, w_d)?);
        norm::rms_norm(write(op, y_td)?, write(op, rstd_t)?, &x, &w, f64::from(eps));
        Ok(())
    }

    fn rms_norm_backward(
        &self,
        dx_td: &mut Tensor,
        accum: Accum,
        dw_d: &mut Tensor,
        dy_td: &Tensor,
        x_td: &Tensor,
        w_d: &Tensor,
        rstd_t: &Tensor,
    ) -> Result<()> {
        let op = "rms_norm_backward";
        let (t, d) = (x_td.n_rows(), x_td.n_cols());
        want_2d(op, "dx", dx_td, t, d)?;
        want_2d(op, "dy", dy_td, t, d)?;
        want_elements(op, "rstd", rstd_t, t)?;
        want_elements(op, "w", w_d, d)?;
        want_elements(op, "dw", dw_d, d)?;
        let (dy, x, w, rstd) = (wide(op, dy_td)?, wide(op, x_td)?, wide_any(op, w_d)?, wide(op, rstd_t)?);
        norm::rms_norm_backward(write(op, dx_td)?, accum, write(op, dw_d)?, &dy, &x, &w, &rstd);
        Ok(())
    }

    fn rope(&self, x: &mut Tensor, table: &Tensor, positions: &[u32], inverse: bool) -> Result<()> {
        let op = "rope";
        let (cols, h) = (x.n_cols(), table.n_cols());
        want_rope(op, x, table, positions)?;
        let table = wide(op, table)?;
        norm::rope(write(op, x)?, &table, positions, cols, h, inverse);
        Ok(())
    }

    fn attention(
        &self,
        y: &mut Tensor,
        lse_tn: &mut Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spec: &AttnSpec,
    ) -> Result<()> {
        let op = "attention";
        want_attention(op, q, k, v, lse_tn, spec)?;
        want_2d(op, "y", y, spec.n_tokens(), spec.q_cols())?;
        let (q, k, v) = (wide(op, q)?, wide(op, k)?, wide(op, v)?);
        attention::attention(write(op, y)?, write(op, lse_tn)?, &q, &k, &v, spec);
        Ok(())
    }

    fn attention_backward(
        &self,
        dq: &mut Tensor,
        dk: &mut Tensor,
        dv: &mut Tensor,
        dy: &Tensor,
        y: &Tensor,
        lse_tn: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spec: &AttnSpec,
    ) -> Result<()> {
        let op = "attention_backward";
        want_attention(op, q, k, v, lse_tn, spec)?;
        if spec.past != 0 {
            return Err(Error::NotRecording { op });
        }
        let (t, qc, kc) = (spec.n_tokens(), spec.q_cols(), spec.kv_cols());
        let like_q = [("dq", &*dq), ("dy", dy), ("y", y)].map(|(what, x)| (what, x, qc));
        let like_k = [("dk", &*dk), ("dv", &*dv), ("k", k), ("v", v)].map(|(what, x)| (what, x, kc));
        for (what, x, cols) in like_q.into_iter().chain(like_k) {
            want_2d(op, what, x, t, cols)?;
        }
        // Not used, but they have to be what a backend that does use them can read.
        read(op, y)?;
        read(op, lse_tn)?;
        let (dy, q, k, v) = (wide(op, dy)?, wide(op, q)?, wide(op, k)?, wide(op, v)?);
        attention::attention_backward(write(op, dq)?, write(op, dk)?, write(op, dv)?, &dy, &q, &k, &v, spec);
        Ok(())
    }

    // ---- losses ----

    fn cross_entropy_rows(&self, logits_tv: &mut Tensor, targets: &[u32], scale: f32) -> Result<f64> {
        let op = "cross_entropy_rows";
        let v = logits_tv.n_cols();
        want_len(op, "targets", targets.len(), logits_tv.n_rows())?;
        want_indices(op, targets, v, true)?;
        Ok(loss::cross_entropy(write(op, logits_tv)?, v, targets, scale))
    }

    fn kl_rows(&self, student_tv: &mut Tensor, teacher_tv: &Tensor, scale: f32) -> Result<f64> {
        let op = "kl_rows";
        let v = student_tv.n_cols();
        want_2d(op, "teacher", teacher_tv, student_tv.n_rows(), v)?;
        let (teacher, student) = (read(op, teacher_tv)?, write(op, student_tv)?);
        Ok(loss::kl(student, teacher, v, scale))
    }

    fn compare_rows(&self, student_tv: &Tensor, teacher_tv: &Tensor, targets: &[u32]) -> Result<Compared> {
        let op = "compare_rows";
        let (t, v) = (student_tv.n_rows(), student_tv.n_cols());
        want_2d(op, "teacher", teacher_tv, t, v)?;
        want_len(op, "targets", targets.len(), t)?;
        want_indices(op, targets, v, true)?;
        Ok(loss::compare(read(op, student_tv)?, read(op, teacher_tv)?, v, targets))
    }

    // ---- optimizer ----

    fn split(&self, high: &mut Tensor, low: &mut Tensor, w: &Tensor) -> Result<()> {
        let op = "split";
        want_halves(op, high, low, w.elements())?;
        let w = read(op, w)?;
        let (high, low) = (
            HostBuffer::slice_mut::<bf16>(high).map_err(Error::in_op(op))?,
            HostBuffer::slice_mut::<bf16>(low).map_err(Error::in_op(op))?,
        );
        optimizer::split(high, low, w);
        Ok(())
    }

    fn join(&self, w: &mut Tensor, high: &Tensor, low: &Tensor) -> Result<()> {
        let op = "join";
        want_halves(op, high, low, w.elements())?;
        let (high, low) = (
            HostBuffer::slice::<bf16>(high).map_err(Error::in_op(op))?,
            HostBuffer::slice::<bf16>(low).map_err(Error::in_op(op))?,
        );
        optimizer::join(write(op, w)?, high, low);
        Ok(())
    }

    fn adamw(&self, w: &mut Tensor, m: &mut Tensor, v: &mut Tensor, grad: &Tensor, step: &AdamWStep) -> Result<()> {
        let op = "adamw";
        want_moments(op, m, v, grad, w.elements())?;
        let (dtype, grad) = (m.dtype(), read(op, grad)?);
        let bytes = |t| HostBuffer::tensor_bytes_mut(t).map_err(Error::in_op(op));
        let (w, m, v) = (write(op, w)?, bytes(m)?, bytes(v)?);
        let [mut wide_m, mut wide_v] = [&m, &v].map(|moment| to_f32(moment, dtype));
        optimizer::adamw(w, &mut wide_m, &mut wide_v, grad, step);
        m.copy_from_slice(&from_f32(&wide_m, dtype));
        v.copy_from_slice(&from_f32(&wide_v, dtype));
        Ok(())
    }

    fn as_dyn(&self) -> &dyn Backend {
        self
    }
}
