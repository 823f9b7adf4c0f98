//! The trait. Legend of suffixes: `t` tokens, `d` model width, `k`/`n` inputs/outputs of a linear map, `v` vocabulary, `h` head width.
use crate::{
    Accum, Activation, AdamWStep, AttnSpec, Compared, Error, HeadGrads, Result, head, statistics, want_2d,
    want_add_rms_norm, want_halves,
};
use paring_importance::{ChannelSums, RowProducts};
use paring_tensor::{DType, Shape, Tensor};
use std::fmt::Debug;

/// Kernels of one device and no policy: no recording, no caching, no choice of what to run.
///
/// Activations and gradients are f32. Weights are f32 or bf16 and decide the compute type of the products they take part in; where only a
/// forward is asked for, quantised weights will do as well (see the crate's documentation). Every method returns [`crate::Error`] on shapes or types that do not fit, before it writes.
pub trait Backend: Send + Sync + Debug {
    /// A short name: `reference`, `cpu`.
    fn name(&self) -> &'static str;

    // ---- memory ----

    /// A tensor of unspecified contents, for an output that an operation overwrites. It is cheaper than [`Backend::zeros`].
    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor>;
    /// A tensor of zeros (of zero bytes): what sums start from.
    fn zeros(&self, dtype: DType, shape: Shape) -> Result<Tensor>;
    /// A tensor with `values` rounded to `dtype`.
    fn upload(&self, values: &[f32], dtype: DType, shape: Shape) -> Result<Tensor>;
    /// A tensor whose elements are the little-endian `bytes`, bit for bit: ggml's blocks must not be rounded a second time.
    fn upload_bytes(&self, bytes: &[u8], dtype: DType, shape: Shape) -> Result<Tensor>;
    /// Says that many products with many rows will read the weight `w_nk` and nobody writes it meanwhile: a backend may keep a copy in the
    /// order that they read, of about the weight's size, for as long as it lives unchanged. Results stay the same bits.
    fn keep_packed(&self, _w_nk: &Tensor) -> Result<()> {
        Ok(())
    }
    /// The values as f32.
    fn download(&self, x: &Tensor) -> Result<Vec<f32>>;
    /// Overwrites `y` with `x` converted to the type of `y`; shapes equal in element count.
    fn convert(&self, y: &mut Tensor, x: &Tensor) -> Result<()>;
    /// Sets every element.
    fn fill(&self, y: &mut Tensor, value: f32) -> Result<()>;
    /// Rows `at..at + src.n_rows()` of `dst` become `src`. Both f32.
    fn write_rows(&self, dst: &mut Tensor, at: usize, src: &Tensor) -> Result<()>;

    /// Runs `work`, which queues operations of this backend and downloads nothing: a device may collect them and take them as one (a CUDA
    /// graph), where launching hundreds of small kernels one by one would take longer than running them. The default runs it.
    fn graph(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        work()
    }

    // ---- element-wise, f32 ----

    /// `y = a + b`.
    fn add(&self, y: &mut Tensor, a: &Tensor, b: &Tensor) -> Result<()>;
    /// `y (+)= x`.
    fn accumulate(&self, y: &mut Tensor, accum: Accum, x: &Tensor) -> Result<()>;
    /// `y *= factor`.
    fn scale(&self, y: &mut Tensor, factor: f32) -> Result<()>;
    /// The sum of squares, f64, in an order that depends on the data only.
    fn sum_squares(&self, x: &Tensor) -> Result<f64>;
    /// `y = act(gate) * up`: SwiGLU with [`Activation::Silu`], GeGLU with a GELU (Shazeer, arXiv 2002.05202).
    fn gated(&self, y: &mut Tensor, act: Activation, gate: &Tensor, up: &Tensor) -> Result<()>;
    /// Gradients of [`Backend::gated`], overwritten.
    fn gated_backward(
        &self,
        dgate: &mut Tensor,
        dup: &mut Tensor,
        act: Activation,
        dy: &Tensor,
        gate: &Tensor,
        up: &Tensor,
    ) -> Result<()>;
    /// `y = act(x)`: the hidden layer of an MLP without a gate.
    fn activation(&self, y: &mut Tensor, act: Activation, x: &Tensor) -> Result<()>;
    /// Gradient of [`Backend::activation`], overwritten.
    fn activation_backward(&self, dx: &mut Tensor, act: Activation, dy: &Tensor, x: &Tensor) -> Result<()>;

    // ---- rows of a table ----

