//! Unchanged cudarc host code on the simulated driver: what it does, what it refuses, and what it shows of missing synchronisation.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod errors;
mod graphs;
mod limits;
mod memory;
mod support;
mod work;
