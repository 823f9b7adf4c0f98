//! Trains a small Llama from random initialisation, tokenizer included: how the embedded teacher of `fixtures/teacher` was made.
//!
//! usage: `pretrain RECIPE.toml --text FILE... --heldout FILE --work DIR --out DIR`
//!
//! A run that was stopped goes on from its newest checkpoint in `--work`; the result does not depend on where it was stopped.
use clap::Parser;
use paring_checkpoint::{AppendLog, DirWriter, Overwrite, read_text};
use paring_cpu::Cpu;
use paring_eval::likelihood;
use paring_model::{Arch, write_model};
use paring_optim::{AdamW, Schedule};
use paring_tensor::DType;
use paring_text::{Tokenizer, pack, read_documents, train_bpe};
use paring_train::{
    CheckpointPolicy, Control, DataOrder, Monitor, Objective, Resume, StepReport, TrainConfig, Trainer, initial_values,
    load_latest, micro_windows, run,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{error::Error, path::PathBuf, time::Instant};

#[derive(Debug, Parser)]
struct Args {
    /// The recipe, TOML
    recipe: PathBuf,
    /// Training text; form feeds separate documents
    #[arg(long, num_args = 1.., required = true)]
    text: Vec<PathBuf>,
    /// Text that is not trained on
    #[arg(long)]
    heldout: PathBuf,
    /// Directory of tokenizer, checkpoints and log
    #[arg(long)]
    work: PathBuf,
    /// Directory of the finished model
    #[arg(long)]
    out: PathBuf,
    /// Threads [default: all]
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    vocab: usize,
    hidden: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    max_positions: usize,
    rope_theta: f64,
    rms_eps: f64,
    seed: u64,
    context: usize,
    batch: usize,
    steps: u64,
    lr: f32,
    lr_floor: f32,
    warmup: u64,
    weight_decay: f32,
    clip: f64,
}

impl Recipe {
    fn config(&self, end: u32) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "attention_bias": false,
            "mlp_bias": false, "vocab_size": self.vocab, "hidden_size": self.hidden, "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim, "max_position_embeddings": self.max_positions, "rms_norm_eps": self.rms_eps,
            "rope_theta": self.rope_theta, "tie_word_embeddings": true, "bos_token_id": end, "eos_token_id": end,
        })
    }
}

/// Logs every tenth step and says it on stderr.
struct Log {
    log: AppendLog,
    start: Instant,
    first: Option<u64>,
}

impl Monitor for Log {
    fn step(&mut self, trainer: &Trainer<'_>, r: &StepReport) -> paring_train::Result<Control> {
        let first = *self.first.get_or_insert(r.step - 1);
        if r.step.is_multiple_of(10) || r.step == 1 {
            let line = json!({"step": r.step, "loss": r.loss, "grad_norm": r.grad_norm, "lr": r.lr, "tokens": trainer.token_count()});
            self.log.line(&line.to_string())?;
            let rate = ((r.step - first) * r.tokens) as f64 / self.start.elapsed().as_secs_f64();
            eprintln!("step {} loss {:.4} norm {:.2} {rate:.0} tokens/s", r.step, r.loss, r.grad_norm);
        }
        Ok(Control::Continue)
    }

    fn note(&mut self) -> paring_train::Result<Value> {
        self.log.sync()?;
        Ok(json!({"log": self.log.len()}))
    }
}

/// The tokenizer of an earlier start, or a new one.
fn tokenizer(args: &Args, recipe: &Recipe) -> Result<Tokenizer, Box<dyn Error>> {
    let dir = args.work.join("tokenizer");
    if !dir.exists() {
        let mut texts = Vec::new();
        for file in &args.text {
            for document in read_documents(file)? {
                texts.push(document?);
            }
        }
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let trained = train_bpe(&texts, recipe.vocab, "<|endoftext|>")?;
        let mut out = DirWriter::create(&dir, Overwrite::Refuse)?;
        for (name, bytes) in trained.files()? {
            out.write_bytes(&name, &bytes)?;
        }
        out.commit()?;
    }
    Ok(Tokenizer::from_dir(&dir)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let recipe: Recipe = toml::from_str(&read_text(&args.recipe, 1 << 20)?)?;
    paring_checkpoint::atomic::create_dir_all(&args.work)?;
    let tokenizer = tokenizer(&args, &recipe)?;
    let end = tokenizer.end_token().ok_or("the tokenizer has no end token")?;
    let windows = pack(&tokenizer, &args.text, recipe.context, None)?;
    eprintln!("{} windows of {} tokens", windows.len(), recipe.context);

    let arch = Arch::from_config(&recipe.config(end))?;
    tokenizer.check_fits(arch.vocab)?;
    let cpu = Cpu::new(args.threads)?;
    let config = TrainConfig {
        schedule: Schedule { peak: recipe.lr, floor: recipe.lr_floor, warmup: recipe.warmup, total: recipe.steps },
        adamw: AdamW { weight_decay: recipe.weight_decay, ..AdamW::default() },
        decay_vectors: false,
        clip: recipe.clip,
        dtype: DType::F32,
        moments: DType::F32,
        recompute: false,
    };
    let mut trainer = Trainer::new(&cpu, arch.clone(), config, |p| {
        Ok::<_, paring_train::Error>(initial_values(&arch, p, recipe.seed))
    })?;
    let policy = CheckpointPolicy {
        dir: args.work.join("checkpoints"),
        every: 100,
        identity: json!({"recipe": format!("{recipe:?}"), "windows": windows.len()}),
    };
    let log_path = args.work.join("metrics.jsonl");
    let log = match load_latest(&mut trainer, &policy.dir, &policy.identity)? {
        Resume::At { step, note, .. } => {
            eprintln!("going on after step {step}");
            AppendLog::resume(&log_path, note["log"].as_u64().ok_or("the checkpoint does not know the log's length")?)?
        }
        Resume::Fresh => AppendLog::resume(&log_path, 0)?,
    };
    let order = DataOrder::new(windows.len(), recipe.batch, recipe.seed);
    let micro = micro_windows(&arch, recipe.context);
    let mut monitor = Log { log, start: Instant::now(), first: None };
    run(&mut trainer, &windows, &order, micro, recipe.steps, Objective::NextToken, Some(&policy), &mut monitor)?;

    let held = pack(&tokenizer, std::slice::from_ref(&args.heldout), recipe.context, None)?;
    let held: Vec<&[u32]> = held.iter().map(Vec::as_slice).collect();
    let result = likelihood(&cpu, trainer.model(), &held, micro, &mut |_| {})?;
    let mut out = DirWriter::create(&args.out, Overwrite::Refuse)?;
    write_model(&mut out, &arch, &recipe.config(end), |p| trainer.values(p.id))?;
    for (name, bytes) in tokenizer.files()? {
        out.write_bytes(&name, &bytes)?;
    }
    let generation = json!({"bos_token_id": end, "eos_token_id": end});
    out.write_bytes("generation_config.json", format!("{generation:#}\n").as_bytes())?;
    out.write_bytes("metrics.jsonl", read_text(&log_path, 1 << 30)?.as_bytes())?;
    let heldout = json!({
        "nll": result.nll, "perplexity": result.perplexity, "tokens": result.tokens, "dtype": "f32", "context": recipe.context,
        "training_tokens": trainer.token_count(), "training_windows": windows.len(),
    });
    out.write_bytes("heldout.json", format!("{heldout:#}\n").as_bytes())?;
    out.commit()?;
    println!("{heldout:#}");
    Ok(())
}
