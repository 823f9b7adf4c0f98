#![doc = include_str!("../README.md")]

/// The examples of the project's README are tests.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
mod readme {}