    /// `y_td[t] = w_vd[ids[t]]`; `w` f32, bf16, or quantised; also a view of columns ([`Tensor::first_columns`]).
    fn embed(&self, y_td: &mut Tensor, ids: &[u32], w_vd: &Tensor) -> Result<()>;
    /// `dw_vd[ids[t]] += dy_td[t]`, in the order of tokens.
    fn embed_backward(&self, dw_vd: &mut Tensor, dy_td: &Tensor, ids: &[u32]) -> Result<()>;

    // ---- linear maps: w_nk as in y = x w^T ----

    /// `y_tn = x_tk w_nk^T`, in the type of `w`: f32, bf16, or quantised. `w` may be a view of columns ([`Tensor::first_columns`]), which no
    /// other operation takes; the result is bit for bit that with a copy of the view.
    fn linear(&self, y_tn: &mut Tensor, x_tk: &Tensor, w_nk: &Tensor) -> Result<()>;
    /// `dx_tk (+)= dy_tn w_nk`, in the type of `w`: f32 or bf16.
    fn linear_dx(&self, dx_tk: &mut Tensor, accum: Accum, dy_tn: &Tensor, w_nk: &Tensor) -> Result<()>;
    /// `dw_nk += dy_tn^T x_tk`, factors rounded to `compute` first. With `dy = x` and f32 this is a Gram matrix.
    fn linear_dw(&self, dw_nk: &mut Tensor, dy_tn: &Tensor, x_tk: &Tensor, compute: DType) -> Result<()>;

    // ---- normalisation, rotation, attention ----

