//! A simulated device: its memory, its streams with the work that waits in them, and what it has found. One lock each, so devices run
//! side by side.
use crate::{
    config::Config,
    host,
    report::{Record, Report},
    status::{Result, Status},
    work::{HostSource, Kernel, Node, Point, Task, Work, order},
};
use paring_ptx_sim::{Memory, Module};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

/// Findings that are kept; the rest are only counted by their absence.
const KEPT_FINDINGS: usize = 100;

/// Questions whether work is done, after which a piece of it is.
const POLLS: u32 = 64;

/// Memory that a program was given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allocation {
    pub(crate) bytes: usize,
    /// From a pool: freed in the order of a stream, and freeing waits for nothing.
    pub(crate) pooled: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Stream {
    /// Whether it and the legacy stream wait for each other.
    pub(crate) blocking: bool,
    pub(crate) queue: VecDeque<Task>,
    /// Set while it is recorded.
    pub(crate) capture: Option<Joined>,
}

/// A stream's part in a capture.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    /// Which capture.
    pub(crate) capture: u32,
    /// The nodes that its next one comes after.
    pub(crate) tail: Vec<usize>,
}

/// A capture that is going on.
#[derive(Debug)]
pub(crate) struct Capture {
    pub(crate) origin: u32,
    /// 0 global, 1 of a thread, 2 relaxed.
    pub(crate) mode: u32,
    pub(crate) nodes: Vec<Node>,
    pub(crate) broken: bool,
}

/// What an event stands for.
#[derive(Clone, Debug)]
pub(crate) enum Mark {
    /// Nothing yet: complete.
    None,
    Point(Point),
    Captured {
        capture: u32,
        tail: Vec<usize>,
    },
}

/// A kernel, and what the program has set about it.
#[derive(Clone, Debug)]
pub(crate) struct Function {
    pub(crate) module: Arc<Module>,
    pub(crate) module_index: u32,
    pub(crate) name: Arc<str>,
    /// The most dynamic shared memory that a launch may have.
    pub(crate) most_dynamic: usize,
}

/// A device, and what programs made on it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) config: Config,
    pub(crate) retained: u32,
    pub(crate) memory: Memory,
    pub(crate) allocations: BTreeMap<u64, Allocation>,
    pub(crate) used: usize,
    pub(crate) streams: BTreeMap<u32, Stream>,
    pub(crate) captures: HashMap<u32, Capture>,
    pub(crate) events: HashMap<u32, Mark>,
    pub(crate) modules: HashMap<u32, Arc<Module>>,
    pub(crate) functions: HashMap<u32, Function>,
    pub(crate) graphs: HashMap<u32, Vec<Node>>,
    pub(crate) executables: HashMap<u32, Arc<Vec<Node>>>,
    pub(crate) report: Report,
    failed: Option<Status>,
    next: u32,
    sequence: u64,
    polls: u32,
}

impl Default for Device {
    fn default() -> Self {
        Device::new(Config::default())
    }
}

impl Device {
    pub(crate) fn new(config: Config) -> Device {
        let mut device = Device {
            config,
            retained: 0,
            memory: Memory::new(),
            allocations: BTreeMap::new(),
            used: 0,
            streams: BTreeMap::new(),
            captures: HashMap::new(),
            events: HashMap::new(),
            modules: HashMap::new(),
            functions: HashMap::new(),
            graphs: HashMap::new(),
            executables: HashMap::new(),
            report: Report::default(),
            failed: None,
            next: 16,
            sequence: 0,
            polls: 0,
        };
        device.open_streams();
        device
    }

    fn open_streams(&mut self) {
        for index in [crate::handle::LEGACY, crate::handle::PER_THREAD] {
            self.streams.insert(index, Stream { blocking: true, ..Stream::default() });
        }
    }

    /// Destroys everything but the settings and the report: the end of a context.
    pub(crate) fn reset(&mut self) {
        let report = std::mem::take(&mut self.report);
        // Numbers go on, so handles of before stay invalid.
        let (next, sequence) = (self.next, self.sequence);
        *self = Device { report, next, sequence, ..Device::new(self.config.clone()) };
        self.report.live_bytes = 0;
    }

