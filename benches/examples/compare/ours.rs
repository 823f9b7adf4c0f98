//! Our side: what `benches/peers` do with PyTorch and llama.cpp, done with this project's crates through their public interfaces.
use crate::Result;
use paring_cpu::Cpu;
use paring_exec::Ctx;
use paring_model::{Batch, LoadAs, Model, Opened, ParamSpec, SourceKind};
use paring_ops::{Accum, Backend};
use paring_optim::{AdamW, Schedule};
use paring_sampling::{Sampler, rng::Rng};
use paring_tensor::{DType, Shape, Tensor};
use paring_train::{Objective, TrainConfig, Trainer};
use serde_json::{Value, json};
use std::{collections::HashMap, io::Write, path::Path, time::Instant};

/// A case ready to run: does it once and gives its seconds.
type Run<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// Answers the lines of standard input until it ends.
pub(crate) fn serve(threads: usize) -> Result<()> {
    let cpu = Cpu::new(Some(threads))?;
    let mut run: Option<Run<'_>> = None;
    for line in std::io::stdin().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let answer = answer(&cpu, &mut run, &request).unwrap_or_else(|e| json!({"error": e.to_string()}));
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}").and_then(|()| out.flush())?;
    }
    Ok(())
}

fn answer<'a>(cpu: &'a Cpu, run: &mut Option<Run<'a>>, request: &Value) -> Result<Value> {
    match request["do"].as_str().unwrap_or_default() {
        "hello" => {
            let version = format!("Paring {}, {:?}, {} threads", env!("CARGO_PKG_VERSION"), cpu.isa(), cpu.threads());
            Ok(json!({"name": "Paring", "version": version, "formats": ["directory", "gguf"]}))
        }
        "describe" => {
            let opened = paring_model::open(Path::new(text(request, "model")?))?;
            Ok(describe(&opened))
        }
        "ceilings" => {
            let c = cpu.ceilings();
            Ok(json!({"f32": c.f32_ops, "bf16": c.bf16_ops, "int8": c.int8_ops, "read": c.read_bytes}))
        }
        "setup" => {
            *run = None; // frees the last case before the next is there
            *run = Some(set_up(cpu, &request["case"])?);
            Ok(json!({}))
        }
        "run" => {
            let run = run.as_mut().ok_or("no case is set up")?;
            let at_least = request["seconds"].as_f64().unwrap_or(0.0);
            let (mut total, mut times) = (0.0, 0);
            while times == 0 || total < at_least {
                total += run()?;
                times += 1;
            }
            Ok(json!({"seconds": total / f64::from(times)}))
        }
        "memory" => Ok(json!({"peak": memory(request["reset"] == true)})),
        other => Err(format!("there is no `{other}`").into()),
    }
}

/// The peak of resident memory in bytes, since the start or the last reset; `None` where the system does not say.
fn memory(reset: bool) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let peak = line.split_whitespace().next()?.parse::<u64>().ok()? * 1024;
    if reset {
        std::fs::write("/proc/self/clear_refs", "5").ok()?;
    }
    Some(peak)
}

fn text<'v>(value: &'v Value, key: &str) -> Result<&'v str> {
    value[key].as_str().ok_or_else(|| format!("the request has no text `{key}`").into())
}

fn number(value: &Value, key: &str) -> Result<usize> {
    let n = value[key].as_u64().and_then(|n| usize::try_from(n).ok());
    n.ok_or_else(|| format!("the request has no number `{key}`").into())
}

/// Format, type and sizes of a model.
fn describe(opened: &Opened) -> Value {
    let arch = &opened.arch;
    let matrices = paring_model::params(arch).into_iter().filter(|p| p.layer.is_some() && p.shape.len() == 2);
    json!({
        "gguf": matches!(opened.kind, SourceKind::Gguf(_)),
        "stored": stored(opened),
        "matrices": matrices.map(|p| p.elements()).sum::<usize>(),
        "head": arch.vocab * arch.hidden,
        "queries": arch.layers.iter().map(|l| l.heads * arch.head_dim).sum::<usize>(),
        "bytes": opened.stored_bytes(),
    })
}

/// The type that most bytes of the checkpoint are stored in.
fn stored(opened: &Opened) -> &'static str {
    let source = opened.source();
    let mut bytes: HashMap<&str, u64> = HashMap::new();
    for info in source.names().iter().filter_map(|name| source.info(name)) {
        *bytes.entry(info.storage.name()).or_default() += info.bytes;
    }
    bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("nothing", |(name, _)| name)
}

fn timed<'a>(mut f: impl FnMut() -> Result<()> + 'a) -> Run<'a> {
    Box::new(move || {
        let start = Instant::now();
        f()?;
        Ok(start.elapsed().as_secs_f64())
    })
}

fn dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        other => Err(format!("{other} is not a type that this side computes in").into()),
    }
}

fn ids(stream: u64, n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|i| Rng::new(7).below(stream, i as u64, vocab as u64) as u32).collect()
}

fn set_up<'a>(cpu: &'a Cpu, case: &Value) -> Result<Run<'a>> {
    match text(case, "kind")? {
        "gemm" => gemm(cpu, case),
        "prefill" => prefill(cpu, case),
        "decode" => decode(cpu, case),
        "train" | "distil" => learn(cpu, case),
        other => Err(format!("there is no case `{other}`").into()),
    }
}

