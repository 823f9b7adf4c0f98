#![doc = include_str!("../README.md")]

mod block; // how much a layer turns the residual stream
mod depth; // which layers to drop
mod error;
mod moments; // statistics of one site's channels
mod set; // all sites of a model, and the scores
mod span; // how far contiguous blocks turn the residual stream
mod store; // to named arrays and back

pub use block::{BlockInfluence, RowProducts};
pub use depth::DepthRanking;
pub use error::{Error, Result};
pub use moments::{Agg, ChannelSums, Moments, head_scores, kv_group_scores};
pub use set::{Aggregation, Geometry, ImportanceSet, LayerGeometry, Norm};
pub use span::SpanInfluence;
pub use store::NamedArray;
