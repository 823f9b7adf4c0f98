//! Throughput of matrix products and attention at the sizes of a small language model, in GFLOP/s. For statistics see the criterion benches.
use paring_cpu::Cpu;
use paring_ops::{Accum, AttnSpec, Backend, Result};
use paring_tensor::{DType, Shape, Tensor};
use std::time::Instant;

fn tensor(cpu: &Cpu, dtype: DType, rows: usize, cols: usize) -> Result<Tensor> {
    let values: Vec<f32> = (0..rows * cols).map(|i| ((i * 7919) % 1000) as f32 / 1000.0 - 0.5).collect();
    cpu.upload(&values, dtype, Shape::new(&[rows, cols]).map_err(paring_ops::Error::in_op("speed"))?)
}

fn time(name: &str, flops: f64, mut f: impl FnMut() -> Result<()>) -> Result<()> {
    f()?;
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        f()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:<44} {:>9.3} ms {:>8.1} GFLOP/s", best * 1e3, flops / best / 1e9);
    Ok(())
}

fn main() -> Result<()> {
    let cpu = Cpu::new(std::env::args().nth(1).and_then(|n| n.parse().ok()))?;
    println!("{:?}, {} threads", cpu.isa(), cpu.threads());
    for (t, k, n) in [
        (512, 576, 1536),
        (512, 1536, 576),
        (512, 576, 576),
        (2048, 256, 768),
        (4096, 256, 256),
        (341, 576, 49152),
        (1, 576, 1536),
    ] {
        for dtype in [DType::F32, DType::BF16] {
            let (x, w) = (tensor(&cpu, DType::F32, t, k)?, tensor(&cpu, dtype, n, k)?);
            let (mut y, mut dx, mut dw) =
                (tensor(&cpu, DType::F32, t, n)?, tensor(&cpu, DType::F32, t, k)?, tensor(&cpu, DType::F32, n, k)?);
            let dy = tensor(&cpu, DType::F32, t, n)?;
            let flops = 2.0 * (t * k * n) as f64;
            time(&format!("linear    {t} x {k} x {n} {dtype}"), flops, || cpu.linear(&mut y, &x, &w))?;
            time(&format!("linear_dx {t} x {k} x {n} {dtype}"), flops, || cpu.linear_dx(&mut dx, Accum::Set, &dy, &w))?;
            time(&format!("linear_dw {t} x {k} x {n} {dtype}"), flops, || cpu.linear_dw(&mut dw, &dy, &x, dtype))?;
        }
    }
    for (heads, kv, h, len, n) in [(9, 3, 64, 512, 1), (8, 4, 32, 512, 4)] {
        let spec = AttnSpec::packed(heads, kv, h, (0..=n).map(|i| i * len).collect());
        let t = len * n;
        let (q, k, v) = (
            tensor(&cpu, DType::F32, t, heads * h)?,
            tensor(&cpu, DType::F32, t, kv * h)?,
            tensor(&cpu, DType::F32, t, kv * h)?,
        );
        let (mut y, mut lse) = (tensor(&cpu, DType::F32, t, heads * h)?, tensor(&cpu, DType::F32, t, heads)?);
        let flops = 2.0 * (t * len * heads * h) as f64;
        time(&format!("attention {n} x {len}, {heads}/{kv} heads of {h}"), flops, || {
            cpu.attention(&mut y, &mut lse, &q, &k, &v, &spec)
        })?;
        let (mut dq, mut dk, mut dv) = (q.clone(), k.clone(), v.clone());
        (dq, dk, dv) = (
            tensor(&cpu, DType::F32, t, dq.n_cols())?,
            tensor(&cpu, DType::F32, t, dk.n_cols())?,
            tensor(&cpu, DType::F32, t, dv.n_cols())?,
        );
        time(&format!("attention backward {n} x {len}"), 2.5 * flops, || {
            cpu.attention_backward(&mut dq, &mut dk, &mut dv, &y, &y, &lse, &q, &k, &v, &spec)
        })?;
    }
    Ok(())
}
