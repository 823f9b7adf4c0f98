//! A backend against the reference: the same operands, the outputs compared.
use crate::{
    call::Call,
    case::Case,
    size::{Size, sizes},
};
use paring_ops::{Backend, Error};
use paring_reference::Reference;
use paring_tensor::DType;
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// How far results may be from the reference's, in units of an output's size (`size.rs`): of the terms that it is a sum of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bound {
    /// The error of each element over its size.
    pub each: f64,
    /// The sum of squared errors over the sum of squared sizes. Where terms do not cancel this is the relative squared error (NMSE).
    pub nmse: f64,
}

impl Bound {
    /// The bound of results that are rounded to `dtype` at their last step.
    ///
    /// A product with a bf16 weight is bound like f32: both sides round the same factors, and the products of two bf16 are exact in f32.
    pub const fn of(dtype: DType) -> Bound {
        match dtype {
            // 32 roundings of 2^-24, and 9 on average: sums of some hundred terms in f32, an exponential of a few units.
            DType::F32 => Bound { each: 1.9e-6, nmse: 3e-13 },
            // A value between two neighbours may go either way: 2^-8. Few of them do, so the sum of squares is far below that.
            DType::BF16 => Bound { each: 3.9e-3, nmse: 1e-6 },
            DType::F16 => Bound { each: 4.9e-4, nmse: 2e-8 },
            // No operation computes into blocks: conversions are compared bit by bit.
            DType::Q8_0 | DType::Q4_0 | DType::Q4_1 => Bound { each: 0.0, nmse: 0.0 },
        }
    }
}

impl Bound {
    /// The bound of products whose factors one side rounds to bf16, each by up to 2^-9: four factors in a row make 2^-7, and their
    /// errors have either sign.
    pub const FACTORS: Bound = Bound { each: 7.8e-3, nmse: 1e-5 };
}

/// Below the smallest normal f32 a backend may flush to zero.
const FLOOR: f64 = f32::MIN_POSITIVE as f64;

/// How close a backend came, at worst over the outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Squared error over squared result: the usual NMSE, which says nothing where terms cancel to zero.
    pub nmse: f64,
    /// Squared error over squared size, as a part of its bound.
    pub used: f64,
    /// The largest error of an element, as a part of its bound.
    pub used_each: f64,
}

impl Report {
    fn include(&mut self, other: Report) {
        self.nmse = self.nmse.max(other.nmse);
        self.used = self.used.max(other.used);
        self.used_each = self.used_each.max(other.used_each);
    }
}

/// A case that a backend did not pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The backend, as it prints itself.
    pub backend: String,
    /// The case.
    pub case: String,
    /// What went wrong.
    pub reason: Box<Reason>,
}

/// How a case can fail.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// The reference backend refused: the case itself is wrong.
    Case(Error),
    /// The backend refused.
    Refused(Error),
    /// The backend panicked.
    Panicked(String),
    /// An output has another number of elements or another type than it should.
    Shape {
        /// Which output.
        output: &'static str,
        /// What it has.
        got: String,
        /// What the reference's has.
        want: String,
    },
    /// One element is too far away.
    Element {
        /// Which output; `returned` for a number that the operation returns.
        output: &'static str,
        /// Which element.
        index: usize,
        /// What it is.
        got: f64,
        /// What the reference says.
        want: f64,
        /// How far apart they may be.
        tolerance: f64,
    },
    /// Every element is near, and together they are too far.
    Sum {
        /// Which output.
        output: &'static str,
        /// Squared error over squared size.
        got: f64,
        /// Its bound.
        bound: f64,
    },
    /// The same call gave other bits the second time.
    Unrepeatable {
        /// Which output.
        output: &'static str,
        /// Which element.
        index: usize,
    },
    /// A call that should have been refused was not, or with the wrong error.
    Accepted {
        /// What the backend answered.
        got: String,
        /// Which errors would have been right.
        want: &'static str,
    },
    /// Random testing came to no verdict.
    GaveUp(String),
    /// A call was refused after something had been written.
    Wrote {
        /// Into which output.
        output: &'static str,
    },
}

