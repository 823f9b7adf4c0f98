//! Text while it is being generated.
use crate::{END, check_error, corpus, trained};
use paring_text::{Tokenizer, train_bpe};
use proptest::prelude::*;

/// All pieces that a stream gives, the last one from `finish`.
fn streamed(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let mut stream = tokenizer.stream();
    let mut pieces = Vec::new();
    for &id in ids {
        if let Some(piece) = stream.push(id).unwrap() {
            assert!(!piece.is_empty());
            pieces.push(piece);
        }
    }
    pieces.push(stream.finish().unwrap());
    pieces
}

/// One token per byte.
fn bytes() -> Tokenizer {
    train_bpe(&[], 257, END).unwrap()
}

#[test]
fn characters_come_with_their_last_byte() {
    let tokenizer = bytes();
    let text = "aé€🦀z";
    let mut stream = tokenizer.stream();
    let pushed: Vec<Option<String>> =
        tokenizer.encode(text).unwrap().iter().map(|&id| stream.push(id).unwrap()).collect();
    let some = |s: &str| Some(s.to_string());
    assert_eq!(pushed, [some("a"), None, some("é"), None, None, some("€"), None, None, None, some("🦀"), some("z")]);
    assert_eq!(stream.finish().unwrap(), "");
}

#[test]
fn an_unfinished_character_comes_with_the_end() {
    let tokenizer = bytes();
    let ids = tokenizer.encode("a🦀").unwrap();
    assert_eq!(streamed(&tokenizer, &ids[..4]), ["a", "\u{fffd}"]);
    // And is given as soon as it is sure that it is none.
    let ids = [&ids[..3], &tokenizer.encode("b").unwrap()].concat();
    assert_eq!(streamed(&tokenizer, &ids), ["a", "\u{fffd}b", ""]);
}

#[test]
fn special_tokens_give_nothing_and_unknown_ids_are_errors() {
    let tokenizer = bytes();
    let ids = tokenizer.encode("é<|endoftext|>z").unwrap();
    assert_eq!(streamed(&tokenizer, &ids), ["é", "z", ""]);
    let mut stream = tokenizer.stream();
    stream.push(ids[0]).unwrap();
    check_error(stream.push(257), &["id 257"]);
    // The wrong id is forgotten, the rest is not.
    assert_eq!(stream.push(ids[1]).unwrap(), Some("é".into()));
}

#[test]
fn pieces_of_a_long_text_are_that_text() {
    let tokenizer = trained();
    let text: String = corpus("heldout.txt").chars().take(20_000).collect();
    let text = text + &"🦀".repeat(100);
    assert_eq!(streamed(&tokenizer, &tokenizer.encode(&text).unwrap()).concat(), text);
    // Bytes that are never a character do not pile up: all but the last few are out before the end.
    let tokenizer = bytes();
    let continuation = tokenizer.encode("é").unwrap()[1];
    let pieces = streamed(&tokenizer, &[continuation; 500]);
    assert_eq!(pieces.concat(), "\u{fffd}".repeat(500));
    assert!(pieces.last().unwrap().chars().count() <= 3);
}

proptest! {
    #[test]
    fn any_ids_give_what_they_give_together(ids in prop::collection::vec(0u32..257, 0..200)) {
        static TOKENIZER: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(bytes);
        prop_assert_eq!(streamed(&TOKENIZER, &ids).concat(), TOKENIZER.decode(&ids).unwrap());
    }
}
