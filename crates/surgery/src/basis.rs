//! The basis in which a hidden axis is cut, and the gains of norms over what is kept of it, from the teacher's streams on calibration text.
use crate::block::{self, Half};
use crate::{Bench, Cut, Result, Rotated, Weights};
use paring_model::Arch;
use paring_ops::{Backend, Error as OpsError};
use paring_prune::{Basis, kept_gain};
use paring_tensor::{DType, Shape, Tensor};

/// What makes a direction of the residual stream worth keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weighting {
    /// Its energy at the norms, every norm alike.
    Energy,
    /// What the maps behind the norms read of it: the output energy of each norm's maps counts as 1, and the head's as that of all blocks
    /// together.
    Readers,
}

/// Walks the teacher: `see` is shown the stream in front of every norm, with the norm's name and the maps that read it, and before that may
/// end the work.
fn walk(
    teacher: &dyn Weights,
    bench: &Bench<'_>,
    progress: &mut dyn FnMut(usize) -> Result<()>,
    see: &mut dyn FnMut(&Norm<'_>, &[Tensor]) -> Result<()>,
) -> Result<()> {
    bench.text.check()?;
    let b = bench.backend;
    let mut streams = block::embed(teacher, bench.text, b)?;
    for layer in 0..teacher.arch().layers.len() {
        let model = block::block(teacher, layer, bench.text.longest(), b, bench.dtype)?;
        for half in Half::BOTH {
            see(&Norm { arch: teacher.arch(), at: Some((layer, half)) }, &streams)?;
            for ((batch, _), x) in bench.text.groups().zip(&mut streams) {
                *x = block::sum(b, x, &half.run(&model, b, batch, x)?.0)?;
            }
        }
        progress(layer + 1)?;
    }
    see(&Norm { arch: teacher.arch(), at: None }, &streams)
}

/// A norm of the teacher.
struct Norm<'a> {
    arch: &'a Arch,
    /// Block and half; `None` for the final norm.
    at: Option<(usize, Half)>,
}

impl Norm<'_> {
    fn readers(&self) -> Result<Vec<paring_model::ParamSpec>> {
        match self.at {
            Some((layer, half)) => half.readers().iter().map(|r| block::layer_spec(self.arch, layer, r)).collect(),
            None => Ok(vec![block::spec(self.arch, "lm_head.weight")?]),
        }
    }
}

/// `x^T x` of every row of `rows`, added to `sum` `[H, H]`.
fn add_gram(backend: &dyn Backend, sum: &mut Tensor, rows: &Tensor) -> Result<()> {
    Ok(backend.linear_dw(sum, rows, rows, DType::F32)?)
}

fn square(backend: &dyn Backend, width: usize) -> Result<Tensor> {
    Ok(backend.zeros(DType::F32, Shape::new(&[width, width]).map_err(OpsError::in_op("basis"))?)?)
}

/// The basis of `teacher`'s residual stream whose first directions are worth most. Covariances are those of unit-RMS streams, behind folded
/// norms, as the maps read them. One forward of the text; memory for the streams and a few matrices `[H, H]`.
///
/// # Errors
/// Those of the weights, the backend and [`Basis`]; those of `progress`, which is told the blocks that are done.
pub fn basis<W: Weights>(
    teacher: W,
    bench: &Bench<'_>,
    weighting: Weighting,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Basis> {
    let (b, width, layers) = (bench.backend, teacher.arch().hidden, teacher.arch().layers.len());
    let folded = Rotated::folded(teacher, b);
    let ones = block::upload(b, &vec![1.0; width], &[width], DType::F32)?;
    let eps = folded.arch().rms_eps;
    let (mut covariance, mut readers) = (vec![0f64; width * width], vec![0f64; width * width]);
    let mut see = |norm: &Norm<'_>, streams: &[Tensor]| -> Result<()> {
        let mut sum = square(b, width)?;
        let mut tokens = 0;
        for x in streams {
            add_gram(b, &mut sum, &block::norm(b, x, &ones, eps)?)?;
            tokens += x.n_rows();
        }
        let here: Vec<f64> = b.download(&sum)?.into_iter().map(|v| f64::from(v) / tokens.max(1) as f64).collect();
        covariance.iter_mut().zip(&here).for_each(|(c, h)| *c += h);
        if weighting == Weighting::Readers {
            let mut gram = square(b, width)?;
            for spec in norm.readers()? {
                let w = folded.read(&spec)?;
                const ROWS: usize = 4096;
                for rows in w.chunks(ROWS * width) {
                    add_gram(b, &mut gram, &block::upload(b, rows, &[rows.len() / width, width], DType::F32)?)?;
                }
            }
            let gram: Vec<f64> = b.download(&gram)?.into_iter().map(f64::from).collect();
            // Both are symmetric, so this is the trace of their product: the energy of the outputs.
            let energy: f64 = gram.iter().zip(&here).map(|(g, h)| g * h).sum();
            let share = if norm.at.is_some() { 1.0 } else { 2.0 * layers as f64 };
            if 0.0 < energy {
                readers.iter_mut().zip(&gram).for_each(|(r, g)| *r += share * g / energy);
            }
        }
        Ok(())
    };
    walk(&folded, bench, progress, &mut see)?;
    let norms = 2 * layers + 1;
    covariance.iter_mut().for_each(|c| *c /= norms as f64);
    Ok(match weighting {
        Weighting::Energy => Basis::principal(&covariance, width)?,
        Weighting::Readers => Basis::weighted(&covariance, &readers, width)?,
    })
}

/// Multiplies the gain of every norm of the student by the root mean square of what it keeps of the teacher's unit-RMS stream, so that the
/// shortened norm returns what the whole one would have on average ([`kept_gain`]). One forward of the text.
///
/// # Errors
/// Those of the weights and the backend; those of `progress`, which is told the teacher's blocks that are done.
pub fn keep_energy<W: Weights>(
    cut: &mut Cut<'_, W>,
    bench: &Bench<'_>,
    progress: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let (b, width, kept) = (bench.backend, cut.teacher().arch().hidden, cut.plan().hidden());
    let ones = block::upload(b, &vec![1.0; width], &[width], DType::F32)?;
    let eps = cut.teacher().arch().rms_eps;
    let mut factors = Vec::new();
    let mut see = |norm: &Norm<'_>, streams: &[Tensor]| -> Result<()> {
        let name = match norm.at {
            None => "model.norm.weight".to_owned(),
            Some((layer, half)) => match cut.plan().student_layer(layer) {
                None => return Ok(()),
                Some(student) => format!("model.layers.{student}.{}.weight", half.norm()),
            },
        };
        let mut energy = 0.0;
        for x in streams {
            energy += b.sum_squares(&block::columns(b, &block::norm(b, x, &ones, eps)?, kept)?)?;
        }
        factors.push((name, kept_gain(energy, bench.text.tokens(), kept.len())));
        Ok(())
    };
    walk(cut.teacher(), bench, progress, &mut see)?;
    for (name, factor) in factors {
        let spec = block::spec(cut.arch(), &name)?;
        let gain = cut.read(&spec)?.into_iter().map(|g| (f64::from(g) * factor) as f32).collect();
        cut.set(&spec, gain)?;
    }
    Ok(())
}
