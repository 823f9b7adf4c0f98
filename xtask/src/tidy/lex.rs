//! Rust text in three layers (code, comments, strings), so that a rule about code is not fooled by a word in a comment, and the other way
//! round. Not a parser: it knows where comments, literals and `#[cfg(test)]` items begin and end, which is all that the rules need.

/// A source file, its layers line by line.
pub(super) struct Lexed {
    /// Code with comments and the insides of literals blanked; lines and columns as in the file.
    pub(super) code: String,
    /// Comments alone, likewise.
    pub(super) comments: String,
    /// Insides of string literals alone, likewise.
    pub(super) strings: String,
    /// For each line, whether it belongs to an item under `#[cfg(test)]`.
    pub(super) is_test: Vec<bool>,
    /// Modules under `#[cfg(test)]` that live in files of their own.
    pub(super) test_modules: Vec<String>,
}

/// Where a byte belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Code,
    Comment,
    Text,
}

/// Splits `source` into its layers.
pub(super) fn lex(source: &str) -> Lexed {
    let layers = layers(source.as_bytes());
    let only = |layer| {
        // Whole characters are kept or blanked, for a character never spans two layers; blanks keep the length.
        let keep = |(byte, l): (u8, &Layer)| if *l == layer || byte == b'\n' { byte } else { b' ' };
        String::from_utf8_lossy(&source.bytes().zip(&layers).map(keep).collect::<Vec<u8>>()).into_owned()
    };
    let code = only(Layer::Code);
    let (is_test, test_modules) = tests(&code);
    Lexed { comments: only(Layer::Comment), strings: only(Layer::Text), code, is_test, test_modules }
}

fn layers(s: &[u8]) -> Vec<Layer> {
    let mut layers = vec![Layer::Code; s.len()];
    let mut i = 0;
    while i < s.len() {
        let is_word_before = 0 < i && is_word(s[i - 1]);
        // `open` is the length of what opens a literal; it and what closes the literal stay in the code, so that a literal does not
        // vanish from an expression.
        let (end, layer, open) = match s[i] {
            b'/' if s.get(i + 1) == Some(&b'/') => (line_end(s, i), Layer::Comment, 0),
            b'/' if s.get(i + 1) == Some(&b'*') => (comment_end(s, i), Layer::Comment, 0),
            b'"' => (string_end(s, i + 1), Layer::Text, 1),
            b'r' if !is_word_before || is_prefix(s, i) => match raw_string(s, i) {
                Some((end, open)) => (end, Layer::Text, open),
                None => (i + 1, Layer::Code, 0),
            },
            b'\'' => match char_end(s, i) {
                Some(end) => (end, Layer::Text, 1),
                None => (i + 1, Layer::Code, 0),
            },
            _ => (i + 1, Layer::Code, 0),
        };
        let end = end.min(s.len());
        let close = if layer == Layer::Text { (open - 1).max(1) } else { 0 };
        let (from, to) = (i + open, end.saturating_sub(close));
        if from < to {
            layers[from..to].fill(layer);
        }
        i = end;
    }
    layers
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || 0x80 <= b
}

/// The `r` of `br"` and `cr"`.
fn is_prefix(s: &[u8], i: usize) -> bool {
    0 < i && matches!(s[i - 1], b'b' | b'c') && (i < 2 || !is_word(s[i - 2]))
}

fn line_end(s: &[u8], i: usize) -> usize {
    s[i..].iter().position(|b| *b == b'\n').map_or(s.len(), |n| i + n)
}

