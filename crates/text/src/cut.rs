//! Cutting a long text in front of the tokenizer, which needs more than a hundred bytes of memory for every byte it works on.
//!
//! A cut must not change an id. It is made only between an ASCII letter and a line end, and only for tokenizers of which it is known that
//! nothing happens across that place:
//! - added tokens: none contains a line end, and none takes white space around it or looks at its neighbours;
//! - normalizer: none, or NFC, in which a line end combines with nothing;
//! - pre-tokenizer: GPT-2's expression, with or without single digits cut out before, or those of Llama 3 and Qwen 2. None of their alternatives
//!   matches both a letter and the line end behind it, so one match ends here and another begins; the only look at what follows is
//!   `\s+(?!\S)`, which does not end behind a letter. `split` in `from_gguf` writes the two longer expressions out.
//!
//! The model then sees the same words.
use crate::from_gguf::{LLAMA3, QWEN2, split_regex};
use serde_json::Value;

/// Whether texts may be cut for the tokenizer of this tokenizer.json.
pub(crate) fn can_cut(tokenizer: &Value) -> bool {
    let added = tokenizer["added_tokens"].as_array().map(Vec::as_slice).unwrap_or_default();
    let added = added.iter().all(|token| {
        let plain = ["lstrip", "rstrip", "single_word"].iter().all(|flag| token[*flag] == false);
        plain && token["content"].as_str().is_some_and(|content| !content.contains('\n'))
    });
    let normalizer = &tokenizer["normalizer"];
    added && (normalizer.is_null() || normalizer["type"] == "NFC") && known(&tokenizer["pre_tokenizer"])
}

fn known(pre_tokenizer: &Value) -> bool {
    // `use_regex` is younger than the rest, and true where it is missing.
    let bytes = |p: &Value, regex: bool| {
        p["type"] == "ByteLevel" && p["add_prefix_space"] == false && p["use_regex"].as_bool().unwrap_or(true) == regex
    };
    let digits = |p: &Value| p["type"] == "Digits" && p["individual_digits"] == true;
    let split = |p: &Value| {
        let regex = p["pattern"]["Regex"].as_str().unwrap_or_default();
        let known = [LLAMA3, QWEN2].iter().any(|digits| split_regex(digits) == regex);
        p["type"] == "Split" && p["behavior"] == "Isolated" && p["invert"] == false && known
    };
    match pre_tokenizer["pretokenizers"].as_array().map(Vec::as_slice) {
        None => bytes(pre_tokenizer, true),
        Some([first, second]) => (digits(first) && bytes(second, true)) || (split(first) && bytes(second, false)),
        Some(_) => false,
    }
}

