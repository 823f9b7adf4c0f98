//! Which windows a step sees: every epoch a new permutation, all of them one endless list, a step takes the next ones.
use paring_sampling::rng::Rng;

/// The stream of the generator that data order draws from; weights draw from others.
const STREAM: u64 = 0x6461_7461;

/// The order of windows of a run; a pure function of the step.
#[derive(Clone, Copy, Debug)]
pub struct DataOrder {
    windows: usize,
    per_step: usize,
    rng: Rng,
}

impl DataOrder {
    /// `per_step` of `windows` at every step.
    pub fn new(windows: usize, per_step: usize, seed: u64) -> Self {
        DataOrder { windows, per_step, rng: Rng::new(seed) }
    }

    /// Windows of `step`, counted from 0. Empty when there are none at all.
    pub fn windows(&self, step: u64) -> Vec<usize> {
        if self.windows == 0 {
            return Vec::new();
        }
        let first = step * self.per_step as u64;
        let mut taken = Vec::with_capacity(self.per_step);
        let mut epoch: Option<(u64, Vec<usize>)> = None;
        for i in first..first + self.per_step as u64 {
            let (e, place) = (i / self.windows as u64, (i % self.windows as u64) as usize);
            let current = match epoch.take() {
                Some((number, order)) if number == e => (number, order),
                _ => (e, self.rng.permutation(STREAM.wrapping_add(e), self.windows)),
            };
            taken.push(current.1[place]);
            epoch = Some(current);
        }
        taken
    }
}
