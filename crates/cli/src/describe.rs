//! What a model is, in numbers: the fields of `inspect`, which other commands repeat.
use crate::error::Result;
use paring_model::{Arch, Opened};
use paring_prune::Dims;
use serde_json::{Map, Value, json};

/// The fields of `paring inspect --json`.
pub(crate) fn describe(arch: &Arch, bytes: u64) -> Map<String, Value> {
    let layer = arch.layers.first().copied();
    let of = |f: fn(paring_model::LayerArch) -> usize| layer.map(f);
    let value = json!({
        "family": arch.family.name(),
        "params": arch.n_params(),
        "params_non_embedding": arch.n_params_non_embedding(),
        "layers": arch.layers.len(),
        "hidden": arch.hidden,
        "ffn": of(|l| l.ffn),
        "heads": of(|l| l.heads),
        "kv_groups": of(|l| l.kv_heads),
        "head_dim": arch.head_dim,
        "vocab": arch.vocab,
        "bytes": bytes,
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// As [`describe`], for a checkpoint.
pub(crate) fn describe_opened(opened: &Opened) -> Map<String, Value> {
    let mut map = describe(&opened.arch, opened.stored_bytes());
    map.insert("tied".into(), json!(opened.arch.tied));
    map.insert("max_positions".into(), json!(opened.arch.max_positions));
    map
}

/// The architecture as `paring-prune` counts it.
pub(crate) fn dims(arch: &Arch) -> Result<Dims> {
    paring_surgery::dims(arch)
        .ok_or_else(|| crate::error::Failure::input("layers of different widths cannot be pruned yet"))
}

/// A count with thousands marked: 12 345 678.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if 0 < i && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// A table: the first row is the heading, columns are as wide as they need to be, all but the first flush right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut out = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .enumerate()
            .map(|(c, s)| if c == 0 { format!("{s:<w$}", w = widths[c]) } else { format!("{s:>w$}", w = widths[c]) })
            .collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
        if i == 0 {
            out.push_str(&widths.iter().map(|&w| "-".repeat(w)).collect::<Vec<_>>().join("  "));
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_tables_line_up() {
        assert_eq!(
            (count(0), count(999), count(1000), count(12_345_678)),
            ("0".into(), "999".into(), "1 000".into(), "12 345 678".into())
        );
        let rows = [vec!["a".into(), "bb".into()], vec!["ccc".into(), "1".into()]];
        assert_eq!(table(&rows), "a    bb\n---  --\nccc   1\n");
    }
}
