//! What calibration keeps of activations. Threads take columns, or rows, never parts of a sum.
use crate::{
    isa::{Isa, vectorised},
    pool::Threads,
};
use paring_ops::{ChannelSums, RowProducts};

/// Columns that are summed at once: their sums stay in registers, and a row's part of them is one cache line.
const STRIPE: usize = 16;
/// Columns of a task.
const COLUMNS: usize = 8 * STRIPE;
/// Elements of a task of rows.
const PIECE: usize = 1 << 14;
/// Sums that one row is spread over.
const LANES: usize = 8;

/// `sum |x|`, `sum x^2`, `sum (x - x_0)` and its square, for the columns of a stripe.
type Stripe = [[f64; STRIPE]; 4];

vectorised! {
    fn stripe(x: &[f32], columns: usize, at: usize) -> Stripe {
        let mut sums = [[0f64; STRIPE]; 4];
        let mut first = [0f64; STRIPE];
        for (t, row) in x.chunks_exact(columns).enumerate() {
            let Some(row) = row.get(at..).and_then(|row| row.first_chunk::<STRIPE>()) else { break };
            if t == 0 {
                first = row.map(f64::from);
            }
            for c in 0..STRIPE {
                let v = f64::from(row[c]);
                let d = v - first[c];
                sums[0][c] += v.abs();
                sums[1][c] += v * v;
                sums[2][c] += d;
                sums[3][c] += d * d;
            }
        }
        sums
    }
}

/// [`ChannelSums`] of `x`, rows of `columns`: the bits of the definition, whose sums go from row to row as well.
pub(crate) fn channel_sums(isa: Isa, threads: &Threads, x: &[f32], columns: usize) -> ChannelSums {
    let tokens = x.len() / columns.max(1);
    // A stripe is whole: narrower matrices get columns of zeros.
    let padded: Vec<f32>;
    let (x, width) = if columns < STRIPE {
        let mut wide = vec![0f32; tokens * STRIPE];
        for (to, row) in wide.chunks_exact_mut(STRIPE).zip(x.chunks_exact(columns.max(1))) {
            to[..columns].copy_from_slice(row);
        }
        padded = wide;
        (&padded[..], STRIPE)
    } else {
        (x, columns)
    };
    let parts = threads.map(columns.div_ceil(COLUMNS), |task| {
        let range = task * COLUMNS..columns.min((task + 1) * COLUMNS);
        let mut sums = [(); 4].map(|()| Vec::with_capacity(range.len()));
        for from in range.clone().step_by(STRIPE) {
            // The last stripe may reach back over columns that another has summed.
            let at = from.min(width - STRIPE);
            let stripe = stripe(isa, x, width, at);
            for (to, stripe) in sums.iter_mut().zip(&stripe) {
                to.extend_from_slice(&stripe[from - at..(range.end - at).min(STRIPE)]);
            }
        }
        sums
    });
    let [absolute, square, deviation, deviation_square] =
        [0, 1, 2, 3].map(|i| parts.iter().flat_map(|p| &p[i]).copied().collect());
    ChannelSums { tokens, absolute, square, deviation, deviation_square }
}

vectorised! {
    fn products(x: &[f32], y: &[f32]) -> [f64; 3] {
        let mut lanes = [[0f64; LANES]; 3];
        let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
        for (x, y) in x.iter().zip(y) {
            for i in 0..LANES {
                let (a, b) = (f64::from(x[i]), f64::from(y[i]));
                lanes[0][i] += a * b;
                lanes[1][i] += a * a;
                lanes[2][i] += b * b;
            }
        }
        for (i, (&a, &b)) in x_rest.iter().zip(y_rest).enumerate() {
            let (a, b) = (f64::from(a), f64::from(b));
            lanes[0][i] += a * b;
            lanes[1][i] += a * a;
            lanes[2][i] += b * b;
        }
        lanes.map(|l| ((l[0] + l[4]) + (l[1] + l[5])) + ((l[2] + l[6]) + (l[3] + l[7])))
    }
}

