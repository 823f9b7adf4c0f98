//! `paring distill`: let a student learn from a teacher's output distribution.
use crate::{
    args::Distill,
    data::windows,
    describe::{count, table},
    embedded::Part,
    error::{Failure, Result},
    preflight::{Forecast, inference_bytes, training_bytes, weight_bytes},
    recipe,
    session::Session,
    signals::Stop,
    source::Source,
    training::{Settings, resume, train},
    workplace::{Workplace, refuse_existing},
};
use paring_checkpoint::{DirWriter, Overwrite, read_text};
use paring_model::write_model;
use paring_train::{Resume, Trainer};
use serde_json::json;

pub(crate) fn run(args: &Distill) -> Result<()> {
    let session = Session::new(&args.common)?;
    let Some(out) = &args.out else { return Err(Failure::input("where to? give --out DIR")) };
    let Some(student) = &args.student else { return Err(Failure::input("who learns? give --student DIR")) };
    refuse_existing(out)?;
    let student = Source::open(Some(student))?;
    let teacher = Source::open(args.teacher.as_deref())?;
    let (arch, teacher_arch) = (&student.opened.arch, &teacher.opened.arch);
    if arch.vocab != teacher_arch.vocab {
        return Err(Failure::input(format!(
            "{} has {} tokens and {} has {}: a student can only learn the distribution of a teacher with its own vocabulary",
            student.name, arch.vocab, teacher.name, teacher_arch.vocab
        )));
    }
    // The text stands in for the teacher's: both have one tokenizer.
    student.tokenizer()?;
    let windows = windows(&args.data, &teacher, Part::Distillation, None)?;
    let context = windows.longest();
    let settings = Settings::new(&args.training, &session, arch, context, windows.windows.len())?;
    let dtype = settings.config.dtype;

    let n = arch.n_params() as u64;
    let tokens = settings.tokens(context);
    let flops = teacher_arch.forward_flops_per_token(context) + 3.0 * arch.forward_flops_per_token(context);
    let mut forecast =
        Forecast { params: n, disk: (3 * 12 + 2) * n, tokens, flops: tokens as f64 * flops, ..Forecast::default() };
    let memory = weight_bytes(teacher_arch, dtype)
        + inference_bytes(teacher_arch, context * settings.micro)
        + training_bytes(arch, dtype, context, settings.micro);
    forecast.memory(&[memory]);
    if args.work.dry_run {
        let seconds = forecast.seconds(&session)?;
        return session.print(&forecast.json(seconds), &forecast.text(seconds));
    }
    forecast.check(&session, out, args.work.force)?;

    let stop = Stop::listen()?;
    let mut flags = recipe::identity(args)?;
    flags.remove("resume");
    let place = Workplace::open(out, &flags)?;
    let identity = json!({"recipe": flags.to_string(), "student": student.hash()?, "teacher": teacher.hash()?, "data": windows.hash});
    let mut trainer = Trainer::new(session.backend(), arch.clone(), settings.config.clone(), |p| {
        student.opened.source().read_checked(&p.name).map_err(Failure::from)
    })?;
    let at = resume(&mut trainer, &place, &identity)?;
    if args.resume == Some(true) && at == Resume::Fresh {
        let dir = paring_checkpoint::shown_path(&place.path("checkpoints"));
        return Err(Failure::input(format!("--resume: there is no checkpoint in {dir}; leave the flag out to begin")));
    }
    let model = teacher.load(session.backend(), dtype)?;
    let trained = train(&mut trainer, &model, &windows.windows, &settings, &place, &identity, &at, &stop)?;

    let mut dir = DirWriter::create(out, Overwrite::Refuse)?;
    write_model(&mut dir, arch, &student.opened.config, |p| trainer.values(p.id).map_err(Failure::from))?;
    for (name, bytes) in student.side_files()? {
        dir.write_bytes(&name, &bytes)?;
    }
    dir.subdir("paring")?;
    dir.write_bytes("paring/recipe.toml", flags.to_string().as_bytes())?;
    dir.write_bytes("paring/metrics.jsonl", read_text(&place.path("metrics.jsonl"), 1 << 30)?.as_bytes())?;
    let provenance = json!({
        "written_by": concat!("paring ", env!("CARGO_PKG_VERSION")), "command": crate::command_line(), "inputs": identity,
        "result": trained.json(),
    });
    dir.write_bytes("paring/provenance.json", format!("{provenance:#}\n").as_bytes())?;
    dir.commit()?;
    place.close()?;
    let mut json = trained.json();
    json["out"] = json!(out);
    let text = table(&[
        vec![out.display().to_string(), String::new()],
        vec!["steps".into(), count(trained.steps)],
        vec!["tokens".into(), count(trained.tokens)],
        vec!["loss (KL), nats".into(), trained.loss.map_or("-".into(), |l| format!("{l:.4}"))],
        vec!["tokens/s".into(), format!("{:.0}", trained.tokens_per_second)],
    ]);
    session.print(&json, &text)
}
