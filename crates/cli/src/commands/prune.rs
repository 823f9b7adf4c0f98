//! `paring prune`: cut a model down to what an importance file says matters.
use crate::{
    args::{Compensate, Prune},
    calibration::{Calibration, GRAM_BYTES, gram_bytes},
    data::windows,
    describe::{count, dims, table},
    embedded::Part,
    error::{Failure, Result},
    importance_file,
    preflight::{Forecast, inference_bytes, weight_bytes},
    session::Session,
    signals::Stop,
    source::Source,
    student::{Cut, student_arch},
    target::target,
    workplace::{create_parent, refuse_existing},
};
use paring_checkpoint::{DirWriter, Overwrite};
use paring_model::write_model;
use paring_prune::Plan;
use paring_tensor::DType;
use serde_json::{Value, json};

/// Calibration windows of least squares unless `--windows` says otherwise.
const WINDOWS: usize = 64;

pub(crate) fn run(args: &Prune) -> Result<()> {
    let session = Session::new(&args.common)?;
    let dtype = session.dtype(DType::F32)?;
    let Some(out) = &args.out else { return Err(Failure::input("where to? give --out DIR")) };
    let Some(file) = &args.importance else {
        return Err(Failure::input("what matters? give --importance FILE, which `paring importance` makes"));
    };
    refuse_existing(out)?;
    let source = Source::open(args.model.as_deref())?;
    // Before any work: a student without its tokenizer is of no use.
    source.tokenizer()?;
    let teacher = dims(&source.opened.arch)?;
    let (set, origin) = importance_file::load(file, &source.hash()?)?;
    let plan = Plan::choose(
        &teacher,
        &importance_file::scores(&set, &args.scores.options()?)?,
        &target(&args.target, &teacher)?,
    )?;
    let arch = student_arch(&source.opened.arch, &plan);
    let compensate = args.target.compensate == Some(Compensate::LeastSquares);
    let windows = compensate.then(|| windows(&args.data, &source, Part::Calibration, Some(WINDOWS))).transpose()?;

    let largest = arch.n_params_non_embedding().max(arch.vocab * arch.hidden) as u64;
    let mut forecast = Forecast {
        params: arch.n_params() as u64,
        disk: 2 * arch.n_params() as u64 + (4 << 20),
        tokens: windows.as_ref().map_or(0, |w| w.tokens()),
        warnings: plan.warnings(),
        ..Forecast::default()
    };
    let mut memory = 8 * largest;
    if let Some(windows) = &windows {
        let (a, all) = (&source.opened.arch, 0..source.opened.arch.layers.len());
        let context = windows.longest();
        let micro = paring_train::micro_windows(a, context);
        memory += weight_bytes(a, dtype) + inference_bytes(a, context * micro) + gram_bytes(a, all).min(GRAM_BYTES);
        let gram: f64 = a.layers.iter().map(|l| 2.0 * (l.ffn as f64).powi(2)).sum();
        forecast.flops = windows.tokens() as f64 * (a.forward_flops_per_token(context) + gram);
    }
    forecast.memory(&[memory]);
    if args.work.dry_run {
        let seconds = forecast.seconds(&session)?;
        let mut json = forecast.json(seconds);
        json["student"] = json!(plan.student());
        return session.print(&json, &forecast.text(seconds));
    }
    forecast.check(&session, out, args.work.force)?;
    let stop = Stop::listen()?;
    create_parent(out)?;
    for warning in plan.warnings() {
        tell!("note: {warning}");
    }
    let mut cut = Cut::new(&source.opened, &plan);
    if let Some(windows) = &windows {
        let model = source.load(session.backend(), dtype)?;
        Calibration { session: &session, model: &model, windows: &windows.windows, stop: &stop }
            .compensate(&mut cut, None)?;
    }
    let mut dir = DirWriter::create(out, Overwrite::Refuse)?;
    write_model(&mut dir, &arch, &source.opened.config, |spec| cut.read(spec))?;
    for (name, bytes) in source.side_files()? {
        dir.write_bytes(&name, &bytes)?;
    }
    dir.subdir("paring")?;
    dir.write_bytes("paring/plan.json", plan.to_json()?.as_bytes())?;
    let provenance = json!({
        "written_by": concat!("paring ", env!("CARGO_PKG_VERSION")), "teacher": source.name, "teacher_hash": origin.model,
        "importance_data_hash": origin.data(), "compensation_data_hash": windows.as_ref().map(|w| &w.hash),
        "command": crate::command_line(),
    });
    dir.write_bytes("paring/provenance.json", format!("{provenance:#}\n").as_bytes())?;
    if stop.asked() {
        return Err(stop.failure("nothing was written"));
    }
    dir.commit()?;
    let plan_json: Value = serde_json::from_str(&plan.to_json()?).map_err(|e| Failure::work(format!("plan: {e}")))?;
    let json = json!({"plan": plan_json, "params": arch.n_params(), "out": out});
    let (was, is) = (teacher, plan.student());
    let row = |name: &str, was: usize, is: usize| vec![name.to_string(), count(was as u64), count(is as u64)];
    let text = table(&[
        vec![String::new(), "teacher".into(), "student".into()],
        row("parameters", source.opened.arch.n_params(), arch.n_params()),
        row("  non-embedding", source.opened.arch.n_params_non_embedding(), arch.n_params_non_embedding()),
        row("layers", was.layers, is.layers),
        row("hidden", was.hidden, is.hidden),
        row("ffn", was.ffn, is.ffn),
        row("heads", was.heads, is.heads),
        row("kv groups", was.kv_groups, is.kv_groups),
    ]);
    session.print(&json, &format!("{text}{}\n", out.display()))
}