/// [`RowProducts`] of every row of `columns`.
pub(crate) fn row_products(isa: Isa, threads: &Threads, x: &[f32], y: &[f32], columns: usize) -> Vec<RowProducts> {
    let columns = columns.max(1);
    let (rows, per_task) = (x.len() / columns, (PIECE / columns).max(1));
    let parts = threads.map(rows.div_ceil(per_task), |task| {
        let range = task * per_task * columns..rows.min((task + 1) * per_task) * columns;
        let pairs = x[range.clone()].chunks_exact(columns).zip(y[range].chunks_exact(columns));
        let one = |(x, y)| {
            let [xy, xx, yy] = products(isa, x, y);
            RowProducts { xy, xx, yy }
        };
        pairs.map(one).collect::<Vec<_>>()
    });
    parts.concat()
}

#[cfg(test)]
mod tests {
    use crate::{Cpu, Isa};
    use paring_ops::{Backend, ChannelSums, RowProducts};
    use paring_tensor::{DType, Shape, Tensor};

    /// Signs, outliers, and columns far from zero.
    fn values(n: usize, seed: usize) -> Vec<f32> {
        let value = |i: usize| {
            let v = ((i * 31 + seed * 7) as f32 * 0.37).sin();
            if i.is_multiple_of(11) { 500.0 + v } else { v }
        };
        (0..n).map(value).collect()
    }

    fn upload(cpu: &Cpu, rows: usize, columns: usize, seed: usize) -> Tensor {
        let shape = Shape::new(&[rows, columns]).unwrap();
        cpu.upload(&values(rows * columns, seed), DType::F32, shape).unwrap()
    }

    const SHAPES: [(usize, usize); 9] =
        [(1, 1), (3, 5), (7, 16), (40, 17), (33, 31), (12, 128), (9, 129), (50, 200), (5, 1000)];

    #[test]
    fn channel_sums_are_the_bits_of_the_definition() {
        for isa in Isa::all_available() {
            for threads in [1, 3] {
                let cpu = Cpu::with_isa(Some(threads), isa).unwrap();
                for (rows, columns) in SHAPES {
                    let x = values(rows * columns, 1);
                    let column = |f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
                        let sum = |c: usize| (0..rows).fold(0.0, |s, t| s + f(x[t * columns + c].into(), x[c].into()));
                        (0..columns).map(sum).collect()
                    };
                    let want = ChannelSums {
                        tokens: rows,
                        absolute: column(&|v, _| v.abs()),
                        square: column(&|v, _| v * v),
                        deviation: column(&|v, first| v - first),
                        deviation_square: column(&|v, first| (v - first) * (v - first)),
                    };
                    let got = cpu.channel_sums(&upload(&cpu, rows, columns, 1)).unwrap();
                    assert_eq!(got, want, "{isa:?}, {threads} threads, {rows} x {columns}");
                }
            }
        }
    }

    #[test]
    fn row_products_are_those_of_f64_and_do_not_depend_on_threads() {
        for isa in Isa::all_available() {
            let run = |threads: usize, rows: usize, columns: usize| -> Vec<RowProducts> {
                let cpu = Cpu::with_isa(Some(threads), isa).unwrap();
                let (x, y) = (upload(&cpu, rows, columns, 1), upload(&cpu, rows, columns, 2));
                cpu.row_products(&x, &y).unwrap()
            };
            for (rows, columns) in SHAPES.into_iter().chain([(300, 100)]) {
                let (x, y) = (values(rows * columns, 1), values(rows * columns, 2));
                let got = run(1, rows, columns);
                assert_eq!(got, run(3, rows, columns), "{isa:?}, {rows} x {columns}");
                assert_eq!(got.len(), rows);
                for (r, got) in got.iter().enumerate() {
                    let row = |v: &[f32]| v[r * columns..(r + 1) * columns].to_vec();
                    let dot = |a: Vec<f32>, b: Vec<f32>| -> f64 {
                        a.iter().zip(&b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
                    };
                    for (got, want) in [
                        (got.xy, dot(row(&x), row(&y))),
                        (got.xx, dot(row(&x), row(&x))),
                        (got.yy, dot(row(&y), row(&y))),
                    ] {
                        assert!(
                            (got - want).abs() <= 1e-9 * want.abs().max(1.0),
                            "{isa:?}, {rows} x {columns}: {got} and not {want}"
                        );
                    }
                }
            }
            let cpu = Cpu::with_isa(Some(1), isa).unwrap();
            assert!(cpu.row_products(&upload(&cpu, 2, 3, 0), &upload(&cpu, 3, 2, 0)).is_err());
        }
    }
}
