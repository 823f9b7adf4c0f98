//! What a simulated device is and how it runs: set by tests, each device on its own, so that tests do not disturb each other.
use crate::report::words;
use paring_ptx_sim::{Options, Rounding};

/// The most devices there can be.
pub const MOST_DEVICES: usize = 4096;

/// A simulated device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// Bytes of memory that programs can have.
    pub memory: usize,
    /// Multiprocessors it says it has.
    pub processors: u32,
    /// Whether races in shared memory are looked for.
    pub shared_races: bool,
    /// Whether conflicts between blocks in global memory are looked for.
    pub global_races: bool,
    /// Whether reads of memory that nobody wrote are looked for.
    pub uninitialised: bool,
    /// Whether traffic is counted.
    pub counters: bool,
    /// How inexact operations round.
    pub rounding: Rounding,
    /// Seed of what the simulator draws.
    pub seed: u64,
    /// Instructions after which a launch counts as endless.
    pub max_instructions: u64,
    /// Whether every launch is kept for [`crate::SimDriver::take_report`]; findings are in any case.
    pub record: bool,
}

impl Default for Config {
    fn default() -> Self {
        let Options { shared_races, global_races, uninitialised, counters, rounding, seed, max_instructions, .. } =
            Options::default();
        Config {
            memory: 8 << 30,
            processors: 108,
            shared_races,
            global_races,
            uninitialised,
            counters,
            rounding,
            seed,
            max_instructions,
            record: false,
        }
    }
}

/// The modes of rounding by name, as they cross the interface.
const ROUNDINGS: [(&str, Rounding); 5] = [
    ("nearest", Rounding::Nearest),
    ("truncate-accumulate", Rounding::TruncateAccumulate),
    ("approx-up", Rounding::ApproxUp),
    ("approx-down", Rounding::ApproxDown),
    ("mixed", Rounding::Mixed),
];

impl Config {
    /// The simulator's options.
    pub(crate) fn options(&self) -> Options {
        Options {
            shared_races: self.shared_races,
            global_races: self.global_races,
            uninitialised: self.uninitialised,
            counters: self.counters,
            rounding: self.rounding,
            seed: self.seed,
            max_instructions: self.max_instructions,
            ..Options::default()
        }
    }

    /// One line of `name=value`.
    pub(crate) fn to_text(&self) -> String {
        let rounding = ROUNDINGS.iter().find(|(_, r)| *r == self.rounding).map_or("nearest", |(name, _)| name);
        format!(
            "memory={} processors={} shared_races={} global_races={} uninitialised={} counters={} rounding={rounding} seed={} \
             max_instructions={} record={}",
            self.memory,
            self.processors,
            self.shared_races,
            self.global_races,
            self.uninitialised,
            self.counters,
            self.seed,
            self.max_instructions,
            self.record
        )
    }

    /// Reads [`Config::to_text`]; what is not named stays as it is by default.
    ///
    /// # Errors
    /// A sentence, for a name or value that it does not know.
    pub(crate) fn from_text(text: &str) -> Result<Config, String> {
        let mut config = Config::default();
        for (name, value) in words(text) {
            let wrong = |what: &str| format!("{name}={value}: {what}");
            let number = || value.parse::<u64>().map_err(|_| wrong("expected a number"));
            let flag = || value.parse::<bool>().map_err(|_| wrong("expected true or false"));
            match name {
                "memory" => config.memory = usize::try_from(number()?).map_err(|_| wrong("too large"))?,
                "processors" => config.processors = u32::try_from(number()?).map_err(|_| wrong("too large"))?,
                "shared_races" => config.shared_races = flag()?,
                "global_races" => config.global_races = flag()?,
                "uninitialised" => config.uninitialised = flag()?,
                "counters" => config.counters = flag()?,
                "rounding" => {
                    let known = ROUNDINGS.iter().find(|(name, _)| *name == value);
                    config.rounding = known.ok_or_else(|| wrong("no such rounding"))?.1;
                }
                "seed" => config.seed = number()?,
                "max_instructions" => config.max_instructions = number()?,
                "record" => config.record = flag()?,
                _ => return Err(wrong("no such setting")),
            }
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_interface() {
        for (_, rounding) in ROUNDINGS {
            let config = Config {
                memory: 12345,
                processors: 7,
                shared_races: false,
                uninitialised: false,
                rounding,
                seed: 9,
                max_instructions: 11,
                record: true,
                ..Config::default()
            };
            assert_eq!(Config::from_text(&config.to_text()), Ok(config));
        }
        assert!(Config::from_text("colour=red").is_err());
        assert!(Config::from_text("memory=red").is_err());
    }
}
