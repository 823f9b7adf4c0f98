//! What importance costs beside a plain forward of the same windows: `calibration [--windows 64] [--bf16] MODEL TEXT`.
//!
//! Each window runs three times in turn: the stack alone, the stack and the head as for perplexity, and the stack while importance is
//! measured. So a slow spell of a shared machine falls on all of them. Windows are of 512 tokens and run one at a time, as
//! `paring importance` runs them.
#![allow(clippy::unwrap_used, reason = "a measurement stops at the first surprise")]
use paring_calibrate::Measure;
use paring_cpu::Cpu;
use paring_exec::Ctx;
use paring_importance::Extras;
use paring_model::{Batch, Model};
use paring_ops::Backend;
use paring_tensor::DType;
use paring_text::{Tokenizer, pack};
use std::{path::Path, time::Instant};

const CONTEXT: usize = 512;

fn timed(into: &mut Vec<f64>, run: impl FnOnce()) {
    let begin = Instant::now();
    run();
    into.push(begin.elapsed().as_secs_f64());
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

fn main() {
    let (mut windows, mut dtype, mut files) = (64, DType::F32, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(a) = args.next() {
        match a.as_str() {
            "--windows" => windows = args.next().unwrap().parse().unwrap(),
            "--bf16" => dtype = DType::BF16,
            _ => files.push(a),
        }
    }
    let cpu = Cpu::new(None).unwrap();
    let opened = paring_model::open(Path::new(&files[0])).unwrap();
    let tokenizer = Tokenizer::from_dir(&opened.path).unwrap();
    let windows = pack(&tokenizer, &[files[1].clone().into()], CONTEXT, Some(windows)).unwrap();
    let model = Model::load(&opened.arch, opened.source(), &cpu, dtype).unwrap();
    model.keep_packed(&cpu).unwrap();
    let mut measure = Measure::new(&cpu, &model, Extras::default()).unwrap();
    let (mut stack, mut whole, mut importance) = (Vec::new(), Vec::new(), Vec::new());
    for window in &windows {
        let batch = Batch::pack([window.as_slice()]);
        timed(&mut stack, || drop(model.hidden(&mut Ctx::infer(&cpu), &batch, None).unwrap()));
        timed(&mut whole, || {
            let x = model.hidden(&mut Ctx::infer(&cpu), &batch, None).unwrap();
            let targets = batch.next_tokens();
            cpu.head_cross_entropy(None, &x.tensor, &model.head().tensor, &targets, 1.0).unwrap();
        });
        timed(&mut importance, || measure.window(window, None).unwrap());
    }
    println!("{} windows of {CONTEXT} tokens, {dtype}, {} threads", windows.len(), cpu.threads());
    for (name, seconds) in [("stack", &stack), ("stack and head", &whole), ("importance", &importance)] {
        let of = |other: &Vec<f64>| median(seconds.iter().zip(other).map(|(s, o)| s / o));
        let total: f64 = seconds.iter().sum();
        println!(
            "{name}: {total:.1} s; median ratio to the stack {:.3}, to stack and head {:.3}",
            of(&stack),
            of(&whole)
        );
    }
}
