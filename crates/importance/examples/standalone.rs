//! Ranks the channels of random activations of which every second one is ten times as large.
use ndarray::Array2;
use paring_importance::{Agg, Error, Moments};

fn main() -> Result<(), Error> {
    let mut site = Moments::new(6);
    for sequence in 0..4 {
        let x = Array2::from_shape_fn((32, 6), |(t, c)| {
            let wave = ((7 * t + 3 * c + sequence) as f32).sin();
            if c % 2 == 0 { 10.0 * wave } else { wave }
        });
        site.observe_sequence(x.view())?;
    }
    for (channel, score) in site.score(Agg::Mean, Agg::L2).iter().enumerate() {
        println!("channel {channel}: {score:.3}");
    }
    Ok(())
}
