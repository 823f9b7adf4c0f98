//! Training, encoding and decoding.
use crate::{END, check_error, corpus, directory_of, train, trained};
use paring_text::{Tokenizer, train_bpe};
use proptest::prelude::*;

#[test]
fn real_text_goes_there_and_back() {
    let tokenizer = trained();
    let text = corpus("heldout.txt");
    assert!(text.len() > 100_000);
    let ids = tokenizer.encode(&text).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    // The merges do something: less than half of the bytes.
    assert!(ids.len() * 2 < text.len(), "{} ids for {} bytes", ids.len(), text.len());
    assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
}

#[test]
fn the_vocabulary_is_exactly_what_was_asked_for() {
    let tokenizer = trained();
    assert_eq!(tokenizer.vocab_size(), 600);
    assert_eq!(tokenizer.end_token(), Some(0));
    assert_eq!(tokenizer.token_id(END), Some(0));
    assert_eq!(tokenizer.token_id("no such token"), None);
    tokenizer.check_fits(600).unwrap();
    tokenizer.check_fits(640).unwrap();
    check_error(tokenizer.check_fits(599), &["ids up to 599", "599 rows"]);
    // No gaps, and every byte has an id of its own.
    assert!((0..600).all(|id| tokenizer.decode(&[id]).is_ok()));
    check_error(tokenizer.decode(&[5, 600]), &["no token has the id 600", "600 ids"]);
    let mut bytes: Vec<u32> = (0u8..=255).flat_map(|b| byte_ids(&tokenizer, b)).collect();
    bytes.sort_unstable();
    bytes.dedup();
    assert_eq!(bytes, (1..=256).collect::<Vec<u32>>());
}

/// The ids of the characters U+0000 to U+00FF in UTF-8 contain every byte that UTF-8 has; the others are seen through the smallest vocabulary.
fn byte_ids(tokenizer: &Tokenizer, byte: u8) -> Vec<u32> {
    // GPT-2's character for a byte: itself where it can be seen, else counted up from U+0100.
    let seen = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let hidden = (0..byte).filter(|&b| !seen(b)).count() as u32;
    let c = if seen(byte) { char::from(byte) } else { char::from_u32(0x100 + hidden).unwrap() };
    vec![tokenizer.token_id(&c.to_string()).unwrap()]
}

#[test]
fn training_again_gives_the_same_files() {
    assert_eq!(train().files().unwrap(), train().files().unwrap());
}

#[test]
fn generated_files_are_a_directory_that_can_be_read() {
    let tokenizer = trained();
    let dir = directory_of(&tokenizer);
    let again = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(again.end_token(), Some(0));
    assert_eq!(again.files().unwrap(), tokenizer.files().unwrap());
    let text = corpus("heldout.txt");
    assert_eq!(again.encode(&text).unwrap(), tokenizer.encode(&text).unwrap());
}

#[test]
fn the_end_token_is_found_in_text_and_left_out_of_text() {
    let tokenizer = trained();
    let ids = tokenizer.encode("one<|endoftext|>two").unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == 0).count(), 1);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "onetwo");
    assert!(tokenizer.encode("").unwrap().is_empty());
    assert_eq!(tokenizer.decode(&[]).unwrap(), "");
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let text = corpus("calibration.txt");
    check_error(train_bpe(&[&text], 256, END), &["256 tokens", "at least 257"]);
    check_error(train_bpe(&[&text], 0, END), &["at least 257"]);
    check_error(train_bpe(&[&text], 300, ""), &["end token"]);
    check_error(train_bpe(&[&text], 300, "a"), &["end token"]);
    check_error(train_bpe(&["abab"], 300, END), &["259 of 300"]);
    check_error(train_bpe(&[], 300, END), &["257 of 300"]);
    assert_eq!(train_bpe(&[], 257, END).unwrap().encode("aé").unwrap().len(), 3);
}

#[test]
fn a_long_text_takes_seconds() {
    let tokenizer = trained();
    let text = corpus("distillation.txt").repeat(5);
    let start = std::time::Instant::now();
    assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
    assert!(start.elapsed().as_secs() < 60, "{} bytes took {:?}", text.len(), start.elapsed());
}

proptest! {
    #[test]
    fn any_text_goes_there_and_back(text in "\\PC*|[\\s\\S]{0,40}") {
        let tokenizer = trained();
        prop_assert_eq!(tokenizer.decode(&tokenizer.encode(&text).unwrap()).unwrap(), text);
    }
}
