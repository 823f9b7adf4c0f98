//! Rows of a table.

/// `y[t] = w[ids[t]]`.
pub(crate) fn embed(y: &mut [f32], ids: &[u32], w: &[f64], d: usize) {
    for (t, &id) in ids.iter().enumerate() {
        for i in 0..d {
            y[t * d + i] = w[id as usize * d + i] as f32;
        }
    }
}

/// `dw[ids[t]] += dy[t]`: a token that comes twice adds twice.
pub(crate) fn embed_backward(dw: &mut [f32], dy: &[f64], ids: &[u32], d: usize) {
    let mut sum: Vec<f64> = dw.iter().map(|&x| f64::from(x)).collect();
    for (t, &id) in ids.iter().enumerate() {
        for i in 0..d {
            sum[id as usize * d + i] += dy[t * d + i];
        }
    }
    for (dw, sum) in dw.iter_mut().zip(sum) {
        *dw = sum as f32;
    }
}
