//! New vocabularies, for models that are trained from nothing (the embedded teacher, tests).
use crate::{Error, Result, Tokenizer, fence::fenced};
use serde_json::json;
use std::path::Path;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, PreTokenizerWrapper,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    pre_tokenizers::byte_level::ByteLevel,
};

/// What the paths in messages say for a tokenizer that was never in a file.
const TRAINED: &str = "(trained vocabulary)";

/// A byte-level BPE with GPT-2's pre-tokenizer, trained on `texts`: exactly `vocab_size` tokens, first `end_token`, then the 256 bytes, then
/// merges, the most frequent pair first. The same texts in the same order give the same vocabulary, whatever the number of threads.
///
/// # Errors
/// [`Error::Train`]: a `vocab_size` without room for all bytes and the end token, an `end_token` that is shorter than two characters, texts with
/// too few different pairs.
pub fn train_bpe(texts: &[&str], vocab_size: usize, end_token: &str) -> Result<Tokenizer> {
    let failed = |problem: String| Error::Train { problem };
    let least = ByteLevel::alphabet().len() + 1;
    if vocab_size < least {
        return Err(failed(format!("{vocab_size} tokens, expected at least {least}: all bytes and the end token")));
    }
    if end_token.chars().count() < 2 {
        // One character could be a byte's own token.
        return Err(failed(format!("the end token is `{end_token}`, expected at least two characters")));
    }
    let json = fenced(|| train(texts, vocab_size, end_token)).map_err(failed)?.map_err(|e| failed(e.to_string()))?;
    let config = json!({
        "clean_up_tokenization_spaces": false,
        "eos_token": end_token,
        "tokenizer_class": "PreTrainedTokenizerFast",
    });
    let tokenizer = Tokenizer::from_json(Path::new(TRAINED), json, config, Some(0))?;
    if tokenizer.vocab_size() != vocab_size {
        let got = tokenizer.vocab_size();
        return Err(failed(format!(
            "the texts give only {got} of {vocab_size} tokens; give more text or ask for fewer"
        )));
    }
    Ok(tokenizer)
}

/// The tokenizer.json.
fn train(texts: &[&str], vocab_size: usize, end_token: &str) -> tokenizers::Result<String> {
    let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::from(BPE::default()));
    let byte_level = ByteLevel::new(false, true, true);
    tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::from(byte_level)));
    tokenizer.with_decoder(Some(DecoderWrapper::from(byte_level)));
    let trainer = BpeTrainer::builder()
        .vocab_size(vocab_size)
        .special_tokens(vec![AddedToken::from(end_token, true)])
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut TrainerWrapper::from(trainer), texts.iter())?;
    tokenizer.to_string(false)
}
