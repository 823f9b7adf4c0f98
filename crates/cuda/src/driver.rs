//! The CUDA driver API behind safe types: the only file of this crate with `unsafe`, and the only user of cudarc.
//!
//! One context and one stream: what is put on the stream runs in order, so memory that is handed on by the host in that order needs no
//! further synchronisation on the device. What remains is the host: it may read what was copied to it, and reuse what is copied from it,
//! only after the stream has come so far ([`Event`], [`Driver::synchronize`]).
#![allow(unsafe_code, reason = "calls of a C library; ARCHITECTURE.md names this file")]
use cudarc::driver::{
    result::{self, DriverError},
    sys,
};
use std::{
    ffi::{CString, c_int, c_void},
    fmt, mem, ptr, slice,
    sync::Arc,
};

/// What the driver answered instead of success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// `CUDA_ERROR_…`, or what is missing.
    pub(crate) message: String,
    /// Whether memory ran out: then it may help to give some back.
    pub(crate) out_of_memory: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<DriverError> for Failure {
    fn from(e: DriverError) -> Self {
        let text = |s: std::result::Result<&std::ffi::CStr, DriverError>| {
            s.map_or_else(|_| format!("error {}", e.0 as u32), |s| s.to_string_lossy().into_owned())
        };
        let message = format!("{}: {}", text(e.error_name()), text(e.error_string()));
        Failure { message, out_of_memory: e.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A device's context with one stream, current on whatever thread calls.
pub(crate) struct Driver {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    name: String,
    limits: Limits,
}

/// What a launch may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Multiprocessors.
    pub(crate) processors: usize,
    /// Threads of a block.
    pub(crate) threads: usize,
    /// Bytes of shared memory of a block, when a function has opted in.
    pub(crate) shared: usize,
    /// Major and minor compute capability.
    pub(crate) capability: (i32, i32),
}

// SAFETY: handles of the driver are usable from any thread once the context is current there, and every method makes it current first
// (`enter`). The driver serialises calls on a stream.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Sync for Driver {}

/// The number of devices, or why there is none.
pub(crate) fn device_count() -> Result<usize> {
    // SAFETY: only tries to open libraries; the driver's own initialisers are what any CUDA program runs.
    if !unsafe { sys::is_culib_present() } {
        let message = "no CUDA driver was found (libcuda.so cannot be opened)".into();
        return Err(Failure { message, out_of_memory: false });
    }
    result::init()?;
    Ok(usize::try_from(result::device::get_count()?).unwrap_or(0))
}

impl Driver {
    /// Opens device `ordinal`; the caller has seen that there is one ([`device_count`]).
    pub(crate) fn open(ordinal: usize) -> Result<Arc<Driver>> {
        let ordinal = c_int::try_from(ordinal)
            .map_err(|_| Failure { message: format!("no device {ordinal}"), out_of_memory: false })?;
        let device = result::device::get(ordinal)?;
        let name = result::device::get_name(device)?;
        use sys::CUdevice_attribute as Attribute;
        // SAFETY: `device` comes from `device::get`.
        let attribute = |a| unsafe { result::device::get_attribute(device, a) };
        let size = |a| attribute(a).map(|v| usize::try_from(v).unwrap_or(0));
        let limits = Limits {
            processors: size(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            threads: size(Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
            shared: size(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
        };
        // SAFETY: `device` comes from `device::get`; released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device)? };
        let open = || {
            // SAFETY: the context was retained just now.
            unsafe { result::ctx::set_current(context)? };
            result::stream::create(result::stream::StreamKind::NonBlocking)
        };
        match open() {
            Ok(stream) => Ok(Arc::new(Driver { device, context, stream, name, limits })),
            Err(e) => {
                // SAFETY: retained above, and nothing else was made in it.
                let _ = unsafe { result::primary_ctx::release(device) };
                Err(e.into())
            }
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }.map_err(Failure::from)
    }

    /// Waits until everything on the stream has run.
    pub(crate) fn synchronize(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(Failure::from)
    }

    /// Free and total bytes of the device.
    pub(crate) fn memory(&self) -> Result<(usize, usize)> {
        self.enter()?;
        Ok(result::mem_get_info()?)
    }

    /// `bytes` of device memory, at least one, aligned to 256.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: usize) -> Result<Region> {
        self.enter()?;
        // SAFETY: any contents are valid for a region of bytes; freed in `Region::drop`.
        let address = unsafe { result::malloc_sync(bytes)? };
        Ok(Region { driver: Arc::clone(self), address, bytes })
    }

    /// Page-locked host memory of `bytes`, at least one: copies to and from it do not block.
    pub(crate) fn allocate_pinned(self: &Arc<Self>, bytes: usize) -> Result<Pinned> {
        self.enter()?;
        // SAFETY: freed in `Pinned::drop`; written below before anything reads it.
        let start = unsafe { result::malloc_host(bytes, 0)? }.cast::<u8>();
        // SAFETY: `start` is the beginning of `bytes` that nobody else has.
        unsafe { ptr::write_bytes(start, 0, bytes) };
        Ok(Pinned { driver: Arc::clone(self), start, bytes })
    }

    /// Puts a copy of the first `bytes` of `from` to `to` on the stream. The caller keeps `from` unwritten until the stream has come past
    /// this ([`Driver::record`]), and `to` allocated: regions go back to their pool, which hands them out in the stream's order.
    pub(crate) fn copy_in(&self, to: Address, from: &Pinned, bytes: usize) -> Result<()> {
        self.enter()?;
        let from = &from.bytes()[..bytes];
        // SAFETY: `to` begins at least `bytes` of device memory (the callers' tensors are that long); the source is page-locked and stays,
        // see above.
        unsafe { result::memcpy_htod_async(to.0, from, self.stream) }.map_err(Failure::from)
    }

    /// Copies `bytes` at `from` to the beginning of `to` and waits for it.
    pub(crate) fn copy_out(&self, to: &mut Pinned, from: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        let to = &mut to.bytes_mut()[..bytes];
        // SAFETY: `from` begins at least `bytes` of device memory; `to` is borrowed until the stream is done.
        unsafe { result::memcpy_dtoh_async(to, from.0, self.stream)? };
        self.synchronize()
    }

    /// Puts a copy within the device on the stream. The ranges do not overlap, and both are allocated.
    pub(crate) fn copy_within(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: both addresses begin `bytes` of device memory (the callers' tensors are that long).
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream) }.map_err(Failure::from)
    }

    /// Puts setting `bytes` at `to` to `value` on the stream.
    pub(crate) fn set(&self, to: Address, value: u8, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: `to` begins at least `bytes` of device memory.
        unsafe { result::memset_d8_async(to.0, value, bytes, self.stream) }.map_err(Failure::from)
    }

    /// A mark on the stream: [`Event::is_past`] once everything before it has run.
    pub(crate) fn record(self: &Arc<Self>) -> Result<Event> {
        self.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
        let event = Event { driver: Arc::clone(self), event };
        // SAFETY: event and stream are alive and of one context.
        unsafe { result::event::record(event.event, self.stream)? };
        Ok(event)
    }

    /// Compiles PTX for this device.
    pub(crate) fn load(self: &Arc<Self>, ptx: &str) -> Result<Module> {
        self.enter()?;
        let text = CString::new(ptx).map_err(|e| Failure { message: e.to_string(), out_of_memory: false })?;
        // SAFETY: the text ends in a zero byte and lives over the call.
        let module = unsafe { result::module::load_data(text.as_ptr().cast::<c_void>())? };
        Ok(Module { driver: Arc::clone(self), module })
    }

    /// Puts a kernel on the stream.
    ///
    /// `parameters` are the bytes that its parameters begin at, `offsets` where each of them is. The caller has checked them against the
    /// PTX's declaration ([`crate::kernel::Arguments`]), and passes addresses of memory that is as large as the kernel expects.
    pub(crate) fn launch(
        &self,
        function: &Function,
        grid: [u32; 3],
        block: [u32; 3],
        shared: u32,
        parameters: &[u8],
        offsets: &[usize],
    ) -> Result<()> {
        self.enter()?;
        // The driver reads parameters through these pointers during the call, and takes them as mutable only by its signature.
        let mut pointers: Vec<*mut c_void> =
            offsets.iter().map(|&at| parameters[at..].as_ptr().cast_mut().cast()).collect();
        let [gx, gy, gz] = grid;
        let [bx, by, bz] = block;
        // SAFETY: the function's module is alive; there is a pointer for every parameter, to as many bytes as it has; what the kernel
        // reads and writes is allocated, see above.
        let launched = unsafe {
            result::launch_kernel(function.function, (gx, gy, gz), (bx, by, bz), shared, self.stream, &mut pointers)
        };
        launched.map_err(Failure::from)
    }

    /// Begins to record what is put on the stream instead of running it. Until [`Driver::end_capture`] nothing may wait for the stream.
    pub(crate) fn begin_capture(&self) -> Result<()> {
        self.enter()?;
        // What is captured allocates: the other modes refuse that.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(Failure::from)
    }

    /// Ends [`Driver::begin_capture`] and returns what was recorded; also after a failure, to leave the stream usable.
    pub(crate) fn end_capture(self: &Arc<Self>) -> Result<Graph> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        let graph = unsafe { result::stream::end_capture(self.stream)? };
        match graph.is_null() {
            true => Err(Failure { message: "nothing was captured".into(), out_of_memory: false }),
            false => Ok(Graph { driver: Arc::clone(self), graph }),
        }
    }

    /// Puts a whole graph on the stream.
    pub(crate) fn launch_graph(&self, graph: &ExecutableGraph) -> Result<()> {
        self.enter()?;
        // SAFETY: the graph is alive, and what its nodes refer to is kept beside it by its owner.
        unsafe { result::graph::launch(graph.graph, self.stream) }.map_err(Failure::from)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Errors have nowhere to go, and the process may be ending.
        if self.enter().is_ok() {
            // SAFETY: made in `open`; everything that was made on them holds an `Arc` of `self` and is gone.
            let _ = unsafe { result::stream::destroy(self.stream) };
            // SAFETY: retained in `open`.
            let _ = unsafe { result::primary_ctx::release(self.device) };
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An address in device memory, as kernels take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub(crate) struct Address(pub(crate) u64);

impl Address {
    /// `bytes` further on.
    pub(crate) fn add(self, bytes: usize) -> Address {
        Address(self.0 + bytes as u64)
    }
}

/// Device memory that was taken from the driver; dropping gives it back, so whoever drops it makes sure that the stream is past its use
/// (`cuMemFree` waits for the device).
#[derive(Debug)]
pub(crate) struct Region {
    driver: Arc<Driver>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Region {
    pub(crate) fn address(&self) -> Address {
        Address(self.address)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // SAFETY: made in `Driver::allocate`, freed once.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// Page-locked host memory.
#[derive(Debug)]
pub(crate) struct Pinned {
    driver: Arc<Driver>,
    start: *mut u8,
    bytes: usize,
}

// SAFETY: the memory is owned, and reachable from any thread.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: `start` begins `bytes` initialised bytes that live as long as `self`.
        unsafe { slice::from_raw_parts(self.start, self.bytes) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably. The stream reads it no more: its owner has waited for that.
        unsafe { slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // SAFETY: made by `allocate_pinned`, freed once; its owner has waited for the copies.
            let _ = unsafe { result::free_host(self.start.cast()) };
        }
    }
}

/// A mark on the stream.
#[derive(Debug)]
pub(crate) struct Event {
    driver: Arc<Driver>,
    event: sys::CUevent,
}

// SAFETY: a handle of the driver, as `Driver` itself.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Whether the stream has come past the mark.
    pub(crate) fn is_past(&self) -> Result<bool> {
        self.driver.enter()?;
        // SAFETY: the event is alive.
        match unsafe { result::event::query(self.event) } {
            Ok(()) => Ok(true),
            Err(DriverError(sys::CUresult::CUDA_ERROR_NOT_READY)) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until it has.
    pub(crate) fn wait(&self) -> Result<()> {
        self.driver.enter()?;
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.event) }.map_err(Failure::from)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // SAFETY: made in `record`, destroyed once.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// Kernels of one PTX text, compiled.
#[derive(Debug)]
pub(crate) struct Module {
    driver: Arc<Driver>,
    module: sys::CUmodule,
}

// SAFETY: a handle of the driver, as `Driver` itself.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

/// A kernel. Valid as long as its module, which whoever holds it keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function {
    function: sys::CUfunction,
    /// Threads of a block it was compiled for.
    pub(crate) threads: usize,
    /// Bytes of shared memory that it has of itself.
    pub(crate) shared: usize,
}

// SAFETY: a handle of the driver, as `Driver` itself.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Module {
    /// Finds a kernel, and lets it have all the shared memory that a block can.
    pub(crate) fn function(&self, name: &str) -> Result<Function> {
        self.driver.enter()?;
        let c_name = CString::new(name).map_err(|e| Failure { message: e.to_string(), out_of_memory: false })?;
        // SAFETY: the module is alive.
        let function = unsafe { result::module::get_function(self.module, c_name)? };
        use sys::CUfunction_attribute as Attribute;
        // SAFETY: the function was found just now.
        let attribute = |a| unsafe { result::function::get_function_attribute(function, a) };
        let threads = attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
        let shared = attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
        let (threads, shared) = (usize::try_from(threads).unwrap_or(0), usize::try_from(shared).unwrap_or(0));
        let dynamic = self.driver.limits.shared.saturating_sub(shared);
        let most = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: as above.
        unsafe { result::function::set_function_attribute(function, most, c_int::try_from(dynamic).unwrap_or(0))? };
        Ok(Function { function, threads, shared })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // SAFETY: made in `load`, unloaded once; its functions are used by the device that holds it only.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

/// What was captured.
#[derive(Debug)]
pub(crate) struct Graph {
    driver: Arc<Driver>,
    graph: sys::CUgraph,
}

impl Graph {
    /// Makes it launchable.
    pub(crate) fn instantiate(&self) -> Result<ExecutableGraph> {
        self.driver.enter()?;
        // SAFETY: the graph is alive.
        let graph = unsafe { result::graph::instantiate(self.graph, mem::zeroed())? };
        Ok(ExecutableGraph { driver: Arc::clone(&self.driver), graph })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // SAFETY: made in `end_capture`, destroyed once; executable graphs are copies.
            let _ = unsafe { result::graph::destroy(self.graph) };
        }
    }
}

/// A graph that can be launched.
#[derive(Debug)]
pub(crate) struct ExecutableGraph {
    driver: Arc<Driver>,
    graph: sys::CUgraphExec,
}

// SAFETY: a handle of the driver, as `Driver` itself.
unsafe impl Send for ExecutableGraph {}

impl ExecutableGraph {
    /// Takes over the parameters of `graph`; `false` when its nodes are others, and it has to be instantiated anew.
    pub(crate) fn update(&mut self, graph: &Graph) -> Result<bool> {
        self.driver.enter()?;
        let mut info = mem::MaybeUninit::<sys::CUgraphExecUpdateResultInfo>::zeroed();
        // SAFETY: both graphs are alive, and `info` is as large as the driver writes.
        match unsafe { sys::cuGraphExecUpdate_v2(self.graph, graph.graph, info.as_mut_ptr()) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE => Ok(false),
            e => Err(DriverError(e).into()),
        }
    }
}

impl Drop for ExecutableGraph {
    fn drop(&mut self) {
        if self.driver.enter().is_ok() {
            // SAFETY: made by `instantiate`, destroyed once; the driver keeps what is still running.
            let _ = unsafe { result::graph::exec_destroy(self.graph) };
        }
    }
}
