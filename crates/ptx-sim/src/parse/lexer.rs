//! Cuts PTX text into words, punctuation and strings, each with its line. Comments vanish here.

use super::ParseError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Opcode, directive, register, number or name: everything made of letters, digits, `_ $ % .` and `::`.
    Word,
    Punct(u8),
    Text,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    pub(crate) line: u32,
    /// Byte offset in the source.
    pub(crate) start: usize,
}

impl Token<'_> {
    pub(crate) fn is(&self, punct: u8) -> bool {
        self.kind == Kind::Punct(punct)
    }
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'%' | b'.')
}

/// All tokens of a text.
pub(crate) fn tokens(source: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let b = source.as_bytes();
    let mut out = Vec::with_capacity(b.len() / 4);
    let (mut i, mut line) = (0, 1u32);
    while i < b.len() {
        let start = i;
        match b[i] {
            b'\n' => {
                line += 1;
                i += 1;
                continue;
            }
            c if c.is_ascii_whitespace() || c == 0 => {
                i += 1;
                continue;
            }
            b'/' if b.get(i + 1) == Some(&b'/') => {
                while i < b.len() && b[i] != b'\n' {
                    i += 1;
                }
                continue;
            }
            b'/' if b.get(i + 1) == Some(&b'*') => {
                let at = line;
                i += 2;
                loop {
                    match b.get(i) {
                        None => return Err(ParseError::new(at, "/*", "the comment never ends")),
                        Some(b'*') if b.get(i + 1) == Some(&b'/') => break,
                        Some(b'\n') => line += 1,
                        Some(_) => {}
                    }
                    i += 1;
                }
                i += 2;
                continue;
            }
            b'"' => {
                i += 1;
                while i < b.len() && b[i] != b'"' && b[i] != b'\n' {
                    i += 1;
                }
                if b.get(i) != Some(&b'"') {
                    return Err(ParseError::new(line, "\"", "the string never ends"));
                }
                i += 1;
                out.push(Token { kind: Kind::Text, text: &source[start..i], line, start });
            }
            c if is_word(c) => {
                loop {
                    match b.get(i) {
                        Some(&c) if is_word(c) => i += 1,
                        Some(b':') if b.get(i + 1) == Some(&b':') => i += 2,
                        _ => break,
                    }
                }
                out.push(Token { kind: Kind::Word, text: &source[start..i], line, start });
            }
            c if c.is_ascii_punctuation() => {
                i += 1;
                out.push(Token { kind: Kind::Punct(c), text: &source[start..i], line, start });
            }
            _ => {
                let c = source[start..].chars().next().unwrap_or('?');
                return Err(ParseError::new(line, &c.to_string(), "a character that PTX does not use"));
            }
        }
    }
    Ok(out)
}
