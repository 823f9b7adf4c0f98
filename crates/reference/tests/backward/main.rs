//! What the oracle itself is checked by: differences of its forwards, formulas written out once more, and exact small cases.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod activations; // of MLPs, with and without a gate
mod common; // inputs, differences
mod gradients; // every backward
mod heads; // losses fused with the head, AdamW
