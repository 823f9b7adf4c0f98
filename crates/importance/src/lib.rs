#![doc = include_str!("../README.md")]

mod block; // how much a layer turns the residual stream
mod depth; // which layers to drop
mod error;
mod exact; // sums without an order
mod moments; // statistics of one site's channels
mod rounds; // sizes of an iterative cut
mod scores; // which definition, and the scores by it
mod set; // all sites of a model
mod span; // how far contiguous blocks turn the residual stream
mod store; // to named arrays and back
mod taylor; // activation times gradient

pub use block::{BlockInfluence, Distance, RowProducts};
pub use depth::DepthRanking;
pub use error::{Error, Result};
pub use exact::ExactSum;
pub use moments::{Agg, ChannelSums, Moments, head_scores, kv_group_scores};
pub use rounds::round_size;
pub use scores::{Aggregation, FfnBy, HeadsBy, HiddenBy, ScoreOptions, Scores};
pub use set::{Extras, Geometry, ImportanceSet, LayerGeometry, Stat};
pub use span::SpanInfluence;
pub use store::{Arrays, NamedArray, RawArray};
pub use taylor::TaylorSequence;
