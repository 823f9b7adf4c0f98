#![doc = include_str!("../README.md")]

mod choose; // from scores to a plan
mod compensate; // least squares for the layer after a cut
mod counts; // operations and bytes of a shape
mod dims; // sizes of a model, and what is asked of the student
mod error;
mod format; // the plan as JSON
mod heads; // heads that are put together instead of dropped
mod linalg; // blocked products and Cholesky in f64
mod loadable; // which sizes load
mod nested; // least squares for every number of best inputs at once
mod plan; // what is kept
mod ridge; // fits whose ridge is chosen on held-out tokens
mod rotate; // principal directions of the residual stream
mod runtimes; // who takes a model, and what is lost
mod select; // slicing tensors along labelled axes
mod shape; // from a parameter budget to sizes
mod sizes; // sizes of a model whose layers may differ
mod space; // the sizes that a student may have
mod uneven; // widths that differ from layer to layer

pub use choose::{Options, Scores};
pub use compensate::{Anchor, Ridge, least_squares, reconstruction_error};
pub use counts::{flops_per_token, kv_bytes, weight_bytes};
pub use dims::{Dims, Params, Target, count_params};
pub use error::{Error, Result};
pub use heads::{KvGroups, Mix, Residual, mix_columns, mix_rows, residual_pairs};
pub use loadable::{check_loadable, good_hidden, round_widths, warnings};
pub use nested::NestedLeastSquares;
pub use plan::{LayerPlan, Plan};
pub use ridge::{Fit, Moments, RIDGE_GRID, fit_held_out, fit_with};
pub use rotate::{Basis, kept_gain};
pub use runtimes::{Facts, Finding, Runtime, Verdict, runtimes};
pub use select::{Axis, Selection};
pub use shape::{Counting, Mutable, ParamTarget, SearchOptions, choose_shape};
pub use sizes::{LayerDims, Sizes};
pub use space::{Space, Widths};
pub use uneven::{Normalise, Spread, Uneven};
