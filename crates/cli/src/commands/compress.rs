//! `paring compress`: calibrate, choose, cut, distil, evaluate, write. Every stage leaves its result in the run's workplace, so that a
//! run that was killed goes on where it was.
use crate::{
    args::{Compensate, Compress, Data},
    calibration::Calibration,
    card::Card,
    compensation::{self, Bed, Compensation, fits_json},
    coverage::Shard,
    data::{self, Windows, context, windows},
    describe::{count, describe, dims},
    embedded::Part,
    error::{Failure, Result},
    importance_file,
    measure::{Column, Speed, agreement, speed, table},
    origin::{Conditions, Origin},
    preflight::{self, Forecast, inference_bytes, training_bytes, weight_bytes},
    recipe,
    session::Session,
    signals::Stop,
    source::Source,
    target::{check_search, target},
    training::{Settings, Trained, resume, train},
    workplace::{Workplace, free_name, refuse_existing},
};
use paring_checkpoint::{DirWriter, Overwrite, atomic, read_text};
use paring_eval::Agreement;
use paring_importance::{Extras, ImportanceSet, ScoreOptions};
use paring_model::{Arch, Model, params, write_model};
use paring_prune::{Dims, Plan, Target, count_params};
use paring_surgery::{Checkpoint, Cut, Rotated, Weights, arch_of, student_arch};
use paring_tensor::{DType, Shape, round_to};
use paring_train::{Resume, Trainer};
use serde_json::{Map, Value, json};
use std::{path::PathBuf, time::Instant};

const CALIBRATION_WINDOWS: usize = 64;
const EVAL_WINDOWS: usize = 64;
/// Part of the text that is kept out of training when no held-out text is given: one in twenty windows.
const HELD_OUT: usize = 20;

/// The three parts of the text.
struct Texts {
    calibration: Windows,
    training: Windows,
    heldout: Windows,
}

impl Texts {
    /// Calibration and evaluation see windows from everywhere in their text, not its beginning: texts are rarely mixed.
    fn new(args: &Compress, source: &Source) -> Result<Self> {
        let eval_windows = args.eval_windows.unwrap_or(EVAL_WINDOWS);
        let calibration_windows = args.calibration_windows.unwrap_or(CALIBRATION_WINDOWS);
        for (flag, n) in [("eval-windows", eval_windows), ("calibration-windows", calibration_windows)] {
            if n == 0 {
                return Err(Failure::input(format!("--{flag} 0: expected at least 1")));
            }
        }
        let mut training = windows(&args.data, source, Part::Distillation, None)?;
        let own_text = !args.data.text.is_empty() || args.data.tokens.is_some();
        let embedded = |part| windows(&Data { context: args.data.context, ..Data::default() }, source, part, None);
        let heldout = match &args.heldout {
            Some(file) => {
                let flags = Data { text: vec![file.clone()], context: args.data.context, ..Data::default() };
                windows(&flags, source, Part::Heldout, None)?
            }
            None if source.embedded && !own_text => embedded(Part::Heldout)?,
            None => {
                let all = training.windows.len();
                if all < 2 {
                    return Err(Failure::input(format!(
                        "the text gives {all} window of {} tokens, too few to train on one and evaluate on another; give more text, a \
                         smaller --context, or --heldout FILE",
                        context(&args.data, source)?
                    )));
                }
                let last = training.windows.split_off(all - (all / HELD_OUT).max(1));
                Windows { windows: last, hash: training.hash.clone() }
            }
        };
        let calibration = match source.embedded && !own_text {
            true => embedded(Part::Calibration)?.spread(calibration_windows),
            false => training.spread(calibration_windows),
        };
        Ok(Texts { calibration, training, heldout: heldout.spread(eval_windows) })
    }

    fn hashes(&self) -> Value {
        json!({"calibration": self.calibration.hash, "training": self.training.hash, "heldout": self.heldout.hash})
    }
}

/// Everything that a run knows before it starts.
struct Job<'a> {
    args: &'a Compress,
    session: &'a Session,
    source: &'a Source,
    teacher: Dims,
    target: Target,
    texts: Texts,
    context: usize,
    settings: Settings,
    how: Compensation,
    scores: ScoreOptions,
}

