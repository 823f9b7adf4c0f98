//! How long a published model takes for a prompt and for the next token on an A100, and what the time is spent on.
use paring_gpu_model::{A100, LABEL, Preset, Weights, Work, predict};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shape = Preset::named("minitron-4b").ok_or("no such preset")?.shape();
    for work in [Work::Prefill { sequences: 1, tokens: 2048 }, Work::Decode { sequences: 1, context: 2048 }] {
        let prediction = predict(&A100, &shape, Weights::Bf16, &work)?;
        println!("{work:?}: {:.2} ms ({LABEL})", prediction.seconds * 1e3);
        let longest = prediction.kernels.iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
        if let Some(k) = longest {
            println!("  mostly {} by {}, limited by {}", k.op, k.kernel, k.limit.name());
        }
    }
    Ok(())
}
