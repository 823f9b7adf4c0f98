//! `paring prune --verify`: whether cutting keeps its promises on this model, and which runtimes load what comes of it.
use crate::{
    args::Prune,
    compensation,
    data::windows,
    describe::{dims, table},
    drop_by,
    embedded::Part,
    error::{Failure, Result},
    importance_file,
    preflight::{Forecast, inference_bytes, weight_bytes},
    session::Session,
    signals::Stop,
    source::Source,
    target::{rotated, target},
};
use paring_checkpoint::{read_text, shown_path};
use paring_model::Arch;
use paring_prune::Plan;
use paring_sampling::rng::Rng;
use paring_surgery::{Check, Checkpoint, Cut, Outcome, Rotated, Verify, Weights, sizes, student_arch, trial_plan};
use paring_tensor::DType;
use serde_json::{Value, json};
use std::{path::PathBuf, time::Instant};

/// Random windows when there is no text, and their tokens.
const WINDOWS: (usize, usize) = (4, 64);
/// Models that the checks load, one or two at a time.
const MODELS: f64 = 17.0;

pub(crate) fn run(args: &Prune) -> Result<()> {
    let begin = Instant::now();
    let session = Session::new(&args.common)?;
    let source = Source::open(args.model.as_deref())?;
    let arch = &source.opened.arch;
    // A model without a tokenizer can be verified; one that is larger than the embedding is what the runtimes are asked about.
    let tokens = source.tokenizer().ok().map(|t| t.vocab_size());
    let (plan, origin) = plan(args, &source, session.seed)?;
    let windows = if args.data.text.is_empty() && args.data.tokens.is_none() {
        random_windows(arch.vocab, arch.max_positions, session.seed)
    } else {
        windows(&args.data, &source, Part::Calibration, Some(WINDOWS.0))?.windows
    };
    let checkpoint = Checkpoint(&source.opened);
    let folded = Rotated::folded(&checkpoint, session.backend());
    let teacher: &dyn Weights = if plan.teacher().tied == arch.tied { &checkpoint } else { &folded };
    let student = student_arch(teacher.arch(), &plan);
    let (longest, all) = (windows.iter().map(Vec::len).max().unwrap_or(0), windows.iter().map(Vec::len).sum::<usize>());
    let mut forecast = Forecast {
        params: student.n_params() as u64,
        disk: 2 * student.n_params() as u64 + (4 << 20),
        tokens: MODELS as u64 * all as u64,
        flops: MODELS * all as f64 * arch.forward_flops_per_token(longest),
        ..Forecast::default()
    };
    let logits = 2 * 4 * (all * arch.vocab) as u64;
    // One model, a tensor of it on its way, the logits of two.
    forecast.memory(&[2 * weight_bytes(arch, DType::F32) + inference_bytes(arch, longest) + logits]);
    if args.work.dry_run {
        let seconds = forecast.seconds(&session)?;
        return session.print(&forecast.json(seconds), &forecast.text(seconds));
    }
    let scratch = Scratch(std::env::temp_dir().join(format!("paring-verify-{}", std::process::id())));
    forecast.check(&session, &scratch.0, args.work.force)?;
    let stop = Stop::listen()?;
    let verify = Verify { backend: session.backend(), windows: &windows, seed: session.seed };
    let mut checks = verify.run(teacher, &plan)?;
    if stop.asked() {
        return Err(stop.failure("the checks did not finish"));
    }
    let cut = Cut::new(teacher, &plan);
    checks.extend(verify.saved(&cut, arch, &source.opened.config, tokens, &scratch.0)?);
    drop(scratch);
    report(&session, &checks, &origin, all, begin.elapsed().as_secs_f64())
}

/// The plan that is verified, and where it is from.
fn plan(args: &Prune, source: &Source, seed: u64) -> Result<(Plan, String)> {
    let arch = &source.opened.arch;
    if let Some(file) = &args.tests.plan {
        let shown = shown_path(file);
        let plan = Plan::from_json(&read_text(file, 1 << 28)?).map_err(|e| Failure::from(e).at(&shown))?;
        // A plan in a rotated basis is one of the model with its head untied.
        if *plan.teacher() != sizes(arch) && *plan.teacher() != sizes(&Arch { tied: false, ..arch.clone() }) {
            return Err(Failure::input(format!(
                "{shown}: a plan for another model than {}: their sizes differ; give the plan's own teacher as --model",
                source.name
            )));
        }
        return Ok((plan, shown));
    }
    let flags = &args.target;
    let given = [flags.hidden, flags.ffn, flags.heads, flags.kv_groups, flags.layers].iter().any(Option::is_some)
        || flags.drop_layers.is_some()
        || flags.params.is_some();
    let Some(file) = &args.importance else {
        if given {
            let what = "what matters? a target needs --importance FILE; without one, a random cut is verified";
            return Err(Failure::input(what));
        }
        return Ok((trial_plan(arch, seed)?, format!("a random cut of every axis (--seed {seed})")));
    };
    let teacher = dims(arch)?;
    let (set, _) = importance_file::load(file, &source.hash()?)?;
    let target = drop_by::choose(args.drop.drop_by, target(flags, &teacher)?, teacher.layers, file, &set)?;
    let scores = importance_file::scores(&set, &args.scores.options()?)?;
    let plan = compensation::plan(flags, rotated(flags)?, &teacher, scores, &target)?;
    Ok((plan, shown_path(file)))
}

/// Windows of random tokens, a function of the seed.
fn random_windows(vocab: usize, max_positions: usize, seed: u64) -> Vec<Vec<u32>> {
    let (rng, length) = (Rng::new(seed), WINDOWS.1.min(max_positions));
    let token = |w: usize, i: usize| rng.below(0x7e57 + w as u64, i as u64, vocab as u64) as u32;
    (0..WINDOWS.0).map(|w| (0..length).map(|i| token(w, i)).collect()).collect()
}

fn report(session: &Session, checks: &[Check], plan: &str, tokens: usize, seconds: f64) -> Result<()> {
    let outcome = |c: &Check| match c.outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::Skipped => "skipped",
    };
    let failed: Vec<&str> = checks.iter().filter(|c| c.outcome == Outcome::Failed).map(|c| c.name.as_str()).collect();
    let one = |c: &Check| {
        json!({
            "name": c.name, "outcome": outcome(c).to_lowercase(), "measured": c.measured, "bound": c.bound, "what": c.what,
        })
    };
    let list: Vec<Value> = checks.iter().map(one).collect();
    let json = json!({"passed": failed.is_empty(), "checks": list, "plan": plan, "tokens": tokens, "seconds": seconds});
    let figure = |f: Option<f64>| match f {
        None => String::new(),
        Some(0.0) => "0".into(),
        Some(f) => format!("{f:.1e}"),
    };
    let mut rows = vec![["check", "outcome", "measured", "at most"].map(String::from).to_vec()];
    rows.extend(checks.iter().map(|c| vec![c.name.clone(), outcome(c).into(), figure(c.measured), figure(c.bound)]));
    let mut text = table(&rows);
    for c in checks.iter().filter(|c| c.outcome != Outcome::Passed || c.measured.is_none()) {
        text += &format!("{}: {}\n", c.name, c.what);
    }
    text += &format!("{plan}; {tokens} tokens, {seconds:.1} s\n");
    session.print(&json, &text)?;
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failure::work(format!("{} of {} checks failed: {}", failed.len(), checks.len(), failed.join(", "))))
}

/// A directory that is gone when this is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(e) = std::fs::remove_dir_all(&self.0)
        {
            tell!("note: cannot remove {}: {e}", shown_path(&self.0));
        }
    }
}
