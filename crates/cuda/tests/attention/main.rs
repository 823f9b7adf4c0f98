//! Attention on the stand-in for the CUDA driver: executed instruction by instruction from the PTX that ships, with all checkers on; not run
//! on a GPU. Where `PARING_REQUIRE_CUDA=1` asks for a device, what goes through the backend runs there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../common/mod.rs"]
mod common;
mod conformance; // the table that all backends are held against, and more shapes
mod counters; // products, conflicts, traffic
mod decode; // caches in bf16 and in pages
#[path = "../common/numbers.rs"]
mod numbers;
mod problem; // operands, and kernels run without the backend
mod rounding; // what hardware may round otherwise
#[path = "../common/sim.rs"]
mod sim;
mod uniform; // where one key too many stands out // kernels run in the simulator directly