/// `text` in pieces, cut at the first safe place after `least` bytes.
pub(crate) fn pieces(text: &str, least: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let bytes = text.as_bytes();
        let place = (least.max(1)..bytes.len()).find(|&i| bytes[i] == b'\n' && bytes[i - 1].is_ascii_alphabetic());
        // Both sides of the place are ASCII, so it is between two characters.
        let (piece, after) = place.map_or((text, None), |i| (&text[..i], Some(&text[i..])));
        rest = after;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::{str::FromStr, sync::LazyLock};
    use tokenizers::{
        AddedToken, ModelWrapper, PreTokenizerWrapper,
        models::{
            TrainerWrapper,
            bpe::{BPE, BpeTrainer},
        },
        pre_tokenizers::byte_level::ByteLevel,
    };

    fn byte_level(use_regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
    }

    fn split(digits: &str) -> Value {
        let pattern = json!({"Regex": split_regex(digits)});
        json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
    }

    fn sequence(parts: &[Value]) -> Value {
        json!({"type": "Sequence", "pretokenizers": parts})
    }

    /// A tokenizer with merges that go over white space, digits and punctuation, so that its ids show how the text was cut into words.
    fn tokenizer_json(pre_tokenizer: Value, normalizer: Value) -> Value {
        let text = "The cat's hat, it'll sit\n\n  on 12 345 mats\n \n\t\nand don't\nSTOP\n ";
        // For its training a whole text is one word.
        let mut tokenizer = tokenizers::Tokenizer::new(ModelWrapper::from(BPE::default()));
        tokenizer.with_pre_tokenizer(Some(PreTokenizerWrapper::from(ByteLevel::new(false, true, false))));
        let alphabet = ByteLevel::alphabet().into_iter().collect();
        let end = vec![AddedToken::from("<|end|>", true)];
        let trainer = BpeTrainer::builder()
            .vocab_size(320)
            .special_tokens(end)
            .initial_alphabet(alphabet)
            .show_progress(false)
            .build();
        let texts = [text, &text[30..], &text[7..], "\n\n\n\n", "  \n  \n", "'s'll", "Thee\u{301}\u{323}"];
        tokenizer.train(&mut TrainerWrapper::from(trainer), texts.iter()).unwrap();
        let mut json = serde_json::to_value(&tokenizer).unwrap();
        json["pre_tokenizer"] = pre_tokenizer;
        json["normalizer"] = normalizer;
        json
    }

    static CUTTABLE: LazyLock<Vec<tokenizers::Tokenizer>> = LazyLock::new(|| {
        let kinds = [
            (byte_level(true), Value::Null),
            (sequence(&[json!({"type": "Digits", "individual_digits": true}), byte_level(true)]), Value::Null),
            (sequence(&[split(LLAMA3), byte_level(false)]), Value::Null),
            (sequence(&[split(QWEN2), byte_level(false)]), json!({"type": "NFC"})),
        ];
        let tokenizer = |(pre, normalizer)| {
            let json = tokenizer_json(pre, normalizer);
            assert!(can_cut(&json), "{}", json["pre_tokenizer"]);
            tokenizers::Tokenizer::from_str(&json.to_string()).unwrap()
        };
        kinds.into_iter().map(tokenizer).collect()
    });

    proptest! {
        #[test]
        fn no_cut_changes_an_id(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "a", "The", " cat", "\n", "\n", "\n", " ", "\r", "\t", "'s", "'ll", "7", "12", ",", "!", "é", "e\u{301}", "\u{301}", "中",
                    "\u{a0}", "\u{2028}", "<|end|>", "<|", "STOP\n", "k\n\u{323}",
                ]),
                0..40,
            ),
            least in 0usize..20,
        ) {
            let text = parts.concat();
            let cut: Vec<&str> = pieces(&text, least).collect();
            prop_assert_eq!(cut.concat(), &*text);
            for tokenizer in CUTTABLE.iter() {
                let ids = |text: &str| tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
                let pieced: Vec<u32> = cut.iter().flat_map(|piece| ids(piece)).collect();
                prop_assert_eq!(pieced, ids(&text), "{:?} cut to {:?}", text, cut);
            }
        }
    }

    #[test]
    fn cuts_are_made_where_they_can() {
        assert_eq!(pieces("one\ntwo\nthree", 4).collect::<Vec<_>>(), ["one\ntwo", "\nthree"]);
        assert_eq!(pieces("one\ntwo", 0).collect::<Vec<_>>(), ["one", "\ntwo"]);
        assert_eq!(pieces("one.\n2\né\n\nx", 0).collect::<Vec<_>>(), ["one.\n2\né\n\nx"]);
        assert_eq!(pieces("", 5).collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn what_is_not_known_is_not_cut() {
        let good = tokenizer_json(byte_level(true), Value::Null);
        assert!(can_cut(&good));
        let check = |change: &dyn Fn(&mut Value)| {
            let mut json = good.clone();
            change(&mut json);
            assert!(!can_cut(&json), "{json}");
        };
        check(&|t| t["normalizer"] = json!({"type": "Lowercase"}));
        check(&|t| t["normalizer"] = json!({"type": "NFKC"}));
        check(&|t| t["pre_tokenizer"] = Value::Null);
        check(&|t| t["pre_tokenizer"]["use_regex"] = false.into());
        check(&|t| t["pre_tokenizer"]["add_prefix_space"] = true.into());
        check(&|t| t["pre_tokenizer"] = sequence(&[byte_level(true)]));
        check(&|t| t["pre_tokenizer"] = sequence(&[split(r"\p{N}+"), byte_level(false)]));
        check(&|t| t["pre_tokenizer"] = sequence(&[split(LLAMA3), byte_level(true)]));
        check(&|t| t["added_tokens"][0]["rstrip"] = true.into());
        check(&|t| t["added_tokens"][0]["lstrip"] = true.into());
        check(&|t| t["added_tokens"][0]["single_word"] = true.into());
        check(&|t| t["added_tokens"][0]["content"] = "a\nb".into());
        check(&|t| t["added_tokens"] = json!([{}]));
    }
}
