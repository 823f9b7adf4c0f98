//! Where statistics come from: the model, how it was run, and which windows of which texts it saw. What the header of an importance file says,
//! and what decides whether two of them may be added up.
use crate::{
    coverage::{Coverage, Shard},
    error::{Failure, Result},
};
use paring_importance::Extras;
use paring_tensor::DType;
use serde::{Deserialize, Serialize};

/// How a model was run and on what kind of windows. Files that differ in any of it are not added up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Conditions {
    /// Tokens of the longest window.
    pub(crate) context: usize,
    /// `first`: the windows as they come; `spread`: evenly from the whole text.
    pub(crate) choice: String,
    pub(crate) mask_documents: bool,
    /// Type of matrices in products.
    pub(crate) dtype: String,
    pub(crate) contribution: bool,
    pub(crate) taylor: bool,
}

/// The windows of one text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// BLAKE3 of the text's files.
    pub(crate) data: String,
    pub(crate) coverage: Coverage,
}

/// Where statistics come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// BLAKE3 of the model's files.
    pub(crate) model: String,
    pub(crate) settings: Conditions,
    /// One for every text, by its hash.
    pub(crate) parts: Vec<Part>,
}

/// A part as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    data: String,
    windows: usize,
    seen: String,
}

impl Conditions {
    /// What differs, by name: `taylor: false, taylor: true`.
    fn differences(&self, other: &Conditions) -> String {
        let fields = |c: &Conditions| {
            let Conditions { context, choice, mask_documents, dtype, contribution, taylor } = c;
            [
                format!("context: {context}"),
                format!("choice: {choice}"),
                format!("mask_documents: {mask_documents}"),
                format!("dtype: {dtype}"),
                format!("contribution: {contribution}"),
                format!("taylor: {taylor}"),
            ]
        };
        let pairs = fields(self).into_iter().zip(fields(other)).filter(|(a, b)| a != b);
        pairs.map(|(a, b)| format!("{a}, {b}")).collect::<Vec<_>>().join("; ")
    }

    pub(crate) fn new(context: usize, choice: &str, mask_documents: bool, dtype: DType, extras: Extras) -> Self {
        let Extras { contribution, taylor } = extras;
        Conditions { context, choice: choice.into(), mask_documents, dtype: dtype.to_string(), contribution, taylor }
    }
}

impl Origin {
    /// Statistics of a shard of the `windows` windows of one text.
    pub(crate) fn new(model: String, data: String, settings: Conditions, shard: Shard, windows: usize) -> Self {
        Origin { model, settings, parts: vec![Part { data, coverage: Coverage::of(shard, windows) }] }
    }

    /// Hashes of the texts.
    pub(crate) fn data(&self) -> Vec<&str> {
        self.parts.iter().map(|p| p.data.as_str()).collect()
    }

    /// Windows seen, and windows there are.
    pub(crate) fn windows(&self) -> (usize, usize) {
        let sum = |f: fn(&Coverage) -> usize| self.parts.iter().map(|p| f(&p.coverage)).sum();
        (sum(Coverage::seen), sum(Coverage::windows))
    }

    /// The parts as JSON.
    pub(crate) fn parts_json(&self) -> Result<String> {
        let one = |p: &Part| Written { data: p.data.clone(), windows: p.coverage.windows(), seen: p.coverage.text() };
        let all: Vec<Written> = self.parts.iter().map(one).collect();
        serde_json::to_string(&all).map_err(|e| Failure::work(format!("cannot write which windows were seen: {e}")))
    }

    /// What [`Origin::parts_json`] wrote; the error says what is wrong with it.
    pub(crate) fn read_parts(json: &str) -> std::result::Result<Vec<Part>, String> {
        let all: Vec<Written> = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let one = |Written { data, windows, seen }: Written| match Coverage::parse(&seen, windows) {
            Some(coverage) => Ok(Part { data, coverage }),
            None => Err(format!("`{seen}` of {windows} windows is no set of windows")),
        };
        let parts = all.into_iter().map(one).collect::<std::result::Result<Vec<_>, _>>()?;
        if parts.is_empty() || !parts.is_sorted_by(|a, b| a.data < b.data) {
            return Err("texts are missing or out of order".into());
        }
        Ok(parts)
    }

