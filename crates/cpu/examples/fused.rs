//! Throughput of what lies between the matrix products, at the sizes of SmolLM2-135M: attention in GFLOP/s, all else in GB/s of what it has to
//! read and write. For statistics see the criterion benches.
use paring_cpu::{Cpu, Isa};
use paring_ops::{Accum, Activation, AdamWStep, AttnSpec, Backend, Result};
use paring_tensor::{DType, Shape, Tensor};
use std::time::{Duration, Instant};

fn tensor(cpu: &Cpu, rows: usize, cols: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
    cpu.upload(&values, DType::F32, shape(rows, cols)?)
}

fn shape(rows: usize, cols: usize) -> Result<Shape> {
    Shape::new(&[rows, cols]).map_err(paring_ops::Error::in_op("fused"))
}

/// Best of half a second, and `amount / 1e9` in that time.
fn time(name: &str, amount: f64, unit: &str, mut f: impl FnMut() -> Result<()>) -> Result<()> {
    f()?;
    let (begin, mut best) = (Instant::now(), f64::INFINITY);
    while begin.elapsed() < Duration::from_millis(400) {
        let start = Instant::now();
        f()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:<44} {:>9.3} ms {:>8.1} {unit}", best * 1e3, amount / best / 1e9);
    Ok(())
}

fn attention(cpu: &Cpu, heads: usize, kv: usize, h: usize, lengths: &[usize]) -> Result<()> {
    let mut cu_len = vec![0];
    lengths.iter().for_each(|len| cu_len.push(cu_len[cu_len.len() - 1] + len));
    let spec = AttnSpec::packed(heads, kv, h, cu_len);
    let t = spec.n_tokens();
    let [mut y, mut dq, q, dy] = [
        tensor(cpu, t, heads * h)?,
        tensor(cpu, t, heads * h)?,
        tensor(cpu, t, heads * h)?,
        tensor(cpu, t, heads * h)?,
    ];
    let [mut dk, mut dv, k, v] =
        [tensor(cpu, t, kv * h)?, tensor(cpu, t, kv * h)?, tensor(cpu, t, kv * h)?, tensor(cpu, t, kv * h)?];
    let mut lse = tensor(cpu, t, heads)?;
    let pairs: usize = lengths.iter().map(|len| len * (len + 1) / 2).sum();
    let flops = 4.0 * (pairs * heads * h) as f64;
    let name = format!("{} x {}, {heads}/{kv} heads of {h}", lengths.len(), lengths[0]);
    time(&format!("attention {name}"), flops, "GFLOP/s", || cpu.attention(&mut y, &mut lse, &q, &k, &v, &spec))?;
    time(&format!("attention_backward {name}"), 2.5 * flops, "GFLOP/s", || {
        cpu.attention_backward(&mut dq, &mut dk, &mut dv, &dy, &y, &lse, &q, &k, &v, &spec)
    })
}

fn decode(cpu: &Cpu, past: usize) -> Result<()> {
    let (heads, kv, h) = (9, 3, 64);
    let spec = AttnSpec::cached(heads, kv, h, 1, past);
    // A cache for each of 30 layers, as decoding meets them.
    let caches = (0..30)
        .map(|_| Ok((tensor(cpu, past + 1, kv * h)?, tensor(cpu, past + 1, kv * h)?)))
        .collect::<Result<Vec<_>>>()?;
    let (q, mut y, mut lse) = (tensor(cpu, 1, heads * h)?, tensor(cpu, 1, heads * h)?, tensor(cpu, 1, heads)?);
    let bytes = 30.0 * 2.0 * 4.0 * ((past + 1) * kv * h) as f64;
    time(&format!("decoding, {past} keys, 30 layers"), bytes, "GB/s", || {
        caches.iter().try_for_each(|(k, v)| cpu.attention(&mut y, &mut lse, &q, k, v, &spec))
    })
}

/// The products of one token, each with weights of its own: what decoding reads from memory.
fn products(cpu: &Cpu, dtype: DType) -> Result<()> {
    let layer = [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)];
    let shapes = std::iter::repeat_n(layer, 30).flatten().chain([(49152, 576)]);
    let weight = |(n, k)| {
        let (mut w, x) = (cpu.alloc(dtype, shape(n, k)?)?, tensor(cpu, n, k)?);
        cpu.convert(&mut w, &x)?;
        Ok((tensor(cpu, 1, n)?, tensor(cpu, 1, k)?, w))
    };
    let mut all = shapes.map(weight).collect::<Result<Vec<_>>>()?;
    let bytes: usize = all.iter().map(|(_, _, w)| dtype.bytes(w.elements())).sum();
    let name = format!("products of a token, {dtype}");
    time(&name, bytes as f64, "GB/s", || all.iter_mut().try_for_each(|(y, x, w)| cpu.linear(y, x, w)))?;
    for (n, k) in [(4096, 4096), (1536, 576)] {
        let (mut y, x, w) = weight((n, k))?;
        time(&format!("1 x {k} x {n} {dtype}, again"), dtype.bytes(n * k) as f64, "GB/s", || {
            cpu.linear(&mut y, &x, &w)
        })?;
    }
    Ok(())
}

