//! tokenizer.json files that are wrong on purpose. None of them may panic, hang, or be believed.
use crate::{END, check_error, file, trained};
use paring_text::{Error, Result, Tokenizer, train_bpe};
use serde_json::{Value, json};

fn load(bytes: &[u8]) -> Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    file(dir.path(), "tokenizer.json", bytes);
    Tokenizer::from_dir(dir.path())
}

/// A tokenizer that works.
fn good() -> Value {
    serde_json::from_slice(&train_bpe(&["low lower lowest"], 264, END).unwrap().files().unwrap()[0].1).unwrap()
}

/// That tokenizer, changed.
fn changed(change: impl Fn(&mut Value)) -> Result<Tokenizer> {
    let mut json = good();
    change(&mut json);
    load(json.to_string().as_bytes())
}

/// Everything that can be done with a tokenizer, if there is one. The results do not matter, only that there are some.
fn use_it(tokenizer: Result<Tokenizer>) {
    match tokenizer {
        Err(e) => assert!(e.is_input() && !e.to_string().contains('\n'), "{e}"),
        Ok(tokenizer) => {
            for text in ["", "low lower", "é\n <|endoftext|>\u{0}", "HHHH"] {
                if let Ok(ids) = tokenizer.encode(text) {
                    let _: Result<String> = tokenizer.decode(&ids);
                    let mut stream = tokenizer.stream();
                    ids.iter().for_each(|&id| drop(stream.push(id)));
                    drop(stream.finish());
                }
            }
            drop(tokenizer.decode(&[0, 1, 2, 3]));
        }
    }
}

#[test]
fn what_is_no_tokenizer_is_an_error() {
    for (bytes, parts) in [
        (&b""[..], &["tokenizer.json", "JSON"][..]),
        (b"not JSON", &["tokenizer.json", "JSON"]),
        (b"{\"model\": ", &["tokenizer.json", "JSON"]),
        (b"\xff\xfe{}", &["tokenizer.json", "byte 0", "UTF-8"]),
        (b"{}", &["tokenizer.json"]),
        (b"null", &["tokenizer.json"]),
        (b"[]", &["tokenizer.json"]),
        (b"{\"model\": 5}", &["tokenizer.json"]),
        (b"{\"model\": {\"type\": \"BPE\"}}", &["tokenizer.json"]),
        (b"{\"model\": 1, \"model\": 2}", &["tokenizer.json", "`model`", "twice"]),
    ] {
        check_error(load(bytes), parts);
    }
    for open in ["[", "{\"model\":", "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["] {
        check_error(load(open.repeat(200_000).as_bytes()), &["tokenizer.json", "depth of JSON", "64"]);
    }
}

#[test]
fn wrong_parts_are_errors() {
    let check = |change: &dyn Fn(&mut Value), parts: &[&str]| {
        check_error(changed(change), &[&["tokenizer.json"], parts].concat())
    };
    check(&|t| t["model"]["vocab"] = json!([]), &[]);
    check(&|t| t["model"]["vocab"] = json!("abc"), &[]);
    check(&|t| t["model"]["vocab"]["l"] = json!("one"), &[]);
    check(&|t| t["model"]["vocab"]["l"] = json!(-1), &[]);
    check(&|t| t["model"]["vocab"]["l"] = json!(4294967296u64), &[]);
    check(&|t| t["model"]["vocab"] = json!({}), &[]);
    check(&|t| t["model"]["merges"] = json!([["nothing", "known"]]), &[]);
    check(&|t| t["model"]["merges"] = json!(["l"]), &[]);
    check(&|t| t["model"]["merges"] = json!([["l", "l"]]), &[]);
    check(&|t| t["model"]["merges"] = json!(5), &[]);
    check(&|t| t["model"]["type"] = json!("Unknown"), &[]);
    check(&|t| t["added_tokens"] = json!({"a": 1}), &[]);
    check(&|t| t["pre_tokenizer"] = json!({"type": "Unknown"}), &[]);
    check(
        &|t| {
            t["pre_tokenizer"] =
                json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false})
        },
        &[],
    );
    check(&|t| t["model"]["dropout"] = json!(0.1), &["dropout is 0.1", "null"]);
    check(&|t| t["model"]["dropout"] = json!("x"), &["dropout"]);
    let empty = json!({"type": "BPE", "vocab": {}, "merges": []});
    check(
        &|t| {
            t["added_tokens"] = json!([]);
            t["model"] = empty.clone();
        },
        &["empty"],
    );
}

