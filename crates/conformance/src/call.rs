//! One call of one operation: its operands on the host, and how a backend is asked for it.
use paring_ops::{Backend, Error, Result};
use paring_tensor::{DType, Shape, Tensor};

/// Which element types an operation takes for an operand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Types {
    F32,
    BF16,
    /// f32 or bf16: weights.
    Weight,
    Any,
}

/// How many rows an operand may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rows {
    /// As many as the other operands say.
    Given,
    /// Also more: tables, caches.
    OrMore,
    /// Also fewer: what is written into another tensor.
    OrFewer,
}

/// A tensor to be, or one that an operation is to write.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    pub(crate) what: &'static str,
    pub(crate) dims: Vec<usize>,
    pub(crate) dtype: DType,
    /// Before the call.
    pub(crate) values: Vec<f32>,
    pub(crate) types: Types,
    pub(crate) rows: Rows,
    /// An output whose old values are read.
    pub(crate) accumulates: bool,
    /// Columns that lie between the rows: then it is a view of a wider matrix.
    pub(crate) gap: usize,
}

impl Operand {
    pub(crate) fn f32(what: &'static str, dims: &[usize], values: Vec<f32>) -> Self {
        let dims = dims.to_vec();
        Operand {
            what,
            dims,
            dtype: DType::F32,
            values,
            types: Types::F32,
            rows: Rows::Given,
            accumulates: false,
            gap: 0,
        }
    }

    /// A weight of type `dtype`.
    pub(crate) fn weight(what: &'static str, dims: &[usize], dtype: DType, values: Vec<f32>) -> Self {
        Operand { dtype, types: Types::Weight, ..Operand::f32(what, dims, values) }
    }

    /// An operand that may have any type.
    pub(crate) fn any(what: &'static str, dims: &[usize], dtype: DType, values: Vec<f32>) -> Self {
        Operand { dtype, types: Types::Any, ..Operand::f32(what, dims, values) }
    }

    /// An operand that has to be bf16.
    pub(crate) fn short(what: &'static str, dims: &[usize], values: Vec<f32>) -> Self {
        Operand { dtype: DType::BF16, types: Types::BF16, ..Operand::f32(what, dims, values) }
    }

    /// An output that is overwritten, full of what it must not keep.
    pub(crate) fn out(what: &'static str, dims: &[usize]) -> Self {
        Operand::f32(what, dims, vec![f32::NAN; dims.iter().product()])
    }

    /// An output that is added to.
    pub(crate) fn sum(what: &'static str, dims: &[usize], old: Vec<f32>) -> Self {
        Operand { accumulates: true, ..Operand::f32(what, dims, old) }
    }

    pub(crate) fn with_rows(self, rows: Rows) -> Self {
        Operand { rows, ..self }
    }

    /// A view of the first columns of a matrix that has `gap` more.
    pub(crate) fn with_gap(self, gap: usize) -> Self {
        Operand { gap, ..self }
    }

    pub(crate) fn upload(&self, backend: &dyn Backend) -> Result<Tensor> {
        if let ([rows, columns], true) = (&self.dims[..], 0 < self.gap) {
            let mut wide = Vec::with_capacity(rows * (columns + self.gap));
            for row in 0..*rows {
                wide.extend(&self.values[row * columns..(row + 1) * columns]);
                // What must not be read, or must not matter.
                wide.resize(wide.len() + self.gap, 1e3);
            }
            let shape = Shape::new(&[*rows, columns + self.gap]).map_err(Error::in_op("conformance"))?;
            let matrix = backend.upload(&wide, self.dtype, shape)?;
            return matrix.first_columns(*columns).map_err(Error::in_op("conformance"));
        }
        let shape = Shape::new(&self.dims).map_err(Error::in_op("conformance"))?;
        backend.upload(&self.values, self.dtype, shape)
    }

    fn bytes(&self) -> usize {
        self.dtype.bytes(self.values.len()) * if self.accumulates { 2 } else { 1 }
    }
}

/// Outputs, inputs, and the numbers that the operation returns.
type Kernel = dyn Fn(&dyn Backend, &mut [Tensor], &[Tensor]) -> Result<Vec<f64>> + Send + Sync;

pub(crate) struct Call {
    pub(crate) outputs: Vec<Operand>,
    pub(crate) inputs: Vec<Operand>,
    kernel: Box<Kernel>,
}

impl Call {
    pub(crate) fn new<const O: usize, const I: usize>(
        outputs: [Operand; O],
        inputs: [Operand; I],
        kernel: impl Fn(&dyn Backend, &mut [Tensor; O], &[Tensor; I]) -> Result<Vec<f64>> + Send + Sync + 'static,
    ) -> Call {
        let kernel = move |backend: &dyn Backend, outputs: &mut [Tensor], inputs: &[Tensor]| {
            let counts = format!("{} outputs and {} inputs, expected {O} and {I}", outputs.len(), inputs.len());
            match (outputs.try_into(), inputs.try_into()) {
                (Ok(outputs), Ok(inputs)) => kernel(backend, outputs, inputs),
                _ => Err(Error::Device { op: "conformance", message: counts }),
            }
        };
        Call { outputs: outputs.into(), inputs: inputs.into(), kernel: Box::new(kernel) }
    }

    /// The outputs, then the inputs.
    pub(crate) fn upload(&self, backend: &dyn Backend) -> Result<(Vec<Tensor>, Vec<Tensor>)> {
        let upload = |operands: &[Operand]| operands.iter().map(|o| o.upload(backend)).collect::<Result<Vec<Tensor>>>();
        Ok((upload(&self.outputs)?, upload(&self.inputs)?))
    }

    pub(crate) fn run(&self, backend: &dyn Backend, outputs: &mut [Tensor], inputs: &[Tensor]) -> Result<Vec<f64>> {
        (self.kernel)(backend, outputs, inputs)
    }

    pub(crate) fn input(&self, i: usize) -> Vec<f64> {
        wide(&self.inputs[i])
    }

    pub(crate) fn bytes(&self) -> usize {
        self.outputs.iter().chain(&self.inputs).map(Operand::bytes).sum()
    }
}

/// The values that a tensor made of the operand holds.
pub(crate) fn wide(operand: &Operand) -> Vec<f64> {
    let held = paring_tensor::to_f32(&paring_tensor::from_f32(&operand.values, operand.dtype), operand.dtype);
    held[..operand.values.len()].iter().map(|&x| f64::from(x)).collect()
}
