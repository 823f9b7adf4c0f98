//! Tasks: rows of a `--task` file as questions in token ids.
use crate::{
    error::{Failure, Result},
    source::Source,
};
use paring_eval::{Choice, Question, Task};
use paring_text::read_choices;
use std::path::Path;

/// A task and what it is called: its file's name up to the first dot.
#[derive(Debug)]
pub(crate) struct NamedTask {
    pub(crate) name: String,
    pub(crate) task: Task,
}

/// Characters of a choice, which the normalised accuracy divides by: those of the harness's `choices`, which have no space in front.
fn characters(choice: &str) -> usize {
    choice.trim_start().chars().count()
}

/// The task in `file`, at most `rows` of it, for the model `source`.
pub(crate) fn load(file: &Path, source: &Source, rows: Option<usize>) -> Result<NamedTask> {
    let shown = paring_checkpoint::shown_path(file);
    let (tokenizer, arch) = (source.tokenizer()?, &source.opened.arch);
    let mut questions = Vec::new();
    for row in read_choices(file, rows)? {
        let pairs = row.contexts.iter().zip(&row.choices);
        let encode = |(context, choice): (&String, &String)| {
            let (ids, context) = tokenizer.encode_pair(context, choice)?;
            Ok(Choice { ids, context, characters: characters(choice) })
        };
        let choices = pairs.map(encode).collect::<Result<_>>()?;
        let question = Question::new(arch, choices, row.gold);
        questions.push(question.map_err(|e| Failure::input(format!("{shown}: line {}: {e}", row.line)))?);
    }
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.split('.').find(|part| !part.is_empty()).unwrap_or("task").to_string();
    let task = Task::new(questions).ok_or_else(|| Failure::input(format!("{shown}: no questions")))?;
    Ok(NamedTask { name, task })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_bytes_and_the_space_in_front_is_none() {
        assert_eq!([" Paris", "Paris", "é 1", " \n"].map(characters), [5, 5, 3, 0]);
    }
}
