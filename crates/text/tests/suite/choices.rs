//! Rows of tasks, good and bad, and where a context ends in ids.
use paring_text::{ChoiceRow, Error, read_choices, train_bpe};
use std::path::PathBuf;

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn rows_are_read_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let text = "{\"ctx\": \"Q: 1+1?\\nA:\", \"choices\": [\" 2\", \" 3\"], \"gold\": 0, \"id\": 7}\n\n\
                {\"ctx\": [\"a b\", \"a c\"], \"choices\": [\" d\", \" d\"], \"gold\": 1}\n";
    let path = file(&dir, "t.jsonl", text);
    let row = |line, contexts: [&str; 2], choices: [&str; 2], gold| ChoiceRow {
        line,
        contexts: contexts.map(String::from).to_vec(),
        choices: choices.map(String::from).to_vec(),
        gold,
    };
    let want = [row(1, ["Q: 1+1?\nA:"; 2], [" 2", " 3"], 0), row(3, ["a b", "a c"], [" d", " d"], 1)];
    assert_eq!(read_choices(&path, None).unwrap(), want);
    assert_eq!(read_choices(&path, Some(1)).unwrap(), want[..1]);
    assert!(matches!(read_choices(&path, Some(0)), Err(Error::Argument { name: "rows", .. })));
}

#[test]
fn bad_rows_are_named_with_file_and_line() {
    let dir = tempfile::tempdir().unwrap();
    let good = "{\"ctx\": \"a\", \"choices\": [\"b\", \"c\"], \"gold\": 1}\n";
    for (row, says) in [
        ("[1]", "expected an object with `ctx`, `choices` and `gold`, got an array"),
        ("{\"choices\": [\"b\"], \"gold\": 0}", "has no field `ctx`"),
        ("{\"ctx\": \"a\", \"gold\": 0}", "has no field `choices`"),
        ("{\"ctx\": \"a\", \"choices\": [\"b\"]}", "has no field `gold`"),
        ("{\"ctx\": \"a\", \"choices\": [], \"gold\": 0}", "`choices` is empty, expected at least one"),
        ("{\"ctx\": \"a\", \"choices\": \"b\", \"gold\": 0}", "the field `choices` is a string"),
        ("{\"ctx\": \"a\", \"choices\": [\"b\", 3], \"gold\": 0}", "item 1 of `choices` is a number"),
        ("{\"ctx\": \"a\", \"choices\": [\"b\", \" \"], \"gold\": 0}", "choice 1 is empty"),
        ("{\"ctx\": 1, \"choices\": [\"b\"], \"gold\": 0}", "the field `ctx` is a number"),
        ("{\"ctx\": [\"a\"], \"choices\": [\"b\", \"c\"], \"gold\": 0}", "`ctx` has 1 texts for 2 choices"),
        ("{\"ctx\": [null], \"choices\": [\"b\"], \"gold\": 0}", "item 0 of `ctx` is null"),
        ("{\"ctx\": \"a\", \"choices\": [\"b\"], \"gold\": 1}", "`gold` is 1, expected 0 to 0"),
        ("{\"ctx\": \"a\", \"choices\": [\"b\"], \"gold\": -1}", "`gold` is -1, expected 0 to 0"),
        ("{\"ctx\": \"a\", \"choices\": [\"b\"], \"gold\": 0.5}", "`gold` is 0.5"),
        ("{\"ctx\": \"a\", \"choices\": [\"b\"], \"gold\": \"b\"}", "`gold` is a string, expected 0 to 0"),
        ("{\"ctx\": \"a\", \"choices\"", "line 2"),
    ] {
        let path = file(&dir, "t.jsonl", &format!("{good}{row}\n"));
        let error = read_choices(&path, None).unwrap_err();
        let text = error.to_string();
        assert!(matches!(&error, Error::Line { line: 2, .. }), "{row}: {error:?}");
        assert!(text.contains("t.jsonl: line 2") && text.contains(says), "{row}: {text}");
    }
    for text in ["", "\n\n"] {
        assert!(matches!(read_choices(&file(&dir, "t.jsonl", text), None), Err(Error::NoText { .. })));
    }
    assert!(read_choices(&dir.path().join("nowhere.jsonl"), None).is_err());
}

#[test]
fn the_context_ends_where_its_own_ids_end() {
    // Pairs that end with a space and a letter become one token, so the border matters.
    let tokenizer = train_bpe(&["a b a b a b a b a b. a b a b a b."], 259, "<|endoftext|>").unwrap();
    let ids = |text: &str| tokenizer.encode(text).unwrap();
    for (context, continuation, stem) in
        [("a", " b", "a"), ("a ", "b", "a"), ("a b. \n", "a b", "a b."), ("a b.", " a b a b", "a b.")]
    {
        let (got, own) = tokenizer.encode_pair(context, continuation).unwrap();
        assert_eq!(got, ids(&format!("{context}{continuation}")), "{context:?} {continuation:?}");
        assert_eq!(own, ids(stem).len(), "{context:?} {continuation:?}");
        assert!(own < got.len());
    }
    // Where the space stands makes no difference.
    assert_eq!(tokenizer.encode_pair("a ", "b").unwrap(), tokenizer.encode_pair("a", " b").unwrap());
    let end = tokenizer.end_token().unwrap();
    for context in ["", "  \n"] {
        let (got, own) = tokenizer.encode_pair(context, "a b").unwrap();
        assert_eq!((got, own), ([vec![end], ids(&format!("{context}a b"))].concat(), 1));
    }
}