pub(crate) fn run(args: &Compress) -> Result<()> {
    let begin = Instant::now();
    let session = Session::new(&args.common)?;
    if let Some(out) = &args.out {
        refuse_existing(out)?;
    }
    let source = Source::open(args.model.as_deref())?;
    let how = Compensation::new(&args.target, Compensate::LeastSquares)?;
    let teacher = dims(&how.teacher(&source.opened.arch))?;
    let (target, scores) = (target(&args.target, &teacher)?, args.scores.options()?);
    let student = compensation::student(&args.target, &teacher, &target)?;
    paring_prune::check_loadable(&teacher, &student)?;
    let texts = Texts::new(args, &source)?;
    let longest = texts.training.longest();
    // The shape is known before the plan is: only which channels it will be is not.
    let shape = arch_of(&how.teacher(&source.opened.arch), &student);
    let settings = Settings::new(&args.training, &session, &shape, longest, texts.training.windows.len())?;
    let job = Job {
        args,
        session: &session,
        source: &source,
        teacher,
        target,
        texts,
        context: longest,
        settings,
        how,
        scores,
    };

    let out = args.out.clone().unwrap_or_else(|| free_name("runs/compress"));
    let forecast = job.forecast(&shape, &student);
    let expected = forecast.seconds(&session)?;
    if args.work.dry_run {
        let mut json = forecast.json(expected);
        json["student"] = json!(student);
        return session.print(&json, &forecast.text(expected));
    }
    forecast.check(&session, &out, args.work.force)?;
    job.run(begin, out, &forecast, expected)
}