impl Failure {
    pub(crate) fn new(backend: &dyn Backend, case: String, reason: Reason) -> Self {
        Failure { backend: format!("{backend:?}"), case, reason: Box::new(reason) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: ", self.backend, self.case)?;
        match &*self.reason {
            Reason::Case(error) => write!(f, "the reference backend refuses this case: {error}"),
            Reason::Refused(error) => write!(f, "refused: {error}"),
            Reason::Panicked(message) => write!(f, "panicked: {message}"),
            Reason::Shape { output, got, want } => write!(f, "{output} is {got}, expected {want}"),
            Reason::Element { output, index, got, want, tolerance } => {
                write!(f, "{output}[{index}] is {got:e}, expected {want:e} within {tolerance:e}")
            }
            Reason::Sum { output, got, bound } => {
                write!(f, "{output} has a relative squared error of {got:e}, expected at most {bound:e}")
            }
            Reason::Unrepeatable { output, index } => {
                write!(f, "{output}[{index}] differs between two runs with the same operands")
            }
            Reason::Accepted { got, want } => write!(f, "answered {got}, expected {want}"),
            Reason::GaveUp(message) => f.write_str(message),
            Reason::Wrote { output } => write!(f, "{output} was written to before the call was refused"),
        }
    }
}

impl std::error::Error for Failure {}

/// Runs `case` on `backend`, twice, and on the reference.
///
/// # Errors
/// The first way in which the backend's results are not as they should be.
pub fn check(backend: &dyn Backend, case: &Case) -> Result<Report, Failure> {
    Expected::of(case)?.check(backend)
}

/// What a call left behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) tensors: Vec<Vec<f32>>,
    kinds: Vec<String>,
    pub(crate) numbers: Vec<f64>,
}

/// Runs `f`, turning a panic into a reason.
pub(crate) fn fenced<T>(f: impl FnOnce() -> Result<T, Error>) -> Result<Result<T, Error>, Reason> {
    // A backend may be left in any state by a panic; it is only asked further to find more failures.
    catch_unwind(AssertUnwindSafe(f)).map_err(|payload| {
        let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
        Reason::Panicked(text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default())
    })
}

fn outcome(call: &Call, backend: &dyn Backend) -> paring_ops::Result<Outcome> {
    let (mut outputs, inputs) = call.upload(backend)?;
    let numbers = call.run(backend, &mut outputs, &inputs)?;
    let tensors = outputs.iter().map(|t| backend.download(t)).collect::<paring_ops::Result<_>>()?;
    Ok(Outcome { tensors, kinds: outputs.iter().map(|t| format!("{t:?}")).collect(), numbers })
}

/// What a case has to give: made once for any number of backends.
pub(crate) struct Expected {
    case: String,
    call: Call,
    want: Outcome,
    sizes: Vec<Size>,
    number_sizes: Vec<f64>,
}

impl Expected {
    pub(crate) fn of(case: &Case) -> Result<Expected, Failure> {
        let make = || {
            let call = case.call()?;
            let want = outcome(&call, &Reference)?;
            let (sizes, number_sizes) = sizes(case, &call, &want)?;
            Ok(Expected { case: case.to_string(), call, want, sizes, number_sizes })
        };
        make().map_err(|error| Failure::new(&Reference, case.to_string(), Reason::Case(error)))
    }

    pub(crate) fn check(&self, backend: &dyn Backend) -> Result<Report, Failure> {
        let run = || fenced(|| outcome(&self.call, backend)).and_then(|answer| answer.map_err(Reason::Refused));
        let check = || self.compare(&run()?, &run()?);
        check().map_err(|reason| Failure::new(backend, self.case.clone(), reason))
    }

