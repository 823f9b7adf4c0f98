//! What tests of kernels share.
#![allow(dead_code, missing_docs, clippy::unwrap_used, reason = "each test uses a part")]
pub(crate) mod odd;
pub(crate) mod sim;
