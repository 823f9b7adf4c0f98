//! The blocks of Q8_0, Q4_0 and Q4_1: by hand, and that rounding is to the nearest level.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_tensor::block::*;
use proptest::prelude::*;

/// f16: 1.0, 0.5, -0.25, -1.0, -2.0, -3.0.
const ONE: [u8; 2] = [0x00, 0x3c];
const HALF: [u8; 2] = [0x00, 0x38];
const MINUS_QUARTER: [u8; 2] = [0x00, 0xb4];
const MINUS_ONE: [u8; 2] = [0x00, 0xbc];
const MINUS_TWO: [u8; 2] = [0x00, 0xc0];
const MINUS_THREE: [u8; 2] = [0x00, 0xc2];

/// A block that begins with `head`, and byte `i` of whose numbers is `q(i)`.
fn block<const N: usize>(head: &[u8], q: impl Fn(u8) -> u8) -> [u8; N] {
    std::array::from_fn(|i| if i < head.len() { head[i] } else { q((i - head.len()) as u8) })
}

/// `first` and then zeros.
fn padded(first: &[f32]) -> [f32; LEN] {
    std::array::from_fn(|i| first.get(i).copied().unwrap_or(0.0))
}

#[test]
fn blocks_by_hand_to_numbers() {
    // Bytes 0x80 0x81 .. 0x9f are -128 .. -97.
    let want: [f32; LEN] = std::array::from_fn(|i| 0.5 * (i as f32 - 128.0));
    assert_eq!(dequantize_q8_0(&block(&HALF, |i| 0x80 + i)), want);
    assert_eq!(dequantize_q8_0(&block(&HALF, |_| 127)), [63.5; LEN]);

    // Byte i holds i in its low half, which is element i, and 15 - i in its high half, which is element 16 + i.
    let level = |i: usize| if i < 16 { i as f32 } else { 31.0 - i as f32 };
    let q = |i: u8| i | (15 - i) << 4;
    assert_eq!(dequantize_q4_0(&block(&MINUS_QUARTER, q)), std::array::from_fn(|i| -0.25 * (level(i) - 8.0)));
    let head = [HALF, MINUS_TWO].concat();
    assert_eq!(dequantize_q4_1(&block(&head, q)), std::array::from_fn(|i| 0.5 * level(i) - 2.0));
}

#[test]
fn numbers_to_blocks_by_hand() {
    // The largest is 127, so a level is 1; ties go away from zero.
    let x = padded(&[127.0, 0.5, -0.5, 1.49, -1.5, -126.6, 2.5]);
    assert_eq!(quantize_q8_0(&x), block(&ONE, |i| *[127i8, 1, -1, 1, -2, -127, 3].get(i as usize).unwrap_or(&0) as u8));

    // The extreme -8 is level 0 and a level is 1; 7.6 would be level 16 and is cut to 15. Element 16 is the high half of byte 0.
    let mut x = padded(&[-8.0, 7.6, 0.5, -0.5, 0.4]);
    x[16] = 3.0;
    let want = |i| [0xb0, 0x8f, 0x89, 0x88, 0x88].get(i as usize).copied().unwrap_or(0x88);
    assert_eq!(quantize_q4_0(&x), block(&ONE, want));
    // A positive extreme turns the scale's sign. Of two equal magnitudes the first one decides.
    let x = padded(&[8.0, -8.0, 1.0, -7.0]);
    assert_eq!(
        quantize_q4_0(&x),
        block(&MINUS_ONE, |i| 0x80 | [0x0, 0xf, 0x7, 0xf].get(i as usize).copied().unwrap_or(0x8))
    );

    // -3 to 12 is 15 levels of 1; zero is level 3.
    let mut x = padded(&[-3.0, 12.0, 0.49, 0.5]);
    x[31] = 12.0;
    let want = |i| match i {
        0 => 0x30,
        1 => 0x3f,
        2 => 0x33,
        3 => 0x34,
        15 => 0xf3,
        _ => 0x33,
    };
    assert_eq!(quantize_q4_1(&x), block(&[ONE, MINUS_THREE].concat(), want));
}

#[test]
fn blocks_of_equal_numbers_are_exact() {
    for v in [0.0, 1.0, -2.0, 0.25] {
        assert_eq!(dequantize_q4_0(&quantize_q4_0(&[v; LEN])), [v; LEN]);
        assert_eq!(dequantize_q4_1(&quantize_q4_1(&[v; LEN])), [v; LEN]);
    }
    assert_eq!(dequantize_q8_0(&quantize_q8_0(&[0.0; LEN])), [0.0; LEN]);
    assert_eq!(dequantize_q8_0(&quantize_q8_0(&[127.0; LEN])), [127.0; LEN]);
}

fn numbers() -> impl Strategy<Value = [f32; LEN]> {
    (prop::array::uniform32(-1.0f32..1.0), -10i32..10).prop_map(|(x, e)| x.map(|v| v * 2f32.powi(e)))
}

proptest! {
    #[test]
    fn rounding_is_to_the_nearest_level(x in numbers()) {
        // What the levels lose by being kept as f16: half a unit in the last place of the scale, on each of up to `n` levels.
        let f16_error = |scale: f32, n: f32| n * (scale.abs() * 2f32.powi(-11) + 2f32.powi(-25));
        let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let (min, max) = x.iter().fold((f32::MAX, f32::MIN), |(a, b), &v| (a.min(v), b.max(v)));
        let near = |y: [f32; LEN], step: f32, extra: f32| {
            let most = 0.5001 * step + extra;
            match x.iter().zip(y).find(|(x, y)| most < (**x - y).abs()) {
                None => Ok(()),
                Some((x, y)) => Err(TestCaseError::fail(format!("{x} became {y}, expected at most {most} apart"))),
            }
        };
        let d = largest / 127.0;
        near(dequantize_q8_0(&quantize_q8_0(&x)), d, f16_error(d, 127.0))?;
        // Level 8 does not exist: what is nearest to it becomes level 7, another half step away.
        let d = largest / 8.0;
        near(dequantize_q4_0(&quantize_q4_0(&x)), 2.0 * d, f16_error(d, 8.0))?;
        let extreme = x.iter().copied().find(|v| v.abs() == largest).unwrap_or(0.0);
        let inside = x.map(|v| if v * extreme < -7.5 / 8.0 * extreme * extreme { 0.0 } else { v });
        let y = dequantize_q4_0(&quantize_q4_0(&inside));
        let most = 0.5001 * d + f16_error(d, 8.0);
        prop_assert!(inside.iter().zip(y).all(|(x, y)| (x - y).abs() <= most), "{inside:?} became {y:?}");
        let d = (max - min) / 15.0;
        near(dequantize_q4_1(&quantize_q4_1(&x)), d, f16_error(d, 15.0) + f16_error(min, 1.0) + 1e-6 * largest)?;
    }

    #[test]
    fn no_block_panics(x in prop::array::uniform32(any::<f32>()), b in prop::array::uniform32(any::<u8>())) {
        let blocks = (quantize_q8_0(&x), quantize_q4_0(&x), quantize_q4_1(&x));
        let back = (dequantize_q8_0(&blocks.0), dequantize_q4_0(&blocks.1), dequantize_q4_1(&blocks.2));
        prop_assert!(back.0.len() == LEN && back.1.len() == LEN && back.2.len() == LEN);
        let d = dequantize_q4_1(&std::array::from_fn(|i| b[i]));
        prop_assert_eq!(d.len(), LEN);
    }
}
