//! Tokenizers of Hugging Face directories: the end token and the files.
use crate::{check_error, directory_of, file, trained};
use paring_text::{Result, Tokenizer};

/// The end token, when these files lie beside the tokenizer.json of [`trained`].
fn end_token(files: &[(&str, &str)]) -> Result<Option<u32>> {
    let dir = directory_of(&trained());
    std::fs::remove_file(dir.path().join("tokenizer_config.json")).unwrap();
    for (name, text) in files {
        file(dir.path(), name, text);
    }
    Tokenizer::from_dir(dir.path()).map(|t| t.end_token())
}

#[test]
fn the_end_token_is_looked_for_in_order() {
    let config = |text| ("tokenizer_config.json", text);
    let generation = |text| ("generation_config.json", text);
    let model = |text| ("config.json", text);
    let check = |files: &[(&str, &str)], want| assert_eq!(end_token(files).unwrap(), want, "{files:?}");
    check(&[], None);
    check(&[config("{}"), generation("{}"), model("{}")], None);
    check(&[config(r#"{"eos_token": "Ġthe"}"#), generation(r#"{"eos_token_id": 5}"#)], trained().token_id("Ġthe"));
    check(
        &[config(r#"{"eos_token": {"content": "<|endoftext|>", "lstrip": false}}"#), model(r#"{"eos_token_id": 5}"#)],
        Some(0),
    );
    check(
        &[config(r#"{"eos_token": null}"#), generation(r#"{"eos_token_id": 7}"#), model(r#"{"eos_token_id": 5}"#)],
        Some(7),
    );
    check(&[generation(r#"{"eos_token_id": [8, 9]}"#), model(r#"{"eos_token_id": 5}"#)], Some(8));
    check(&[generation(r#"{"eos_token_id": null}"#), model(r#"{"eos_token_id": [599]}"#)], Some(599));
    check(&[model(r#"{"eos_token_id": []}"#)], None);
}

#[test]
fn an_end_token_that_the_tokenizer_does_not_have_is_an_error() {
    for (name, text, got) in [
        ("tokenizer_config.json", r#"{"eos_token": "</s>"}"#, "`</s>`"),
        ("generation_config.json", r#"{"eos_token_id": 600}"#, "600"),
        ("config.json", r#"{"eos_token_id": [-1]}"#, "-1"),
        ("config.json", r#"{"eos_token_id": "x"}"#, "\"x\""),
        ("config.json", r#"{"eos_token_id": 1.5}"#, "1.5"),
    ] {
        check_error(end_token(&[(name, text)]), &[name, "end token is", got, "600 tokens"]);
    }
    check_error(end_token(&[("config.json", "{")]), &["config.json", "JSON"]);
}

#[test]
fn the_files_of_a_directory_are_kept_byte_for_byte() {
    let dir = directory_of(&trained());
    let mut want = trained().files().unwrap();
    // Odd spacing, a key that nobody knows, bytes that are no text; and files that belong to the model, not to the tokenizer.
    want[1].1 = b"{  \"eos_token\":\n\"<|endoftext|>\", \"custom\": [1 ]}".to_vec();
    for (name, bytes) in [
        ("special_tokens_map.json", &b"{ }\n\n"[..]),
        ("chat_template.jinja", b"{{ messages }}\r\n"),
        ("vocab.json", b"{\"a\": 0}"),
        ("merges.txt", b"#version: 0.2\n"),
        ("tokenizer.model", b"\x0a\xff\x00\x80"),
    ] {
        want.push((name.into(), bytes.into()));
    }
    for (name, bytes) in &want {
        file(dir.path(), name, bytes);
    }
    file(dir.path(), "config.json", "{}");
    file(dir.path(), "notes.txt", "mine");
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    let mut got = tokenizer.files().unwrap();
    want.sort();
    got.sort();
    assert_eq!(got, want);
    assert_eq!(tokenizer.end_token(), Some(0));
    // They are those that were read, whatever happens to the directory.
    let path = dir.path().to_path_buf();
    drop(dir);
    assert!(!path.exists());
    assert_eq!(tokenizer.files().unwrap().len(), want.len());
}

#[test]
fn what_is_no_tokenizer_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    check_error(Tokenizer::from_dir(dir.path()), &["tokenizer.json", "missing", "save_pretrained"]);
    check_error(Tokenizer::from_dir(&dir.path().join("none")), &["none", "missing"]);
    std::fs::create_dir(dir.path().join("tokenizer.json")).unwrap();
    check_error(Tokenizer::from_dir(dir.path()), &["tokenizer.json", "a directory"]);
}
