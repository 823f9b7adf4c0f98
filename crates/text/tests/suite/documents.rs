//! Documents out of files of every kind, whole and broken.
use crate::{check_error, file};
use flate2::{Compression, write::GzEncoder};
use paring_text::{Error, Result, read_documents};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use std::{io::Write, path::Path};
use tempfile::TempDir;

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn read(path: &Path) -> Result<Vec<String>> {
    read_documents(path)?.collect()
}

/// The documents of a file `name` with these bytes.
fn documents(name: &str, bytes: &[u8]) -> Result<Vec<String>> {
    let dir = TempDir::new().unwrap();
    read(&file(dir.path(), name, bytes))
}

#[test]
fn every_kind_gives_the_same_documents() {
    // Longer than any buffer on the way.
    let long = "A line of a long document, é and 🦀.\n".repeat(10_000);
    let want = ["first", "", &long, "last\n"];
    let txt = want.join("\x0c").into_bytes();
    let jsonl: String = want.iter().map(|text| format!("{}\n", serde_json::json!({"id": 1, "text": text}))).collect();
    let jsonl = jsonl.into_bytes();
    for (name, bytes) in [
        ("a.txt", txt.clone()),
        ("a.txt.gz", gz(&txt)),
        ("a.txt.zst", zst(&txt)),
        ("a.jsonl", jsonl.clone()),
        ("a.jsonl.gz", gz(&jsonl)),
        ("a.JSONL.ZST", zst(&jsonl)),
        // Several streams in one file, as parallel compressors write them, cut in the middle of a document.
        ("two.txt.gz", [gz(&txt[..20_000]), gz(&txt[20_000..])].concat()),
        ("two.txt.zst", [zst(&txt[..20_000]), zst(&txt[20_000..])].concat()),
        // A skippable frame, as `zstd` uses them for its own notes.
        ("skip.txt.zst", [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 9, 9, 9], &zst(&txt)[..]].concat()),
    ] {
        assert_eq!(documents(name, &bytes).unwrap(), want, "{name}");
    }
}

#[test]
fn documents_are_what_is_between_form_feeds() {
    let check = |text: &str, want: &[&str]| assert_eq!(documents("a.txt", text.as_bytes()).unwrap(), want, "{text:?}");
    check("", &[""]);
    check("a", &["a"]);
    check("\x0c", &["", ""]);
    check("a\x0c\x0c\n\x0cb\n", &["a", "", "\n", "b\n"]);
    check("\u{feff}a", &["\u{feff}a"]);
}

#[test]
fn blank_lines_are_no_documents() {
    let text = "\n{\"text\":\"a\\nb\"}\r\n  \n{\"text\":\"\",\"meta\":{\"n\":[1]}}";
    assert_eq!(documents("a.jsonl", text.as_bytes()).unwrap(), ["a\nb", ""]);
    assert!(documents("a.jsonl", b"").unwrap().is_empty());
}

