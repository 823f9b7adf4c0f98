//! What the table of conformance cannot tell apart in the losses of rows: which of equal logits comes first, and how inexact instructions
//! round.
use crate::{
    common::open,
    numbers,
    order::{block_sum, uneven},
    shape,
    sim::{
        Sim,
        Value::{F32 as Float, Pointer, U32},
        text,
    },
};
use paring_ops::Backend;
use paring_tensor::{DType::F32, Tensor};

#[test]
fn of_equal_logits_the_first_counts() {
    let opened = open();
    let cuda = &opened.cuda;
    for v in [9, 40, 4099, 4100] {
        let rows = |row: &[f32]| cuda.upload(row, F32, shape(&[1, v])).unwrap();
        let agree = |a: &Tensor, b: &Tensor| {
            let both = [(a, b), (b, a)].map(|(a, b)| cuda.compare_rows(a, b, &[0]).unwrap().agree);
            assert_eq!(both[0], both[1]);
            both[0]
        };
        // The student's largest logit stands beside itself, in another thread's part and another warp's, in the same thread's part again where
        // rows are longer than a block, and at the end.
        let places: Vec<usize> = [4, 5, v / 3 + 3, 2052, v - 1].into_iter().filter(|&place| place < v).collect();
        let mut student = numbers(1, v);
        places.iter().for_each(|&place| student[place] = 2.0);
        let student = rows(&student);
        let largest_at = |place: usize| {
            let mut row = numbers(2, v);
            row[place] = 5.0;
            rows(&row)
        };
        assert_eq!(agree(&student, &largest_at(0)), 0);
        for &place in &places {
            let teacher = largest_at(place);
            assert_eq!(agree(&student, &teacher), u64::from(place == 4), "{place} of {v}");
            assert_eq!([agree(&teacher, &teacher), agree(&teacher, &largest_at(0))], [1, 0], "{place} of {v}");
        }
    }
    // NaN is no value, and rows without one have no first: they agree.
    let rows = |values: &[f32]| cuda.upload(values, F32, shape(&[1, values.len()])).unwrap();
    let nan = rows(&[f32::NAN; 5]);
    let (some, low) = (rows(&[f32::NAN, 1.0, 0.0, 1.0, f32::NAN]), rows(&[f32::NEG_INFINITY; 5]));
    let agree = |a, b| cuda.compare_rows(a, b, &[0]).unwrap().agree;
    let second = rows(&[0.0, 1.0, 0.0, 0.0, 0.0]);
    let first = rows(&[1.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!([agree(&nan, &nan), agree(&some, &second), agree(&low, &first)], [1, 1, 1]);
    assert_eq!([agree(&nan, &low), agree(&nan, &first), agree(&low, &second)], [0, 0, 0]);
}

/// e^x as the kernels make it, operation by operation.
fn exp_f32(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0 + 127.0;
    let x = x.clamp(-104.0, 89.0);
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-1.428_606_8e-6, n.mul_add(-0.693_145_75, x));
    let p = [8.368_851e-3, 4.166_84e-2, 0.166_665_2, 0.499_999_94]
        .into_iter()
        .fold(1.381_432e-3f32, |p, c| p.mul_add(r, c));
    let y = 1.0 + (p * r).mul_add(r, r);
    let half = n.mul_add(0.5, ROUND);
    let rest = (rounded - half) + ROUND;
    let power = |x: f32| f32::from_bits(x.to_bits() << 23);
    y * power(half) * power(rest)
}

/// The maximum of a row, and the sum of exponentials that a block makes in packs.
fn normaliser(row: &[f32], pack: usize, threads: usize) -> [f64; 2] {
    let mut parts = vec![(f32::NEG_INFINITY, 0.0f64); threads];
    for (i, x) in row.chunks(pack).enumerate() {
        let (max, sum) = &mut parts[i % threads];
        let largest = x.iter().copied().fold(*max, f32::max);
        if *max < largest {
            *sum *= f64::from(exp_f32(*max - largest));
            *max = largest;
        }
        *sum += f64::from(x[1..].iter().fold(exp_f32(x[0] - *max), |part, x| part + exp_f32(x - *max)));
    }
    let most = parts.iter().fold(f32::NEG_INFINITY, |most, (max, _)| most.max(*max));
    let sums: Vec<f64> = parts.iter().map(|(max, sum)| sum * f64::from(exp_f32(max - most))).collect();
    [f64::from(most), block_sum(&sums)]
}

const IGNORE: u32 = u32::MAX;

/// What rows amount to, to the last bit, by few threads and many; nothing of a row without a target.
#[test]
fn normalisers_of_rows() {
    for (v, threads, vector) in
        [(5, 32, false), (100, 32, true), (777, 96, false), (2052, 512, true), (1501, 512, false)]
    {
        let (rows, pack) = (5, if vector { 4 } else { 1 });
        let logits = |seed| uneven(seed, rows * v).into_iter().map(|x| 9.0 * x).collect::<Vec<f32>>();
        let (student, teacher) = (logits(1), logits(2));
        let targets: Vec<u32> = (0..rows).map(|row| if row == 3 { IGNORE } else { (row * 31 % v) as u32 }).collect();
        let of = |values: &[f32], row: usize| normaliser(&values[row * v..][..v], pack, threads);
        let target = |values: &[f32], row: usize| f64::from(values[row * v + targets[row] as usize]);
        let (grid, block) = ([rows as u32, 1, 1], [threads as u32, 1, 1]);
        let sizes = [U32(v as u32), U32(vector.into())];

        let mut sim = Sim::new();
        let [s, t] = [&student, &teacher].map(|values| sim.upload(values));
        let (of_targets, sums) = (sim.upload(&targets), sim.alloc(8 * 8 * rows));
        let arguments = [&[s, t, of_targets, sums].map(Pointer)[..], &sizes].concat();
        sim.launch(text("loss"), "compare_rows_f32", grid, block, 0, &arguments);
        for (row, got) in sim.download::<f64>(sums, 8 * rows).chunks(8).enumerate() {
            if targets[row] == IGNORE {
                assert_eq!(got, [0.0; 8], "row {row} of {v}");
                continue;
            }
            assert_eq!([of(&student, row), of(&teacher, row)].concat(), got[..4], "row {row} of {v}");
            assert_eq!([target(&student, row), target(&teacher, row)], got[5..7], "row {row} of {v}");
        }
        let sums = sim.alloc(8 * 3 * rows);
        let arguments = [&[s, of_targets, sums].map(Pointer)[..], &sizes, &[Float(0.5)]].concat();
        sim.launch(text("loss"), "cross_entropy_rows_f32", grid, block, 0, &arguments);
        for (row, got) in sim.download::<f64>(sums, 3 * rows).chunks(3).enumerate() {
            let [max, sum] = of(&student, row);
            let want = if targets[row] == IGNORE { [0.0; 3] } else { [max, sum, target(&student, row)] };
            assert_eq!(got, want, "row {row} of {v}");
        }
    }
}
