#![doc = include_str!("../README.md")]

mod compensate; // least squares for the layer after a cut
mod counts; // operations and bytes of a shape
mod dims; // sizes of a model, and what is asked of the student
mod error;
mod format; // the plan as JSON
mod linalg; // blocked products and Cholesky in f64
mod loadable; // which sizes runtimes accept
mod nested; // least squares for every number of best inputs at once
mod plan; // what is kept, chosen by score
mod select; // slicing tensors along labelled axes
mod shape; // from a parameter budget to sizes
mod space; // the sizes that a student may have

pub use compensate::{Anchor, Ridge, least_squares, reconstruction_error};
pub use counts::{flops_per_token, kv_bytes, weight_bytes};
pub use dims::{Dims, Params, Target, count_params};
pub use error::{Error, Result};
pub use loadable::{check_loadable, good_hidden, warnings};
pub use nested::NestedLeastSquares;
pub use plan::{LayerPlan, Plan, Scores};
pub use select::{Axis, Selection};
pub use shape::{Mutable, ParamTarget, SearchOptions, choose_shape};
pub use space::{Space, Widths};
