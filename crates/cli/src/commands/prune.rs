//! `paring prune`: cut a model down to what an importance file says matters.
use crate::{
    args::{Compensate, Prune},
    compensation::{self, Bed, Compensation, fits_json},
    data::windows,
    describe::{count, dims, table},
    drop_by,
    embedded::Part,
    error::{Failure, Result},
    importance_file,
    preflight::{Forecast, block_bytes, inference_bytes, weight_bytes},
    rounds::Rounds,
    session::Session,
    signals::Stop,
    source::Source,
    target::{check_search, target},
    workplace::{create_parent, refuse_existing},
};
use paring_checkpoint::{DirWriter, Overwrite};
use paring_model::write_model;
use paring_surgery::{Checkpoint, Cut, Rotated, Weights, student_arch};
use paring_tensor::DType;
use serde_json::{Value, json};

/// Calibration windows of least squares unless `--windows` says otherwise.
const WINDOWS: usize = 64;

/// Rounds of iterative importance: 1 is one cut by the importance file.
fn rounds(args: &Prune, rotated: bool) -> Result<usize> {
    let (rounds, target) = (args.rounds.unwrap_or(1), &args.target);
    let both = [
        (target.drop_layers.is_some(), "--drop-layers", "every round chooses its layers"),
        (args.drop.drop_by.is_some(), "--drop-by", "every round chooses its layers by block influence"),
        (target.merge_heads.is_some(), "--merge-heads", "what is merged could not be measured as what it was"),
        (target.merge_kv.is_some(), "--merge-kv", "what is merged could not be measured as what it was"),
        (rotated, "--basis rotated", "directions are sorted once"),
    ];
    match both.into_iter().find(|(given, ..)| *given && rounds != 1) {
        _ if rounds == 0 => Err(Failure::input("--rounds 0: expected at least 1")),
        Some((_, flag, why)) => {
            Err(Failure::input(format!("--rounds {rounds} with {flag}: {why}; give one of the two")))
        }
        None => Ok(rounds),
    }
}

pub(crate) fn run(args: &Prune) -> Result<()> {
    if args.tests.verify {
        return crate::verify::run(args);
    }
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
    let how = Compensation::new(&args.target, Compensate::None)?;
    let of = how.teacher(&source.opened.arch);
    let teacher = dims(&of)?;
    let (set, origin) = importance_file::load(file, &source.hash()?)?;
    check_search(&args.target, &origin.model)?;
    let scores = importance_file::scores(&set, &args.scores.options()?)?;
    let target = target(&args.target, &teacher)?;
    let target = drop_by::choose(args.drop.drop_by, target, teacher.layers, file, &set)?;
    let mut plan = compensation::plan(&args.target, how.rotated, &teacher, scores, &target)?;
    let rounds = rounds(args, how.rotated)?;
    let arch = student_arch(&of, &plan);
    let windows = (how.needs_text() || 1 < rounds)
        .then(|| windows(&args.data, &source, Part::Calibration, Some(WINDOWS)))
        .transpose()?;

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
        let (teacher, context) = (&source.opened.arch, windows.longest());
        let micro = paring_train::micro_windows(teacher, context);
        let (bytes, flops) = how.cost(teacher, &arch, windows.tokens(), context);
        memory += bytes + inference_bytes(teacher, context * micro) + block_bytes(teacher);
        forecast.flops =
            flops + (rounds - 1) as f64 * windows.tokens() as f64 * teacher.forward_flops_per_token(context);
        if 1 < rounds {
            memory += weight_bytes(teacher, dtype);
        }
    }
    forecast.memory(&[memory]);
    if args.work.dry_run {
        let seconds = forecast.seconds(&session)?;
        let mut json = forecast.json(seconds);
        json["student"] = json!(plan.student()?);
        return session.print(&json, &forecast.text(seconds));
    }
    forecast.check(&session, out, args.work.force)?;
    let stop = Stop::listen()?;
    create_parent(out)?;
    let checkpoint = Checkpoint(&source.opened);
    if let (Some(windows), true) = (&windows, 1 < rounds) {
        let (scores, windows) = (args.scores.options()?, &windows.windows[..]);
        let all = Rounds { session: &session, dtype, windows, stop: &stop, scores, rounds };
        plan = all.plan(&checkpoint, &set, &teacher, &plan.student()?)?;
    }
    for warning in plan.warnings() {
        tell!("note: {warning}");
    }
    let (mut of, mut fits): (&dyn Weights, _) = (&checkpoint, Vec::new());
    let bed = windows.as_ref().map(|w| Bed { session: &session, dtype, windows: &w.windows, stop: &stop });
    let rotated = match &bed {
        Some(bed) if how.rotated => Some(Rotated::new(&checkpoint, &bed.basis(&checkpoint)?, session.backend())?),
        _ => None,
    };
    if let Some(rotated) = &rotated {
        of = rotated;
    }
    let mut cut = Cut::new(of, &plan);
    if let Some(bed) = &bed {
        fits = bed.apply(&how, &mut cut)?;
    }
    let mut dir = DirWriter::create(out, Overwrite::Refuse)?;
    write_model(&mut dir, &arch, &source.opened.config, |spec| cut.read(spec).map_err(Failure::from))?;
    for (name, bytes) in source.side_files()? {
        dir.write_bytes(&name, &bytes)?;
    }
    dir.subdir("paring")?;
    dir.write_bytes("paring/plan.json", plan.to_json()?.as_bytes())?;
    let provenance = json!({
        "written_by": concat!("paring ", env!("CARGO_PKG_VERSION")), "teacher": source.name, "teacher_hash": origin.model,
        "importance_data_hash": origin.data(), "compensation_data_hash": windows.as_ref().map(|w| &w.hash),
        "compensation": how.json(), "rounds": rounds, "command": crate::command_line(),
    });
    dir.write_bytes("paring/compensation.json", format!("{:#}\n", fits_json(&fits)).as_bytes())?;
    dir.write_bytes("paring/provenance.json", format!("{provenance:#}\n").as_bytes())?;
    if stop.asked() {
        return Err(stop.failure("nothing was written"));
    }
    dir.commit()?;
    let plan_json: Value = serde_json::from_str(&plan.to_json()?).map_err(|e| Failure::work(format!("plan: {e}")))?;
    let json = json!({"plan": plan_json, "params": arch.n_params(), "out": out});
    let (was, is) = (teacher, plan.student()?);
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