fn comment_end(s: &[u8], mut i: usize) -> usize {
    let mut depth = 0;
    while i < s.len() {
        match s.get(i..i + 2) {
            Some(b"/*") => (depth, i) = (depth + 1, i + 2),
            Some(b"*/") => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn string_end(s: &[u8], mut i: usize) -> usize {
    while i < s.len() && s[i] != b'"' {
        i += if s[i] == b'\\' { 2 } else { 1 };
    }
    i + 1
}

/// The end of `r#"..."#` at `i`, and the length of what opens it (3 here); nothing for a name such as `r#fn` or `read`.
fn raw_string(s: &[u8], i: usize) -> Option<(usize, usize)> {
    let hashes = s[i + 1..].iter().take_while(|b| **b == b'#').count();
    if s.get(i + 1 + hashes) != Some(&b'"') {
        return None;
    }
    let inside = i + hashes + 2;
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let n = s[inside..].windows(close.len()).position(|w| w == close).unwrap_or(s.len() - inside);
    Some((inside + n + close.len(), inside - i))
}

/// The end of a character literal at `i`; nothing for a lifetime.
fn char_end(s: &[u8], i: usize) -> Option<usize> {
    if s.get(i + 1) == Some(&b'\\') {
        // The escaped character may itself be a quote.
        return s.get(i + 3..)?.iter().position(|b| *b == b'\'').map(|n| i + 3 + n + 1);
    }
    let first = *s.get(i + 1)?;
    let len = if first < 0x80 { 1 } else { first.leading_ones() as usize };
    (s.get(i + 1 + len) == Some(&b'\'')).then_some(i + len + 2)
}

/// Which lines of `code` are under `#[cfg(test)]`, and the modules there that are files.
fn tests(code: &str) -> (Vec<bool>, Vec<String>) {
    let mut is_test = vec![false; code.lines().count()];
    let mut modules = Vec::new();
    let line_of = |at: usize| code[..at].bytes().filter(|b| *b == b'\n').count();
    if code.contains("#![cfg(test)]") {
        is_test.fill(true);
    }
    for (start, attribute) in code.match_indices("#[cfg(") {
        let condition_end = closing(code, start + 1);
        let condition = &code[start..condition_end];
        if !has_word(condition, "test") || condition.contains("not(test") {
            continue;
        }
        let item_end = item_end(code, condition_end);
        let item = code[start + attribute.len()..item_end].trim_end();
        if let Some((_, name)) = item.strip_suffix(';').and_then(|m| m.rsplit_once("mod ")) {
            modules.push(name.trim().to_owned());
        }
        for line in line_of(start)..=line_of(item_end.max(1) - 1) {
            if let Some(line) = is_test.get_mut(line) {
                *line = true;
            }
        }
    }
    (is_test, modules)
}

/// One past the bracket that closes the one at `open`.
fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (i, b) in code.bytes().enumerate().skip(open) {
        match b {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return i + 1;
        }
    }
    code.len()
}

/// One past the item that begins at or after `i`: its `;`, or the brace that closes its body.
fn item_end(code: &str, mut i: usize) -> usize {
    while i < code.len() {
        match code.as_bytes()[i] {
            b'(' | b'[' => i = closing(code, i),
            b'{' => return closing(code, i),
            b';' => return i + 1,
            _ => i += 1,
        }
    }
    code.len()
}

/// Whether `word` stands in `text` on its own, not as a part of a longer name.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let bytes = text.as_bytes();
    text.match_indices(word).any(|(at, _)| {
        let end = at + word.len();
        let (before, after) = (bytes[..at].last(), bytes.get(end));
        !before.is_some_and(|b| is_word(*b)) && !after.is_some_and(|b| is_word(*b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where `x` is written, by layer.
    fn marks(source: &str) -> [usize; 3] {
        let l = lex(source);
        assert_eq!((l.code.len(), l.comments.len(), l.strings.len()), (source.len(), source.len(), source.len()));
        [l.code, l.comments, l.strings].map(|text| text.matches('x').count())
    }

    #[test]
    fn layers_are_told_apart() {
        assert_eq!(marks("x // x \"x\"\nx"), [2, 2, 0]);
        assert_eq!(marks("x /* x /* x */ x */ x"), [2, 3, 0]);
        assert_eq!(marks(r#"x "x // x \" x" x"#), [2, 0, 3]);
        assert_eq!(marks("x r\"x\\\" x"), [2, 0, 1]);
        assert_eq!(marks("x r#\"x \" // x\"# x"), [2, 0, 2]);
        assert_eq!(marks("x br##\"x \"# x\"## x"), [2, 0, 2]);
        assert_eq!(marks("for\"x\" x"), [1, 0, 1]);
        assert_eq!(marks("'x' x"), [1, 0, 1]);
        assert_eq!(marks("'\\'' x '\"' x"), [2, 0, 0]);
        assert_eq!(marks("fn f<'x>(s: &'x str) -> r#x"), [3, 0, 0]);
        assert_eq!(marks("'\u{e9}' x // \u{e9} x"), [1, 1, 0]);
        assert_eq!(marks("\"x unfinished"), [0, 0, 1]);
    }

    #[test]
    fn quotes_stay_in_the_code() {
        assert_eq!(lex("f(\"abc\")").code, "f(\"   \")");
        assert_eq!(lex("f(r#\"abc\"#)").code, "f(r#\"   \"#)");
        assert_eq!(lex("f('a', b)").code, "f(' ', b)");
    }

    #[test]
    fn test_items_end_where_they_end() {
        let source = "fn a() {}\n#[cfg(test)]\n#[rustfmt::skip]\nmod tests {\n fn b() { \"}\" }\n}\nfn c() {}\n#[cfg(test)]\nuse d;\nfn e() {}\n#[cfg(not(test))]\nfn f() {}\n";
        let expected = [false, true, true, true, true, true, false, true, true, false, false, false];
        assert_eq!(lex(source).is_test, expected);
        assert_eq!(
            lex("#[cfg(test)]\nfn f(a: [u8; 3]) -> u8 {\n 1\n}\nfn g() {}").is_test,
            [true, true, true, true, false]
        );
        assert_eq!(lex("#![cfg(test)]\nfn f() {}").is_test, [true, true]);
        assert_eq!(lex("#[cfg(all(test, unix))]\nmod m;\nmod n;").test_modules, ["m"]);
    }

    #[test]
    fn words_are_whole() {
        assert!(has_word("an unsafe block", "unsafe") && has_word("unsafe", "unsafe"));
        assert!(!has_word("unsafe_code", "unsafe") && !has_word("not_unsafe", "unsafe"));
    }
}