    /// A number for a new object.
    pub(crate) fn index(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// # Errors
    /// The status of an earlier failure: a context that has failed is of no use any more.
    pub(crate) fn check(&self) -> Result {
        self.failed.map_or(Ok(()), Err)
    }

    /// Notes what was found, says it on stderr, and lets every further call fail.
    pub(crate) fn fail(&mut self, what: &str) {
        self.note(what);
        self.failed = Some(Status::ILLEGAL_ADDRESS);
    }

    /// Says on stderr why a call was refused, and keeps it for the report.
    pub(crate) fn note(&mut self, what: &str) {
        eprintln!("ptx-sim driver: {what}");
        if self.report.findings.len() < KEPT_FINDINGS {
            self.report.findings.push(what.to_owned());
        }
    }

    pub(crate) fn refuse(&mut self, what: &str) -> Status {
        self.note(what);
        Status::INVALID_VALUE
    }

    pub(crate) fn stream(&mut self, index: u32) -> Result<&mut Stream> {
        self.streams.get_mut(&index).ok_or(Status::INVALID_HANDLE)
    }

    // ---- queueing ----

    /// Puts work on a stream, or into the graph that records it.
    pub(crate) fn submit(&mut self, stream: u32, work: Work) -> Result {
        self.submit_after(stream, Vec::new(), work)
    }

    /// The same, after the points `after` as well.
    pub(crate) fn submit_after(&mut self, stream: u32, mut after: Vec<Point>, work: Work) -> Result {
        if let Some(joined) = self.stream(stream)?.capture.clone() {
            return self.record(stream, joined, work);
        }
        let blocking = self.stream(stream)?.blocking;
        if blocking {
            // The legacy stream waits for all blocking streams, and they for it.
            let capturing = self.streams.values().any(|s| s.blocking && s.capture.is_some());
            if stream == crate::handle::LEGACY && capturing {
                return Err(Status::CAPTURE_IMPLICIT);
            }
            for (&other, s) in &self.streams {
                let either = stream == crate::handle::LEGACY || other == crate::handle::LEGACY;
                if let (true, true, Some(last)) = (either && other != stream, s.blocking, s.queue.back()) {
                    after.push(Point { stream: other, sequence: last.sequence });
                }
            }
        }
        self.sequence += 1;
        let sequence = self.sequence;
        self.stream(stream)?.queue.push_back(Task { sequence, after, work });
        Ok(())
    }

    fn record(&mut self, stream: u32, joined: Joined, work: Work) -> Result {
        let capture = self.captures.get_mut(&joined.capture).ok_or(Status::CAPTURE_INVALIDATED)?;
        if capture.broken {
            return Err(Status::CAPTURE_INVALIDATED);
        }
        if let Work::Free { .. } | Work::Graph(_) = work {
            capture.broken = true;
            return Err(Status::CAPTURE_UNSUPPORTED);
        }
        let node = capture.nodes.len();
        capture.nodes.push(Node { work, after: joined.tail });
        self.stream(stream)?.capture = Some(Joined { capture: joined.capture, tail: vec![node] });
        Ok(())
    }

    /// The point that everything now in a stream lies before.
    pub(crate) fn point(&mut self, stream: u32) -> Point {
        self.sequence += 1;
        Point { stream, sequence: self.sequence }
    }

    /// Whether everything before a point has run.
    pub(crate) fn is_past(&self, point: Point) -> bool {
        let front = self.streams.get(&point.stream).and_then(|s| s.queue.front());
        front.is_none_or(|task| task.sequence > point.sequence)
    }

    // ---- running ----

    /// Waits for the work in a stream up to a point: runs it, and what it has to wait for.
    pub(crate) fn run_to(&mut self, point: Point) {
        while let Some(stream) = self.streams.get_mut(&point.stream)
            && stream.queue.front().is_some_and(|task| task.sequence <= point.sequence)
            && let Some(task) = stream.queue.pop_front()
        {
            // Each wait was put on its stream after what it waits for: this comes to an end.
            for before in task.after {
                self.run_to(before);
            }
            self.execute(task.work);
        }
    }

    /// Somebody asks whether a point has been passed. Nothing runs by itself here, so whoever only asks would ask for ever: now and then a
    /// piece of work is done for it.
    pub(crate) fn poll(&mut self, point: Point) -> bool {
        if self.is_past(point) {
            return true;
        }
        self.polls += 1;
        if self.polls.is_multiple_of(POLLS)
            && let Some(front) = self.streams.get(&point.stream).and_then(|s| s.queue.front())
        {
            self.run_to(Point { stream: point.stream, sequence: front.sequence });
        }
        false
    }

    /// Waits for a stream.
    pub(crate) fn synchronize_stream(&mut self, stream: u32) -> Result {
        self.check()?;
        if let Some(joined) = self.stream(stream)?.capture.clone() {
            return Err(self.break_capture(joined.capture));
        }
        self.run_to(Point { stream, sequence: u64::MAX });
        self.check()
    }

    /// Waits for all streams. The one whose work was put there last begins: an order that was only hoped for is then broken.
    pub(crate) fn synchronize(&mut self) -> Result {
        self.check()?;
        self.run_all();
        self.check()
    }

    pub(crate) fn run_all(&mut self) {
        let front = |(&index, stream): (&u32, &Stream)| stream.queue.front().map(|task| (task.sequence, index));
        while let Some((_, stream)) = self.streams.iter().filter_map(front).max() {
            self.run_to(Point { stream, sequence: u64::MAX });
        }
    }

    /// A call that must not happen while `capture` goes on has happened.
    pub(crate) fn break_capture(&mut self, capture: u32) -> Status {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.broken = true;
        }
        Status::CAPTURE_UNSUPPORTED
    }

