#![doc = include_str!("../README.md")]

mod dims; // sizes of a model, and what is asked of the student
mod error;
mod plan; // what is kept, chosen by score
mod format; // the plan as JSON
mod loadable; // which sizes runtimes accept
mod shape; // from a parameter budget to sizes
mod select; // slicing tensors along labelled axes
mod linalg; // blocked products and Cholesky in f64
mod compensate; // least squares for the layer after a cut

pub use compensate::{Anchor, Ridge, least_squares, reconstruction_error};
pub use dims::{Dims, Params, Target, count_params};
pub use error::{Error, Result};
pub use loadable::{check_loadable, good_hidden, warnings};
pub use plan::{LayerPlan, Plan, Scores};
pub use select::{Axis, Selection};
pub use shape::{Mutable, ParamTarget, SearchOptions, choose_shape};
