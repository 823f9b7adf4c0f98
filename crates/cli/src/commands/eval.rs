//! `paring eval`: perplexity of a model on a text.
use crate::{
    args::Eval,
    data::windows,
    describe::table,
    embedded::Part,
    error::{Failure, Result},
    measure::likelihood,
    session::Session,
    source::Source,
};
use paring_tensor::DType;
use serde_json::json;

pub(crate) fn run(args: &Eval) -> Result<()> {
    if args.task.is_some() {
        return Err(Failure::input("--task is not built yet; --text and --tokens measure perplexity"));
    }
    let session = Session::new(&args.common)?;
    let source = Source::open(args.model.as_deref())?;
    let windows = windows(&args.data, &source, Part::Heldout, None)?;
    let model = source.load(session.backend(), session.load_as(DType::F32.into()))?;
    model.keep_packed(session.backend())?;
    session.say(format!("{} windows, {} tokens", windows.windows.len(), windows.tokens()));
    let result = likelihood(&session, &model, &windows)?;
    let json = json!({"nll": result.nll, "perplexity": result.perplexity, "tokens": result.tokens, "tasks": {}});
    let rows = [
        vec![source.name.clone(), String::new()],
        vec!["perplexity".into(), format!("{:.4}", result.perplexity)],
        vec!["nll, nats per token".into(), format!("{:.5}", result.nll)],
        vec!["predicted tokens".into(), crate::describe::count(result.tokens)],
    ];
    session.print(&json, &table(&rows))
}
