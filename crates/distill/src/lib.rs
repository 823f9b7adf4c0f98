#![doc = include_str!("../README.md")]

mod row; // one row of logits: cross-entropy and forward KL

pub use row::{cross_entropy_row, forward_kl_row, log_sum_exp};
