//! Windows out of texts and of token files.
use crate::{check_error, corpus, directory_of, file, trained};
use paring_text::{Tokenizer, pack, pack_documents, read_documents, read_token_windows};
use std::path::{Path, PathBuf};

/// The definition, as in Python: `for doc in text.split("\f"): ids += encode(doc) + [end]`, cut, the rest dropped.
fn naive(tokenizer: &Tokenizer, texts: &[&str], context: usize) -> Vec<Vec<u32>> {
    let mut ids = Vec::new();
    for text in texts {
        for document in text.split('\x0c') {
            ids.extend(tokenizer.encode(document).unwrap());
            ids.push(tokenizer.end_token().unwrap());
        }
    }
    ids.chunks_exact(context).map(<[u32]>::to_vec).collect()
}

#[test]
fn windows_are_those_of_the_definition_for_any_limit() {
    let tokenizer = trained();
    let dir = tempfile::tempdir().unwrap();
    let heldout = corpus("heldout.txt");
    // Empty documents in front, between and behind; a file without any form feed; documents far shorter and far longer than a window.
    let texts = ["\x0cfirst\x0c\x0cthird\x0c", &heldout, "no form feed\n", ""];
    let files: Vec<PathBuf> =
        texts.iter().enumerate().map(|(i, text)| file(dir.path(), &format!("{i}.txt"), text)).collect();
    for context in [2, 7, 512, 5000] {
        let want = naive(&tokenizer, &texts, context);
        assert!(want.len() > 1);
        assert_eq!(pack(&tokenizer, &files, context, None).unwrap(), want);
        for limit in [1, 2, want.len() / 2, want.len() - 1, want.len(), want.len() + 1, usize::MAX] {
            let got = pack(&tokenizer, &files, context, Some(limit)).unwrap();
            assert_eq!(got, want[..limit.min(want.len())], "context {context}, limit {limit}");
        }
    }
}

#[test]
fn documents_end_behind_their_end_tokens() {
    let tokenizer = trained();
    let dir = tempfile::tempdir().unwrap();
    let heldout = corpus("heldout.txt");
    let texts = ["\x0cfirst\x0c\x0cthird\x0c", &heldout, "no form feed\n", ""];
    let files: Vec<PathBuf> =
        texts.iter().enumerate().map(|(i, text)| file(dir.path(), &format!("{i}.txt"), text)).collect();
    // Where each document ends in all the ids behind one another.
    let mut ends = vec![0];
    for document in texts.iter().flat_map(|t| t.split('\x0c')) {
        ends.push(ends.last().unwrap() + tokenizer.encode(document).unwrap().len() + 1);
    }
    for context in [2, 7, 64, 512] {
        let windows = pack_documents(&tokenizer, &files, context, None).unwrap();
        let ids: Vec<Vec<u32>> = windows.iter().map(|w| w.ids.clone()).collect();
        assert_eq!(ids, pack(&tokenizer, &files, context, None).unwrap());
        for (i, window) in windows.iter().enumerate() {
            let mut want: Vec<usize> = (0..=context).filter(|t| ends.contains(&(i * context + t))).collect();
            want.extend([0, context]);
            want.sort_unstable();
            want.dedup();
            let want: Vec<usize> = want.windows(2).map(|w| w[1] - w[0]).collect();
            assert_eq!(window.documents, want, "window {i} of {context}");
        }
    }
}

#[test]
fn nothing_is_read_after_the_last_window() {
    let tokenizer = trained();
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.txt", "enough text for a window of four");
    let bad = dir.path().join("missing.txt");
    assert_eq!(pack(&tokenizer, &[good.clone(), bad.clone()], 4, Some(1)).unwrap().len(), 1);
    check_error(pack(&tokenizer, &[good, bad], 4, None), &["missing.txt", "cannot be read"]);
}

#[test]
fn line_ends_are_those_of_a_python_text_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "a.txt", "one\r\ntwo\rthree\n\r\nfour\r\x0c\rfive");
    let got: Vec<String> = read_documents(&path).unwrap().map(|d| d.unwrap()).collect();
    assert_eq!(got, ["one\ntwo\nthree\n\nfour\n", "\nfive"]);
}

