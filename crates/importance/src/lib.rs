#![doc = include_str!("../README.md")]

mod block; // how much a layer turns the residual stream
mod error;
mod moments; // statistics of one site's channels
mod set; // all sites of a model, and the scores
mod store; // to named arrays and back

pub use block::{BlockInfluence, RowProducts};
pub use error::{Error, Result};
pub use moments::{Agg, ChannelSums, Moments, head_scores, kv_group_scores};
pub use set::{Aggregation, Geometry, ImportanceSet, LayerGeometry, Norm};
pub use store::NamedArray;
