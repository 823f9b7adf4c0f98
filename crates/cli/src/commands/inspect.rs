//! `paring inspect`: what a checkpoint is.
use crate::{
    args::Inspect,
    describe::{count, describe_opened, table},
    error::Result,
    session::print,
    source::Source,
};
use serde_json::Value;

pub(crate) fn run(args: &Inspect) -> Result<()> {
    let source = Source::open(args.model.as_deref())?;
    let fields = describe_opened(&source.opened);
    if args.common.json {
        return print(&format!("{}\n", Value::Object(fields)));
    }
    let mut rows = vec![vec![source.name.clone(), String::new()]];
    rows.extend(fields.iter().map(|(key, value)| {
        let value = match value {
            Value::Number(n) => n.as_u64().map_or_else(|| n.to_string(), count),
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        vec![key.replace('_', " "), value]
    }));
    print(&table(&rows))
}
