//! The trait's methods: shapes are checked here, then a kernel runs inside the backend's own thread pool.
use crate::{
    Isa, activation, attention, elementwise, gemm,
    gemm::{Columns, Mat, Packed},
    loss, norm, pages,
    pool::Threads,
    quant, statistics,
    weights::{gathered, strided, weight, weight_view},
};
use half::bf16;
use paring_ops::{
    Accum, Activation, AdamWStep, AttnSpec, Backend, ChannelSums, Compared, Error, Result, RowProducts, want_2d,
    want_add_rms_norm, want_attention, want_elements, want_gradients, want_halves, want_indices, want_len,
    want_moments, want_rope,
};
use paring_tensor::{DType, HostBuffer, HostPool, Memory, Shape, Tensor, from_f32};

/// The backend. Cheap to share: everything takes `&self`.
#[derive(Debug)]
pub struct Cpu {
    isa: Isa,
    pub(crate) threads: Threads,
    memory: HostPool,
}

impl Cpu {
    /// The best instructions this machine has, on `threads` threads, or on as many as there are processors.
    ///
    /// # Errors
    /// [`Error::Device`] when threads cannot be started.
    pub fn new(threads: Option<usize>) -> Result<Self> {
        Cpu::with_isa(threads, Isa::detect())
    }

    /// The given instructions.
    ///
    /// # Errors
    /// [`Error::Device`] when the machine lacks them, or threads cannot be started.
    pub fn with_isa(threads: Option<usize>, isa: Isa) -> Result<Self> {
        let error = |message: String| Error::Device { op: "cpu", message };
        if !isa.available() {
            return Err(error(format!("this machine has no {isa:?}; the best it has is {:?}", Isa::detect())));
        }
        let threads = Threads::new(Cpu::thread_count(threads)?).map_err(|e| error(e.to_string()))?;
        Ok(Cpu { isa, threads, memory: HostPool::new() })
    }

    /// The number of threads that a backend with this request has, without starting any.
    ///
    /// # Errors
    /// [`Error::Device`] for a number that cannot be.
    pub fn thread_count(threads: Option<usize>) -> Result<usize> {
        let threads = threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
        match threads {
            1..=1024 => Ok(threads),
            _ => Err(Error::Device { op: "cpu", message: format!("{threads} threads, expected 1 to 1024") }),
        }
    }

    /// The instructions in use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// What its tensors hold.
    pub fn memory(&self) -> Memory {
        self.memory.memory()
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }
}

fn read<'a>(op: &'static str, t: &'a Tensor) -> Result<&'a [f32]> {
    HostBuffer::slice(t).map_err(Error::in_op(op))
}

fn write<'a>(op: &'static str, t: &'a mut Tensor) -> Result<&'a mut [f32]> {
    HostBuffer::slice_mut(t).map_err(Error::in_op(op))
}

fn read_bf16<'a>(op: &'static str, t: &'a Tensor) -> Result<&'a [bf16]> {
    HostBuffer::slice(t).map_err(Error::in_op(op))
}

fn write_bf16<'a>(op: &'static str, t: &'a mut Tensor) -> Result<&'a mut [bf16]> {
    HostBuffer::slice_mut(t).map_err(Error::in_op(op))
}

/// What is uploaded are weights: they stay, and are read again and again.
fn in_large_pages(tensor: Tensor) -> paring_tensor::Result<Tensor> {
    pages::move_to_large(HostBuffer::tensor_bytes(&tensor)?);
    Ok(tensor)
}

/// A weight's values as f32, borrowed when they are.
fn values<'a>(op: &'static str, w: &'a Tensor) -> Result<std::borrow::Cow<'a, [f32]>> {
    match w.dtype() {
        DType::F32 => Ok(read(op, w)?.into()),
        _ => Ok(HostBuffer::to_f32(w).map_err(Error::in_op(op))?.into()),
    }
}