/// The six files of huggingface/tokenizers pull request 2151, each of which makes the library panic, and a seventh of issue 2094.
#[test]
fn what_makes_the_library_panic_is_an_error_or_harmless() {
    // A truncation that cannot be: it is not used, so it does no harm.
    let truncation = json!({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 10});
    let tokenizer = changed(|t| t["truncation"] = truncation.clone()).unwrap();
    assert!(4 < tokenizer.encode("low lower lowest slow").unwrap().len());
    // A template with a token that is not there: nor is the template.
    let template = json!({
        "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [], "special_tokens": {},
    });
    let tokenizer = changed(|t| t["post_processor"] = template.clone()).unwrap();
    assert_eq!(tokenizer.encode("low").unwrap(), changed(|_| ()).unwrap().encode("low").unwrap());
    // A merge that is longer than every token.
    check_error(
        changed(|t| t["model"]["merges"] = json!([["<|endoftext|>", "<|endoftext|>"]])),
        &["tokenizer.json", "panicked"],
    );
    check_error(
        changed(|t| t["model"]["continuing_subword_prefix"] = json!("longer than a token")),
        &["tokenizer.json"],
    );
    // A decoder that strips more than there is.
    let strip = json!({"type": "Strip", "content": "l", "start": 2, "stop": 2});
    let tokenizer = changed(|t| t["decoder"] = strip.clone()).unwrap();
    check_error(
        tokenizer.decode(&[tokenizer.token_id("l").unwrap()]),
        &["tokenizer.json", "fails on these ids", "panicked"],
    );
    // Pieces of no length.
    let chunks = json!({"type": "FixedLength", "length": 0});
    let tokenizer = changed(|t| t["pre_tokenizer"] = chunks.clone()).unwrap();
    check_error(tokenizer.encode("low"), &["tokenizer.json", "fails on this text", "panicked"]);
    // A table that is none.
    let table = json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"});
    use_it(changed(|t| t["normalizer"] = table.clone()));
    assert!(changed(|t| t["normalizer"] = table.clone()).is_err());
}

#[test]
fn padding_to_a_huge_length_is_not_done() {
    let padding = json!({
        "strategy": {"Fixed": 1_000_000_000_000u64}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "x",
    });
    assert!(changed(|t| t["padding"] = padding.clone()).unwrap().encode("low").unwrap().len() <= 3);
}

#[test]
fn ids_may_have_gaps() {
    let tokenizer = changed(|t| t["model"]["vocab"]["l"] = json!(u32::MAX)).unwrap();
    assert_eq!(tokenizer.vocab_size(), 1 << 32);
    check_error(tokenizer.check_fits(264), &["4294967295", "264 rows"]);
    let gap = good()["model"]["vocab"]["l"].as_u64().unwrap() as u32;
    assert!(matches!(tokenizer.decode(&[gap]), Err(Error::UnknownId { .. })));
}

#[test]
fn a_text_that_hangs_together_is_refused_before_it_fills_the_memory() {
    let tokenizer = trained();
    // No line end behind a letter anywhere.
    check_error(tokenizer.encode(&"a b ".repeat(5 << 20)), &["20971520 bytes hang together", "separate the documents"]);
    // Where a text can be cut, only the pieces count; and where it cannot, one word of a megabyte is done in time.
    assert_eq!(tokenizer.encode(&"a\n".repeat(10)).unwrap().len(), 20);
    let start = std::time::Instant::now();
    tokenizer.encode(&"a".repeat(1 << 20)).unwrap();
    assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
}

#[test]
fn damaged_files_never_panic() {
    let good = good().to_string().into_bytes();
    for cut in (0..good.len()).step_by(good.len() / 100) {
        assert!(load(&good[..cut]).is_err(), "cut at {cut}");
    }
    // Deterministic damage everywhere, with bytes that mean something in JSON.
    for (i, at) in (0..good.len()).step_by(11).enumerate() {
        let mut bytes = good.clone();
        bytes[at] = b"\"{}[]:,0-\\ea"[i % 12];
        use_it(load(&bytes));
    }
    // And every value of another type.
    let kinds = [
        json!(null),
        json!(true),
        json!(-1),
        json!(1e300),
        json!("x"),
        json!([]),
        json!({}),
        json!([[]]),
        json!({"type": "BPE"}),
    ];
    for path in paths(&self::good(), String::new()) {
        for kind in &kinds {
            use_it(changed(|t| *t.pointer_mut(&path).unwrap() = kind.clone()));
        }
    }
}

/// JSON pointers to all values, of long lists and objects only to the first three.
fn paths(value: &Value, path: String) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().take(3).enumerate().map(|(i, v)| (format!("{path}/{i}"), v)).collect(),
        Value::Object(fields) => {
            let most = if fields.len() < 20 { fields.len() } else { 3 };
            fields
                .iter()
                .take(most)
                .map(|(k, v)| (format!("{path}/{}", k.replace('~', "~0").replace('/', "~1")), v))
                .collect()
        }
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(path, value)| paths(value, path));
    std::iter::once(path.clone()).chain(below).collect()
}
