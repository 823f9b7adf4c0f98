//! Names that come out of files, made safe to print: a terminal must not obey a tensor's name.
use std::path::Path;

/// Characters of a name that an error repeats.
const MOST: usize = 200;

/// `name` with control and direction-changing characters escaped, cut after 200 characters.
///
/// ```
/// assert_eq!(paring_checkpoint::shown("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
/// ```
pub fn shown(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.chars().enumerate() {
        if i == MOST {
            out.push_str("...");
            break;
        }
        if c.is_control() || invisible(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// `path`, escaped as [`shown`] does, but not cut.
pub fn shown_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    let mut out = String::new();
    for c in text.chars() {
        if c.is_control() || invisible(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// Zero-width characters, and those that turn the direction of the text around them.
fn invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        for (name, want) in [
            ("model.layers.0", "model.layers.0"),
            ("é \"quoted\" \\", "é \"quoted\" \\"),
            ("\u{1b}]0;x\u{7}", "\\u{1b}]0;x\\u{7}"),
            ("a\u{202e}b\r\n", "a\\u{202e}b\\r\\n"),
            ("\u{9b}2J", "\\u{9b}2J"),
        ] {
            assert_eq!(shown(name), want);
            assert_eq!(shown_path(Path::new(name)), want);
        }
        assert_eq!(shown(&"x".repeat(1000)).len(), MOST + 3);
    }
}
