//! A device with its memory, its kernels and its stream: what operations are launched through. Everything that an operation needs of the
//! driver is checked here, so that the operations themselves are shapes and formulas.
use crate::{
    driver::{self, Address, Driver, ExecutableGraph, Failure, Function, Limits, Module},
    kernel::{Arguments, Launch},
    memory::{Allocation, DeviceBuffer, Held, Pool},
    modules::MODULES,
    staging::Staging,
};
use paring_ops::{Error, Result, want_contiguous};
use paring_tensor::{DType, Shape, Tensor};
use std::{
    any::Any,
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// The most blocks along x, and along y and z.
const GRID: [u32; 3] = [i32::MAX as u32, 65_535, 65_535];

/// One compiled module, and its kernels as they are first asked for.
struct Loaded {
    // Functions are valid as long as the module.
    functions: Mutex<HashMap<&'static str, Function>>,
    module: Module,
}

/// A device.
pub(crate) struct Device {
    ordinal: usize,
    // In the order in which they must go: staging waits for the stream.
    staging: Staging,
    graph: Mutex<Option<ExecutableGraph>>,
    modules: Vec<OnceLock<Loaded>>,
    pool: Arc<Pool>,
    driver: Arc<Driver>,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.ordinal, self.driver.name())
    }
}

fn refuse(message: String) -> Error {
    Error::Device { op: "cuda", message }
}

impl Device {
    /// Opens device `ordinal`.
    pub(crate) fn open(ordinal: usize, allocation: Allocation) -> Result<Device> {
        let count = driver::device_count().map_err(|e| refuse(format!("{e}; --device cpu works")))?;
        if count <= ordinal {
            let devices = if count == 1 { "device" } else { "devices" };
            return Err(refuse(format!(
                "there is no device {ordinal}: the CUDA driver has {count} {devices}, numbered from 0"
            )));
        }
        let driver = Driver::open(ordinal).map_err(|e| refuse(format!("device {ordinal} cannot be opened: {e}")))?;
        let (major, minor) = driver.limits().capability;
        if major < 8 {
            let name = driver.name();
            return Err(refuse(format!(
                "device {ordinal} ({name}) has compute capability {major}.{minor}; the kernels need 8.0 (Ampere) or later"
            )));
        }
        Ok(Device {
            ordinal,
            staging: Staging::new(Arc::clone(&driver)),
            graph: Mutex::default(),
            modules: MODULES.iter().map(|_| OnceLock::new()).collect(),
            pool: Pool::new(Arc::clone(&driver), allocation),
            driver,
        })
    }

    pub(crate) fn name(&self) -> &str {
        self.driver.name()
    }

    pub(crate) fn limits(&self) -> Limits {
        self.driver.limits()
    }

    pub(crate) fn held(&self) -> Held {
        self.pool.held()
    }

    /// Free and total bytes.
    pub(crate) fn memory(&self) -> Result<(usize, usize)> {
        self.driver.memory().map_err(|e| self.failed("memory", &e))
    }

    fn failed(&self, op: &'static str, e: &Failure) -> Error {
        Error::Device { op, message: format!("cuda:{}: {e}", self.ordinal) }
    }

    // ---- memory ----

    /// `bytes` of unspecified contents for the duration of an operation; its kernels may still be queued when it is dropped.
    pub(crate) fn scratch(&self, op: &'static str, bytes: usize) -> Result<DeviceBuffer> {
        self.pool.buffer(bytes).map_err(|e| self.no_memory(op, format!("{bytes} bytes of working memory"), &e))
    }

    /// A tensor of unspecified contents.
    pub(crate) fn tensor(&self, op: &'static str, dtype: DType, shape: Shape) -> Result<Tensor> {
        let bytes = dtype.bytes_of(shape).map_err(Error::in_op(op))?;
        let buffer = self.pool.buffer(bytes);
        let buffer =
            buffer.map_err(|e| self.no_memory(op, format!("a tensor {dtype} {shape} of {bytes} bytes"), &e))?;
        Tensor::new(Arc::new(buffer), dtype, shape).map_err(Error::in_op(op))
    }

