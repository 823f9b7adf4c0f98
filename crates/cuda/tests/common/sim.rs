//! Kernels run in the simulator directly, without the backend: for counters, and for kernels that no operation launches.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part, and one that cannot go on has failed")]
use paring_ptx_sim::{Counters, Launch, Memory, Module, Options, Rounding};
use ptx_sim_driver::{replacement, run};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex},
};

/// Modules by where their text is, parsed when they are first asked for.
static PARSED: LazyLock<Mutex<HashMap<usize, Arc<Module>>>> = LazyLock::new(Mutex::default);

/// A module of the program, or what `cargo xtask kernels --mutate` puts in its place.
fn parsed(text: &'static str) -> Arc<Module> {
    let mut parsed = PARSED.lock().unwrap();
    let module = parsed.entry(text.as_ptr() as usize);
    Arc::clone(module.or_insert_with(|| Arc::new(replacement(Module::parse(text).unwrap()))))
}

/// The text of a module of the program.
pub(crate) fn text(module: &str) -> &'static str {
    paring_cuda::MODULES.iter().find(|(name, _)| *name == module).unwrap().1
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Pointer(u64),
    U32(u32),
    U64(u64),
    F32(f32),
}

/// A simulated device.
pub(crate) struct Sim {
    pub(crate) memory: Memory,
    pub(crate) options: Options,
}

impl Sim {
    pub(crate) fn new() -> Sim {
        Sim::rounding(Rounding::Nearest)
    }

    pub(crate) fn rounding(rounding: Rounding) -> Sim {
        Sim { memory: Memory::new(), options: Options { rounding, ..Options::default() } }
    }

    /// Memory with these elements.
    pub(crate) fn upload<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> u64 {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self.memory.alloc(bytes.len());
        self.memory.write(address, bytes).unwrap();
        address
    }

    /// Memory that nobody wrote.
    pub(crate) fn alloc(&mut self, bytes: usize) -> u64 {
        self.memory.alloc(bytes)
    }

    pub(crate) fn download<T: bytemuck::Pod>(&self, address: u64, n: usize) -> Vec<T> {
        let mut values = vec![T::zeroed(); n];
        self.memory.read(address, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    }

    /// Runs a kernel of a module that is given as text; no checker may find anything.
    pub(crate) fn launch(
        &mut self,
        text: &'static str,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: usize,
        arguments: &[Value],
    ) -> Counters {
        let module = parsed(text);
        let kernel = module.kernel(entry).unwrap();
        let mut params = vec![0; kernel.param_bytes()];
        assert_eq!(kernel.params().len(), arguments.len(), "{entry}");
        for (param, value) in kernel.params().iter().zip(arguments) {
            let bytes: Vec<u8> = match value {
                Value::Pointer(x) | Value::U64(x) => x.to_le_bytes().into(),
                Value::U32(x) => x.to_le_bytes().into(),
                Value::F32(x) => x.to_le_bytes().into(),
            };
            assert_eq!(param.size, bytes.len(), "{entry}: {}", param.name);
            params[param.offset..][..bytes.len()].copy_from_slice(&bytes);
        }
        let launch = Launch { grid, block, dynamic_shared, params };
        let report = run(kernel, &launch, &mut self.memory, &self.options);
        assert!(report.findings.is_empty(), "{entry}: {:#?}", report.findings);
        report.counters
    }
}
