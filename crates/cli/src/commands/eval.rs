//! `paring eval`: perplexity of a model on a text, accuracy on multiple-choice tasks.
use crate::{
    args::Eval,
    data::windows,
    describe::{count, table},
    embedded::Part,
    error::{Failure, Result},
    measure::likelihood,
    progress::Progress,
    session::Session,
    signals::Stop,
    source::Source,
    tasks,
};
use paring_tensor::DType;
use serde_json::{Map, Value, json};

pub(crate) fn run(args: &Eval) -> Result<()> {
    let session = Session::new(&args.common)?;
    let source = Source::open(args.model.as_deref())?;
    // A text is measured when it is given, and where nothing else is: the embedded teacher has one of its own.
    let has_text = !args.data.text.is_empty() || args.data.tokens.is_some() || args.tasks.task.is_empty();
    let windows = has_text.then(|| windows(&args.data, &source, Part::Heldout, None)).transpose()?;
    let mut asked = Vec::new();
    for file in &args.tasks.task {
        let task = tasks::load(file, &source, args.tasks.task_rows)?;
        if asked.iter().any(|t: &tasks::NamedTask| t.name == task.name) {
            return Err(Failure::input(format!(
                "--task: two files are called `{}`; rename one of them, because results are told apart by name",
                paring_checkpoint::shown(&task.name)
            )));
        }
        asked.push(task);
    }
    let stop = if asked.is_empty() { Stop::default() } else { Stop::listen()? };
    let model = source.load(session.backend(), session.load_as(DType::F32.into()))?;
    model.keep_packed(session.backend())?;
    let mut json = json!({"nll": null, "perplexity": null, "tokens": null});
    let mut rows = vec![vec![source.name.clone(), String::new()]];
    if let Some(windows) = &windows {
        session.say(format!("{} windows, {} tokens", windows.windows.len(), windows.tokens()));
        let result = likelihood(&session, &model, windows)?;
        json = json!({"nll": result.nll, "perplexity": result.perplexity, "tokens": result.tokens});
        rows.push(vec!["perplexity".into(), format!("{:.4}", result.perplexity)]);
        rows.push(vec!["nll, nats per token".into(), format!("{:.5}", result.nll)]);
        rows.push(vec!["predicted tokens".into(), count(result.tokens)]);
    }
    let mut results = Map::new();
    for tasks::NamedTask { name, task } in &asked {
        let mut progress = Progress::new(name, "questions", task.len() as u64, 0);
        let score = task.evaluate(session.backend(), &model, &mut |done| {
            progress.set(done as u64, "");
            !stop.asked()
        })?;
        progress.finish();
        let Some(score) = score else { return Err(stop.failure("no result")) };
        let error = |e: Option<f64>| e.map_or(String::new(), |e| format!(" +- {e:.4}"));
        rows.push(vec![format!("{name}: accuracy"), format!("{:.4}{}", score.accuracy, error(score.stderr))]);
        rows.push(vec!["  by length".into(), format!("{:.4}{}", score.accuracy_norm, error(score.stderr_norm))]);
        rows.push(vec!["  questions".into(), count(score.n)]);
        let fields = serde_json::to_value(score).map_err(|e| Failure::work(format!("{name}: {e}")))?;
        results.insert(name.clone(), fields);
    }
    json["tasks"] = Value::Object(results);
    session.print(&json, &table(&rows))
}
