#![doc = include_str!("../README.md")]

mod generate; // prefill, then one token after the other

pub use generate::{Error, Generated, Request, generate};