    /// Adds the windows of `other`. The error says why the two do not belong together. Other texts only with `several_texts`.
    pub(crate) fn add(&mut self, other: &Origin, several_texts: bool) -> std::result::Result<(), String> {
        if self.model != other.model {
            return Err(format!("are of different models (hashes {} and {})", self.model, other.model));
        }
        if self.settings != other.settings {
            return Err(format!("were measured in different ways ({})", self.settings.differences(&other.settings)));
        }
        let mut parts = self.parts.clone();
        for part in &other.parts {
            let Some(mine) = parts.iter_mut().find(|p| p.data == part.data) else {
                if !several_texts {
                    return Err(format!(
                        "are of different texts (hashes {} and {}); --several-texts adds them up all the same",
                        self.data().join(", "),
                        part.data
                    ));
                }
                parts.push(part.clone());
                continue;
            };
            let (a, b) = (mine.coverage.windows(), part.coverage.windows());
            if a != b {
                return Err(format!("are of {a} and of {b} windows of one text; give all shards the same --windows"));
            }
            mine.coverage.add(&part.coverage).map_err(|window| {
                let (a, b) = (mine.coverage.text(), part.coverage.text());
                format!("hold the same windows (window {window} is in both: parts {a} and {b}); merge each shard once")
            })?;
        }
        parts.sort_by(|a, b| a.data.cmp(&b.data));
        self.parts = parts;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(data: &str, i: usize, n: usize, windows: usize) -> Origin {
        let settings = Conditions::new(64, "first", false, DType::F32, Extras::default());
        Origin::new("model".into(), data.into(), settings, Shard { i, n }, windows)
    }

    #[test]
    fn shards_of_one_text_become_the_whole() {
        let mut all = origin("a", 2, 3, 10);
        all.add(&origin("a", 3, 3, 10), false).unwrap();
        all.add(&origin("a", 1, 3, 10), false).unwrap();
        assert_eq!(all, origin("a", 1, 1, 10));
        assert_eq!(all.windows(), (10, 10));
        assert_eq!(all.parts_json().unwrap(), r#"[{"data":"a","windows":10,"seen":"1/1"}]"#);
        all.add(&origin("b", 1, 2, 4), true).unwrap();
        let mut other = origin("b", 1, 2, 4);
        other.add(&origin("a", 1, 1, 10), true).unwrap();
        assert_eq!((all.data(), all.windows()), (vec!["a", "b"], (12, 14)));
        assert_eq!(all, other, "the order does not matter");
        assert_eq!(Origin::read_parts(&all.parts_json().unwrap()).unwrap(), all.parts);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let mut all = origin("a", 1, 3, 10);
        let model = Origin { model: "other".into(), ..origin("a", 2, 3, 10) };
        let mut settings = origin("a", 2, 3, 10);
        settings.settings.context = 128;
        for (other, says) in [
            (model, "different models (hashes model and other)"),
            (settings, "different ways"),
            (origin("b", 2, 3, 10), "different texts (hashes a and b)"),
            (origin("a", 1, 3, 10), "window 1 is in both: parts 1/3 and 1/3"),
            (origin("a", 1, 2, 10), "window 1 is in both"),
            (origin("a", 2, 3, 11), "of 10 and of 11 windows"),
        ] {
            let error = all.add(&other, false).unwrap_err();
            assert!(error.contains(says), "{error}");
            assert_eq!(all, origin("a", 1, 3, 10));
        }
    }

    #[test]
    fn parts_that_nobody_writes_are_refused() {
        for json in [
            "",
            "{}",
            "[]",
            "[1]",
            r#"[{"data":"a","windows":10}]"#,
            r#"[{"data":"a","windows":10,"seen":"2/1"}]"#,
            r#"[{"data":"a","windows":10,"seen":"1/1","more":0}]"#,
            r#"[{"data":"b","windows":10,"seen":"1/1"},{"data":"a","windows":10,"seen":"1/1"}]"#,
            r#"[{"data":"a","windows":10,"seen":"1/1"},{"data":"a","windows":10,"seen":"1/1"}]"#,
        ] {
            assert!(Origin::read_parts(json).is_err(), "{json}");
        }
    }
}