#[test]
fn what_gives_no_window_is_an_error() {
    let tokenizer = trained();
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: &[u8], parts: &[&str]| {
        let path = file(dir.path(), name, bytes);
        check_error(pack(&tokenizer, &[path], 512, None), &[&[name], parts].concat());
    };
    check("empty.txt", b"", &["nothing to read", "expected text"]);
    check("feeds.txt", &[0x0c; 1000], &["nothing to read"]);
    check("empty.jsonl", b"\n\n", &["nothing to read"]);
    check("no.jsonl", b"{\"text\": \"\"}\n", &["nothing to read"]);
    check("latin1.txt", b"good\x0ccaf\xe9 and more", &["byte 8", "UTF-8"]);
    check("notes.md", b"text", &[".txt or .jsonl"]);
    let short = file(dir.path(), "short.txt", "ab");
    let n = naive(&tokenizer, &["ab"], 1).len();
    check_error(
        pack(&tokenizer, &[short.clone(), short.clone()], 512, None),
        &["short.txt and 1 more", &format!("{} tokens", 2 * n), "512"],
    );
    check_error(pack(&tokenizer, std::slice::from_ref(&short), 1, None), &["context", "at least 2"]);
    check_error(pack(&tokenizer, &[short], 2, Some(0)), &["windows", "at least one"]);
    check_error(pack(&tokenizer, &[], 2, None), &["no files"]);
}

#[test]
fn without_an_end_token_nothing_is_packed() {
    let dir = directory_of(&trained());
    file(dir.path(), "tokenizer_config.json", "{}");
    let tokenizer = Tokenizer::from_dir(dir.path()).unwrap();
    assert_eq!(tokenizer.end_token(), None);
    let text = file(dir.path(), "a.txt", "some text");
    check_error(pack(&tokenizer, &[text], 2, None), &["tokenizer.json", "eos_token"]);
}

#[test]
fn token_files() {
    let dir = tempfile::tempdir().unwrap();
    let read = |text: &str, limit| read_token_windows(&file(dir.path(), "a.jsonl", text), 10, limit);
    let good = "[1, 2, 9]\n\n  [0,0]\r\n[3,4,5,6]";
    assert_eq!(read(good, None).unwrap(), [vec![1, 2, 9], vec![0, 0], vec![3, 4, 5, 6]]);
    assert_eq!(read(good, Some(2)).unwrap(), [vec![1, 2, 9], vec![0, 0]]);
    // What comes after the limit is not looked at.
    assert_eq!(read("[1,2]\nnonsense", Some(1)).unwrap(), [vec![1, 2]]);
    for (text, parts) in [
        ("[1,2]\n\n[1,10]", ["line 3", "item 2 is 10", "below 10"]),
        ("[1,-1]", ["line 1", "item 2 is -1", "below 10"]),
        ("[1.5,1]", ["line 1", "item 1 is 1.5", "below 10"]),
        ("[1,4294967297]", ["line 1", "item 2 is 4294967297", "below 10"]),
        ("[1,\"2\"]", ["line 1", "item 2 is a string", "below 10"]),
        ("[1,2]\n[3]", ["line 2", "1 tokens", "at least 2"]),
        ("[]", ["line 1", "0 tokens", "at least 2"]),
        ("[1,2]\n{\"a\":1}", ["line 2", "an object", "expected an array"]),
        ("[1,2]\n[1,", ["a.jsonl", "line 2", "character"]),
        ("\n \n", ["a.jsonl", "nothing to read", ""]),
        ("", ["a.jsonl", "nothing to read", ""]),
    ] {
        check_error(read(text, None), &parts);
    }
    check_error(read("[1,2]", Some(0)), &["windows"]);
    check_error(read_token_windows(Path::new("missing.jsonl"), 10, None), &["missing.jsonl", "cannot be read"]);
}
