//! Halves the inputs of a linear map, by slicing and by least squares, and prints how much of the output each loses.
use paring_prune::{Error, Ridge, least_squares, reconstruction_error};

fn main() -> Result<(), Error> {
    // Sixteen inputs that are mixtures of five signals, so that half of them can speak for the rest.
    let x =
        |t: usize, i: usize| (0..5).map(|s| ((t * (s + 2)) as f64).sin() * ((i * (s + 1)) as f64).cos()).sum::<f64>();
    let gram: Vec<f64> = (0..256).map(|at| (0..200).map(|t| x(t, at / 16) * x(t, at % 16)).sum()).collect();
    let w: Vec<f32> = (0..4 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
    let kept: Vec<usize> = (0..8).collect();
    let sliced: Vec<f32> = w.chunks(16).flat_map(|row| &row[..8]).copied().collect();
    let repaired = least_squares(&gram, 16, &w, &kept, &Ridge::default())?;
    println!("slicing loses {:.4}", reconstruction_error(&gram, 16, &w, &kept, &sliced)?);
    println!("least squares {:.4}", reconstruction_error(&gram, 16, &w, &kept, &repaired)?);
    Ok(())
}
