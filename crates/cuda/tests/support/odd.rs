//! A backend whose uploaded tensors begin one element behind the start of their buffer, as rows of a larger tensor do: no pointer is aligned
//! to more than an element. Everything else is the backend inside.
use paring_ops::{Accum, Activation, AdamWStep, AttnSpec, Backend, ChannelSums, Compared, Error, Result, RowProducts};
use paring_tensor::{DType, Shape, Tensor};

/// See the file.
#[derive(Debug)]
pub(crate) struct Odd<'b>(pub(crate) &'b dyn Backend);

/// Methods that the backend inside has.
macro_rules! inside {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)*) -> $result:ty;)*) => {
        $(fn $name(&self $(, $arg: $type)*) -> $result {
            self.0.$name($($arg),*)
        })*
    };
}

impl Backend for Odd<'_> {
    fn name(&self) -> &'static str {
        "odd"
    }

    fn upload(&self, values: &[f32], dtype: DType, shape: Shape) -> Result<Tensor> {
        if values.len() != shape.elements() {
            return self.0.upload(values, dtype, shape);
        }
        let op = "upload";
        let (block, _) = dtype.block();
        let longer = [&vec![0.0; block], values].concat();
        let line = Shape::new(&[longer.len()]).map_err(Error::in_op(op))?;
        let buffer = self.0.upload(&longer, dtype, line)?;
        buffer.rows(block..longer.len()).and_then(|view| view.reshape(shape)).map_err(Error::in_op(op))
    }

    inside! {
        fn alloc(&self, dtype: DType, shape: Shape) -> Result<Tensor>;
        fn zeros(&self, dtype: DType, shape: Shape) -> Result<Tensor>;
        fn upload_bytes(&self, bytes: &[u8], dtype: DType, shape: Shape) -> Result<Tensor>;
        fn download(&self, x: &Tensor) -> Result<Vec<f32>>;
        fn convert(&self, y: &mut Tensor, x: &Tensor) -> Result<()>;
        fn fill(&self, y: &mut Tensor, value: f32) -> Result<()>;
        fn write_rows(&self, dst: &mut Tensor, at: usize, src: &Tensor) -> Result<()>;
        fn add(&self, y: &mut Tensor, a: &Tensor, b: &Tensor) -> Result<()>;
        fn accumulate(&self, y: &mut Tensor, accum: Accum, x: &Tensor) -> Result<()>;
        fn scale(&self, y: &mut Tensor, factor: f32) -> Result<()>;
        fn sum_squares(&self, x: &Tensor) -> Result<f64>;
        fn gated(&self, y: &mut Tensor, act: Activation, gate: &Tensor, up: &Tensor) -> Result<()>;
        fn gated_backward(
            &self, dgate: &mut Tensor, dup: &mut Tensor, act: Activation, dy: &Tensor, gate: &Tensor, up: &Tensor
        ) -> Result<()>;
        fn activation(&self, y: &mut Tensor, act: Activation, x: &Tensor) -> Result<()>;
        fn activation_backward(&self, dx: &mut Tensor, act: Activation, dy: &Tensor, x: &Tensor) -> Result<()>;
        fn embed(&self, y: &mut Tensor, ids: &[u32], w: &Tensor) -> Result<()>;
        fn embed_backward(&self, dw: &mut Tensor, dy: &Tensor, ids: &[u32]) -> Result<()>;
        fn linear(&self, y: &mut Tensor, x: &Tensor, w: &Tensor) -> Result<()>;
        fn linear_dx(&self, dx: &mut Tensor, accum: Accum, dy: &Tensor, w: &Tensor) -> Result<()>;
        fn linear_dw(&self, dw: &mut Tensor, dy: &Tensor, x: &Tensor, compute: DType) -> Result<()>;
        fn rms_norm(&self, y: &mut Tensor, rstd: &mut Tensor, x: &Tensor, w: &Tensor, eps: f32) -> Result<()>;
        fn rms_norm_backward(
            &self, dx: &mut Tensor, accum: Accum, dw: &mut Tensor, dy: &Tensor, x: &Tensor, w: &Tensor, rstd: &Tensor
        ) -> Result<()>;
        fn add_rms_norm(
            &self, sum: &mut Tensor, y: &mut Tensor, rstd: &mut Tensor, a: &Tensor, b: &Tensor, w: &Tensor, eps: f32
        ) -> Result<()>;
        fn rope(&self, x: &mut Tensor, table: &Tensor, positions: &[u32], inverse: bool) -> Result<()>;
        fn attention(
            &self, y: &mut Tensor, lse: &mut Tensor, q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttnSpec
        ) -> Result<()>;
        fn attention_backward(
            &self, dq: &mut Tensor, dk: &mut Tensor, dv: &mut Tensor, dy: &Tensor, y: &Tensor, lse: &Tensor, q: &Tensor,
            k: &Tensor, v: &Tensor, spec: &AttnSpec
        ) -> Result<()>;
        fn channel_sums(&self, x: &Tensor) -> Result<ChannelSums>;
        fn row_products(&self, x: &Tensor, y: &Tensor) -> Result<Vec<RowProducts>>;
        fn cross_entropy_rows(&self, logits: &mut Tensor, targets: &[u32], scale: f32) -> Result<f64>;
        fn kl_rows(&self, student: &mut Tensor, teacher: &Tensor, scale: f32) -> Result<f64>;
        fn compare_rows(&self, student: &Tensor, teacher: &Tensor, targets: &[u32]) -> Result<Compared>;
        fn split(&self, high: &mut Tensor, low: &mut Tensor, w: &Tensor) -> Result<()>;
        fn join(&self, w: &mut Tensor, high: &Tensor, low: &Tensor) -> Result<()>;
        fn adamw(&self, w: &mut Tensor, m: &mut Tensor, v: &mut Tensor, grad: &Tensor, step: &AdamWStep) -> Result<()>;
        fn adamw_split(
            &self, high: &mut Tensor, low: &mut Tensor, m: &mut Tensor, v: &mut Tensor, grad: &Tensor, step: &AdamWStep
        ) -> Result<()>;
    }

    fn as_dyn(&self) -> &dyn Backend {
        self
    }
}
