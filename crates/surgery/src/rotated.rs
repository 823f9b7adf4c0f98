//! A model in another basis of its residual stream: gains folded into the maps that read them, the head untied, everything turned. The
//! function stays what it was; what changes is which directions a cut of the hidden axis takes away.
use crate::{Error, Result, Weights, block};
use paring_model::{Arch, Axis, ParamSpec};
use paring_ops::{Accum, Backend, Error as OpsError};
use paring_prune::Basis;
use paring_tensor::{DType, Shape, Tensor};

/// `of` with gains of 1, an untied head, and its residual stream in the basis that was given.
#[derive(Debug)]
pub struct Rotated<'b, W> {
    of: W,
    arch: Arch,
    backend: &'b dyn Backend,
    /// `[H, H]`, a direction per row; `None` leaves the basis as it is.
    directions: Option<Tensor>,
}

impl<'b, W: Weights> Rotated<'b, W> {
    /// Gains folded and the head untied, in the basis that the model has.
    pub fn folded(of: W, backend: &'b dyn Backend) -> Self {
        let arch = Arch { tied: false, ..of.arch().clone() };
        Rotated { of, arch, backend, directions: None }
    }

    /// The same, turned into `basis`.
    ///
    /// # Errors
    /// [`Error::Values`] for a basis of another width; those of the backend.
    pub fn new(of: W, basis: &Basis, backend: &'b dyn Backend) -> Result<Self> {
        let width = of.arch().hidden;
        if basis.size() != width {
            return Err(Error::Values { name: "basis".into(), got: basis.size(), want: width });
        }
        let values: Vec<f32> = basis.directions().iter().map(|&v| v as f32).collect();
        let directions = Some(block::upload(backend, &values, &[width, width], DType::F32)?);
        Ok(Rotated { directions, ..Rotated::folded(of, backend) })
    }

    /// What is rotated.
    pub fn of(&self) -> &W {
        &self.of
    }

    fn read_of(&self, name: &str) -> Result<Vec<f32>> {
        self.of.read(&block::spec(self.of.arch(), name)?)
    }

    /// Rows of `values` in the new basis: `w Q`.
    fn turn_inputs(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        let Some(directions) = &self.directions else { return Ok(values) };
        let width = self.arch.hidden;
        // In pieces: an embedding need not be on the device twice.
        const ROWS: usize = 4096;
        let mut out = Vec::with_capacity(values.len());
        for rows in values.chunks(ROWS * width) {
            let w = block::upload(self.backend, rows, &[rows.len() / width, width], DType::F32)?;
            out.extend(self.backend.download(&block::linear(self.backend, &w, directions)?)?);
        }
        Ok(out)
    }

    /// `Q^T w` for `w` `[H, inputs]`.
    fn turn_outputs(&self, values: Vec<f32>, inputs: usize) -> Result<Vec<f32>> {
        let Some(directions) = &self.directions else { return Ok(values) };
        let dims = [self.arch.hidden, inputs];
        let w = block::upload(self.backend, &values, &dims, DType::F32)?;
        let mut y = self.backend.alloc(DType::F32, Shape::new(&dims).map_err(OpsError::in_op("rotate"))?)?;
        self.backend.linear_dx(&mut y, Accum::Set, directions, &w)?;
        Ok(self.backend.download(&y)?)
    }
}

/// The norm whose gain the parameter reads; `None` for one that reads no norm.
fn norm_of(spec: &ParamSpec) -> Option<String> {
    match spec.layer {
        None => (spec.name == "lm_head.weight").then(|| "model.norm.weight".into()),
        Some(layer) => block::Half::BOTH.into_iter().find_map(|half| {
            let reads = half.readers().iter().any(|r| spec.name.ends_with(&format!("{r}.weight")));
            reads.then(|| format!("model.layers.{layer}.{}.weight", half.norm()))
        }),
    }
}

impl<W: Weights> Weights for Rotated<'_, W> {
    fn arch(&self) -> &Arch {
        &self.arch
    }

    fn read(&self, spec: &ParamSpec) -> Result<Vec<f32>> {
        if spec.shape.len() == 1 {
            return Ok(vec![1.0; spec.elements()]);
        }
        let tied_head = spec.name == "lm_head.weight" && self.of.arch().tied;
        let name = if tied_head { "model.embed_tokens.weight" } else { &spec.name };
        let mut values = self.read_of(name)?;
        if let Some(norm) = norm_of(spec) {
            let gain = self.read_of(&norm)?;
            for row in values.chunks_exact_mut(gain.len().max(1)) {
                row.iter_mut().zip(&gain).for_each(|(w, g)| *w *= g);
            }
        }
        if spec.axes.first() == Some(&Axis::Hidden) {
            return self.turn_outputs(values, spec.shape[1]);
        }
        self.turn_inputs(values)
    }
}
