//! Multiple-choice questions from .jsonl files, and how context and choice become ids.
use crate::{Error, Result, Tokenizer, documents::json_lines, pack::kind};
use serde_json::Value;
use std::path::Path;

/// One row of a task: a context for each choice, the choices, and which of them is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChoiceRow {
    /// Where it stands in the file, from 1.
    pub line: u64,
    /// What is in front of each choice: mostly the same text.
    pub contexts: Vec<String>,
    /// What may follow, as it would be written: with its space in front, if there is one.
    pub choices: Vec<String>,
    /// The right choice, from 0.
    pub gold: usize,
}

/// The rows of a task: a .jsonl file, which may be compressed (.gz, .zst), with an object on each line:
///
/// | field | |
/// |---|---|
/// | `ctx` | text in front of the choices; or an array with one for each choice (Winogrande's way: options differ, what follows is the same) |
/// | `choices` | array of texts, none empty |
/// | `gold` | which is right, from 0 |
///
/// Other fields are passed over. At most `limit` rows.
///
/// # Errors
/// [`Error::Line`] for a row that is no such object; [`Error::NoText`] for a file without rows; [`Error::Argument`] for a limit of zero; those of
/// [`crate::read_documents`].
pub fn read_choices(path: &Path, limit: Option<usize>) -> Result<Vec<ChoiceRow>> {
    if limit == Some(0) {
        return Err(Error::Argument { name: "rows", problem: "0, expected at least one".into() });
    }
    let mut rows = Vec::new();
    for line in json_lines(path)? {
        let (line, json) = line?;
        rows.push(row(line, &json).map_err(|problem| Error::Line { path: path.into(), line, problem })?);
        if Some(rows.len()) == limit {
            break;
        }
    }
    if rows.is_empty() { Err(Error::NoText { paths: vec![path.into()] }) } else { Ok(rows) }
}

fn row(line: u64, json: &Value) -> std::result::Result<ChoiceRow, String> {
    let fields = json
        .as_object()
        .ok_or_else(|| format!("expected an object with `ctx`, `choices` and `gold`, got {}", kind(json)))?;
    let field = |name: &str| fields.get(name).ok_or_else(|| format!("has no field `{name}`"));
    let texts = |name: &str, items: &[Value]| -> std::result::Result<Vec<String>, String> {
        let text = |(i, item): (usize, &Value)| {
            let text = item.as_str().map(String::from);
            text.ok_or_else(|| format!("item {i} of `{name}` is {}, expected a string", kind(item)))
        };
        items.iter().enumerate().map(text).collect()
    };
    let choices = match field("choices")? {
        Value::Array(items) => texts("choices", items)?,
        other => return Err(format!("the field `choices` is {}, expected an array of strings", kind(other))),
    };
    if choices.is_empty() {
        return Err("`choices` is empty, expected at least one".into());
    }
    if let Some(i) = choices.iter().position(|c| c.trim().is_empty()) {
        return Err(format!("choice {i} is empty, expected text"));
    }
    let contexts = match field("ctx")? {
        Value::String(text) => vec![text.clone(); choices.len()],
        Value::Array(items) if items.len() == choices.len() => texts("ctx", items)?,
        Value::Array(items) => {
            return Err(format!(
                "`ctx` has {} texts for {} choices, expected one for each",
                items.len(),
                choices.len()
            ));
        }
        other => return Err(format!("the field `ctx` is {}, expected a string or an array of them", kind(other))),
    };
    let gold = field("gold")?;
    let index = gold.as_u64().and_then(|g| usize::try_from(g).ok()).filter(|&g| g < choices.len());
    let said = if gold.is_number() { gold.to_string() } else { kind(gold).to_string() };
    let gold = index.ok_or_else(|| format!("`gold` is {said}, expected 0 to {}", choices.len() - 1))?;
    Ok(ChoiceRow { line, contexts, choices, gold })
}

impl Tokenizer {
    /// The ids of `context` and `continuation` behind one another, and how many are the context's: as the lm-evaluation-harness has it.
    ///
    /// Spaces at the end of the context go to the continuation. Then both are tokenised as one text, and what is longer than the context's
    /// own ids is the continuation: a token that spans the border counts as the context's. A context of nothing is the end token, which is
    /// what models saw in front of their documents.
    ///
    /// # Errors
    /// [`Error::NoEndToken`] for a context of nothing when there is none; those of [`Tokenizer::encode`].
    pub fn encode_pair(&self, context: &str, continuation: &str) -> Result<(Vec<u32>, usize)> {
        let stem = context.trim_end();
        if stem.is_empty() {
            let end = self.end_token().ok_or_else(|| Error::NoEndToken { path: self.path().into() })?;
            let mut ids = vec![end];
            ids.extend(self.encode(&format!("{context}{continuation}"))?);
            return Ok((ids, 1));
        }
        let ids = self.encode(&format!("{context}{continuation}"))?;
        let own = self.encode(stem)?.len().min(ids.len());
        Ok((ids, own))
    }
}
