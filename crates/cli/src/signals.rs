//! The first SIGINT or SIGTERM lets the step finish and a checkpoint be written; the second ends the program at once.
use crate::error::{Failure, Result};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// The signal that asked to stop, if one did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicUsize>);

impl Stop {
    /// Listens from now on.
    pub(crate) fn listen() -> Result<Self> {
        let stop = Stop::default();
        // One flag for both: any second signal ends the program.
        let armed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let fail = |e: std::io::Error| Failure::work(format!("cannot listen for signals: {e}"));
            // Order matters: the shutdown sees the flag of an earlier signal only, so the first one passes.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, armed.clone()).map_err(fail)?;
            signal_hook::flag::register(signal, armed.clone()).map_err(fail)?;
            signal_hook::flag::register_usize(signal, stop.0.clone(), signal as usize).map_err(fail)?;
        }
        Ok(stop)
    }

    /// Whether a signal came.
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// What to end with: 128 + the signal.
    pub(crate) fn failure(&self, what: &str) -> Failure {
        let signal = self.0.load(Ordering::Relaxed);
        Failure { code: (128 + signal) as u8, message: format!("stopped by signal {signal}; {what}") }
    }
}
