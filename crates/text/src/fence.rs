//! The only place where third-party parsers run. The `tokenizers` crate and the decompressors can panic on hostile files; here that becomes
//! an error, and nothing is printed. This needs `panic = "unwind"`.
use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::Once,
};

/// The result of `f`, or the message of its panic.
///
/// The panic hook stays silent on this thread while `f` runs, and is the program's own for every other thread and afterwards.
pub(crate) fn fenced<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    install();
    let _silence = Silence::start();
    // What `f` changed before its panic is either dropped by the caller or behind the library's own locks.
    panic::catch_unwind(AssertUnwindSafe(f)).map_err(|payload| format!("the parser panicked: {}", message(&*payload)))
}

thread_local! {
    /// How many [`fenced`] calls are running on this thread.
    static SILENT: Cell<usize> = const { Cell::new(0) };
}

/// Puts a hook around the program's own, once. A hook that is set and taken back by every call would, with several threads, be lost or swallow
/// the panics of others.
fn install() {
    static ONCE: Once = Once::new();
    // A thread that unwinds must not set a hook; its own panic is reported already.
    if std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| panic::set_hook(quiet(panic::take_hook())));
}

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// `own`, except on threads that are silent.
fn quiet(own: Hook) -> Hook {
    Box::new(move |info| {
        // A thread that is being torn down has no flag any more, and is none of ours.
        if SILENT.try_with(Cell::get).unwrap_or(0) == 0 {
            own(info);
        }
    })
}

/// Keeps this thread's panics silent while it lives.
struct Silence;

impl Silence {
    fn start() -> Self {
        SILENT.set(SILENT.get() + 1);
        Silence
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        SILENT.set(SILENT.get() - 1);
    }
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Barrier, Mutex};

    #[test]
    fn a_panic_is_an_error_and_only_it_is_silent() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let own = panic::take_hook();
        let log = Arc::clone(&seen);
        panic::set_hook(quiet(Box::new(move |info| match info.payload_as_str() {
            Some(text) if text.starts_with("seen") || text.starts_with("silent") => {
                log.lock().unwrap().push(text.to_string())
            }
            _ => own(info),
        })));

        let number = 7;
        assert_eq!(fenced(|| number), Ok(7));
        assert_eq!(fenced(|| -> u8 { panic!("silent {number}") }), Err("the parser panicked: silent 7".into()));
        // Nested, and on after the inner one.
        let nested = fenced(|| {
            let inner = fenced(|| -> u8 { panic!("silent inner") });
            assert!(inner.is_err());
            panic!("silent outer")
        });
        assert_eq!(nested, Err::<(), _>("the parser panicked: silent outer".into()));

        // Another thread panics while this one is silent.
        let barrier = Arc::new(Barrier::new(2));
        let theirs = Arc::clone(&barrier);
        let other = std::thread::spawn(move || {
            theirs.wait();
            panic!("seen from another thread")
        });
        fenced(|| {
            barrier.wait();
            assert!(other.join().is_err());
        })
        .unwrap();
        // And this one is heard again.
        assert!(panic::catch_unwind(|| panic!("seen afterwards")).is_err());
        assert_eq!(*seen.lock().unwrap(), ["seen from another thread", "seen afterwards"]);
    }
}
