//! The model card: README.md of a run directory, with the YAML header that the Hugging Face hub reads.
use serde_json::Value;

/// What the card says.
pub(crate) struct Card<'a> {
    /// Name or path of the teacher.
    pub(crate) teacher: &'a str,
    /// `paring` and its arguments' command.
    pub(crate) command: &'a str,
    /// The recipe, TOML.
    pub(crate) recipe: &'a str,
    /// The before/after table, as printed.
    pub(crate) table: &'a str,
    /// `eval.json`, of which the student's perplexity goes into the header.
    pub(crate) eval: &'a Value,
    /// The student's parameters, counted.
    pub(crate) params: &'a str,
}

/// Text that comes from outside, as a YAML scalar: quoted, without control characters.
fn yaml(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", clean.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Text that comes from outside, inside a fenced block.
fn fenced(text: &str) -> String {
    text.replace("```", "'''")
}

impl Card<'_> {
    /// The card, Markdown.
    pub(crate) fn text(&self) -> String {
        let perplexity = self.eval.pointer("/student/perplexity").and_then(Value::as_f64);
        let result = perplexity.map_or(String::new(), |p| {
            format!(
                "model-index:\n- name: student\n  results:\n  - task: {{type: text-generation}}\n    dataset: {{name: held-out text, type: text}}\n    \
                 metrics:\n    - {{type: perplexity, value: {p:.4}}}\n"
            )
        });
        format!(
            "---\nbase_model: {teacher}\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- pruned\n- distilled\n- paring\n{result}---\n\
             # A student of {title}\n\nMade with `{command}`: cut to {params} parameters by measured importance, then trained on the teacher's output\n\
             distribution (forward KL). The licence is the teacher's.\n\n## Measured\n\n```text\n{table}```\n\n## Recipe\n\n```toml\n{recipe}```\n\n## Limits\n\n\
             The figures hold for the held-out text of this run and for nothing else. A pruned model forgets unevenly: what the calibration and\n\
             training text did not show may be lost although the perplexity looks good. Measure on your own task before you use it.\n",
            teacher = yaml(self.teacher),
            title = fenced(self.teacher).replace(['\n', '\r'], " "),
            command = self.command,
            params = self.params,
            table = fenced(self.table),
            recipe = fenced(self.recipe),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_outside_cannot_leave_their_place() {
        let eval = serde_json::json!({"student": {"perplexity": 12.5}});
        let teacher = "x\"\n---\nevil: true";
        let card = Card {
            teacher,
            command: "paring compress",
            recipe: "a = 1\n```\n# evil",
            table: "t\n",
            eval: &eval,
            params: "1",
        }
        .text();
        let header = card.split("---\n").nth(1).unwrap();
        assert!(header.contains("base_model: \"x\\\" --- evil: true\"") && header.contains("value: 12.5"), "{card}");
        assert_eq!(card.matches("```").count(), 4);
    }
}
