//! What can be wrong with a question.
use std::fmt;

/// Why a question cannot be asked. Which file and line it came from is known to whoever read it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuestionError {
    /// Nothing to choose from.
    NoChoices,
    /// The right answer is none of the choices.
    Gold {
        /// The one named, from 0.
        got: usize,
        /// Choices that there are.
        choices: usize,
    },
    /// A choice without a token before it: nothing could predict its first one.
    NoContext {
        /// Which choice, from 0.
        choice: usize,
    },
    /// A choice that adds no token to its context, or has no characters.
    EmptyChoice {
        /// Which choice, from 0.
        choice: usize,
    },
    /// Context and choice together are longer than what the model has positions for.
    TooLong {
        /// Which choice, from 0.
        choice: usize,
        /// Tokens of both.
        tokens: usize,
        /// The most that fit.
        max: usize,
    },
    /// A token id that the model has no embedding for.
    Token {
        /// Which choice, from 0.
        choice: usize,
        /// The id.
        id: u32,
        /// Rows of the embedding.
        vocab: usize,
    },
}

impl fmt::Display for QuestionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuestionError::NoChoices => write!(f, "there are no choices, expected at least one"),
            QuestionError::Gold { got, choices } => {
                write!(f, "gold is {got} of {choices} choices, expected 0 to {}", choices.saturating_sub(1))
            }
            QuestionError::NoContext { choice } => {
                write!(f, "choice {choice} has no token before it; give a ctx, or a model with an end token")
            }
            QuestionError::EmptyChoice { choice } => {
                write!(f, "choice {choice} is empty: it adds no token to its ctx, so it has no likelihood")
            }
            QuestionError::TooLong { choice, tokens, max } => write!(
                f,
                "ctx and choice {choice} are {tokens} tokens, but the model has only {max} positions; shorten the ctx"
            ),
            QuestionError::Token { choice, id, vocab } => {
                write!(f, "choice {choice} has token id {id}, expected below {vocab}; is it this model's tokenizer?")
            }
        }
    }
}

impl std::error::Error for QuestionError {}
