//! Kernels run in the simulator directly, without the backend: for counters, and for kernels that no operation launches.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses a part, and one that cannot go on has failed")]
use paring_ptx_sim::{Counters, Launch, Memory, Module, Options, run};

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
        Sim { memory: Memory::new(), options: Options::default() }
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
        text: &str,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: usize,
        arguments: &[Value],
    ) -> Counters {
        let module = Module::parse(text).unwrap();
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
