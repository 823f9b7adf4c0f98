//! Recipes: TOML files whose keys are the flags' names. Flags win over the recipe, the recipe over defaults.
use crate::error::{Failure, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;
use toml::Table;

/// Flags of a command as a table: what a recipe would have to say for the same run.
pub(crate) fn table<T: Serialize>(flags: &T) -> Result<Table> {
    Table::try_from(flags).map_err(|e| Failure::input(format!("these flags cannot be written as a recipe: {e}")))
}

/// `flags` completed by the recipe at `path`; `command` knows every flag's name.
pub(crate) fn merge<T: Serialize + DeserializeOwned>(flags: T, path: Option<&Path>, command: &clap::Command) -> Result<T> {
    let Some(path) = path else { return Ok(flags) };
    let fail = |e: String| Failure::input(format!("recipe {}: {e}", path.display()));
    let text = paring_checkpoint::read_text(path, 1 << 20)?;
    let mut merged: Table = text.parse().map_err(|e: toml::de::Error| fail(e.to_string().trim_end().replace('\n', " ")))?;
    check_keys(&merged, command).map_err(&fail)?;
    merged.extend(table(&flags)?);
    merged.try_into().map_err(|e: toml::de::Error| fail(e.to_string().trim_end().replace('\n', " ")))
}

/// Every key has to be the name of a flag.
fn check_keys(recipe: &Table, command: &clap::Command) -> std::result::Result<(), String> {
    let known: Vec<String> = command
        .get_arguments()
        .map(|a| a.get_long().map_or_else(|| a.get_id().to_string(), String::from))
        .filter(|n| !["help", "version", "recipe"].contains(&n.as_str()))
        .collect();
    for key in recipe.keys() {
        if known.contains(key) {
            continue;
        }
        let nearest = known.iter().max_by(|a, b| strsim::jaro(key, a).total_cmp(&strsim::jaro(key, b)));
        let hint = nearest.map_or(String::new(), |n| format!("; the nearest is `{n}`"));
        return Err(format!("unknown key `{}`{hint}", key.escape_debug()));
    }
    Ok(())
}

/// What differs between two recipes, for the message that refuses to go on with another one: key, there, here.
pub(crate) fn difference(there: &Table, here: &Table) -> Option<String> {
    let keys: std::collections::BTreeSet<&String> = there.keys().chain(here.keys()).collect();
    let show = |t: &Table, k: &str| t.get(k).map_or("not set".to_string(), ToString::to_string);
    let parts: Vec<String> = keys
        .into_iter()
        .filter(|k| there.get(*k) != here.get(*k))
        .map(|k| format!("`{k}` was {}, is {}", show(there, k), show(here, k)))
        .collect();
    if parts.is_empty() { None } else { Some(parts.join("; ")) }
}
