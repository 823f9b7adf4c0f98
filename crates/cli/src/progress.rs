//! Progress on stderr: a bar with rate and remaining time on a terminal, a plain line now and then otherwise.
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

/// Time between plain lines.
const QUIET: Duration = Duration::from_secs(15);

/// Progress of one piece of work, counted in `unit`s.
pub(crate) struct Progress {
    name: String,
    unit: &'static str,
    total: u64,
    bar: Option<ProgressBar>,
    start: Instant,
    said: Instant,
    at_start: u64,
}

impl Progress {
    /// Starts at `done` of `total`.
    pub(crate) fn new(name: &str, unit: &'static str, total: u64, done: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let template = format!("{{msg:<12}} {{bar:30}} {{pos}}/{{len}} {unit}  {{per_sec}}  {{eta}} left");
            if let Ok(style) = ProgressStyle::with_template(&template) {
                bar.set_style(style);
            }
            bar.set_message(name.to_string());
            bar.set_position(done);
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Progress { name: name.into(), unit, total, bar, start: now, said: now, at_start: done }
    }

    /// `done` in all; `note` says more, where there is room.
    pub(crate) fn set(&mut self, done: u64, note: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            if !note.is_empty() {
                bar.set_message(format!("{} {note}", self.name));
            }
            return;
        }
        if QUIET <= self.said.elapsed() {
            self.said = Instant::now();
            let rate = (done - self.at_start.min(done)) as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
            let left = (self.total.saturating_sub(done)) as f64 / rate.max(1e-9);
            tell!("{}: {done}/{} {}, {rate:.1}/s, {left:.0} s left {note}", self.name, self.total, self.unit);
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
