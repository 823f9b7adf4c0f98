//! What can be wrong with a target, a plan, a selection or a least-squares problem.
use crate::{LayerDims, Sizes};
use std::fmt;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error about what to keep, or about repairing what was cut.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// Sizes that no model has.
    Dims {
        /// What is wrong.
        what: String,
    },
    /// Nothing of an axis would be left.
    Zero {
        /// The axis.
        axis: &'static str,
    },
    /// More was asked for than the teacher has.
    TooLarge {
        /// The axis.
        axis: &'static str,
        /// What was asked for.
        got: usize,
        /// What there is.
        have: usize,
    },
    /// Query heads that cannot be the same number in every key/value group.
    HeadsPerGroup {
        /// Query heads asked for.
        heads: usize,
        /// Key/value groups kept.
        kv_groups: usize,
    },
    /// Both a number of layers and a list of layers to drop.
    LayersTwice,
    /// Every layer would go.
    NoLayers {
        /// Layers of the teacher.
        layers: usize,
    },
    /// A layer that the teacher does not have.
    Layer {
        /// The one named.
        got: usize,
        /// Layers of the teacher.
        layers: usize,
    },
    /// A layer that the plan drops.
    DroppedLayer {
        /// The layer.
        layer: usize,
    },
    /// A layer was named twice.
    DuplicateLayer {
        /// The layer.
        layer: usize,
    },
    /// A width that Transformers refuses to load.
    Hidden {
        /// The width.
        hidden: usize,
        /// Query heads, which must divide it.
        heads: usize,
        /// The next good width below, if any.
        below: Option<usize>,
        /// The next good width above, if the teacher is that wide.
        above: Option<usize>,
    },
    /// A list of scores has the wrong length.
    ScoreLength {
        /// Which scores.
        scores: String,
        /// Their number.
        got: usize,
        /// The number expected.
        want: usize,
    },
    /// A score is infinite or not a number.
    ScoreValue {
        /// Which scores.
        scores: String,
        /// Where.
        index: usize,
    },
    /// A plan that is not what a plan must be.
    Plan {
        /// What is wrong.
        what: String,
    },
    /// Layers that differ in size where they have to be alike.
    Uneven {
        /// Those that differ from the first one, counted from 0.
        layers: Vec<usize>,
    },
    /// A total that cannot be spread over the layers.
    Spread {
        /// The axis.
        axis: &'static str,
        /// What is wrong.
        what: String,
    },
    /// Key/value groups that cannot be merged into so many.
    MeanGroups {
        /// The layer.
        layer: usize,
        /// Groups asked for.
        got: usize,
        /// Groups of the teacher.
        have: usize,
    },
    /// More query heads of a group go than stay, so that not every one has a kept head to be added to.
    ResidualHeads {
        /// Query heads of the group.
        have: usize,
        /// How many of them stay.
        kept: usize,
    },
    /// A plan that is to follow another one and is not of its student.
    Then {
        /// Sizes that the plan is made for.
        got: Box<Sizes>,
        /// Sizes of the student.
        want: Box<Sizes>,
    },
    /// A plan file speaks of something that this program does not know.
    PlanAxis {
        /// The key.
        axis: String,
        /// The layer.
        layer: usize,
    },
    /// A plan file of another version.
    PlanVersion {
        /// The version found.
        got: u32,
        /// The version that this program reads.
        want: u32,
    },
    /// Parameters that no shape within the limits reaches.
    Budget {
        /// What is wrong, and what can be asked for.
        what: String,
    },
    /// A tensor's shape differs from what its axes say.
    TensorShape {
        /// The tensor.
        tensor: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that the teacher's sizes give; empty if the number of dimensions differs.
        want: Vec<usize>,
    },
    /// Another number of values than the selection's shape has.
    Values {
        /// The tensor.
        tensor: String,
        /// Values given.
        got: usize,
        /// Values expected.
        want: usize,
    },
    /// An index beyond the axis.
    Index {
        /// The index.
        got: usize,
        /// Length of the axis.
        len: usize,
    },
    /// A matrix has another number of values than least squares needs.
    Matrix {
        /// Which matrix.
        matrix: &'static str,
        /// Values given.
        got: usize,
        /// What is expected.
        want: String,
    },
    /// A matrix holds an infinity or something that is not a number.
    NotFinite {
        /// Which matrix.
        matrix: &'static str,
        /// Where, in row-major order.
        index: usize,
    },
    /// A ridge that is negative, infinite or not a number.
    RidgeStrength {
        /// The strength.
        got: f64,
    },
    /// The iteration for eigenvalues did not converge.
    Eigen {
        /// Rows of the matrix.
        size: usize,
    },
    /// The Gram matrix of the kept channels cannot be factored.
    NotPositiveDefinite {
        /// The kept channel at which it failed.
        channel: usize,
        /// What was left of its diagonal entry.
        pivot: f64,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Dims { what } => write!(f, "sizes of no model: {what}"),
            Error::Zero { axis } => write!(f, "{axis} 0 leaves nothing, expected at least 1"),
            Error::TooLarge { axis, got, have } => {
                write!(f, "{axis} {got} is more than the teacher has, expected at most {have}")
            }
            Error::HeadsPerGroup { heads, kv_groups } => write!(
                f,
                "{heads} query heads do not divide among {kv_groups} KV groups, expected a multiple of {kv_groups}"
            ),
            Error::LayersTwice => {
                write!(f, "both a number of layers and layers to drop were given, expected one of them")
            }
            Error::NoLayers { layers } => {
                write!(f, "all {layers} layers would be dropped, expected at least 1 to stay")
            }
            Error::Layer { got, layers } => {
                write!(f, "layer {got} does not exist, expected 0 to {}", layers.saturating_sub(1))
            }
            Error::DroppedLayer { layer } => {
                write!(f, "layer {layer} is dropped by the plan, so nothing of it is kept")
            }
            Error::DuplicateLayer { layer } => write!(f, "layer {layer} is named twice"),
            Error::Hidden { hidden, heads, below, above } => {
                write!(
                    f,
                    "hidden {hidden} with {heads} query heads will not load: Transformers demands a multiple of {heads} \
                     even where head_dim is given; take "
                )?;
                match (below, above) {
                    (Some(below), Some(above)) => write!(f, "{below} or {above}"),
                    (Some(only), None) | (None, Some(only)) => write!(f, "{only}"),
                    (None, None) => write!(f, "fewer query heads"),
                }
            }
            Error::ScoreLength { scores, got, want } => write!(f, "{got} {scores} scores, expected {want}"),
            Error::ScoreValue { scores, index } => {
                write!(f, "{scores} score {index} is not a finite number; calibrate again")
            }
            Error::Plan { what } => write!(f, "not a valid plan: {what}"),
            Error::Uneven { layers } => write!(
                f,
                "{} from layer 0 in neurons, heads or groups, expected all layers alike",
                match layers.as_slice() {
                    [one] => format!("layer {one} differs"),
                    many => format!("layers {} differ", list(many)),
                }
            ),
            Error::Spread { axis, what } => write!(f, "{axis} per layer: {what}"),
            Error::MeanGroups { layer, got, have } => write!(
                f,
                "the {have} KV groups of layer {layer} cannot be merged into {got}, expected a number that divides {have}"
            ),
            Error::ResidualHeads { have, kept } => write!(
                f,
                "{} of {have} query heads of a group go and {kept} stay, so not every pruned head has a kept one to be added to; \
                 keep at least {} of each group, or merge none",
                have - kept,
                have.div_ceil(2)
            ),
            Error::Then { got, want } => write!(
                f,
                "the second plan is for another model: it cuts {}, the student of the first one has {}",
                sizes(got),
                sizes(want)
            ),
            Error::PlanAxis { axis, layer } => write!(
                f,
                "the plan says `{}` of layer {layer}, which this program does not know: expected ffn, heads, kv_groups, mixed_queries, mixed_outputs and \
                 mixed_kv_groups; use the program that made it",
                axis.escape_debug()
            ),
            Error::PlanVersion { got, want } => write!(
                f,
                "plan of version {got}, expected 1 to {want}; use the program that made it, or make it again with `paring prune`"
            ),
            Error::Budget { what } => write!(f, "{what}"),
            Error::TensorShape { tensor, got, want } if want.is_empty() => {
                write!(f, "`{tensor}` has shape {got:?}, which is another number of dimensions than its axes")
            }
            Error::TensorShape { tensor, got, want } => write!(f, "`{tensor}` has shape {got:?}, expected {want:?}"),
            Error::Values { tensor, got, want } => write!(f, "`{tensor}` has {got} values, expected {want}"),
            Error::Index { got, len } => write!(f, "index {got} into an axis of {len}"),
            Error::Matrix { matrix, got, want } => write!(f, "the {matrix} matrix has {got} values, expected {want}"),
            Error::NotFinite { matrix, index } => write!(
                f,
                "value {index} of the {matrix} matrix is not a finite number; check the checkpoint and the calibration"
            ),
            Error::RidgeStrength { got } => write!(f, "ridge {got}, expected a finite number that is not negative"),
            Error::Eigen { size } => {
                write!(f, "the eigenvalues of a covariance of {size} channels were not found; check the calibration")
            }
            Error::NotPositiveDefinite { channel, pivot } => write!(
                f,
                "the Gram matrix is not positive definite at channel {channel} (pivot {pivot:e}); \
                 calibrate on more tokens or raise the ridge"
            ),
        }
    }
}

/// `3, 7, 8`, and no more than can be read.
fn list(numbers: &[usize]) -> String {
    let shown: Vec<String> = numbers.iter().take(12).map(usize::to_string).collect();
    let rest = numbers.len() - shown.len();
    shown.join(", ") + &if rest > 0 { format!(" and {rest} more") } else { String::new() }
}

fn sizes(s: &Sizes) -> String {
    let layer = s.layers.first().copied().unwrap_or(LayerDims { ffn: 0, heads: 0, kv_groups: 0 });
    let LayerDims { ffn, heads, kv_groups } = layer;
    let first = if s.uniform().is_ok() { "each with" } else { "the first with" };
    let (layers, hidden) = (s.layers.len(), s.hidden);
    format!("{layers} layers of {hidden} channels, {first} {ffn} neurons, {heads} heads and {kv_groups} groups")
}

impl std::error::Error for Error {}