/// Products of few rows: where the way for few rows should end.
fn few_rows(cpu: &Cpu, dtype: DType) -> Result<()> {
    for (n, k) in [(1536, 576), (576, 1536)] {
        let (mut w, x) = (cpu.alloc(dtype, shape(n, k)?)?, tensor(cpu, n, k)?);
        cpu.convert(&mut w, &x)?;
        for t in [2, 4, 8, 16, 32, 33, 48, 64, 65, 96] {
            let (mut y, x) = (tensor(cpu, t, n)?, tensor(cpu, t, k)?);
            let flops = 2.0 * (t * n * k) as f64;
            time(&format!("{t} x {k} x {n} {dtype}"), flops, "GFLOP/s", || cpu.linear(&mut y, &x, &w))?;
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let isa = std::env::args().nth(2).and_then(|name| Isa::ALL.into_iter().find(|isa| format!("{isa:?}") == name));
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let cpu = Cpu::with_isa(threads, isa.unwrap_or_else(Isa::detect))?;
    let only = std::env::args().nth(3).unwrap_or_default();
    if only != "rest" {
        for dtype in [DType::BF16, DType::F32] {
            products(&cpu, dtype)?;
            if only == "few" {
                few_rows(&cpu, dtype)?;
            }
        }
    }
    if !only.is_empty() && only != "rest" {
        return Ok(());
    }
    println!("{:?}, {} threads", cpu.isa(), cpu.threads());
    attention(&cpu, 9, 3, 64, &[512])?;
    attention(&cpu, 9, 3, 64, &[256; 4])?;
    attention(&cpu, 8, 8, 128, &[512])?;
    attention(&cpu, 8, 4, 32, &[512; 4])?;
    for past in [64, 512, 2048] {
        decode(&cpu, past)?;
    }
    // 1024 tokens: larger than the second-level cache, as in a step of training.
    let (t, d, ffn) = (1024, 576, 1536);
    let [mut y, mut z, x, dy] =
        [tensor(&cpu, t, ffn)?, tensor(&cpu, t, ffn)?, tensor(&cpu, t, ffn)?, tensor(&cpu, t, ffn)?];
    let bytes = |n: usize, operands: usize| (4 * n * operands) as f64;
    time("add", bytes(t * ffn, 3), "GB/s", || cpu.add(&mut y, &x, &dy))?;
    time("accumulate", bytes(t * ffn, 3), "GB/s", || cpu.accumulate(&mut y, Accum::Add, &x))?;
    for act in Activation::ALL {
        time(&format!("gated {act:?}"), bytes(t * ffn, 3), "GB/s", || cpu.gated(&mut y, act, &x, &dy))?;
        time(&format!("gated_backward {act:?}"), bytes(t * ffn, 5), "GB/s", || {
            cpu.gated_backward(&mut y, &mut z, act, &dy, &x, &dy)
        })?;
    }
    time("activation Relu2", bytes(t * ffn, 2), "GB/s", || cpu.activation(&mut y, Activation::Relu2, &x))?;
    let [mut y, mut sum, x, dy] = [tensor(&cpu, t, d)?, tensor(&cpu, t, d)?, tensor(&cpu, t, d)?, tensor(&cpu, t, d)?];
    let (w, mut dw, mut rstd) = (tensor(&cpu, 1, d)?, tensor(&cpu, 1, d)?, tensor(&cpu, t, 1)?);
    time("rms_norm", bytes(t * d, 2), "GB/s", || cpu.rms_norm(&mut y, &mut rstd, &x, &w, 1e-5))?;
    time("add_rms_norm", bytes(t * d, 4), "GB/s", || cpu.add_rms_norm(&mut sum, &mut y, &mut rstd, &x, &dy, &w, 1e-5))?;
    time("rms_norm_backward", bytes(t * d, 4), "GB/s", || {
        cpu.rms_norm_backward(&mut y, Accum::Add, &mut dw, &dy, &x, &w, &rstd)
    })?;
    let (turns, positions) = (tensor(&cpu, t, 64)?, (0..t as u32).collect::<Vec<u32>>());
    time("rope", bytes(t * d, 2), "GB/s", || cpu.rope(&mut sum, &turns, &positions, false))?;
    let step = AdamWStep {
        lr: 1e-4,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        bias1: 0.1,
        bias2_sqrt: 0.2,
        grad_scale: 1.0,
    };
    // 28 million parameters: an embedding, from memory.
    let n = 49152;
    let [mut w, mut m, mut v, grad] =
        [tensor(&cpu, n, d)?, tensor(&cpu, n, d)?, tensor(&cpu, n, d)?, tensor(&cpu, n, d)?];
    cpu.fill(&mut v, 1.0)?;
    time("adamw", bytes(n * d, 7), "GB/s", || cpu.adamw(&mut w, &mut m, &mut v, &grad, &step))?;
    time("sum_squares", bytes(n * d, 1), "GB/s", || cpu.sum_squares(&grad).map(|_| ()))
}
