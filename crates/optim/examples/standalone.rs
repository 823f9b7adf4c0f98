//! Minimises (w - 3)^2 with AdamW under warm-up and cosine decay.
use paring_optim::{AdamW, Schedule, adamw_update};

fn main() {
    let schedule = Schedule { peak: 0.2, floor: 0.002, warmup: 10, total: 120 };
    let optimizer = AdamW { weight_decay: 0.0, ..AdamW::default() };
    let (mut w, mut m, mut v) = ([0.0f32], [0.0f32], [0.0f32]);
    for step in 0..schedule.total {
        let grad = [2.0 * (w[0] - 3.0)];
        adamw_update(&mut w, &mut m, &mut v, &grad, &optimizer.step(schedule.at(step), step + 1));
        if step % 30 == 29 {
            println!("step {:>3}: rate {:.4}, w {:.4}", step + 1, schedule.at(step), w[0]);
        }
    }
}
