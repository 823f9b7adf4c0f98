//! Text while it is being generated: ids in, whole characters out.
use crate::{Result, Tokenizer};

/// Decodes ids one by one. Made by [`Tokenizer::stream`].
///
/// A character of several bytes may be spread over several tokens; its text comes with the last of them. All that [`Stream::push`] and
/// [`Stream::finish`] give, put together, is what [`Tokenizer::decode`] gives for all ids.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    /// The last ids: a token's text can depend on what is before it, so they are decoded together with it.
    ids: Vec<u32>,
    /// Bytes of the text of `ids` that are out already.
    done: usize,
}

/// More ids than this before the new one are forgotten. Far more than a character is spread over, and few enough to be decoded again and again.
const CONTEXT: usize = 32;

/// Bytes of an unfinished character at most; each is shown as one U+FFFD by some decoders, all together as one by others.
const UNFINISHED: usize = 3;

impl<'a> Stream<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer) -> Self {
        Stream { tokenizer, ids: Vec::new(), done: 0 }
    }

    /// The text that `id` completes; `None` when it completes none (a part of a character, a special token).
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        self.ids.push(id);
        let text = match self.tokenizer.decode(&self.ids) {
            Ok(text) => text,
            Err(e) => {
                self.ids.pop();
                return Err(e);
            }
        };
        let held: usize =
            text.chars().rev().take(UNFINISHED).take_while(|&c| c == '\u{fffd}').map(char::len_utf8).sum();
        let end = text.len() - held;
        // `get`, because a decoder may take back what it gave (one that shows a whole run of bytes as U+FFFD when one is wrong).
        let new = text.get(self.done..end).unwrap_or_default().to_string();
        self.done = self.done.max(end);
        if 2 * CONTEXT <= self.ids.len() {
            let left = text.len().saturating_sub(self.done);
            self.ids.drain(..CONTEXT);
            self.done = self.tokenizer.decode(&self.ids)?.len().saturating_sub(left);
        }
        Ok(if new.is_empty() { None } else { Some(new) })
    }

    /// What was held back: U+FFFD for a character that was never finished, else nothing.
    ///
    /// # Errors
    /// Those of [`Tokenizer::decode`].
    pub fn finish(self) -> Result<String> {
        let text = self.tokenizer.decode(&self.ids)?;
        Ok(text.get(self.done..).unwrap_or_default().to_string())
    }
}