impl Job<'_> {
    fn dtype(&self) -> DType {
        self.settings.config.dtype
    }

    fn forecast(&self, student: &Arch, sizes: &Dims) -> Forecast {
        let (teacher, context, dtype) = (&self.source.opened.arch, self.context, self.dtype());
        let n = student.n_params() as u64;
        let (calibrated, trained) = (self.texts.calibration.tokens(), self.settings.tokens(context));
        let evaluated = 2 * self.texts.heldout.tokens();
        let (t, s) = (teacher.forward_flops_per_token(context), student.forward_flops_per_token(context));
        let (bytes, fitting) = self.how.cost(teacher, student, calibrated, context);
        let mut forecast = Forecast {
            params: n,
            // Two checkpoints and the one that is being written, of three f32 values per parameter; the student in bf16.
            disk: (3 * 12 + 2) * n + (16 << 20),
            tokens: calibrated + trained + evaluated,
            flops: calibrated as f64 * t + fitting + trained as f64 * (t + 3.0 * s) + evaluated as f64 * (t + s),
            warnings: paring_prune::warnings(&self.teacher, sizes),
            ..Forecast::default()
        };
        let teacher_bytes = weight_bytes(teacher, dtype);
        let calibration = bytes + inference_bytes(teacher, context * paring_train::micro_windows(teacher, context));
        let training = inference_bytes(teacher, context * self.settings.micro)
            + training_bytes(student, dtype, context, self.settings.micro);
        forecast.memory(&[teacher_bytes + calibration, teacher_bytes + training]);
        forecast
    }

    fn run(&self, begin: Instant, out: PathBuf, forecast: &Forecast, expected: f64) -> Result<()> {
        let stop = Stop::listen()?;
        let flags = recipe::identity(self.args)?;
        let place = Workplace::open(&out, &flags)?;
        for warning in &forecast.warnings {
            tell!("note: {warning}");
        }
        let teacher_hash = self.source.hash()?;
        check_search(&self.args.target, &teacher_hash)?;
        let identity = json!({"recipe": flags.to_string(), "teacher": teacher_hash, "data": self.texts.hashes()});
        let teacher = self.source.load(self.session.backend(), self.dtype())?;
        let calibration = Calibration {
            session: self.session,
            model: &teacher,
            windows: &self.texts.calibration.windows,
            stop: &stop,
        };

        let set = self.importance(&place, &calibration, &teacher_hash)?;
        let scores = importance_file::scores(&set, &self.scores)?;
        let plan = compensation::plan(&self.args.target, self.how.rotated, &self.teacher, scores, &self.target)?;
        atomic::write_bytes(&place.path("plan.json"), plan.to_json()?.as_bytes())?;
        let arch = student_arch(&self.how.teacher(&self.source.opened.arch), &plan);
        self.announce(&plan)?;

        let (mut trainer, at) = self.trainer(&place, &identity, &plan, &arch, &stop)?;
        let pruned = self.pruned(&place, &at, &teacher, trainer.model())?;
        let trained =
            train(&mut trainer, &teacher, &self.texts.training.windows, &self.settings, &place, &identity, &at, &stop)?;

        let student = as_written(&trainer, &arch, self.dtype())?;
        let agreement = agreement(self.session, &teacher, &student, &self.texts.heldout)?;
        let teacher_speed = speed(self.session, &teacher, &self.texts.heldout)?;
        let student_speed = speed(self.session, &student, &self.texts.heldout)?;
        let against = |a: &Agreement| Some((a.kl, a.top1_agreement));
        let columns = [
            Column::new("teacher", &self.source.opened.arch, agreement.teacher_nll, None, teacher_speed),
            // The pruned model has the student's shape, and so its speed.
            Column::new("pruned", &arch, pruned.student_nll, against(&pruned), student_speed),
            Column::new("distilled", &arch, agreement.student_nll, against(&agreement), student_speed),
        ];
        let actual = json!({
            "seconds": begin.elapsed().as_secs_f64(), "peak_memory_bytes": preflight::peak_memory(), "speed": speeds(&columns),
        });
        let finished = Finished { plan: &plan, arch: &arch, trainer: &trainer, trained: &trained, columns: &columns };
        let provenance = json!({
            "written_by": concat!("paring ", env!("CARGO_PKG_VERSION")), "command": crate::command_line(), "inputs": identity,
            "compensation": self.how.json(),
            "expected": forecast.json(expected), "actual": actual,
        });
        self.write(&place, &flags, &finished, &provenance)?;
        place.close()?;
        self.report(&out, &finished, begin.elapsed().as_secs_f64())
    }

    /// Importance from the workplace, or measured now.
    fn importance(
        &self,
        place: &Workplace,
        calibration: &Calibration<'_>,
        teacher_hash: &str,
    ) -> Result<ImportanceSet> {
        let path = place.path("importance.safetensors");
        let texts = &self.texts.calibration;
        let settings = Conditions::new(texts.longest(), "spread", false, self.dtype(), Extras::default());
        let origin = Origin::new(teacher_hash.into(), texts.hash.clone(), settings, Shard::WHOLE, texts.windows.len());
        if path.exists() {
            let (set, found) = importance_file::load(&path, teacher_hash)?;
            if found != origin {
                let dir = paring_checkpoint::shown_path(place.out());
                return Err(Failure::input(format!(
                    "the text changed since the unfinished run of {dir} was started; choose another --out"
                )));
            }
            return Ok(set);
        }
        let set = calibration.run(Extras::default(), None)?;
        importance_file::save(&path, &set, &origin, &[])?;
        Ok(set)
    }

    fn announce(&self, plan: &Plan) -> Result<()> {
        let (t, s) = (self.teacher, plan.student()?);
        let part = count_params(&s).non_embedding as f64 / count_params(&t).non_embedding as f64;
        tell!(
            "student: {} of {} layers, hidden {} of {}, ffn {} of {}, heads {} of {}: {:.1} % of the non-embedding parameters",
            s.layers,
            t.layers,
            s.hidden,
            t.hidden,
            s.ffn,
            t.ffn,
            s.heads,
            t.heads,
            100.0 * part
        );
        Ok(())
    }

    /// A trainer at its newest checkpoint, or at the cut teacher's weights.
    fn trainer<'b>(
        &'b self,
        place: &Workplace,
        identity: &Value,
        plan: &Plan,
        arch: &Arch,
        stop: &Stop,
    ) -> Result<(Trainer<'b>, Resume)> {
        let (backend, config) = (self.session.backend(), &self.settings.config);
        if place.path("checkpoints").exists() {
            let zeros = |p: &paring_model::ParamSpec| Ok::<_, Failure>(vec![0.0; p.elements()]);
            let mut trainer = Trainer::new(backend, arch.clone(), config.clone(), zeros)?;
            let at = resume(&mut trainer, place, identity)?;
            if at != Resume::Fresh {
                return Ok((trainer, at));
            }
        }
        let checkpoint = Checkpoint(&self.source.opened);
        let bed = Bed { session: self.session, dtype: self.dtype(), windows: &self.texts.calibration.windows, stop };
        let mut of: &dyn Weights = &checkpoint;
        let rotated = match self.how.rotated {
            true => Some(Rotated::new(&checkpoint, &bed.basis(&checkpoint)?, backend)?),
            false => None,
        };
        if let Some(rotated) = &rotated {
            of = rotated;
        }
        let mut cut = Cut::new(of, plan);
        let fits = bed.apply(&self.how, &mut cut)?;
        let text = format!("{:#}\n", fits_json(&fits));
        atomic::write_bytes(&place.path("compensation.json"), text.as_bytes())?;
        Ok((
            Trainer::new(backend, arch.clone(), config.clone(), |spec| cut.read(spec).map_err(Failure::from))?,
            Resume::Fresh,
        ))
    }

    /// What the cut model is worth before it learns: measured once, at step 0.
    fn pruned(&self, place: &Workplace, at: &Resume, teacher: &Model, cut: &Model) -> Result<Agreement> {
        let path = place.path("pruned.json");
        if *at == Resume::Fresh {
            let measured = agreement(self.session, teacher, cut, &self.texts.heldout)?;
            let text = serde_json::to_string(&measured).map_err(|e| Failure::work(format!("pruned.json: {e}")))?;
            atomic::write_bytes(&path, text.as_bytes())?;
            return Ok(measured);
        }
        serde_json::from_str(&read_text(&path, 1 << 16)?)
            .map_err(|e| Failure::input(format!("{}: {e}", path.display())))
    }

    fn write(&self, place: &Workplace, flags: &toml::Table, f: &Finished<'_>, provenance: &Value) -> Result<()> {
        let mut dir = DirWriter::create(place.out(), Overwrite::Refuse)?;
        write_model(&mut dir, f.arch, &self.source.opened.config, |p| f.trainer.values(p.id).map_err(Failure::from))?;
        for (name, bytes) in self.source.side_files()? {
            dir.write_bytes(&name, &bytes)?;
        }
        let eval = f.eval()?;
        let recipe = flags.to_string();
        let card = Card {
            teacher: &self.source.name,
            command: "paring compress",
            recipe: &recipe,
            // Without speeds: this file is the same whenever and wherever the run is repeated.
            table: &table(f.columns, None),
            eval: &eval,
            params: &count(f.arch.n_params() as u64),
        };
        dir.write_bytes("README.md", card.text().as_bytes())?;
        dir.subdir("paring")?;
        for name in ["importance.safetensors", "plan.json", "compensation.json", "metrics.jsonl"] {
            let path = place.path(name);
            let bytes = std::fs::read(&path).map_err(|source| paring_checkpoint::Error::Read { path, source })?;
            dir.write_bytes(&format!("paring/{name}"), &bytes)?;
        }
        dir.write_bytes("paring/recipe.toml", recipe.as_bytes())?;
        dir.write_bytes("paring/eval.json", format!("{eval:#}\n").as_bytes())?;
        dir.write_bytes("paring/provenance.json", format!("{provenance:#}\n").as_bytes())?;
        Ok(dir.commit()?)
    }

    fn report(&self, out: &std::path::Path, f: &Finished<'_>, seconds: f64) -> Result<()> {
        let mut json = json!({"out": out, "report": null, "seconds": seconds, "distillation": f.trained.json()});
        let archs = [("teacher", &self.source.opened.arch), ("pruned", f.arch), ("student", f.arch)];
        for ((name, arch), column) in archs.into_iter().zip(f.columns) {
            let bytes = if name == "teacher" { self.source.opened.stored_bytes() } else { column.bytes };
            let mut map = describe(arch, bytes);
            column.add_to(&mut map);
            column.add_speed_to(&mut map);
            json[name] = Value::Object(map);
        }
        let mut text = table(f.columns, Some(self.dtype()));
        text += &format!(
            "\nheld-out: {} windows, {} tokens; distilled on {} tokens at {:.0} tokens/s; {seconds:.0} s in all\n{}\n",
            self.texts.heldout.windows.len(),
            data::count(&self.texts.heldout.windows),
            count(f.trained.tokens),
            f.trained.tokens_per_second,
            out.display()
        );
        self.session.print(&json, &text)
    }
}

