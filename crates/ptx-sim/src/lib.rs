#![doc = include_str!("../README.md")]

mod counters;
mod exec;
mod ir;
mod memory;
mod numeric;
mod parse;
mod report;
mod shared;

pub use counters::{Class, Counters, LineCost};
pub use exec::{Launch, Options, Rounding, run};
pub use memory::{Memory, MemoryError};
pub use parse::{Kernel, Module, Param, ParamType, ParseError};
pub use report::{Finding, FindingKind, Report};
