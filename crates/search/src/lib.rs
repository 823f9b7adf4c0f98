#![doc = include_str!("../README.md")]

mod error;
mod finalist; // a short distillation, and a held-out text
mod halving; // rungs, and what survives them
mod latency; // seconds of a shape, fitted to this machine
mod mass; // the first proxy: shares of importance
mod nested; // a sorted teacher, and candidates as views of it
mod pareto; // who is beaten by nobody
mod ranking; // what goes first on every axis
mod repair; // least squares for all widths
mod scorer; // losses of views
mod sizes; // exact counts, from the table of parameters

pub use error::{Error, Result};
pub use finalist::{Distillation, Finalist, distil};
pub use halving::{CutOff, End, Go, Rung, RungState, Scorer, State, halve};
pub use latency::{Latency, Phase};
pub use mass::{Mass, Prices};
pub use nested::Nested;
pub use pareto::front;
pub use ranking::Ranking;
pub use repair::{Widths as RepairWidths, repair};
pub use scorer::{Losses, Proxy};
pub use sizes::{Sizes, dims_of};
