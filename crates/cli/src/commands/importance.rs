//! `paring importance`: measure, and save what was measured.
use crate::{
    args::Importance,
    calibration::Calibration,
    data::windows,
    describe::table,
    embedded::Part,
    error::{Failure, Result},
    importance_file::{self, Origin},
    preflight::{Forecast, inference_bytes, weight_bytes},
    session::Session,
    signals::Stop,
    source::Source,
    workplace::{create_parent, refuse_existing},
};
use paring_tensor::DType;
use serde_json::json;
use std::time::Instant;

pub(crate) fn run(args: &Importance) -> Result<()> {
    let begin = Instant::now();
    let session = Session::new(&args.common)?;
    let Some(out) = &args.out else { return Err(Failure::input("where to? give --out FILE.safetensors")) };
    refuse_existing(out)?;
    let source = Source::open(args.model.as_deref())?;
    let windows = windows(&args.data, &source, Part::Calibration, None)?;
    let (arch, dtype) = (&source.opened.arch, session.dtype(DType::F32)?);
    let context = windows.longest();
    let numbers = arch.layers.iter().map(|l| 6 * (2 * arch.hidden + l.ffn + l.heads * arch.head_dim) + 2 * arch.hidden);
    let mut forecast = Forecast {
        params: arch.n_params() as u64,
        disk: 8 * numbers.sum::<usize>() as u64,
        tokens: windows.tokens(),
        flops: windows.tokens() as f64 * arch.forward_flops_per_token(context),
        ..Forecast::default()
    };
    forecast.memory(&[
        weight_bytes(arch, dtype) + inference_bytes(arch, context * paring_train::micro_windows(arch, context))
    ]);
    if args.work.dry_run {
        let seconds = forecast.seconds(&session)?;
        return session.print(&forecast.json(seconds), &forecast.text(seconds));
    }
    forecast.check(&session, out, args.work.force)?;
    let stop = Stop::listen()?;
    create_parent(out)?;
    let model = source.load(session.backend(), dtype)?;
    let calibration = Calibration { session: &session, model: &model, windows: &windows.windows, stop: &stop };
    let set = calibration.run()?;
    importance_file::save(out, &set, &Origin { model: source.hash()?, data: windows.hash.clone() })?;
    let seconds = begin.elapsed().as_secs_f64();
    let json = json!({"tokens": set.tokens(), "seconds": seconds, "out": out});
    let mut rows = vec![vec!["layer".to_string(), "block influence".to_string()]];
    rows.extend(set.block_influence().iter().enumerate().map(|(l, bi)| vec![l.to_string(), format!("{bi:.4}")]));
    let text = format!("{}{} tokens in {seconds:.1} s: {}\n", table(&rows), set.tokens(), out.display());
    session.print(&json, &text)
}
