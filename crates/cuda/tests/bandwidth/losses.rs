//! What the table of conformance cannot tell apart in the losses of rows: which of equal logits comes first, and how inexact instructions
//! round.
use crate::{common::open, numbers, shape};
use paring_ops::Backend;
use paring_tensor::DType::F32;

#[test]
fn of_equal_logits_the_first_counts() {
    let opened = open();
    let cuda = &opened.cuda;
    for v in [9, 40, 4100] {
        // The student's largest logit stands in three places: beside each other, in another thread's part, and at the end.
        let places = [2, 3, v - 1];
        let mut student = numbers(1, v);
        places.iter().for_each(|&place| student[place] = 2.0);
        for (place, agree) in [(2, 1), (3, 0), (v - 1, 0), (0, 0)] {
            let mut teacher = numbers(2, v);
            teacher[place] = 5.0;
            let rows = |row: &[f32]| cuda.upload(row, F32, shape(&[1, v])).unwrap();
            let (student, teacher) = (rows(&student), rows(&teacher));
            for (a, b) in [(&student, &teacher), (&teacher, &student)] {
                assert_eq!(cuda.compare_rows(a, b, &[0]).unwrap().agree, agree, "{place} of {v}");
            }
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
