//! The trait's methods, each handed to the file of its kernels.
use crate::{
    activation, attention,
    device::Device,
    elementwise, embed, gemm, loss,
    memory::{Allocation, Held},
    norm, optimizer, rope, statistics,
};
use paring_ops::{Accum, Activation, AdamWStep, AttnSpec, Backend, ChannelSums, Compared, Error, Result, RowProducts};
use paring_tensor::{DType, Shape, Tensor, from_f32, to_f32};
use std::fmt;

/// The backend of one CUDA device. Operations are queued on one stream; what a method returns to the host has been waited for.
pub struct Cuda {
    pub(crate) device: Device,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.device.fmt(f)
    }
}

impl Cuda {
    /// The device with this number.
    ///
    /// # Errors
    /// [`Error::Device`] when there is no driver or no such device, or its compute capability is below 8.0.
    pub fn new(ordinal: usize) -> Result<Self> {
        Cuda::with_allocation(ordinal, Allocation::Pooled)
    }

    /// The same, and how it gets memory.
    ///
    /// # Errors
    /// Those of [`Cuda::new`].
    pub fn with_allocation(ordinal: usize, allocation: Allocation) -> Result<Self> {
        Ok(Cuda { device: Device::open(ordinal, allocation)? })
    }

    /// What the driver calls the device.
    pub fn device_name(&self) -> &str {
        self.device.name()
    }

    /// What its tensors hold.
    pub fn held(&self) -> Held {
        self.device.held()
    }

    /// Free and total bytes of the device.
    ///
    /// # Errors
    /// [`Error::Device`].
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.device.memory()
    }

    /// Waits until everything that was queued has run.
    ///
    /// # Errors
    /// [`Error::Device`]: also what went wrong in a kernel since the last wait.
    pub fn synchronize(&self) -> Result<()> {
        self.device.synchronize("synchronize")
    }

    fn uploaded(&self, op: &'static str, bytes: &[u8], dtype: DType, shape: Shape) -> Result<Tensor> {
        let tensor = self.device.tensor(op, dtype, shape)?;
        self.device.upload(op, self.device.address(op, &tensor)?, bytes)?;
        Ok(tensor)
    }
}