#[test]
fn wrong_lines_are_named() {
    let good = "{\"text\":\"good\"}\n\n";
    for (line, parts) in [
        ("{\"text\":\"a\"", ["line 3", "EOF", "character 11"]),
        ("not JSON", ["line 3", "expected", "character 2"]),
        ("{\"text\":\"a\"} {}", ["line 3", "trailing", "character"]),
        ("{\"txt\":\"a\",\"id\":1}", ["line 3", "no field `text`", "`txt`, `id`"]),
        ("{\"text\":5}", ["line 3", "`text` is a number", "expected a string"]),
        ("{\"text\":null}", ["line 3", "`text` is null", "expected a string"]),
        ("[\"a\"]", ["line 3", "expected an object", "an array"]),
        ("{\"text\":\"a\",\"text\":\"b\"}", ["line 3", "`text`", "twice"]),
        ("{\"text\":\"\\ud800\"}", ["a.jsonl", "line 3", "hex escape"]),
    ] {
        check_error(documents("a.jsonl", format!("{good}{line}\n{good}").as_bytes()), &parts);
    }
    let deep = format!("{{\"text\":\"a\",\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    check_error(documents("a.jsonl", deep.as_bytes()), &["line 1", "depth of JSON", "limit of 64"]);
}

#[test]
fn bytes_that_are_not_utf8_are_named() {
    check_error(documents("a.txt", b"ok\x0c\xc3\xa9\xff"), &["a.txt", "byte 5", "UTF-8"]);
    // After decompression; and a character that a form feed interrupts.
    check_error(documents("a.txt.gz", &gz(b"ok\x0cok\x0c\xc3\x0c\xa9")), &["a.txt.gz", "byte 6", "UTF-8"]);
    check_error(documents("a.jsonl", b"{\"text\":\"a\"}\n{\"text\":\"\xe9\"}\n"), &["a.jsonl", "byte 22", "UTF-8"]);
}

#[test]
fn broken_compression_is_an_error_wherever_it_is_cut() {
    // Text that does not shrink much, so that there are cuts in the middle of the data.
    let text: String = (0u32..3000).map(|i| format!("{} ", i.wrapping_mul(2_654_435_761))).collect();
    for (name, whole) in [("a.txt.gz", gz(text.as_bytes())), ("a.txt.zst", zst(text.as_bytes()))] {
        assert_eq!(documents(name, &whole).unwrap(), [text.as_str()]);
        // Behind the data of a .zst is a checksum of four bytes that may be missing only together with its flag, so every cut counts.
        for cut in (0..20).chain((20..whole.len()).step_by(997)).chain(whole.len() - 9..whole.len()) {
            check_error(documents(name, &whole[..cut]), &[name, "does not decompress", "truncated"]);
        }
        for at in (0..whole.len()).step_by(whole.len() / 60) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x55;
            // Flags and times of a header may change without harm; what comes out must be right or an error.
            match documents(name, &bytes) {
                Ok(got) => assert!(at < 16 && got == [text.as_str()], "{name}: byte {at} is not noticed"),
                Err(e) => assert!(e.is_input(), "{e}"),
            }
        }
        // Something else behind the last stream.
        check_error(documents(name, &[&whole[..], b"garbage"].concat()), &[name, "does not decompress"]);
        check_error(documents(name, text.as_bytes()), &[name, "does not decompress"]);
    }
}

#[test]
fn a_small_file_cannot_fill_the_memory() {
    let dir = TempDir::new().unwrap();
    let bomb = gz(&vec![b'a'; 200 << 20]);
    assert!(bomb.len() < 1 << 20);
    let path = file(dir.path(), "bomb.txt.gz", bomb);
    check_error(read(&path), &["bomb.txt.gz", "document 1", "134217728"]);

    // The limit is that of one document, in bytes.
    let path = file(dir.path(), "a.txt", "12345\x0c12345\x0c123456");
    let limited = |limit| read_documents(&path).unwrap().max_document_bytes(limit).collect::<Result<Vec<_>>>();
    assert_eq!(limited(6).unwrap().len(), 3);
    check_error(limited(5), &["a.txt", "document 3", "more than 5 bytes"]);
    check_error(limited(0), &["document 1"]);
    let lines = file(dir.path(), "a.jsonl", "{\"text\":\"12345\"}\n");
    let limited: Result<Vec<_>> = read_documents(&lines).unwrap().max_document_bytes(10).collect();
    check_error(limited, &["a.jsonl", "document 1"]);
}

#[test]
fn an_error_ends_the_documents() {
    let dir = TempDir::new().unwrap();
    let path = file(dir.path(), "a.jsonl", "{\"text\":\"a\"}\nwrong\n{\"text\":\"b\"}\n");
    let mut documents = read_documents(&path).unwrap();
    assert_eq!(documents.next().unwrap().unwrap(), "a");
    assert!(matches!(documents.next(), Some(Err(Error::Line { line: 2, .. }))));
    assert!(documents.next().is_none());
}

#[test]
fn only_regular_files_of_known_names_are_read() {
    let dir = TempDir::new().unwrap();
    for name in ["a", "a.gz", "a.json", "a.txt.bz2", "a.parquet", "txt"] {
        check_error(read(&file(dir.path(), name, "text")), &[name, ".txt or .jsonl", ".zst"]);
    }
    check_error(read(&dir.path().join("missing.txt")), &["missing.txt", "cannot be read"]);
    let folder = dir.path().join("folder.txt");
    std::fs::create_dir(&folder).unwrap();
    check_error(read(&folder), &["folder.txt", "a directory"]);
    let pipe = dir.path().join("pipe.txt");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    check_error(read(&pipe), &["pipe.txt", "a pipe"]);
    let link = dir.path().join("link.txt");
    std::os::unix::fs::symlink(file(dir.path(), "real.txt", "text"), &link).unwrap();
    assert_eq!(read(&link).unwrap(), ["text"]);
}