/// What a run has at its end.
struct Finished<'a> {
    plan: &'a Plan,
    arch: &'a Arch,
    trainer: &'a Trainer<'a>,
    trained: &'a Trained,
    columns: &'a [Column],
}

impl Finished<'_> {
    /// `eval.json`: nothing in it depends on the machine's speed.
    fn eval(&self) -> Result<Value> {
        let mut json =
            json!({"plan": self.plan.student()?, "steps": self.trained.steps, "tokens": self.trained.tokens});
        for (name, column) in ["teacher", "pruned", "student"].into_iter().zip(self.columns) {
            let mut map = Map::new();
            column.add_to(&mut map);
            json[name] = Value::Object(map);
        }
        Ok(json)
    }
}

fn speeds(columns: &[Column]) -> Value {
    let speed = |s: &Speed| json!({"prefill_tokens_per_second": s.prefill, "decode_tokens_per_second": s.decode});
    columns.iter().map(|c| (c.name.to_string(), speed(&c.speed))).collect::<Map<_, _>>().into()
}

/// The student as its file will hold it: every value rounded to bf16.
fn as_written(trainer: &Trainer<'_>, arch: &Arch, dtype: DType) -> Result<Model> {
    let backend = trainer.backend();
    let tensor = |spec: paring_model::ParamSpec| -> Result<_> {
        let values: Vec<f32> = trainer.values(spec.id)?.into_iter().map(|v| round_to(v, DType::BF16)).collect();
        let shape = Shape::new(&spec.shape).map_err(paring_ops::Error::in_op("as_written"))?;
        Ok(backend.upload(&values, spec.compute_dtype(dtype), shape)?)
    };
    let tensors = params(arch).into_iter().map(tensor).collect::<Result<_>>()?;
    Ok(Model::from_tensors(arch.clone(), backend, tensors)?)
}
