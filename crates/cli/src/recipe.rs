//! Recipes: TOML files whose keys are the flags' names. Flags win over the recipe, the recipe over defaults.
use crate::error::{Failure, Result};
use serde::{Serialize, de::DeserializeOwned};
use std::path::Path;
use toml::Table;

/// Keys that say which sizes the student has. Whoever gives one of them does not want the default recipe's budget too.
const SIZES: [&str; 9] = ["hidden", "ffn", "heads", "kv-groups", "layers", "drop-layers", "params", "preset", "search"];
/// Keys that do not change a result.
const NO_MATTER: [&str; 5] = ["threads", "json", "verbose", "dry-run", "force"];

/// Flags of a command as a table: what a recipe would have to say for the same run.
pub(crate) fn table<T: Serialize>(flags: &T) -> Result<Table> {
    let mut table = Table::try_from(flags)
        .map_err(|e| Failure::input(format!("these flags cannot be written as a recipe: {e}")))?;
    for value in table.iter_mut().map(|(_, value)| value) {
        if let toml::Value::Float(f) = value
            && f64::from(*f as f32) == *f
        {
            // An f32: its own shortest digits (0.001) read back to the same f32, those of the f64 beside it (0.0010000000474974513) are noise.
            *f = (*f as f32).to_string().parse().unwrap_or(*f);
        }
    }
    Ok(table)
}

/// As [`table`], without what does not change the result: what has to be the same for an unfinished run to go on.
pub(crate) fn identity<T: Serialize>(flags: &T) -> Result<Table> {
    let mut table = table(flags)?;
    table.retain(|key, _| !NO_MATTER.contains(&key));
    Ok(table)
}

/// `flags` completed by the recipe at `path`, and both by the recipe `base`; `command` knows every flag's name.
pub(crate) fn merge<T: Serialize + DeserializeOwned>(
    flags: T,
    path: Option<&Path>,
    command: &clap::Command,
    base: Option<&str>,
) -> Result<T> {
    if path.is_none() && base.is_none() {
        return Ok(flags);
    }
    let name = path.map_or("the default recipe".into(), paring_checkpoint::shown_path);
    let fail = |e: String| Failure::input(format!("recipe {name}: {e}"));
    let said = |e: &toml::de::Error| paring_checkpoint::shown(&e.message().replace('\n', " "));
    let parse = |text: &str| {
        text.parse::<Table>().map_err(|e| {
            let before = e.span().and_then(|s| text.get(..s.start)).unwrap_or_default();
            fail(format!("line {} is not TOML: {}", 1 + before.matches('\n').count(), said(&e)))
        })
    };
    let mut given = Table::new();
    if let Some(path) = path {
        given = parse(&paring_checkpoint::read_text(path, 1 << 20)?)?;
        check_keys(&given, command).map_err(fail)?;
    }
    given.extend(table(&flags)?);
    let mut merged = base.map(parse).transpose()?.unwrap_or_default();
    if SIZES.iter().any(|k| given.contains_key(*k)) {
        merged.retain(|key, _| !SIZES.contains(&key));
    }
    merged.extend(given);
    merged.clone().try_into().map_err(|e: toml::de::Error| {
        // The error of a flattened structure does not say where it is: the key that fails on its own does.
        let alone = |(key, value): (&String, &toml::Value)| {
            let one = Table::from_iter([(key.clone(), value.clone())]);
            one.try_into::<T>().err().map(|e| format!("`{key}`: {}", said(&e)))
        };
        fail(merged.iter().find_map(alone).unwrap_or_else(|| said(&e)))
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, Compress};
    use clap::Parser;

    fn merged(words: &[&str], recipe: Option<&str>, base: Option<&str>) -> Result<Compress> {
        let Command::Compress(flags) = Cli::parse_from([&["paring", "compress"], words].concat()).command else {
            return Err(Failure::work("not compress"));
        };
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("recipe.toml");
        std::fs::write(&path, recipe.unwrap_or("")).unwrap();
        merge(flags, recipe.map(|_| path.as_path()), &crate::flags_of("compress"), base)
    }

    #[test]
    fn flags_win_over_the_recipe_and_the_recipe_over_the_base() {
        let base = "params = '0.5'\nbudget = 1000\nlr = 0.25\n";
        let got = merged(&["--lr", "0.125", "--seed", "9"], Some("budget = 7\nlr = 0.5\ntext = ['a.txt']"), Some(base))
            .unwrap();
        assert_eq!((got.training.lr, got.training.budget, got.common.seed), (Some(0.125), Some(7), Some(9)));
        assert_eq!(got.target.params.as_deref(), Some("0.5"));
        assert_eq!(got.data.text, [Path::new("a.txt")]);
        let got = merged(&["--ffn", "64"], None, Some(base)).unwrap();
        assert_eq!((got.target.params, got.target.ffn), (None, Some(64)));
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_named() {
        let error = merged(&[], Some("budgte = 7"), None).unwrap_err();
        assert!(error.code == 2 && error.message.contains("`budgte`") && error.message.contains("`budget`"), "{error}");
        let error = merged(&[], Some("budget = 'many'"), None).unwrap_err();
        assert!(error.code == 2 && error.message.contains("budget"), "{error}");
        assert_eq!(merged(&[], Some("budget = "), None).unwrap_err().code, 2);
    }

    #[test]
    fn what_does_not_change_the_result_is_no_part_of_the_identity() {
        let flags = |words| identity(&merged(words, None, None).unwrap()).unwrap();
        assert_eq!(flags(&["--threads", "3", "--json", "-v", "--force"]), flags(&[]));
        assert!(difference(&flags(&["--lr", "0.5"]), &flags(&[])).is_some());
    }
}
