//! Draws ten thousand tokens from four logits and prints how often each came.
use paring_sampling::{Error, Sampler};

fn main() -> Result<(), Error> {
    let logits = [2.0f32, 1.0, 0.0, -4.0];
    let sampler = Sampler { temperature: 1.0, top_p: 0.95, seed: 1, ..Sampler::greedy() }.checked()?;
    let mut counts = [0u32; 4];
    for position in 0..10_000 {
        counts[sampler.sample(&logits, position)? as usize] += 1;
    }
    println!("{counts:?}");
    Ok(())
}