    fn no_memory(&self, op: &'static str, what: String, e: &Failure) -> Error {
        if !e.out_of_memory {
            return self.failed(op, e);
        }
        let held = self.held();
        let device = match self.driver.memory() {
            Ok((free, total)) => format!("{free} of the device's {total} bytes are free"),
            Err(e) => e.to_string(),
        };
        let Held { live, reserved, .. } = held;
        let kept = reserved.saturating_sub(live);
        let message = format!(
            "cuda:{}: out of memory for {what}: {live} bytes are in use here, {kept} kept for reuse, {device}; \
             smaller batches or a shorter --context need less",
            self.ordinal
        );
        Error::Device { op, message }
    }

    /// Where a tensor to be read begins.
    ///
    /// # Errors
    /// [`Error::Tensor`] when its type is another, or it is not on this device.
    pub(crate) fn read(&self, op: &'static str, t: &Tensor, want: DType) -> Result<Address> {
        let got = t.dtype();
        if got != want {
            return Err(Error::Tensor { op, source: paring_tensor::Error::DType { got, want } });
        }
        self.address(op, t)
    }

    /// Where a tensor of any type begins.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is not on this device, or a view of columns.
    pub(crate) fn address(&self, op: &'static str, t: &Tensor) -> Result<Address> {
        want_contiguous(op, t)?;
        self.view_address(op, t)
    }

    /// As [`Device::address`], also of a view of columns.
    pub(crate) fn view_address(&self, op: &'static str, t: &Tensor) -> Result<Address> {
        let buffer = (t.buffer() as &dyn Any).downcast_ref::<DeviceBuffer>().filter(|b| b.is_of(&self.pool));
        let foreign = Error::Tensor { op, source: paring_tensor::Error::ForeignBuffer };
        Ok(buffer.ok_or(foreign)?.address().add(t.byte_range().start))
    }

    /// Where a tensor to be written begins.
    ///
    /// # Errors
    /// Those of [`Device::read`], and [`Error::Tensor`] when another tensor shares its buffer.
    pub(crate) fn write(&self, op: &'static str, t: &mut Tensor, want: DType) -> Result<Address> {
        t.buffer_mut().map_err(Error::in_op(op))?;
        self.read(op, t, want)
    }

    // ---- copies ----

    /// Puts a copy of `bytes` to `to` on the stream.
    pub(crate) fn upload(&self, op: &'static str, to: Address, bytes: &[u8]) -> Result<()> {
        self.staging.upload(to, bytes).map_err(|e| self.failed(op, &e))
    }

    /// The values in device memory, for the duration of an operation.
    pub(crate) fn upload_slice<T: bytemuck::NoUninit>(&self, op: &'static str, values: &[T]) -> Result<DeviceBuffer> {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let buffer = self.scratch(op, bytes.len())?;
        self.upload(op, buffer.address(), bytes)?;
        Ok(buffer)
    }

    /// `bytes` bytes at `from`, after everything that is on the stream.
    pub(crate) fn download(&self, op: &'static str, from: Address, bytes: usize) -> Result<Vec<u8>> {
        let mut to = vec![0; bytes];
        self.staging.download(&mut to, from).map_err(|e| self.failed(op, &e))?;
        Ok(to)
    }

    /// `n` values at `from`, after everything that is on the stream.
    pub(crate) fn download_slice<T: bytemuck::Pod>(&self, op: &'static str, from: Address, n: usize) -> Result<Vec<T>> {
        let mut to = vec![T::zeroed(); n];
        self.staging.download(bytemuck::cast_slice_mut(&mut to), from).map_err(|e| self.failed(op, &e))?;
        Ok(to)
    }

    /// Puts a copy within the device on the stream; the ranges do not overlap.
    pub(crate) fn copy(&self, op: &'static str, to: Address, from: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.driver.copy_within(to, from, bytes).map_err(|e| self.failed(op, &e))
    }

    /// Puts zeroing `bytes` on the stream.
    pub(crate) fn zero(&self, op: &'static str, to: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.driver.set(to, 0, bytes).map_err(|e| self.failed(op, &e))
    }

    /// Waits until everything on the stream has run.
    pub(crate) fn synchronize(&self, op: &'static str) -> Result<()> {
        self.driver.synchronize().map_err(|e| self.failed(op, &e))
    }

    // ---- kernels ----

