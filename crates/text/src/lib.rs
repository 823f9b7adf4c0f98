#![doc = include_str!("../README.md")]

mod choices; // multiple-choice questions
mod cut; // long texts in pieces
mod documents; // texts from files, document by document
mod end_token; // which token ends a document
mod error;
mod fence; // third-party code that may panic
mod files; // the files beside the weights
mod from_gguf; // the tokenizer inside a GGUF as a tokenizer.json
mod open; // whole files of bounded length
mod pack; // texts and token files as windows
mod stream; // text while it is being generated
mod tokenizer;
mod train; // new vocabularies
mod zstd; // .zst files of several frames

pub use choices::{ChoiceRow, read_choices};
pub use documents::{Documents, read_documents};
pub use error::{Error, Result};
pub use pack::{Window, pack, pack_documents, read_token_windows};
pub use stream::Stream;
pub use tokenizer::Tokenizer;
pub use train::train_bpe;
