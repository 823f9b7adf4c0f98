//! Text and JSON beside the weights: bounded in bytes and depth, and no key twice.
use crate::{Error, Limits, Result, open::open_regular};
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{fmt, io::Read, path::Path};

/// The UTF-8 text of a regular file of at most `max_bytes`.
///
/// # Errors
/// [`Error::Read`], [`Error::NotAFile`], [`Error::Limit`], or [`Error::Malformed`] when it is not UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<String> {
    let (file, len) = open_regular(path)?;
    let too_long = |got| Error::Limit { path: path.into(), field: "the length in bytes".into(), got, limit: max_bytes };
    if max_bytes < len {
        return Err(too_long(len));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed: the file may have grown since it was opened.
    let got = file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes);
    let got = got.map_err(|source| Error::Read { path: path.into(), source })? as u64;
    if max_bytes < got {
        return Err(too_long(got));
    }
    String::from_utf8(bytes).map_err(|e| Error::Malformed {
        path: path.into(),
        field: format!("byte {}", e.utf8_error().valid_up_to()),
        problem: "is not UTF-8, expected text".into(),
    })
}

/// The JSON in the file at `path`.
///
/// # Errors
/// Those of [`read_text`] and [`parse_json`].
pub fn read_json(path: &Path, limits: &Limits) -> Result<Value> {
    parse_json(path, &read_text(path, limits.json_bytes)?, limits)
}

/// `text` as JSON; `path` is where it came from.
///
/// # Errors
/// [`Error::Malformed`], [`Error::Limit`] when it is nested too deeply, [`Error::Duplicate`] when an object has a key twice: programs
/// differ in which of the two they take, so neither can be trusted.
pub fn parse_json(path: &Path, text: &str, limits: &Limits) -> Result<Value> {
    // Some editors put a byte-order mark in front.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    check_depth(path, text.as_bytes(), limits.json_depth)?;
    let mut json = serde_json::Deserializer::from_str(text);
    let value = Strict.deserialize(&mut json).and_then(|v| json.end().map(|()| v));
    value.map_err(|e| syntax(path, &e))
}

/// An error of the JSON parser, with a duplicate key told apart.
pub(crate) fn syntax(path: &Path, e: &serde_json::Error) -> Error {
    let text = e.to_string();
    match text.strip_prefix(DUPLICATE).and_then(|rest| rest.rsplit_once(" at line ")) {
        Some((name, _)) => Error::Duplicate { path: path.into(), what: "JSON key", name: name.into() },
        None => Error::Malformed { path: path.into(), field: "JSON".into(), problem: text },
    }
}

const DUPLICATE: &str = "duplicate key ";

/// The error for a key that was there before.
pub(crate) fn duplicate<E: de::Error>(key: &str) -> E {
    E::custom(format_args!("{DUPLICATE}{key}"))
}

/// Counts open brackets outside of strings, before any parser recurses into them.
///
/// # Errors
/// [`Error::Limit`].
pub(crate) fn check_depth(path: &Path, json: &[u8], limit: usize) -> Result<()> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for &b in json {
        match b {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if limit < depth {
                    let (got, limit) = (depth as u64, limit as u64);
                    return Err(Error::Limit { path: path.into(), field: "the depth of JSON".into(), got, limit });
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// `serde_json::Value`, but a key twice is an error instead of the last one winning.
#[derive(Clone, Copy)]
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, v: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> std::result::Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(v) = seq.next_element_seed(Strict)? {
            values.push(v);
        }
        Ok(Value::Array(values))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if values.contains_key(&key) {
                return Err(duplicate(&key));
            }
            let value = map.next_value_seed(Strict)?;
            values.insert(key, value);
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Value> {
        parse_json(Path::new("f.json"), text, &Limits::default())
    }

    #[test]
    fn what_serde_json_reads_is_read_the_same() {
        for text in
            ["null", "[1,-2,3.5,1e300,18446744073709551615]", r#"{"b":{"a":[true,"\u00e9\"]["]},"a":null}"#, " {} "]
        {
            assert_eq!(parse(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
        assert_eq!(parse("\u{feff}{}").unwrap(), serde_json::json!({}));
    }

    #[test]
    fn depth_duplicates_and_syntax_are_errors() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&nested(64)).is_ok());
        assert!(matches!(parse(&nested(65)), Err(Error::Limit { got: 65, limit: 64, .. })));
        assert!(matches!(parse(&"[".repeat(1_000_000)), Err(Error::Limit { .. })));
        assert!(matches!(parse(&"{\"a\":".repeat(1_000_000)), Err(Error::Limit { .. })));
        for text in [r#"{"a":1,"a":2}"#, r#"{"x":[{"a":1,"\u0061":2}]}"#] {
            match parse(text) {
                Err(Error::Duplicate { name, what: "JSON key", .. }) => assert_eq!(name, "a"),
                other => panic!("{text} gave {other:?}"),
            }
        }
        for text in ["", "{", "{}x", "[1,]", "nul", "\"\u{1}\""] {
            assert!(matches!(parse(text), Err(Error::Malformed { .. })), "{text}");
        }
    }
}
