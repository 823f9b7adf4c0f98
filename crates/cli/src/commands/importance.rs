//! `paring importance`: measure, and save what was measured.
use crate::{
    args_importance::Importance,
    calibration::{Calibration, by_block},
    commands::depth::DepthPlan,
    coverage::Shard,
    data::{windows, windows_of_documents},
    describe::table,
    embedded::Part,
    error::{Failure, Result},
    importance_file,
    origin::{Conditions, Origin},
    preflight::{Forecast, block_bytes, inference_bytes, weight_bytes},
    session::Session,
    signals::Stop,
    source::Source,
    workplace::{create_parent, refuse_existing},
};
use paring_importance::{ExactSum, Extras};
use paring_model::Arch;
use paring_surgery::Checkpoint;
use paring_tensor::DType;
use serde_json::json;
use std::time::Instant;

pub(crate) fn run(args: &Importance) -> Result<()> {
    let begin = Instant::now();
    let session = Session::new(&args.common)?;
    let Some(out) = &args.out else { return Err(Failure::input("where to? give --out FILE.safetensors")) };
    let shard = args.measure.shard.as_deref().map_or(Ok(Shard::WHOLE), Shard::parse)?;
    refuse_existing(out)?;
    let source = Source::open(args.model.as_deref())?;
    let mask = args.measure.mask_documents;
    let (mut windows, mut documents) = if mask {
        let (windows, documents) = windows_of_documents(&args.data, &source, Part::Calibration)?;
        (windows, Some(documents))
    } else {
        (windows(&args.data, &source, Part::Calibration, None)?, None)
    };
    let (arch, dtype) = (&source.opened.arch, session.dtype(DType::F32)?);
    let extras = Extras { contribution: args.measure.contribution, taylor: args.measure.taylor };
    let (context, all) = (windows.longest(), windows.windows.len());
    windows.windows = shard.of(windows.windows);
    documents = documents.map(|d| shard.of(d));
    if windows.windows.is_empty() {
        let Shard { i, n } = shard;
        return Err(Failure::input(format!(
            "--shard {i}/{n}: there are only {all} windows; expected a part with some"
        )));
    }
    let mut forecast = Forecast {
        params: arch.n_params() as u64,
        disk: file_bytes(arch),
        tokens: windows.tokens(),
        flops: windows.tokens() as f64 * flops_per_token(arch, context, extras),
        ..Forecast::default()
    };
    let tape = if extras.taylor { tape_bytes(arch, context) } else { 0 };
    let weights = match args.measure.by_block {
        false => 2 * weight_bytes(arch, dtype),
        // The embedding is gone before the first block, which is there in f32, in its type, and packed.
        true => {
            let embedding = 8 * (arch.vocab * arch.hidden) as u64;
            4 * windows.tokens() * arch.hidden as u64 + embedding.max(2 * block_bytes(arch))
        }
    };
    forecast.memory(&[weights + inference_bytes(arch, context) + tape + 3 * file_bytes(arch)]);
    let depth = DepthPlan::new(&args.depth, &source, &windows, documents.as_deref())?;
    if args.measure.by_block && (extras.taylor || depth.is_some()) {
        let flag = if extras.taylor { "--taylor" } else { "--depth" };
        return Err(Failure::input(format!(
            "--by-block with {flag}, which needs the whole model; give one of the two"
        )));
    }
    if let Some(depth) = &depth {
        forecast.flops += depth.flops(arch);
        forecast.peak_memory += depth.bytes();
    }
    if args.work.dry_run {
        let seconds = forecast.seconds(&session)?;
        return session.print(&forecast.json(seconds), &forecast.text(seconds));
    }
    forecast.check(&session, out, args.work.force)?;
    let stop = Stop::listen()?;
    create_parent(out)?;
    let (set, depth) = if args.measure.by_block {
        let text = (&windows.windows[..], documents.as_deref());
        (by_block(&session, &Checkpoint(&source.opened), dtype, text, extras, &stop)?, None)
    } else {
        let model = source.load(session.backend(), dtype)?;
        // The weights once more in memory, for products that need not arrange them anew for every window.
        model.keep_packed(session.backend())?;
        let calibration = Calibration { session: &session, model: &model, windows: &windows.windows, stop: &stop };
        let set = calibration.run(extras, documents.as_deref())?;
        (set, depth.map(|depth| depth.run(&session, &model, &stop)).transpose()?)
    };
    let swept = depth.as_ref().map_or(Vec::new(), |d| d.results.to_arrays());
    let settings = Conditions::new(context, "first", mask, dtype, extras);
    let origin = Origin::new(source.hash()?, windows.hash.clone(), settings, shard, all);
    importance_file::save(out, &set, &origin, &swept)?;
    let seconds = begin.elapsed().as_secs_f64();
    let mut json = json!({"tokens": set.tokens(), "seconds": seconds, "out": out});
    let mut rows = vec![vec!["layer".to_string(), "block influence".to_string()]];
    rows.extend(set.block_influence().iter().enumerate().map(|(l, bi)| vec![l.to_string(), format!("{bi:.4}")]));
    let mut text = table(&rows);
    if let Some(depth) = depth {
        json["depth"] = depth.json;
        text += &depth.text;
    }
    let text = format!("{text}{} tokens in {seconds:.1} s: {}\n", set.tokens(), out.display());
    session.print(&json, &text)
}

/// Bytes of an importance file: a score and six sums for every channel of every site.
fn file_bytes(arch: &Arch) -> u64 {
    let sums = |channels: usize| (8 + 6 * 8 * ExactSum::LIMBS) * channels;
    let layer = |l: &paring_model::LayerArch| {
        sums(2 * arch.hidden + 2 * l.ffn + l.heads * (arch.head_dim + 2) + 2 * l.kv_heads)
    };
    arch.layers.iter().map(layer).sum::<usize>() as u64
}

/// A forward without the head; for Taylor scores the head, its backward, and each block three times: kept, again, and back.
fn flops_per_token(arch: &Arch, context: usize, extras: Extras) -> f64 {
    let all = arch.forward_flops_per_token(context);
    let head = 2.0 * (arch.vocab * arch.hidden) as f64;
    if extras.taylor { 3.0 * all } else { all - head }
}

/// Bytes of a tape that keeps the input of every block, and one block whole.
fn tape_bytes(arch: &Arch, context: usize) -> u64 {
    let inputs = 4 * arch.hidden * arch.layers.len() * context;
    (inputs + paring_train::activation_bytes(arch, context) / arch.layers.len().max(1)) as u64
}
