#![doc = include_str!("../README.md")]

mod ctx; // what a model sees
mod grads; // gradients, outside the model
mod kv; // keys and values of earlier tokens
mod observer; // who looks at activations and gradients
mod saved; // activations for the backward, kept or made again
mod tape; // what backward walks

pub use ctx::{Block, Ctx, Var, Weight};
pub use grads::{Grads, ParamId};
pub use kv::KvCache;
pub use observer::{Observer, Site, Tap};
