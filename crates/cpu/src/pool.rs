//! The threads of a backend. A decoded token runs some three hundred operations of ten to a hundred microseconds: waking sleeping threads
//! for each would cost as much as the work. So workers spin for a moment after every job before they sleep, and a job does not wait for a
//! worker that never came: the caller takes tasks like everybody, and closes the job when none are left.
//!
//! Tasks are handed out one by one, whoever is free takes the next: on a shared machine a core may be taken away in the middle of a job.
//! What a task computes must depend on its number alone; then results do not depend on threads.
#![allow(unsafe_code, reason = "tasks borrow from the caller's stack, and write disjoint parts of its slices")]
use std::{
    any::Any,
    cell::UnsafeCell,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
};

/// Rounds of waiting before a worker sleeps: about a tenth of a millisecond, longer than the gap between two operations of a decoder.
const SPIN: usize = 4_000;
/// Rounds of waiting between two offers of the core to other threads: there may be more threads than cores.
const YIELD_EVERY: usize = 1_000;
/// Set in [`Shared::state`] when a job takes no more workers.
const CLOSED: u64 = 1 << 31;
/// One job further in [`Shared::state`], whose upper half counts jobs and whose lower bits count the workers inside.
const JOB: u64 = 1 << 32;

type Task = dyn Fn(usize) + Sync;

/// A job: `tasks` calls of `f`.
#[derive(Clone, Copy)]
struct Job {
    f: *const Task,
    tasks: usize,
}

struct Shared {
    /// Number of the current job, whether it is closed, and how many workers are inside it: one word, so that entering is one step.
    state: AtomicU64,
    /// Written by the caller between jobs only, read by workers that are inside the job.
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the thread that holds `Threads::caller`, while the state is closed with no worker inside, and read by workers
// only after they entered a job that was opened later; entering and opening synchronise through `state`. The closure is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is only followed inside a job, for whose length its owner waits.
unsafe impl Send for Shared {}

impl Shared {
    /// Takes tasks until there are none.
    fn work(&self, job: Job) {
        loop {
            let task = self.next.fetch_add(1, SeqCst);
            if job.tasks <= task {
                return;
            }
            // SAFETY: the caller of `Threads::for_each` does not return before every worker left the job.
            let run = AssertUnwindSafe(|| unsafe { (*job.f)(task) });
            if let Err(panic) = catch_unwind(run) {
                lock(&self.panic).get_or_insert(panic);
                // Nobody needs the rest of the tasks any more.
                self.next.store(job.tasks, SeqCst);
            }
        }
    }

    /// What a worker does for all its life.
    fn serve(&self, worker: usize) {
        let mut last = 0;
        let mut idle = 0;
        while !self.stop.load(SeqCst) {
            let state = self.state.load(SeqCst);
            let (number, open) = (state / JOB, state & CLOSED == 0);
            if number != last && open {
                if self.state.compare_exchange(state, state + 1, SeqCst, SeqCst).is_ok() {
                    last = number;
                    idle = 0;
                    // SAFETY: this worker is inside the job: nobody writes `job` before it left.
                    let job = unsafe { *self.job.get() };
                    self.work(job);
                    self.state.fetch_sub(1, SeqCst);
                }
                continue;
            }
            idle += 1;
            if idle < SPIN {
                pause(idle);
                continue;
            }
            // Either the caller sees the flag and wakes this thread, or this thread sees the caller's job: both orders are total.
            self.asleep[worker].store(true, SeqCst);
            let state = self.state.load(SeqCst);
            if (state / JOB == last || state & CLOSED != 0) && !self.stop.load(SeqCst) {
                thread::park();
            }
            self.asleep[worker].store(false, SeqCst);
            idle = 0;
        }
    }
}

fn pause(round: usize) {
    if round.is_multiple_of(YIELD_EVERY) {
        thread::yield_now();
    } else {
        std::hint::spin_loop();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of a task is carried to the caller; the data behind the lock is a whole value at any time.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A fixed number of threads, the caller's among them.
pub(crate) struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a job runs. Who does not get it runs its tasks alone: another thread's job, or a job inside a task.
    caller: Mutex<()>,
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("count", &self.count()).finish()
    }
}

impl Threads {
    /// `count` threads: the caller's and `count - 1` workers.
    ///
    /// # Errors
    /// When the system gives no more threads.
    pub(crate) fn new(count: usize) -> std::io::Result<Threads> {
        let workers = count.saturating_sub(1);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(CLOSED),
            job: UnsafeCell::new(Job { f: &|_| {}, tasks: 0 }),
            next: AtomicUsize::new(0),
            asleep: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let mut threads = Threads { shared, workers: Vec::with_capacity(workers), caller: Mutex::new(()) };
        for worker in 0..workers {
            let shared = threads.shared.clone();
            let name = format!("paring-cpu-{}", worker + 1);
            threads.workers.push(thread::Builder::new().name(name).spawn(move || shared.serve(worker))?);
        }
        Ok(threads)
    }