    /// `y = x * rstd * w`, `rstd_t = 1 / sqrt(mean_d(x^2) + eps)` (Zhang and Sennrich, arXiv 1910.07467). `w_d` f32 or bf16.
    fn rms_norm(&self, y_td: &mut Tensor, rstd_t: &mut Tensor, x_td: &Tensor, w_d: &Tensor, eps: f32) -> Result<()>;
    /// Gradients of [`Backend::rms_norm`]: `dx` by `accum`, `dw` accumulates.
    fn rms_norm_backward(
        &self,
        dx_td: &mut Tensor,
        accum: Accum,
        dw_d: &mut Tensor,
        dy_td: &Tensor,
        x_td: &Tensor,
        w_d: &Tensor,
        rstd_t: &Tensor,
    ) -> Result<()>;
    /// `sum = a + b`, then [`Backend::rms_norm`] of the sum: the residual stream between attention and MLP.
    ///
    /// The default is the specification: the sum is rounded to f32 before it is squared. The backward needs no operation of its own:
    /// [`Backend::rms_norm_backward`] at `sum` adds to the gradient of the sum, which is then that of `a` and that of `b`.
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
        want_add_rms_norm(sum_td, y_td, rstd_t, a_td, b_td, w_d)?;
        self.add(sum_td, a_td, b_td)?;
        self.rms_norm(y_td, rstd_t, sum_td, w_d, eps)
    }
    /// Rotary embedding in place (Su et al., arXiv 2104.09864), in the layout of Hugging Face: element `i < h/2` of a head turns with
    /// `i + h/2`.
    ///
    /// `table` is `[positions, h]`: `h/2` cosines, then `h/2` sines. `x` is `[T, N * h]`. `inverse` turns back, which is the gradient,
    /// since a rotation's inverse is its transpose: neither way needs what `x` was before.
    fn rope(&self, x: &mut Tensor, table: &Tensor, positions: &[u32], inverse: bool) -> Result<()>;
    /// Causal softmax attention with grouped heads; a window and a soft cap of the scores as [`AttnSpec`] says. `lse_tn` keeps the log of
    /// each row's normaliser for the backward; scores are never all in memory.
    fn attention(
        &self,
        y: &mut Tensor,
        lse_tn: &mut Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        spec: &AttnSpec,
    ) -> Result<()>;
    /// Gradients of [`Backend::attention`], overwritten; scores are made again from `q`, `k` and `lse`. Only without `past`.
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
    ) -> Result<()>;

    // ---- what calibration keeps of activations ----

    /// Sums over the rows of `x_tc`, `[T, C]` f32, channel by channel, in f64 and in an order that depends on the shape only. The default
    /// downloads; a device makes them where the activations are.
    fn channel_sums(&self, x_tc: &Tensor) -> Result<ChannelSums> {
        Ok(ChannelSums::of(statistics::view("channel_sums", x_tc, &self.download(x_tc)?)?))
    }
    /// For each row of `x_td` and `y_td`, `[T, D]` f32, the products that their cosine is made of, in f64.
    fn row_products(&self, x_td: &Tensor, y_td: &Tensor) -> Result<Vec<RowProducts>> {
        let op = "row_products";
        want_2d(op, "y", y_td, x_td.n_rows(), x_td.n_cols())?;
        let (x, y) = (self.download(x_td)?, self.download(y_td)?);
        let (x, y) = (statistics::view(op, x_td, &x)?, statistics::view(op, y_td, &y)?);
        Ok(x.rows().into_iter().zip(y.rows()).map(|(x, y)| RowProducts::of(x, y)).collect())
    }

    // ---- losses of rows of logits ----

    /// Returns the sum over rows of the cross-entropy in nats (f64) and turns each row of logits into `scale *` its gradient.
    /// A row whose target is [`crate::IGNORE`] adds nothing and gets a gradient of zero.
    fn cross_entropy_rows(&self, logits_tv: &mut Tensor, targets: &[u32], scale: f32) -> Result<f64>;
    /// Returns the sum over rows of KL(teacher || student) in nats (f64) and turns each row of the student's logits into `scale *` its
    /// gradient. Temperature 1.
    fn kl_rows(&self, student_tv: &mut Tensor, teacher_tv: &Tensor, scale: f32) -> Result<f64>;
    /// Compares rows of logits on the rows that have a target. The reading order is fixed: sums do not depend on threads.
    fn compare_rows(&self, student_tv: &Tensor, teacher_tv: &Tensor, targets: &[u32]) -> Result<Compared>;

    // ---- losses fused with the vocabulary head: [T, V] logits of a whole batch never exist ----

    /// Cross-entropy of `softmax(x w^T)`: returns the sum in nats; with `grads`, `dx` is overwritten and `dw` accumulates
    /// `scale *` the gradient.
    fn head_cross_entropy(
        &self,
        grads: Option<HeadGrads<'_>>,
        x_td: &Tensor,
        w_vd: &Tensor,
        targets: &[u32],
        scale: f32,
    ) -> Result<f64> {
        head::cross_entropy(self.as_dyn(), grads, x_td, w_vd, targets, scale)
    }
    /// Forward KL between a teacher's head and a student's: returns the sum over rows in nats; gradients as in
    /// [`Backend::head_cross_entropy`].
    fn head_kl(
        &self,
        grads: Option<HeadGrads<'_>>,
        x_td: &Tensor,
        w_vd: &Tensor,
        teacher_x_te: &Tensor,
        teacher_w_ve: &Tensor,
        scale: f32,
    ) -> Result<f64> {
        head::kl(self.as_dyn(), grads, x_td, w_vd, teacher_x_te, teacher_w_ve, scale)
    }
    /// Compares two heads on the rows that have a target.
    fn head_compare(
        &self,
        x_td: &Tensor,
        w_vd: &Tensor,
        teacher_x_te: &Tensor,
        teacher_w_ve: &Tensor,
        targets: &[u32],
    ) -> Result<Compared> {
        head::compare(self.as_dyn(), x_td, w_vd, teacher_x_te, teacher_w_ve, targets)
    }

    // ---- optimizer ----

    /// f32 `w` as two halves (`paring_optim::split`): `high` is `w` rounded to bf16, to compute with; `low` is the sixteen bits that are
    /// missing, in a tensor of bf16 whose values mean nothing.
    fn split(&self, high: &mut Tensor, low: &mut Tensor, w: &Tensor) -> Result<()>;
    /// Undoes [`Backend::split`], to the bit.
    fn join(&self, w: &mut Tensor, high: &Tensor, low: &Tensor) -> Result<()>;
    /// One AdamW update (`paring_optim::adamw_update`) of f32 `w`. The moments are both f32, or both bf16: then they are rounded when they
    /// are written, and the weights see them as they were before that.
    fn adamw(&self, w: &mut Tensor, m: &mut Tensor, v: &mut Tensor, grad: &Tensor, step: &AdamWStep) -> Result<()>;
    /// [`Backend::adamw`] of the weights that `high` and `low` are the halves of.
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
        // They are written last: that they can be written has to be known before the moments are.
        high.buffer_mut().and(low.buffer_mut()).map(drop).map_err(Error::in_op(op))?;
        let mut w = self.alloc(DType::F32, high.shape())?;
        self.join(&mut w, high, low)?;
        self.adamw(&mut w, m, v, grad, step)?;
        self.split(high, low, &w)
    }

    /// This backend as a trait object: what the default methods call through. Always `self`.
    fn as_dyn(&self) -> &dyn Backend;
}
