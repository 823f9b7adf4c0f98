#![doc = include_str!("../README.md")]

mod compensate; // least squares for the layer after a cut
mod dims; // sizes of a model, and what is asked of the student
mod error;
mod format; // the plan as JSON
mod linalg; // blocked products and Cholesky in f64
mod loadable; // which sizes runtimes accept
mod plan; // what is kept, chosen by score
mod ridge; // fits whose ridge is chosen on held-out tokens
mod rotate; // principal directions of the residual stream
mod select; // slicing tensors along labelled axes
mod shape; // from a parameter budget to sizes

pub use compensate::{Anchor, Ridge, least_squares, reconstruction_error};
pub use dims::{Dims, Params, Target, count_params};
pub use error::{Error, Result};
pub use loadable::{check_loadable, good_hidden, warnings};
pub use plan::{LayerPlan, Plan, Scores};
pub use ridge::{Fit, Moments, RIDGE_GRID, fit_held_out, fit_with};
pub use rotate::{Basis, kept_gain};
pub use select::{Axis, Selection};
pub use shape::{Mutable, ParamTarget, SearchOptions, choose_shape};