    /// How many threads, the caller's included.
    pub(crate) fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f` once with every number below `tasks`, in any order, on any of the threads, and returns when all calls have.
    ///
    /// # Panics
    /// With a task's panic, after all tasks that had begun are done.
    pub(crate) fn for_each(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        // `try_lock` fails on a job inside a task too: a task never waits for another.
        let guard = if tasks < 2 || self.workers.is_empty() { None } else { self.caller.try_lock().ok() };
        let Some(_guard) = guard else {
            return (0..tasks).for_each(f);
        };
        let shared = &*self.shared;
        let f: &(dyn Fn(usize) + Sync) = &f;
        // SAFETY: only the lifetime changes. The pointer is followed by workers inside this job, and this function leaves neither normally
        // nor by a panic (tasks are caught) before the job is closed and empty.
        let f = unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const Task>(f) };
        let job = Job { f, tasks };
        // SAFETY: the state is closed and no worker is inside: the end of the job before saw to it, and `caller` is held.
        unsafe { *shared.job.get() = job };
        shared.next.store(0, SeqCst);
        let number = shared.state.load(SeqCst) / JOB + 1;
        // The number wraps after 2^32 jobs; a worker compares it for equality only.
        shared.state.store((number % JOB) * JOB, SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep).take(tasks - 1) {
            if asleep.load(SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.work(job);
        let mut state = shared.state.fetch_or(CLOSED, SeqCst) | CLOSED;
        let mut round = 0;
        while !state.is_multiple_of(CLOSED) {
            round += 1;
            pause(round);
            state = shared.state.load(SeqCst);
        }
        if let Some(panic) = lock(&shared.panic).take() {
            resume_unwind(panic);
        }
    }

    /// Cuts slices into pieces of `piece` elements (the last may be shorter) and calls `f` with every piece and its number. `data` is a
    /// slice or a tuple of slices of one length, mutable or not, which are cut alike.
    ///
    /// # Panics
    /// As [`Threads::for_each`]; when the slices have different lengths.
    pub(crate) fn pieces<C: Cut>(&self, piece: usize, data: C, f: impl Fn(usize, C::Piece) + Sync) {
        let len = data.len();
        assert!(data.all_len(len), "slices of different lengths");
        self.rows(len, piece, data, f);
    }

    /// As [`Threads::pieces`], for slices that are `rows` rows each, of a width of their own: pieces are `piece` rows.
    ///
    /// # Panics
    /// As [`Threads::for_each`]; when a slice is no whole number of rows.
    pub(crate) fn rows<C: Cut>(&self, rows: usize, piece: usize, data: C, f: impl Fn(usize, C::Piece) + Sync) {
        let piece = piece.max(1);
        assert!(data.has_rows(rows), "slices that are no rows of one table");
        let raw = data.raw();
        self.for_each(rows.div_ceil(piece), |i| {
            // SAFETY: every number comes once, so no two pieces overlap, and the borrow in `data` outlives the job.
            f(i, unsafe { C::piece(&raw, rows, i * piece, rows.min((i + 1) * piece)) });
        });
    }

    /// What `f` makes of every number below `tasks`, in their order.
    ///
    /// # Panics
    /// As [`Threads::for_each`].
    pub(crate) fn map<T: Send + Default + Clone>(&self, tasks: usize, f: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let mut results = vec![T::default(); tasks];
        self.pieces(1, &mut results[..], |i, slot| slot[0] = f(i));
        results
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks and has none of its own to report.
            let _ = worker.join();
        }
    }
}

/// Slices that can be cut into disjoint pieces: see [`Threads::pieces`].
pub(crate) trait Cut {
    /// What a task gets.
    type Piece;
    /// The slices as pointers that threads may share.
    type Raw: Sync;
    /// Elements of (the first of) the slices.
    fn len(&self) -> usize;
    /// Whether every slice has this length.
    fn all_len(&self, len: usize) -> bool;
    /// Whether every slice is `rows` rows.
    fn has_rows(&self, rows: usize) -> bool;
    /// Gives up the borrow for pointers.
    fn raw(self) -> Self::Raw;
    /// Rows `from..to` of `rows`.
    ///
    /// # Safety
    /// `from <= to <= rows`, `has_rows(rows)` was true, the borrow still lasts, and no two pieces that are alive overlap.
    unsafe fn piece(raw: &Self::Raw, rows: usize, from: usize, to: usize) -> Self::Piece;
}

/// A mutable slice between threads.
pub(crate) struct RawMut<T> {
    ptr: *mut T,
    len: usize,
}

// SAFETY: disjoint pieces go to different threads, which is what `T: Send` allows of `&mut [T]`.
unsafe impl<T: Send> Sync for RawMut<T> {}

impl<'a, T: Sync> Cut for &'a [T] {
    type Piece = &'a [T];
    type Raw = &'a [T];

    fn len(&self) -> usize {
        (**self).len()
    }

    fn all_len(&self, len: usize) -> bool {
        (**self).len() == len
    }

    fn has_rows(&self, rows: usize) -> bool {
        if rows == 0 { self.is_empty() } else { (**self).len().is_multiple_of(rows) }
    }

    fn raw(self) -> Self::Raw {
        self
    }

    unsafe fn piece(raw: &Self::Raw, rows: usize, from: usize, to: usize) -> Self::Piece {
        let width = raw.len() / rows.max(1);
        &raw[from * width..to * width]
    }
}

impl<'a, T: Send> Cut for &'a mut [T] {
    type Piece = &'a mut [T];
    type Raw = RawMut<T>;

    fn len(&self) -> usize {
        (**self).len()
    }

    fn all_len(&self, len: usize) -> bool {
        (**self).len() == len
    }

    fn has_rows(&self, rows: usize) -> bool {
        if rows == 0 { self.is_empty() } else { (**self).len().is_multiple_of(rows) }
    }

    fn raw(self) -> Self::Raw {
        RawMut { ptr: self.as_mut_ptr(), len: self.len() }
    }

    unsafe fn piece(raw: &Self::Raw, rows: usize, from: usize, to: usize) -> Self::Piece {
        let width = raw.len / rows.max(1);
        assert!(from <= to && to * width <= raw.len, "outside of the slice");
        // SAFETY: inside (asserted); disjoint from every other piece and borrowed for 'a, by contract.
        unsafe { std::slice::from_raw_parts_mut(raw.ptr.add(from * width), (to - from) * width) }
    }
}

macro_rules! cut_tuple {
    ($($name:ident $i:tt),*) => {
        impl<$($name: Cut),*> Cut for ($($name,)*) {
            type Piece = ($($name::Piece,)*);
            type Raw = ($($name::Raw,)*);

            fn len(&self) -> usize {
                self.0.len()
            }

            fn all_len(&self, len: usize) -> bool {
                true $(&& self.$i.all_len(len))*
            }

            fn has_rows(&self, rows: usize) -> bool {
                true $(&& self.$i.has_rows(rows))*
            }

            fn raw(self) -> Self::Raw {
                ($(self.$i.raw(),)*)
            }

            unsafe fn piece(raw: &Self::Raw, rows: usize, from: usize, to: usize) -> Self::Piece {
                // SAFETY: the same contract for every part.
                ($(unsafe { $name::piece(&raw.$i, rows, from, to) },)*)
            }
        }
    };
}
cut_tuple!(A 0, B 1);
cut_tuple!(A 0, B 1, C 2);
cut_tuple!(A 0, B 1, C 2, D 3);
cut_tuple!(A 0, B 1, C 2, D 3, E 4);
cut_tuple!(A 0, B 1, C 2, D 3, E 4, F 5);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_threads() {
        for count in [1, 2, 3, 9] {
            let threads = Threads::new(count).unwrap();
            assert_eq!(threads.count(), count);
            for tasks in [0, 1, 2, 3, 17, 1000] {
                let calls: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for round in 1..20 {
                    threads.for_each(tasks, |i| {
                        calls[i].fetch_add(1, SeqCst);
                    });
                    assert!(calls.iter().all(|c| c.load(SeqCst) == round), "{count} threads, {tasks} tasks");
                }
            }
        }
    }

    #[test]
    fn workers_that_slept_come_back() {
        let threads = Threads::new(3).unwrap();
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(20));
            // Tasks that cannot end before all three threads are in them: nobody may be left asleep.
            let barrier = std::sync::Barrier::new(3);
            threads.for_each(3, |_| {
                barrier.wait();
            });
        }
    }

    #[test]
    fn a_job_inside_a_task_and_jobs_of_two_callers_are_done() {
        let threads = Threads::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        threads.for_each(4, |i| {
                            threads.for_each(3, |j| {
                                sum.fetch_add(i * 3 + j, SeqCst);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.load(SeqCst), 3 * 200 * (0..12).sum::<usize>());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_threads_go_on() {
        let threads = Threads::new(3).unwrap();
        for _ in 0..10 {
            let result = catch_unwind(AssertUnwindSafe(|| {
                threads.for_each(64, |i| assert!(i != 40, "task forty"));
            }));
            let panic = result.unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"task forty"));
            assert_eq!(threads.map(8, |i| i * i), [0, 1, 4, 9, 16, 25, 36, 49]);
        }
    }

    #[test]
    fn pieces_cover_slices_without_overlap() {
        let threads = Threads::new(2).unwrap();
        let x: Vec<usize> = (0..103).collect();
        let (mut y, mut z) = (vec![0; 103], vec![0; 103]);
        threads.pieces(10, (&mut y[..], &x[..], &mut z[..]), |i, (y, x, z)| {
            assert_eq!(x[0], 10 * i);
            y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            z.fill(i);
        });
        assert_eq!(x, y);
        assert_eq!((z[0], z[99], z[102]), (0, 9, 10));
        let (mut narrow, wide) = (vec![0; 7], (0..21).collect::<Vec<usize>>());
        threads.rows(7, 2, (&mut narrow[..], &wide[..]), |_, (narrow, wide)| {
            narrow.iter_mut().zip(wide.chunks(3)).for_each(|(n, w)| *n = w.iter().sum());
        });
        assert_eq!(narrow, [3, 12, 21, 30, 39, 48, 57]);
        let unlike = catch_unwind(AssertUnwindSafe(|| threads.pieces(1, (&mut narrow[..], &wide[..]), |_, _| {})));
        assert!(unlike.is_err());
    }
}
