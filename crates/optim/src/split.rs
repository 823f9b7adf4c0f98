//! An f32 weight as two halves: the bf16 that is nearest to it, which is what products are computed with, and the sixteen bits that are
//! missing. Together they are the weight, to the bit, in the memory of the weight alone.

/// The nearest bf16 of `w`, and what is missing: its lower sixteen bits.
///
/// Of two that are equally near it is the one further from zero, not the even one: then the top bit of the lower half says which way it
/// went, and nothing is lost. Past the largest bf16 the upper half is infinite, and [`join`] still gives `w`.
pub fn split(w: f32) -> (u16, u16) {
    let bits = w.to_bits();
    ((bits.wrapping_add(0x8000) >> 16) as u16, bits as u16)
}

/// The weight that [`split`] took apart.
pub fn join(high: u16, low: u16) -> f32 {
    // A lower half of 0x8000 and more had rounded the upper half up by one.
    f32::from_bits(u32::from(high.wrapping_sub(low >> 15)) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_the_weight_again() {
        let lows = [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        for bits in (0..=u16::MAX).flat_map(|high| lows.map(|low| u32::from(high) << 16 | low)) {
            let (high, low) = split(f32::from_bits(bits));
            assert_eq!(join(high, low).to_bits(), bits);
        }
    }

    #[test]
    fn the_upper_half_is_the_nearest_bf16() {
        let wide = |high: u16| f64::from(f32::from_bits(u32::from(high) << 16));
        for i in 0..200_000u32 {
            let w = f32::from_bits(i.wrapping_mul(0x9e37_79b9));
            // Behind the last bf16 infinity is the nearest, but no distance says so; the bits before zero are no number.
            if !(1e-40..3.38e38).contains(&w.abs()) {
                continue;
            }
            let (high, _) = split(w);
            let away = |high: u16| (wide(high) - f64::from(w)).abs();
            assert!(away(high) <= away(high.wrapping_sub(1)) && away(high) <= away(high.wrapping_add(1)), "{w:e}");
        }
        assert!(f32::from_bits(u32::from(split(f32::NAN).0) << 16).is_nan());
    }
}
