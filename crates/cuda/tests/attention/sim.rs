//! Kernels run in the simulator directly, without the backend: for counters, and for kernels that no operation launches.
use paring_cuda::MODULES;
use paring_ptx_sim::{Counters, Launch, Memory, Module, Options, Rounding, run};
use std::{
    collections::HashMap,
    sync::{LazyLock, OnceLock},
};

/// Modules by name, parsed when they are first asked for.
static PARSED: LazyLock<HashMap<&str, OnceLock<Module>>> =
    LazyLock::new(|| MODULES.iter().map(|&(name, _)| (name, OnceLock::new())).collect());

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    Pointer(u64),
    U32(u32),
    F32(f32),
}

/// A simulated device.
pub(crate) struct Sim {
    pub(crate) memory: Memory,
    options: Options,
}

impl Sim {
    pub(crate) fn new(rounding: Rounding) -> Sim {
        Sim { memory: Memory::new(), options: Options { rounding, ..Options::default() } }
    }

    /// Memory with these elements.
    pub(crate) fn upload<T: bytemuck::NoUninit>(&mut self, values: &[T]) -> u64 {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let address = self.memory.alloc(bytes.len());
        self.memory.write(address, bytes).unwrap();
        address
    }

    /// Memory for floats that nobody wrote.
    pub(crate) fn floats(&mut self, n: usize) -> u64 {
        self.memory.alloc(n * 4)
    }

    pub(crate) fn download(&self, address: u64, n: usize) -> Vec<f32> {
        let mut values = vec![0.0; n];
        self.memory.read(address, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    }

    /// Runs a kernel along x and y (and z); no checker may find anything.
    pub(crate) fn launch(
        &mut self,
        module: &str,
        entry: &str,
        grid: [usize; 3],
        threads: u32,
        dynamic_shared: usize,
        arguments: &[Value],
    ) -> Counters {
        let text = MODULES.iter().find(|(name, _)| *name == module).unwrap().1;
        let module = PARSED[module].get_or_init(|| Module::parse(text).unwrap());
        let kernel = module.kernel(entry).unwrap();
        let mut params = vec![0; kernel.param_bytes()];
        assert_eq!(kernel.params().len(), arguments.len(), "{entry}");
        for (param, value) in kernel.params().iter().zip(arguments) {
            let bytes: Vec<u8> = match value {
                Value::Pointer(x) => x.to_le_bytes().into(),
                Value::U32(x) => x.to_le_bytes().into(),
                Value::F32(x) => x.to_le_bytes().into(),
            };
            assert_eq!(param.size, bytes.len(), "{entry}: {}", param.name);
            params[param.offset..][..bytes.len()].copy_from_slice(&bytes);
        }
        let launch = Launch { grid: grid.map(|n| n as u32), block: [threads, 1, 1], dynamic_shared, params };
        let report = run(kernel, &launch, &mut self.memory, &self.options);
        assert!(report.findings.is_empty(), "{entry}: {:#?}", report.findings);
        report.counters
    }
}