impl Backend for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        self.memory.tensor(dtype, shape).map_err(Error::in_op("alloc"))
    }

    fn zeros(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        let zero = |bytes: &mut [u8]| elementwise::zero(&self.threads, bytes);
        self.memory.tensor_zeroed_by(dtype, shape, zero).map_err(Error::in_op("zeros"))
    }

    fn upload(&self, values: &[f32], dtype: DType, shape: Shape) -> Result<Tensor> {
        let buffer = dtype.bytes_of(shape).and_then(|bytes| self.memory.buffer(bytes));
        let tensor = buffer.and_then(|buffer| buffer.into_tensor(values, dtype, shape));
        tensor.and_then(in_large_pages).map_err(Error::in_op("upload"))
    }

    fn upload_bytes(&self, bytes: &[u8], dtype: DType, shape: Shape) -> Result<Tensor> {
        let buffer = dtype.bytes_of(shape).and_then(|bytes| self.memory.buffer(bytes));
        let tensor = buffer.and_then(|buffer| buffer.into_tensor_of(bytes, dtype, shape));
        tensor.and_then(in_large_pages).map_err(Error::in_op("upload_bytes"))
    }

    fn keep_packed(&self, w_nk: &Tensor) -> Result<()> {
        let op = "keep_packed";
        let (n, k) = (w_nk.n_rows(), w_nk.n_cols());
        if w_nk.dtype().is_quantised() || HostBuffer::derived::<Packed>(w_nk).is_some() {
            return Ok(());
        }
        let (w, _) = weight(op, w_nk)?;
        HostBuffer::derive(w_nk, Packed::new(self.isa, &self.threads, w.t(), k, n)).map_err(Error::in_op(op))
    }

    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        HostBuffer::to_f32(x).map_err(Error::in_op("download"))
    }

    fn convert(&self, y: &mut Tensor, x: &Tensor) -> Result<()> {
        let op = "convert";
        want_elements(op, "x", x, y.elements())?;
        let (x, dtype) = (values(op, x)?, y.dtype());
        match dtype {
            DType::F32 => write(op, y)?.copy_from_slice(&x),
            DType::BF16 => {
                let y = HostBuffer::slice_mut::<bf16>(y).map_err(Error::in_op(op))?;
                elementwise::to_bf16(self.isa, &self.threads, y, &x);
            }
            DType::F16 => {
                let y = HostBuffer::slice_mut::<half::f16>(y).map_err(Error::in_op(op))?;
                y.iter_mut().zip(&*x).for_each(|(y, &x)| *y = half::f16::from_f32(x));
            }
            DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => {
                let y = HostBuffer::tensor_bytes_mut(y).map_err(Error::in_op(op))?;
                y.copy_from_slice(&from_f32(&x, dtype));
            }
        }
        Ok(())
    }

    fn fill(&self, y: &mut Tensor, value: f32) -> Result<()> {
        let y = write("fill", y)?;
        elementwise::fill(&self.threads, y, value);
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
        let src = read(op, src)?;
        write(op, dst)?[at * cols..][..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn add(&self, y: &mut Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
        let op = "add";
        want_elements(op, "a", a, y.elements())?;
        want_elements(op, "b", b, y.elements())?;
        let (a, b, y) = (read(op, a)?, read(op, b)?, write(op, y)?);
        elementwise::add(self.isa, &self.threads, y, a, b);
        Ok(())
    }

    fn accumulate(&self, y: &mut Tensor, accum: Accum, x: &Tensor) -> Result<()> {
        let op = "accumulate";
        want_elements(op, "x", x, y.elements())?;
        let (x, y) = (read(op, x)?, write(op, y)?);
        elementwise::accumulate(self.isa, &self.threads, y, accum == Accum::Add, x);
        Ok(())
    }

    fn scale(&self, y: &mut Tensor, factor: f32) -> Result<()> {
        let y = write("scale", y)?;
        elementwise::scale(self.isa, &self.threads, y, factor);
        Ok(())
    }

    fn sum_squares(&self, x: &Tensor) -> Result<f64> {
        let x = read("sum_squares", x)?;
        Ok(elementwise::sum_squares(self.isa, &self.threads, x))
    }

    fn channel_sums(&self, x: &Tensor) -> Result<ChannelSums> {
        let values = read("channel_sums", x)?;
        Ok(statistics::channel_sums(self.isa, &self.threads, values, x.n_cols()))
    }

    fn row_products(&self, x: &Tensor, y: &Tensor) -> Result<Vec<RowProducts>> {
        let op = "row_products";
        want_2d(op, "y", y, x.n_rows(), x.n_cols())?;
        Ok(statistics::row_products(self.isa, &self.threads, read(op, x)?, read(op, y)?, x.n_cols()))
    }

    fn gated(&self, y: &mut Tensor, act: Activation, gate: &Tensor, up: &Tensor) -> Result<()> {
        let op = "gated";
        want_elements(op, "gate", gate, y.elements())?;
        want_elements(op, "up", up, y.elements())?;
        let (gate, up, y) = (read(op, gate)?, read(op, up)?, write(op, y)?);
        activation::gated(self.isa, &self.threads, y, act, gate, up);
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
        let (dy, gate, up) = (read(op, dy)?, read(op, gate)?, read(op, up)?);
        let (dgate, dup) = (write(op, dgate)?, write(op, dup)?);
        activation::gated_backward(self.isa, &self.threads, dgate, dup, act, dy, gate, up);
        Ok(())
    }

    fn activation(&self, y: &mut Tensor, act: Activation, x: &Tensor) -> Result<()> {
        let op = "activation";
        want_elements(op, "x", x, y.elements())?;
        let (x, y) = (read(op, x)?, write(op, y)?);
        activation::activation(self.isa, &self.threads, y, act, x);
        Ok(())
    }

    fn activation_backward(&self, dx: &mut Tensor, act: Activation, dy: &Tensor, x: &Tensor) -> Result<()> {
        let op = "activation_backward";
        want_elements(op, "dy", dy, dx.elements())?;
        want_elements(op, "x", x, dx.elements())?;
        let (dy, x, dx) = (read(op, dy)?, read(op, x)?, write(op, dx)?);
        activation::activation_backward(self.isa, &self.threads, dx, act, dy, x);
        Ok(())
    }

    fn embed(&self, y_td: &mut Tensor, ids: &[u32], w_vd: &Tensor) -> Result<()> {
        let op = "embed";
        let (d, ld) = (w_vd.n_cols(), w_vd.row_stride());
        want_2d(op, "y", y_td, ids.len(), d)?;
        want_indices(op, ids, w_vd.n_rows(), false)?;
        let y = write(op, y_td)?;
        match w_vd.dtype() {
            DType::F32 => {
                let w = strided::<f32>(op, w_vd)?;
                y.chunks_mut(d.max(1)).zip(ids).for_each(|(y, &i)| y.copy_from_slice(&w[i as usize * ld..][..d]));
            }
            DType::BF16 => {
                let w = strided::<bf16>(op, w_vd)?;
                for (y, &i) in y.chunks_mut(d.max(1)).zip(ids) {
                    y.iter_mut().zip(&w[i as usize * ld..][..d]).for_each(|(y, w)| *y = w.to_f32());
                }
            }
            DType::F16 => return Err(Error::Unsupported { op, what: "an f16 table".into() }),
            dtype @ (DType::Q8_0 | DType::Q4_0 | DType::Q4_1) => {
                let (w, row) = (HostBuffer::tensor_bytes(w_vd).map_err(Error::in_op(op))?, dtype.bytes(d));
                for (y, &i) in y.chunks_mut(d.max(1)).zip(ids) {
                    quant::dequantize_into(self.isa, dtype, &w[i as usize * row..][..row], y);
                }
            }
        }
        Ok(())
    }

    fn embed_backward(&self, dw_vd: &mut Tensor, dy_td: &Tensor, ids: &[u32]) -> Result<()> {
        let op = "embed_backward";
        let d = dw_vd.n_cols();
        want_2d(op, "dy", dy_td, ids.len(), d)?;
        want_indices(op, ids, dw_vd.n_rows(), false)?;
        let (dy, dw) = (read(op, dy_td)?, write(op, dw_vd)?);
        for (dy, &i) in dy.chunks(d.max(1)).zip(ids) {
            dw[i as usize * d..][..d].iter_mut().zip(dy).for_each(|(w, g)| *w += g);
        }
        Ok(())
    }

    fn linear(&self, y_tn: &mut Tensor, x_tk: &Tensor, w_nk: &Tensor) -> Result<()> {
        let op = "linear";
        let (t, n, k) = (x_tk.n_rows(), w_nk.n_rows(), w_nk.n_cols());
        want_2d(op, "x", x_tk, t, k)?;
        want_2d(op, "y", y_tn, t, n)?;
        if w_nk.dtype().is_quantised() {
            let w = quant::Blocks::new(w_nk.dtype(), HostBuffer::tensor_bytes(w_nk).map_err(Error::in_op(op))?, n, k);
            quant::linear(self.isa, &self.threads, write(op, y_tn)?, n, k, read(op, x_tk)?, w);
            return Ok(());
        }
        let ((w, round), x, y) = (weight_view(op, w_nk)?, read(op, x_tk)?, write(op, y_tn)?);
        if !gemm::few_rows(t) {
            let kept = HostBuffer::derived::<Packed>(w_nk).filter(|kept| kept.fits(self.isa, k, n));
            let w = kept.map_or(Columns::Mat(w.t()), Columns::Packed);
            gemm::gemm(self.isa, &self.threads, y, false, t, n, k, Mat::rows(x, k, round), w);
        } else if !w_nk.is_contiguous() {
            // These kernels read rows of w as one run. Views are for scoring whole windows, so a copy for a few rows is no matter.
            match round {
                true => gemm::dots(self.isa, &self.threads, y, n, k, x, &gathered::<bf16>(op, w_nk)?),
                false => gemm::dots(self.isa, &self.threads, y, n, k, x, &gathered::<f32>(op, w_nk)?),
            }
        } else if round {
            gemm::dots(self.isa, &self.threads, y, n, k, x, strided::<bf16>(op, w_nk)?);
        } else {
            gemm::dots(self.isa, &self.threads, y, n, k, x, read(op, w_nk)?);
        }
        Ok(())
    }

    fn linear_dx(&self, dx_tk: &mut Tensor, accum: Accum, dy_tn: &Tensor, w_nk: &Tensor) -> Result<()> {
        let op = "linear_dx";
        let (t, n, k) = (dy_tn.n_rows(), w_nk.n_rows(), w_nk.n_cols());
        want_2d(op, "dy", dy_tn, t, n)?;
        want_2d(op, "dx", dx_tk, t, k)?;
        want_gradients(op, w_nk.dtype())?;
        let ((w, round), dy, dx) = (weight(op, w_nk)?, read(op, dy_tn)?, write(op, dx_tk)?);
        gemm::gemm(self.isa, &self.threads, dx, accum == Accum::Add, t, k, n, Mat::rows(dy, n, round), w);
        Ok(())
    }

    fn linear_dw(&self, dw_nk: &mut Tensor, dy_tn: &Tensor, x_tk: &Tensor, compute: DType) -> Result<()> {
        let op = "linear_dw";
        let (t, n, k) = (dy_tn.n_rows(), dw_nk.n_rows(), dw_nk.n_cols());
        want_2d(op, "dy", dy_tn, t, n)?;
        want_2d(op, "x", x_tk, t, k)?;
        want_gradients(op, compute)?;
        let round = match compute {
            DType::F32 => false,
            DType::BF16 => true,
            other => return Err(Error::Unsupported { op, what: format!("computing in {other}") }),
        };
        let (dy, x, dw) = (read(op, dy_tn)?, read(op, x_tk)?, write(op, dw_nk)?);
        let (dy, x) = (Mat::rows(dy, n, round).t(), Mat::rows(x, k, round));
        gemm::gemm(self.isa, &self.threads, dw, true, n, k, t, dy, x);
        Ok(())
    }

    fn rms_norm(&self, y_td: &mut Tensor, rstd_t: &mut Tensor, x_td: &Tensor, w_d: &Tensor, eps: f32) -> Result<()> {
        let op = "rms_norm";
        let (t, d) = (x_td.n_rows(), x_td.n_cols());
        want_2d(op, "y", y_td, t, d)?;
        want_elements(op, "rstd", rstd_t, t)?;
        want_elements(op, "w", w_d, d)?;
        let (x, w) = (read(op, x_td)?, values(op, w_d)?);
        let (y, rstd) = (write(op, y_td)?, write(op, rstd_t)?);
        norm::rms_norm(self.isa, &self.threads, y, rstd, x, &w, eps);
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
        let (dy, x, w, rstd) = (read(op, dy_td)?, read(op, x_td)?, values(op, w_d)?, read(op, rstd_t)?);
        let (dx, dw) = (write(op, dx_td)?, write(op, dw_d)?);
        norm::rms_norm_backward(self.isa, &self.threads, dx, accum == Accum::Add, dw, dy, x, &w, rstd);
        Ok(())
    }

    fn add_rms_norm(
        &self,
        sum_td: &mut Tensor,
        y_td: &mut Tensor,
        rstd_t: &mut Tensor,
        a_td: &Tensor,
        b_td: &Tensor,
        w_d: &Tensor,
        eps: f32,
    ) -> Result<()> {
        let op = "add_rms_norm";
        want_add_rms_norm(sum_td, y_td, rstd_t, a_td, b_td, w_d)?;
        let (a, b, w) = (read(op, a_td)?, read(op, b_td)?, values(op, w_d)?);
        let (sum, y, rstd) = (write(op, sum_td)?, write(op, y_td)?, write(op, rstd_t)?);
        norm::add_rms_norm(self.isa, &self.threads, sum, y, rstd, a, b, &w, eps);
        Ok(())
    }

    fn rope(&self, x: &mut Tensor, table: &Tensor, positions: &[u32], inverse: bool) -> Result<()> {
        let op = "rope";
        want_rope(op, x, table, positions)?;
        let h = table.n_cols();
        let (table, x) = (read(op, table)?, write(op, x)?);
        norm::rope(self.isa, &self.threads, x, table, positions, h, inverse);
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
        let (q, k, v) = (read(op, q)?, read(op, k)?, read(op, v)?);
        let (y, lse) = (write(op, y)?, write(op, lse_tn)?);
        attention::forward(self.isa, &self.threads, y, lse, q, k, v, spec);
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
        for (what, x, cols) in [
            ("dq", &*dq, qc),
            ("dk", &*dk, kc),
            ("dv", &*dv, kc),
            ("dy", dy, qc),
            ("y", y, qc),
            ("k", k, kc),
            ("v", v, kc),
        ] {
            want_2d(op, what, x, t, cols)?;
        }
        let saved = attention::Saved {
            dy: read(op, dy)?,
            y: read(op, y)?,
            lse: read(op, lse_tn)?,
            q: read(op, q)?,
            k: read(op, k)?,
            v: read(op, v)?,
        };
        let (dq, dk, dv) = (write(op, dq)?, write(op, dk)?, write(op, dv)?);
        attention::backward(self.isa, &self.threads, dq, dk, dv, &saved, spec);
        Ok(())
    }

    fn cross_entropy_rows(&self, logits_tv: &mut Tensor, targets: &[u32], scale: f32) -> Result<f64> {
        let op = "cross_entropy_rows";
        let (t, v) = (logits_tv.n_rows(), logits_tv.n_cols());
        want_len(op, "targets", targets.len(), t)?;
        want_indices(op, targets, v, true)?;
        let logits = write(op, logits_tv)?;
        Ok(loss::cross_entropy(self.isa, &self.threads, logits, targets, scale))
    }

    fn kl_rows(&self, student_tv: &mut Tensor, teacher_tv: &Tensor, scale: f32) -> Result<f64> {
        let op = "kl_rows";
        let (t, v) = (student_tv.n_rows(), student_tv.n_cols());
        want_2d(op, "teacher", teacher_tv, t, v)?;
        let (teacher, student) = (read(op, teacher_tv)?, write(op, student_tv)?);
        Ok(loss::kl(self.isa, &self.threads, student, teacher, v, scale))
    }

    fn compare_rows(&self, student_tv: &Tensor, teacher_tv: &Tensor, targets: &[u32]) -> Result<Compared> {
        let op = "compare_rows";
        let (t, v) = (student_tv.n_rows(), student_tv.n_cols());
        want_2d(op, "teacher", teacher_tv, t, v)?;
        want_len(op, "targets", targets.len(), t)?;
        want_indices(op, targets, v, true)?;
        let (student, teacher) = (read(op, student_tv)?, read(op, teacher_tv)?);
        Ok(loss::compare(self.isa, &self.threads, student, teacher, v, targets))
    }

    fn split(&self, high: &mut Tensor, low: &mut Tensor, w: &Tensor) -> Result<()> {
        let op = "split";
        want_halves(op, high, low, w.elements())?;
        let (w, high, low) = (read(op, w)?, write_bf16(op, high)?, write_bf16(op, low)?);
        elementwise::split(self.isa, &self.threads, high, low, w);
        Ok(())
    }

    fn join(&self, w: &mut Tensor, high: &Tensor, low: &Tensor) -> Result<()> {
        let op = "join";
        want_halves(op, high, low, w.elements())?;
        let (high, low) = (read_bf16(op, high)?, read_bf16(op, low)?);
        elementwise::join(self.isa, &self.threads, write(op, w)?, high, low);
        Ok(())
    }

    fn adamw(&self, w: &mut Tensor, m: &mut Tensor, v: &mut Tensor, grad: &Tensor, step: &AdamWStep) -> Result<()> {
        let op = "adamw";
        want_moments(op, m, v, grad, w.elements())?;
        let (grad, w) = (read(op, grad)?, write(op, w)?);
        if m.dtype() == DType::F32 {
            let (m, v) = (write(op, m)?, write(op, v)?);
            elementwise::adamw(self.isa, &self.threads, w, m, v, grad, step);
        } else {
            let (m, v) = (write_bf16(op, m)?, write_bf16(op, v)?);
            elementwise::adamw_short(self.isa, &self.threads, w, m, v, grad, step);
        }
        Ok(())
    }

    fn adamw_split(
        &self,
        high: &mut Tensor,
        low: &mut Tensor,
        m: &mut Tensor,
        v: &mut Tensor,
        grad: &Tensor,
        step: &AdamWStep,
    ) -> Result<()> {
        let op = "adamw_split";
        want_halves(op, high, low, grad.elements())?;
        want_moments(op, m, v, grad, grad.elements())?;
        let (grad, high, low) = (read(op, grad)?, write_bf16(op, high)?, write_bf16(op, low)?);
        if m.dtype() == DType::F32 {
            let (m, v) = (write(op, m)?, write(op, v)?);
            elementwise::adamw_halves(self.isa, &self.threads, high, low, m, v, grad, step);
        } else {
            let (m, v) = (write_bf16(op, m)?, write_bf16(op, v)?);
            elementwise::adamw_short_halves(self.isa, &self.threads, high, low, m, v, grad, step);
        }
        Ok(())
    }

    fn as_dyn(&self) -> &dyn Backend {
        self
    }
}
