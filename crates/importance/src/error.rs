//! What can be wrong with observed activations, with two sets that should be merged, and with stored arrays.
use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error about activations or stored statistics.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// An activation has another number of channels than its site.
    Channels {
        /// Columns given.
        got: usize,
        /// Channels of the site.
        want: usize,
    },
    /// A sequence of no tokens.
    EmptySequence,
    /// The residual stream into and out of a layer differ in shape.
    Streams {
        /// Shape into the layer.
        input: [usize; 2],
        /// Shape out of the layer.
        output: [usize; 2],
    },
    /// An activation is infinite or not a number.
    NotFinite {
        /// What is counted: `channel`, or `token` for the residual stream of a layer.
        unit: &'static str,
        /// Which of them.
        index: usize,
    },
    /// A statistic is larger than sums hold.
    TooLarge {
        /// Channel, or layer.
        index: usize,
        /// What should have been added.
        value: f64,
    },
    /// What is wrong with the activations of one place in the model.
    Site {
        /// The place, with its layer.
        site: String,
        /// What is wrong.
        error: Box<Error>,
    },
    /// Scores that need statistics which were not asked for.
    NotMeasured {
        /// What is missing.
        what: &'static str,
        /// The flag of `paring importance` that measures it.
        flag: &'static str,
    },
    /// A layer that the model does not have.
    Layer {
        /// The one asked for.
        got: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// A count that must not be zero, or does not divide as it has to.
    Geometry {
        /// What is wrong.
        what: String,
    },
    /// Two sets of statistics of different models, or of different kinds.
    Different {
        /// What differs.
        what: String,
    },
    /// Nothing was observed, so there is nothing to keep.
    NoSequences,
    /// A site saw another number of sequences than the whole set.
    Uneven {
        /// The site.
        site: String,
        /// Sequences that it saw.
        got: u64,
        /// Sequences of the set.
        want: u64,
    },
    /// A stored array is missing.
    Missing {
        /// Its name.
        name: String,
    },
    /// A measurement that was not asked for when the file was made.
    NotSwept {
        /// The array that would hold it.
        name: String,
        /// Flags of `paring importance` that measure it.
        flags: String,
    },
    /// A number of layers to drop that is zero or leaves none.
    Drop {
        /// The number.
        got: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// A stored array occurs twice.
    Twice {
        /// Its name.
        name: String,
    },
    /// A stored array has another shape than the others imply.
    Shape {
        /// Its name.
        name: String,
        /// Shape found.
        got: Vec<usize>,
        /// Shape expected.
        want: Vec<usize>,
    },
    /// A stored array has another number of values than its shape says.
    Length {
        /// Its name.
        name: String,
        /// Values found.
        got: usize,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A stored value that no calibration can produce.
    Value {
        /// The array.
        name: String,
        /// Where in it.
        index: usize,
        /// The value.
        got: f64,
        /// What it should be.
        want: &'static str,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Channels { got, want } => write!(f, "an activation of {got} channels, expected {want}"),
            Error::EmptySequence => write!(f, "a calibration sequence of no tokens, expected at least one"),
            Error::Streams { input, output } => {
                write!(
                    f,
                    "a residual stream of shape {input:?} into a layer and {output:?} out of it, expected the same"
                )
            }
            Error::NotFinite { unit, index } => {
                write!(
                    f,
                    "{unit} {index} is infinite or not a number; check the checkpoint, or calibrate in a wider type"
                )
            }
            Error::TooLarge { index, value } => write!(
                f,
                "the statistic {value:e} at {index} is larger than sums hold; check the checkpoint for weights out of all proportion"
            ),
            Error::Site { site, error } => write!(f, "{site}: {error}"),
            Error::NotMeasured { what, flag } => {
                write!(f, "these statistics hold no {what}; measure them with `paring importance {flag}`")
            }
            Error::Layer { got, layers } => write!(f, "layer {got} of a model of {layers} layers, counted from 0"),
            Error::Geometry { what } => write!(f, "not a model's geometry: {what}"),
            Error::Different { what } => write!(f, "these statistics cannot be added up: {what}"),
            Error::NoSequences => write!(f, "no calibration sequence was observed, expected at least one"),
            Error::Uneven { site, got, want } => write!(f, "{site} saw {got} sequences, expected {want}"),
            Error::Missing { name } => {
                write!(f, "importance array `{name}` is missing; write the file again with `paring importance`")
            }
            Error::NotSwept { name, flags } => {
                write!(f, "importance array `{name}` is missing; measure it with `paring importance {flags}`")
            }
            Error::Drop { got, layers } => {
                write!(f, "{got} of {layers} layers to drop, expected 1 to {}", layers.saturating_sub(1))
            }
            Error::Twice { name } => write!(f, "importance array `{name}` occurs twice"),
            Error::Shape { name, got, want } => {
                write!(f, "importance array `{name}` has shape {got:?}, expected {want:?}")
            }
            Error::Length { name, got, shape } => {
                write!(f, "importance array `{name}` has {got} values for shape {shape:?}")
            }
            Error::Value { name, index, got, want } => {
                write!(f, "importance array `{name}` holds {got} at {index}, expected {want}")
            }
        }
    }
}

impl std::error::Error for Error {}
