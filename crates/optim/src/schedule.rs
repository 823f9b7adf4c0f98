//! Linear warm-up, then a cosine down to a floor (Minitron trains so: arXiv 2408.11796, table 4), and the factor of gradient clipping.

/// A learning rate for every step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate at the end of the warm-up.
    pub peak: f32,
    /// The rate of the last step.
    pub floor: f32,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Steps of the whole run.
    pub total: u64,
}

impl Schedule {
    /// The rate of step `step`, counted from 0. Past the end it stays at the floor.
    pub fn at(&self, step: u64) -> f32 {
        if step < self.warmup {
            // The first step already learns: a rate of zero would waste it.
            return self.peak * (step + 1) as f32 / self.warmup as f32;
        }
        let span = self.total.saturating_sub(self.warmup).saturating_sub(1);
        let done = if span == 0 { 1.0 } else { ((step - self.warmup) as f64 / span as f64).min(1.0) };
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * done).cos());
        self.floor + (self.peak - self.floor) * cosine as f32
    }
}

/// What to multiply gradients by so that their norm is at most `max_norm`: `min(1, max_norm / norm)`.
///
/// A `max_norm` of zero switches clipping off. A norm that is not finite gives a factor that is not finite: the caller has to look.
pub fn clip_factor(norm: f64, max_norm: f64) -> f32 {
    if max_norm <= 0.0 || norm <= max_norm { 1.0 } else { (max_norm / norm) as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_the_peak_and_falls_to_the_floor() {
        let schedule = Schedule { peak: 1.0, floor: 0.1, warmup: 10, total: 110 };
        assert!((schedule.at(0) - 0.1).abs() < 1e-6);
        assert_eq!((schedule.at(9), schedule.at(10)), (1.0, 1.0));
        assert!((schedule.at(109) - 0.1).abs() < 1e-6);
        assert_eq!(schedule.at(5000), schedule.at(109));
        assert!((10..109).all(|s| schedule.at(s + 1) <= schedule.at(s)));
    }

    #[test]
    fn degenerate_schedules_do_not_divide_by_zero() {
        for (warmup, total) in [(0, 0), (0, 1), (5, 5), (5, 2), (1, 2)] {
            let schedule = Schedule { peak: 1.0, floor: 0.1, warmup, total };
            assert!((0..8).all(|s| schedule.at(s).is_finite()), "{schedule:?}");
        }
    }

    #[test]
    fn clipping_never_enlarges() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        assert_eq!(clip_factor(4.0, 1.0), 0.25);
        assert_eq!(clip_factor(4.0, 0.0), 1.0);
        assert!(clip_factor(f64::NAN, 1.0).is_nan());
    }
}