fn gemm<'a>(cpu: &'a Cpu, case: &Value) -> Result<Run<'a>> {
    let (m, n, k) = (number(case, "m")?, number(case, "n")?, number(case, "k")?);
    let dtype = dtype(text(case, "dtype")?)?;
    let random = |stream: u64, dtype: DType, dims: [usize; 2]| -> Result<Tensor> {
        let values: Vec<f32> = (0..dims[0] * dims[1]).map(|i| Rng::new(1).normal(stream, i as u64) as f32).collect();
        Ok(cpu.upload(&values, dtype, Shape::new(&dims)?)?)
    };
    let zeros = |dims: [usize; 2]| -> Result<Tensor> { random(0, DType::F32, dims) };
    let (x, w, dy) = (random(1, DType::F32, [m, k])?, random(2, dtype, [n, k])?, random(3, DType::F32, [m, n])?);
    if case["packed"] == true {
        cpu.keep_packed(&w)?;
    }
    Ok(match text(case, "form")? {
        "forward" => {
            let mut y = zeros([m, n])?;
            timed(move || Ok(cpu.linear(&mut y, &x, &w)?))
        }
        "dx" => {
            let mut dx = zeros([m, k])?;
            timed(move || Ok(cpu.linear_dx(&mut dx, Accum::Set, &dy, &w)?))
        }
        "dw" => {
            let mut dw = zeros([n, k])?;
            timed(move || Ok(cpu.linear_dw(&mut dw, &dy, &x, dtype)?))
        }
        other => return Err(format!("there is no product `{other}`").into()),
    })
}

fn load(cpu: &Cpu, case: &Value) -> Result<Model> {
    let opened = paring_model::open(Path::new(text(case, "model")?))?;
    let load_as = match text(case, "dtype")? {
        // The type of most of the file's weights; some may have another.
        "q8_0" | "q4_0" | "q4_1" => LoadAs::Stored,
        name => dtype(name)?.into(),
    };
    Ok(Model::load(&opened.arch, opened.source(), cpu, load_as)?)
}

fn prefill<'a>(cpu: &'a Cpu, case: &Value) -> Result<Run<'a>> {
    let (model, tokens) = (load(cpu, case)?, number(case, "tokens")?);
    model.keep_packed(cpu)?;
    let batch = Batch::pack([ids(1, tokens, model.arch().vocab).as_slice()]);
    let from = match text(case, "logits")? {
        "all" => 0,
        "last" => tokens - 1,
        other => return Err(format!("there are no `{other}` logits").into()),
    };
    Ok(timed(move || {
        let x = model.hidden(&mut Ctx::infer(cpu), &batch, None)?.tensor;
        std::hint::black_box(model.logits(cpu, &x.rows(from..tokens)?)?);
        Ok(())
    }))
}

fn decode<'a>(cpu: &'a Cpu, case: &Value) -> Result<Run<'a>> {
    let (model, tokens) = (load(cpu, case)?, number(case, "tokens")?);
    let prompt = ids(2, number(case, "prompt")?, model.arch().vocab);
    // The first new token comes from the prompt's logits: one more makes as many steps as tokens.
    let max_tokens = tokens + 1;
    let request = paring_engine::Request { prompt, max_tokens, sampler: Sampler::greedy(), stop: Vec::new() };
    Ok(Box::new(move || {
        let generated = paring_engine::generate(cpu, &model, &request, &mut |_| true)?;
        Ok(max_tokens as f64 / generated.decode_tokens_per_second)
    }))
}

/// A step of training or, with the same model in bf16 as the teacher, of distillation.
fn learn<'a>(cpu: &'a Cpu, case: &Value) -> Result<Run<'a>> {
    let opened = paring_model::open(Path::new(text(case, "model")?))?;
    let (arch, source) = (opened.arch.clone(), opened.source());
    let teacher = match text(case, "kind")? {
        "distil" => Some(Model::load(&arch, source, cpu, DType::BF16)?),
        _ => None,
    };
    let config = TrainConfig {
        schedule: Schedule { peak: 1e-5, floor: 1e-5, warmup: 0, total: 1_000_000 },
        adamw: AdamW::default(),
        decay_vectors: false,
        clip: 1.0,
        dtype: dtype(text(case, "dtype")?)?,
        moments: if case["bf16 moments"] == true { DType::BF16 } else { DType::F32 },
        recompute: case["recompute"] == true,
    };
    let read = |p: &ParamSpec| -> Result<Vec<f32>> { Ok(source.read_checked(&p.name)?) };
    let mut trainer = Trainer::new(cpu, arch.clone(), config, read)?;
    let (windows, context) = (number(case, "windows")?, number(case, "context")?);
    let ids = ids(3, windows * context, arch.vocab);
    let batches = [Batch::pack(ids.chunks(context))];
    Ok(timed(move || {
        let objective = teacher.as_ref().map_or(Objective::NextToken, Objective::ForwardKl);
        trainer.train_step(&batches, objective)?;
        Ok(())
    }))
}