    /// # Errors
    /// When some capture forbids calls that might wait (all modes but the relaxed one; here of whatever thread).
    pub(crate) fn check_no_capture(&mut self) -> Result {
        match self.captures.iter().find(|(_, c)| c.mode != 2 && !c.broken).map(|(&index, _)| index) {
            Some(capture) => Err(self.break_capture(capture)),
            None => Ok(()),
        }
    }

    fn execute(&mut self, work: Work) {
        if self.failed.is_some() {
            return;
        }
        let moved = match work {
            Work::Join => Ok(()),
            Work::Kernel(kernel) => return self.execute_kernel(&kernel),
            Work::Graph(nodes) => {
                for i in order(&nodes) {
                    self.execute(nodes[i].work.clone());
                }
                return;
            }
            Work::Host { function, data } => {
                host::call(function, data);
                return;
            }
            Work::HostToDevice { to, from } => match from {
                HostSource::Staged(bytes) => self.memory.write(to, &bytes).map_err(|e| e.to_string()),
                HostSource::Lazy(at, bytes) => self.memory.write(to, host::bytes(at, bytes)).map_err(|e| e.to_string()),
            },
            Work::DeviceToHost { to, from, bytes } => {
                self.memory.read(from, host::bytes_mut(to, bytes)).map_err(|e| e.to_string())
            }
            Work::DeviceToDevice { to, from, bytes } => self.memory.copy(to, from, bytes).map_err(|e| e.to_string()),
            Work::Set { to, pattern, width, bytes } => {
                let all: Vec<u8> = pattern[..width].iter().copied().cycle().take(bytes).collect();
                self.memory.write(to, &all).map_err(|e| e.to_string())
            }
            Work::Free { address } => {
                self.free_now(address);
                Ok(())
            }
        };
        if let Err(e) = moved {
            self.fail(&format!("a queued copy or memset reached memory that is no longer there: {e}"));
        }
    }

    fn execute_kernel(&mut self, task: &Kernel) {
        let Some(kernel) = task.module.kernel(&task.name) else {
            return;
        };
        let ran = crate::trace::run(kernel, &task.launch, &mut self.memory, &self.config.options());
        self.report.launches += 1;
        if self.config.record {
            self.report.records.push(Record {
                kernel: task.name.to_string(),
                grid: task.launch.grid,
                block: task.launch.block,
                shared: [kernel.static_shared(), task.launch.dynamic_shared],
                counters: crate::counters::named(&ran.counters),
            });
        }
        for finding in &ran.findings {
            self.fail(&format!("{}: {finding}", task.name));
        }
    }

    // ---- memory ----

    /// The allocation that `address..address + bytes` lies in.
    pub(crate) fn allocation(&self, address: u64, bytes: usize) -> Option<(u64, Allocation)> {
        let (&start, &a) = self.allocations.range(..=address).next_back()?;
        let offset = usize::try_from(address - start).ok()?;
        (offset.checked_add(bytes)? <= a.bytes).then_some((start, a))
    }

    pub(crate) fn allocate(&mut self, bytes: usize, pooled: bool) -> Result<u64> {
        self.check()?;
        if bytes == 0 {
            return Err(Status::INVALID_VALUE);
        }
        if bytes > self.config.memory - self.used.min(self.config.memory) {
            // What is freed in the order of a stream is freed when the stream comes there; a driver waits for it before it gives up.
            self.run_all();
            self.check()?;
        }
        if bytes > self.config.memory - self.used.min(self.config.memory) {
            return Err(Status::OUT_OF_MEMORY);
        }
        let address = self.memory.alloc(bytes);
        self.allocations.insert(address, Allocation { bytes, pooled });
        self.used += bytes;
        self.report.live_bytes = self.used as u64;
        self.report.peak_bytes = self.report.peak_bytes.max(self.used as u64);
        Ok(address)
    }

    pub(crate) fn free_now(&mut self, address: u64) {
        if let Some(a) = self.allocations.remove(&address) {
            self.memory.free(address);
            self.used -= a.bytes;
            self.report.live_bytes = self.used as u64;
        }
    }
}