impl Backend for Cuda {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        self.device.tensor("alloc", dtype, shape)
    }

    fn zeros(&self, dtype: DType, shape: Shape) -> Result<Tensor> {
        let op = "zeros";
        let tensor = self.device.tensor(op, dtype, shape)?;
        self.device.zero(op, self.device.address(op, &tensor)?, tensor.byte_range().len())?;
        Ok(tensor)
    }

    fn upload(&self, values: &[f32], dtype: DType, shape: Shape) -> Result<Tensor> {
        let op = "upload";
        let (got, want) = (values.len(), shape.elements());
        if got != want {
            return Err(Error::Tensor { op, source: paring_tensor::Error::Length { got, want } });
        }
        dtype.bytes_of(shape).map_err(Error::in_op(op))?;
        match dtype {
            DType::F32 => self.uploaded(op, bytemuck::cast_slice(values), dtype, shape),
            _ => self.uploaded(op, &from_f32(values, dtype), dtype, shape),
        }
    }

    fn upload_bytes(&self, bytes: &[u8], dtype: DType, shape: Shape) -> Result<Tensor> {
        let op = "upload_bytes";
        let (got, want) = (bytes.len(), dtype.bytes_of(shape).map_err(Error::in_op(op))?);
        if got != want {
            return Err(Error::Tensor { op, source: paring_tensor::Error::Length { got, want } });
        }
        self.uploaded(op, bytes, dtype, shape)
    }

    fn download(&self, x: &Tensor) -> Result<Vec<f32>> {
        let op = "download";
        let from = self.device.address(op, x)?;
        match x.dtype() {
            DType::F32 => self.device.download_slice(op, from, x.elements()),
            dtype => Ok(to_f32(&self.device.download(op, from, x.byte_range().len())?, dtype)),
        }
    }

    fn graph(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        self.device.graph(work)
    }

    fn convert(&self, y: &mut Tensor, x: &Tensor) -> Result<()> {
        elementwise::convert(&self.device, y, x)
    }

    fn fill(&self, y: &mut Tensor, value: f32) -> Result<()> {
        elementwise::fill(&self.device, y, value)
    }

    fn write_rows(&self, dst: &mut Tensor, at: usize, src: &Tensor) -> Result<()> {
        elementwise::write_rows(&self.device, dst, at, src)
    }

    fn add(&self, y: &mut Tensor, a: &Tensor, b: &Tensor) -> Result<()> {
        elementwise::add(&self.device, y, a, b)
    }

    fn accumulate(&self, y: &mut Tensor, accum: Accum, x: &Tensor) -> Result<()> {
        elementwise::accumulate(&self.device, y, accum, x)
    }

    fn scale(&self, y: &mut Tensor, factor: f32) -> Result<()> {
        elementwise::scale(&self.device, y, factor)
    }

    fn sum_squares(&self, x: &Tensor) -> Result<f64> {
        elementwise::sum_squares(&self.device, x)
    }

    fn gated(&self, y: &mut Tensor, act: Activation, gate: &Tensor, up: &Tensor) -> Result<()> {
        activation::gated(&self.device, y, act, gate, up)
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
        activation::gated_backward(&self.device, dgate, dup, act, dy, gate, up)
    }

    fn activation(&self, y: &mut Tensor, act: Activation, x: &Tensor) -> Result<()> {
        activation::activation(&self.device, y, act, x)
    }

    fn activation_backward(&self, dx: &mut Tensor, act: Activation, dy: &Tensor, x: &Tensor) -> Result<()> {
        activation::activation_backward(&self.device, dx, act, dy, x)
    }

    fn embed(&self, y_td: &mut Tensor, ids: &[u32], w_vd: &Tensor) -> Result<()> {
        embed::embed(&self.device, y_td, ids, w_vd)
    }

    fn embed_backward(&self, dw_vd: &mut Tensor, dy_td: &Tensor, ids: &[u32]) -> Result<()> {
        embed::embed_backward(&self.device, dw_vd, dy_td, ids)
    }

    fn linear(&self, y_tn: &mut Tensor, x_tk: &Tensor, w_nk: &Tensor) -> Result<()> {
        gemm::linear(&self.device, y_tn, x_tk, w_nk)
    }

    fn linear_dx(&self, dx_tk: &mut Tensor, accum: Accum, dy_tn: &Tensor, w_nk: &Tensor) -> Result<()> {
        gemm::linear_dx(&self.device, dx_tk, accum, dy_tn, w_nk)
    }

    fn linear_dw(&self, dw_nk: &mut Tensor, dy_tn: &Tensor, x_tk: &Tensor, compute: DType) -> Result<()> {
        gemm::linear_dw(&self.device, dw_nk, dy_tn, x_tk, compute)
    }

    fn rms_norm(&self, y_td: &mut Tensor, rstd_t: &mut Tensor, x_td: &Tensor, w_d: &Tensor, eps: f32) -> Result<()> {
        norm::rms_norm(&self.device, y_td, rstd_t, x_td, w_d, eps)
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
        norm::rms_norm_backward(&self.device, dx_td, accum, dw_d, dy_td, x_td, w_d, rstd_t)
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
        norm::add_rms_norm(&self.device, sum_td, y_td, rstd_t, a_td, b_td, w_d, eps)
    }

    fn rope(&self, x: &mut Tensor, table: &Tensor, positions: &[u32], inverse: bool) -> Result<()> {
        rope::rope(&self.device, x, table, positions, inverse)
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
        attention::attention(&self.device, y, lse_tn, q, k, v, spec)
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
        attention::attention_backward(&self.device, dq, dk, dv, dy, y, lse_tn, q, k, v, spec)
    }

    fn cross_entropy_rows(&self, logits_tv: &mut Tensor, targets: &[u32], scale: f32) -> Result<f64> {
        loss::cross_entropy_rows(&self.device, logits_tv, targets, scale)
    }

    fn kl_rows(&self, student_tv: &mut Tensor, teacher_tv: &Tensor, scale: f32) -> Result<f64> {
        loss::kl_rows(&self.device, student_tv, teacher_tv, scale)
    }

    fn compare_rows(&self, student_tv: &Tensor, teacher_tv: &Tensor, targets: &[u32]) -> Result<Compared> {
        loss::compare_rows(&self.device, student_tv, teacher_tv, targets)
    }

    fn split(&self, high: &mut Tensor, low: &mut Tensor, w: &Tensor) -> Result<()> {
        optimizer::split(&self.device, high, low, w)
    }

    fn join(&self, w: &mut Tensor, high: &Tensor, low: &Tensor) -> Result<()> {
        optimizer::join(&self.device, w, high, low)
    }

    fn adamw(&self, w: &mut Tensor, m: &mut Tensor, v: &mut Tensor, grad: &Tensor, step: &AdamWStep) -> Result<()> {
        optimizer::adamw(&self.device, w, m, v, grad, step)
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
        optimizer::adamw_split(&self.device, high, low, m, v, grad, step)
    }

    fn channel_sums(&self, x_tc: &Tensor) -> Result<ChannelSums> {
        statistics::channel_sums(&self.device, x_tc)
    }

    fn row_products(&self, x_td: &Tensor, y_td: &Tensor) -> Result<Vec<RowProducts>> {
        statistics::row_products(&self.device, x_td, y_td)
    }

    fn as_dyn(&self) -> &dyn Backend {
        self
    }
}