    fn compare(&self, got: &Outcome, again: &Outcome) -> Result<Report, Reason> {
        let want = &self.want;
        let mut report = Report::default();
        for (i, operand) in self.call.outputs.iter().enumerate() {
            let output = operand.what;
            if got.kinds[i] != want.kinds[i] || got.tensors[i].len() != want.tensors[i].len() {
                return Err(Reason::Shape { output, got: got.kinds[i].clone(), want: want.kinds[i].clone() });
            }
            let differs = |(a, b): (&f32, &f32)| a.to_bits() != b.to_bits();
            if let Some(index) = got.tensors[i].iter().zip(&again.tensors[i]).position(differs) {
                return Err(Reason::Unrepeatable { output, index });
            }
            let wide = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
            report.include(match &self.sizes[i] {
                Size::Exact => compare_bits(output, &got.tensors[i], &want.tensors[i])?,
                Size::Rounded(dtype, sizes) => {
                    compare_rounded(output, &wide(&got.tensors[i]), &wide(&want.tensors[i]), sizes, Bound::of(*dtype))?
                }
                Size::Factors(sizes) => {
                    compare_rounded(output, &wide(&got.tensors[i]), &wide(&want.tensors[i]), sizes, Bound::FACTORS)?
                }
            });
        }
        let output = "returned";
        if got.numbers.len() != want.numbers.len() {
            let count = |o: &Outcome| format!("{} numbers", o.numbers.len());
            return Err(Reason::Shape { output, got: count(got), want: count(want) });
        }
        if let Some(index) = got.numbers.iter().zip(&again.numbers).position(|(a, b)| a.to_bits() != b.to_bits()) {
            return Err(Reason::Unrepeatable { output, index });
        }
        // Each returned number is a sum of its own: one that is small does not hide behind one that is large.
        for (index, size) in self.number_sizes.iter().enumerate() {
            let (got, want) = (got.numbers[index], want.numbers[index]);
            let one = compare_rounded(output, &[got], &[want], &[*size], Bound::of(DType::F32));
            report.include(one.map_err(|reason| match reason {
                Reason::Element { output, got, want, tolerance, .. } => {
                    Reason::Element { output, index, got, want, tolerance }
                }
                other => other,
            })?);
        }
        Ok(report)
    }
}

/// The same bits, or NaN on both sides.
fn compare_bits(output: &'static str, got: &[f32], want: &[f32]) -> Result<Report, Reason> {
    let differs = |(g, w): (&f32, &f32)| g.to_bits() != w.to_bits() && !(g.is_nan() && w.is_nan());
    match got.iter().zip(want).position(differs) {
        None => Ok(Report::default()),
        Some(index) => {
            let (got, want) = (f64::from(got[index]), f64::from(want[index]));
            Err(Reason::Element { output, index, got, want, tolerance: 0.0 })
        }
    }
}

fn compare_rounded(
    output: &'static str,
    got: &[f64],
    want: &[f64],
    sizes: &[f64],
    bound: Bound,
) -> Result<Report, Reason> {
    let (mut errors, mut wants, mut all_sizes, mut used_each) = (0.0, 0.0, 0.0, 0.0f64);
    for (index, (&got, &want)) in got.iter().zip(want).enumerate() {
        if got == want || (got.is_nan() && want.is_nan()) {
            wants += if want.is_finite() { want * want } else { 0.0 };
            all_sizes += if want.is_finite() { sizes[index].powi(2) } else { 0.0 };
            continue;
        }
        let error = (got - want).abs();
        let tolerance = bound.each * sizes[index] + if sizes[index] == 0.0 { 0.0 } else { FLOOR };
        // NaN and infinity are near to nothing, and a size that overflowed allows nothing.
        let near = error <= tolerance;
        if !near || !error.is_finite() || !tolerance.is_finite() {
            return Err(Reason::Element { output, index, got, want, tolerance });
        }
        used_each = used_each.max(error / tolerance);
        errors += error * error;
        wants += want * want;
        all_sizes += sizes[index].powi(2);
    }
    // What was flushed is not counted: it lies below the floor in every element.
    let flushed = FLOOR * FLOOR * got.len() as f64;
    let relative = if errors <= flushed { 0.0 } else { errors / all_sizes };
    if relative > bound.nmse {
        return Err(Reason::Sum { output, got: relative, bound: bound.nmse });
    }
    let nmse = if errors <= flushed || wants == 0.0 { 0.0 } else { errors / wants };
    Ok(Report { nmse, used: relative / bound.nmse, used_each })
}
