#![doc = include_str!("../README.md")]

mod agreement; // a student beside its teacher
mod criterion; // what a stack of layers is judged by
mod error; // what can be wrong with a question
mod perplexity; // one model on its own
mod task; // multiple choice

pub use agreement::{Agreement, compare};
pub use criterion::{Criterion, LmLoss};
pub use error::QuestionError;
pub use perplexity::{Likelihood, likelihood};
pub use task::{Choice, Question, Task, TaskScore};
