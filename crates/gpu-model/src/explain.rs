//! Every number that is no count: what it is called, its value, why it is that.
use crate::{
    cost::{GRAPH_CAPTURE, GRAPH_GAP, GRAPH_LAUNCH, HOST_LAUNCH, HOST_WAIT, MEMORY_LATENCY, STREAM_GAP},
    gemm::{TILES, VECTOR_ROWS},
    gpu::Gpu,
    plan::HEAD_CHUNK_BYTES,
    predict::RESERVED,
};

/// One constant of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumption {
    /// Its name in the source.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// What it counts.
    pub unit: &'static str,
    /// Where it is from, or why it was taken.
    pub reason: &'static str,
}

/// The constants that a prediction for `gpu` rests on, beside the GPU's own figures ([`Gpu::sources`]), and the rates of the main tiles.
pub fn assumptions(gpu: &Gpu) -> Vec<Assumption> {
    let one = |name: &str, value, unit, reason| Assumption { name: name.to_string(), value, unit, reason };
    let mut all = vec![
        one(
            "mma_clocks",
            gpu.mma_clocks(),
            "clocks",
            "of a tensor core for one mma.sync.m16n8k16: the peak rate and the share that mma.sync reaches",
        ),
        one(
            "DRAM share",
            1.0,
            "",
            "assumed: device memory moves at its printed rate; copies reach about nine tenths of it, which slows all models alike",
        ),
        one(
            "overlap",
            1.0,
            "",
            "assumed: tensor cores, shared memory, issue, L2 and DRAM work beside each other perfectly; the slowest counts",
        ),
        one(
            "MEMORY_LATENCY",
            MEMORY_LATENCY * 1e6,
            "us",
            "assumed: from a load that misses L2 to its data, once for each wave that nothing hides",
        ),
        one(
            "STREAM_GAP",
            STREAM_GAP * 1e6,
            "us",
            "between kernels of a stream: after Gray, Getting Started with CUDA Graphs, NVIDIA 2019",
        ),
        one("GRAPH_GAP", GRAPH_GAP * 1e6, "us", "between kernels of a CUDA graph, which decoding is: the same source"),
        one(
            "HOST_LAUNCH",
            HOST_LAUNCH * 1e6,
            "us",
            "assumed: the processor's time for one launch; work of shorter kernels waits for it",
        ),
        one(
            "GRAPH_CAPTURE",
            GRAPH_CAPTURE * 1e6,
            "us",
            "assumed: the processor's time for one kernel of a graph, which is made anew for each token",
        ),
        one(
            "HOST_WAIT",
            HOST_WAIT * 1e6,
            "us",
            "assumed: lost where the processor waits for a number: a token's logits, a chunk's loss, a gradient's norm",
        ),
        one("GRAPH_LAUNCH", GRAPH_LAUNCH * 1e6, "us", "assumed: the processor's time for one graph"),
        one(
            "HEAD_CHUNK_BYTES",
            HEAD_CHUNK_BYTES,
            "bytes",
            "logits in memory at a time when a loss is fused with its head (paring-ops)",
        ),
        one("VECTOR_ROWS", f64::from(VECTOR_ROWS[0]), "rows", "of activations that one pass over a bf16 weight serves"),
        one(
            "VECTOR_ROWS",
            f64::from(VECTOR_ROWS[1]),
            "rows",
            "that one pass over any other weight serves; quantised weights know no tiles, and pass again for every eight",
        ),
        one("RESERVED", RESERVED, "bytes", "assumed: what the driver and the allocator keep of the memory"),
    ];
    for tile in &TILES {
        let step = tile.step();
        let tensor = step.mma * gpu.mma_clocks() / 4.0;
        all.push(Assumption {
            name: format!("gemm {}: tensor clocks of a step", tile.name),
            value: tensor,
            unit: "clocks",
            reason: "counted: mma of a block's step over four tensor cores",
        });
        all.push(Assumption {
            name: format!("gemm {}: shared over tensor clocks", tile.name),
            value: step.shared_clocks / tensor,
            unit: "",
            reason: "counted: four wavefronts an ldmatrix.x4, 128 bytes a clock of cp.async",
        });
        all.push(Assumption {
            name: format!("gemm {}: issue over tensor clocks", tile.name),
            value: step.instructions / 4.0 / tensor,
            unit: "",
            reason: "counted: all instructions of a step over four schedulers",
        });
    }
    all
}