    /// Puts a kernel on the stream. A grid of no blocks is no work.
    ///
    /// # Errors
    /// [`Error::Device`] when the launch asks for more than the kernel or the device allows, or the driver refuses it.
    pub(crate) fn launch<A: Arguments>(&self, op: &'static str, launch: Launch, arguments: A) -> Result<()> {
        let Launch { entry, grid, block, shared } = launch;
        let signature = A::SIGNATURE;
        if grid.contains(&0) {
            return Ok(());
        }
        let wrong = |what: String| Error::Device { op, message: format!("launch of {entry}: {what}") };
        if !signature.entries.contains(&entry) {
            return Err(wrong(format!("its arguments are not those of {:?}", signature.entries)));
        }
        let function = self.function(op, signature.module, entry)?;
        let (threads, limits) = (block.iter().map(|&n| n as usize).product::<usize>(), self.limits());
        let most = function.threads.min(limits.threads);
        if threads == 0 || most < threads {
            return Err(wrong(format!("{threads} threads in a block, expected 1 to {most}")));
        }
        if (0..3).any(|i| GRID[i] < grid[i]) {
            return Err(wrong(format!("a grid of {grid:?} blocks, expected at most {GRID:?}")));
        }
        let total = function.shared + shared as usize;
        if limits.shared < total {
            return Err(wrong(format!("{total} bytes of shared memory, the device has {} a block", limits.shared)));
        }
        let bytes = arguments.to_bytes();
        let mut offsets = [0; 32];
        let n = signature.fields.len();
        let Some(offsets) = offsets.get_mut(..n) else {
            return Err(wrong(format!("{n} arguments, expected at most 32")));
        };
        for (offset, field) in offsets.iter_mut().zip(signature.fields) {
            *offset = field.offset;
        }
        let launched = self.driver.launch(&function, grid, block, shared, &bytes, offsets);
        launched.map_err(|e| self.failed(op, &Failure { message: format!("{entry}: {e}"), ..e }))
    }

    fn function(&self, op: &'static str, module: &'static str, entry: &'static str) -> Result<Function> {
        let found = MODULES.iter().position(|(name, _)| *name == module);
        let index = found.ok_or_else(|| Error::Device { op, message: format!("there is no module {module}") })?;
        let loaded = match self.modules[index].get() {
            Some(loaded) => loaded,
            None => {
                let module = self.driver.load(MODULES[index].1).map_err(|e| {
                    self.failed(
                        op,
                        &Failure { message: format!("kernels/ptx/{module}.ptx cannot be loaded: {e}"), ..e },
                    )
                })?;
                // Two threads may have compiled it; one copy stays.
                self.modules[index].get_or_init(|| Loaded { functions: Mutex::default(), module })
            }
        };
        let mut functions = loaded.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(entry) {
            return Ok(*function);
        }
        let function = loaded.module.function(entry);
        let function =
            function.map_err(|e| self.failed(op, &Failure { message: format!("no kernel {entry}: {e}"), ..e }))?;
        functions.insert(entry, function);
        Ok(function)
    }

    // ---- graphs ----

    /// Runs `work`, which only puts operations on the stream, as one graph: hundreds of small kernels are then launched at once. The
    /// graph of the last call is updated where its nodes are the same, which is cheaper than making one anew.
    pub(crate) fn graph(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let op = "graph";
        // Freeing waits for the stream, which a stream that is captured does not allow.
        if self.pool.allocation() == Allocation::Exact {
            return work();
        }
        // One at a time: there is one stream.
        let mut last = self.graph.lock().unwrap_or_else(PoisonError::into_inner);
        self.driver.begin_capture().map_err(|e| self.failed(op, &e))?;
        self.staging.begin_capture();
        self.pool.set_capturing(true);
        let worked = work();
        self.pool.set_capturing(false);
        let pieces = self.staging.end_capture();
        // Also after an error: a stream that is left capturing is of no use.
        let graph = self.driver.end_capture();
        worked?;
        let graph = graph.map_err(|e| self.failed(op, &e))?;
        let launched = (|| {
            let same = match last.as_mut() {
                Some(executable) => executable.update(&graph)?,
                None => false,
            };
            if !same {
                *last = None;
            }
            let executable = match last.take() {
                Some(executable) => executable,
                None => graph.instantiate()?,
            };
            self.driver.launch_graph(&executable)?;
            *last = Some(executable);
            self.staging.give_back(pieces)
        })();
        launched.map_err(|e| self.failed(op, &e))
    }
}
