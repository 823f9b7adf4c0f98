//! What any prediction has to obey: more work takes no less time, limits are approached and not passed, memory is counted.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_gpu_model::{
    A100, Error, GPUS, GRAPH_CAPTURE, GRAPH_GAP, GRAPH_LAUNCH, Gpu, H100, HOST_WAIT, LayerShape, Limit, MEMORY_LATENCY,
    PRESETS, Part, Preset, RTX4090, Shape, Weights, Work, compare_papers, predict,
};

fn shape(name: &str) -> Shape {
    Preset::named(name).unwrap().shape()
}

fn works(teacher: &Shape, n: u32, tokens: u32) -> [Work; 3] {
    [
        Work::Prefill { sequences: n, tokens },
        Work::Decode { sequences: n, context: tokens },
        Work::Distill { windows: n, context: tokens, micro: 1, recompute: false, teacher: Box::new(teacher.clone()) },
    ]
}

fn seconds(gpu: &Gpu, shape: &Shape, weights: Weights, work: &Work) -> f64 {
    predict(gpu, shape, weights, work).unwrap().seconds
}

/// A small step up in each dimension of a shape.
fn larger(shape: &Shape) -> Vec<(&'static str, Shape)> {
    let layer = shape.layers[0];
    let with = |layer: LayerShape| Shape { layers: vec![layer; shape.layers.len()], ..shape.clone() };
    vec![
        ("vocab", Shape { vocab: shape.vocab + 1024, ..shape.clone() }),
        ("hidden", Shape { hidden: shape.hidden + 256, ..shape.clone() }),
        ("head_dim", Shape { head_dim: 2 * shape.head_dim, ..shape.clone() }),
        ("layers", Shape { layers: vec![layer; shape.layers.len() + 1], ..shape.clone() }),
        ("ffn", with(LayerShape { ffn: layer.ffn + 512, ..layer })),
        ("heads", with(LayerShape { heads: layer.heads + layer.kv_heads, ..layer })),
        ("kv_heads", with(LayerShape { kv_heads: 2 * layer.kv_heads, ..layer })),
    ]
}

#[test]
fn more_work_takes_no_less_time() {
    let base = Shape::uniform(4, 1024, LayerShape { heads: 16, kv_heads: 4, ffn: 4096 }, 64, 32768, false, true);
    for gpu in GPUS {
        for weights in [Weights::F32, Weights::Bf16] {
            for (n, tokens) in [(1, 64), (1, 512), (8, 512)] {
                for work in works(&base, n, tokens) {
                    let before = seconds(&gpu, &base, weights, &work);
                    for (what, shape) in larger(&base) {
                        let work = match &work {
                            Work::Distill { windows, context, micro, recompute, .. } => Work::Distill {
                                windows: *windows,
                                context: *context,
                                micro: *micro,
                                recompute: *recompute,
                                teacher: Box::new(Shape { vocab: shape.vocab, ..base.clone() }),
                            },
                            other => other.clone(),
                        };
                        let after = seconds(&gpu, &shape, weights, &work);
                        // More groups are the same scores in more blocks, which may be spread more evenly.
                        let spread = if what == "kv_heads" { 0.95 } else { 1.0 };
                        assert!(spread * before <= after, "{} {weights:?} {what} {work:?}: {before} {after}", gpu.name);
                    }
                }
                for (small, large) in works(&base, n, tokens).iter().zip(works(&base, 2 * n, tokens)) {
                    let (before, after) = (seconds(&gpu, &base, weights, small), seconds(&gpu, &base, weights, &large));
                    assert!(before <= after, "{} {weights:?} {small:?}: {before} {after}", gpu.name);
                }
                for (small, large) in works(&base, n, tokens).iter().zip(works(&base, n, 2 * tokens)) {
                    let (before, after) = (seconds(&gpu, &base, weights, small), seconds(&gpu, &base, weights, &large));
                    assert!(before <= after, "{} {weights:?} {small:?}: {before} {after}", gpu.name);
                }
            }
        }
    }
}

/// One token of a large model takes as long as its weights and its cache take to arrive, and what launches and waits add.
#[test]
fn decoding_a_large_model_is_its_bytes_over_the_bandwidth() {
    let model = shape("llama-3.1-8b");
    for gpu in [A100, H100, RTX4090] {
        for weights in [Weights::Bf16, Weights::Q8_0] {
            let p = predict(&gpu, &model, weights, &Work::Decode { sequences: 1, context: 1024 }).unwrap();
            // The embedding is looked up, not read.
            let read =
                (model.params().total - u64::from(model.vocab) * u64::from(model.hidden)) as f64 * weights.bytes();
            let cache = 2.0 * 1025.0 * 8.0 * 128.0 * 4.0 * 32.0;
            let least = (read + cache) / gpu.dram_bytes_per_second;
            let overhead = p.launches() * (GRAPH_GAP + GRAPH_CAPTURE + 3.0 * MEMORY_LATENCY) + GRAPH_LAUNCH + HOST_WAIT;
            assert!(least < p.seconds, "{} {weights:?}", gpu.name);
            assert!(p.seconds < 1.05 * least + overhead, "{} {weights:?}: {} {least} {overhead}", gpu.name, p.seconds);
        }
    }
}

#[test]
fn a_long_prefill_approaches_the_compute_bound_and_stays_below_it() {
    let model = shape("llama-3.1-8b");
    for gpu in GPUS {
        let reached = |tokens: u32| {
            let p = predict(&gpu, &model, Weights::Bf16, &Work::Prefill { sequences: 1, tokens }).unwrap();
            p.flops() / p.seconds / gpu.mma_sync_flops()
        };
        let [short, long] = [64, 4096].map(reached);
        assert!(short < long && 0.6 < long && long < 1.0, "{}: {short} {long}", gpu.name);
    }
}

#[test]
fn nothing_is_faster_than_its_limits() {
    for preset in PRESETS {
        let shape = preset.shape();
        for gpu in GPUS {
            for work in works(&shape, 2, 300) {
                let p = predict(&gpu, &shape, Weights::Bf16, &work).unwrap();
                assert!(
                    p.dram_bytes() / gpu.dram_bytes_per_second < p.seconds,
                    "{} {} {work:?}",
                    preset.name,
                    gpu.name
                );
                assert!(p.seconds >= p.gpu_seconds && p.seconds >= p.host_seconds);
                for k in &p.kernels {
                    let c = &k.counts;
                    let tensor = c.mma * gpu.mma_clocks() / 4.0 / f64::from(gpu.sms) / gpu.clock_hz;
                    assert!(tensor <= k.seconds && c.dram_bytes / gpu.dram_bytes_per_second <= k.seconds, "{k:?}");
                    // Padding can only add to the tensor cores' work.
                    assert!(c.mma == 0.0 || c.flops <= 2.0 * 2048.0 * c.mma, "{k:?}");
                }
            }
        }
    }
}

#[test]
fn layers_and_the_rest_add_up() {
    let shape = shape("minitron-4b");
    let p = predict(&H100, &shape, Weights::Bf16, &Work::Decode { sequences: 1, context: 512 }).unwrap();
    let layers: f64 = p.layers.iter().sum();
    assert_eq!(p.layers.len(), 32);
    let rest: f64 = p
        .kernels
        .iter()
        .filter(|k| k.part == Part::Head || k.op == "embed")
        .map(|k| k.seconds + k.launches * GRAPH_GAP)
        .sum();
    assert!((layers + rest - p.gpu_seconds).abs() < 1e-9 * p.gpu_seconds, "{layers} {rest} {}", p.gpu_seconds);
}

#[test]
fn layers_may_differ() {
    let even = shape("llama-3.1-minitron-4b-depth");
    let mut uneven = even.clone();
    for (i, layer) in uneven.layers.iter_mut().enumerate() {
        layer.ffn = if i % 2 == 0 { layer.ffn + 4096 } else { layer.ffn - 4096 };
    }
    let work = Work::Decode { sequences: 1, context: 128 };
    let [a, b] = [&even, &uneven].map(|s| predict(&A100, s, Weights::Bf16, &work).unwrap());
    assert!((a.seconds / b.seconds - 1.0).abs() < 0.01, "{} {}", a.seconds, b.seconds);
    assert!(b.layers[1] < b.layers[0] && b.layers[0] == b.layers[2]);
}

#[test]
fn memory_that_is_not_there_is_seen() {
    let teacher = shape("llama-3.1-8b");
    let student = shape("llama-3.1-minitron-4b-depth");
    let fits =
        |gpu: &Gpu, shape: &Shape, weights, work: &Work| predict(gpu, shape, weights, work).unwrap().memory.fits(gpu);
    let decode = Work::Decode { sequences: 1, context: 2048 };
    assert!(fits(&RTX4090, &teacher, Weights::Bf16, &decode) && !fits(&RTX4090, &teacher, Weights::F32, &decode));
    assert!(!fits(&RTX4090, &teacher, Weights::Bf16, &Work::Decode { sequences: 64, context: 2048 }));
    // 16 bytes a parameter of the student, 2 of the teacher: 4.5 B and 8 B are 89 GB.
    let [_, _, distill] = works(&teacher, 8, 2048);
    let p = predict(&H100, &student, Weights::Bf16, &distill).unwrap();
    assert!(!p.memory.fits(&H100));
    let expected = 16.0 * student.params().total as f64 + 2.0 * teacher.params().total as f64;
    assert!((p.memory.weights + p.memory.training + p.memory.teacher) / expected - 1.0 < 1e-3);
    let again = |recompute| {
        let teacher = Box::new(teacher.clone());
        let work = Work::Distill { windows: 8, context: 2048, micro: 8, recompute, teacher };
        predict(&H100, &student, Weights::Bf16, &work).unwrap()
    };
    assert!(again(true).memory.activations < 0.5 * again(false).memory.activations);
    assert!(again(true).seconds > again(false).seconds);
}

#[test]
fn what_cannot_be_is_refused() {
    let shape = shape("minitron-4b");
    let ask = |work: &Work, weights| predict(&A100, &shape, weights, work).map(|_| ());
    assert!(matches!(ask(&Work::Prefill { sequences: 0, tokens: 1 }, Weights::Bf16), Err(Error::Size { .. })));
    assert!(matches!(ask(&Work::Prefill { sequences: 1, tokens: 0 }, Weights::Bf16), Err(Error::Size { .. })));
    assert!(matches!(ask(&Work::Decode { sequences: 1, context: u32::MAX }, Weights::Bf16), Err(Error::Size { .. })));
    let [_, _, distill] = works(&shape, 1, 64);
    assert!(matches!(ask(&distill, Weights::Q8_0), Err(Error::Weights { .. })));
    let other = Box::new(Preset::named("llama-3.1-8b").unwrap().shape());
    let mixed = Work::Distill { windows: 1, context: 64, micro: 1, recompute: false, teacher: other };
    assert!(matches!(ask(&mixed, Weights::Bf16), Err(Error::Vocab { .. })));
    // An empty cache is a first token.
    assert_eq!(ask(&Work::Decode { sequences: 1, context: 0 }, Weights::Bf16), Ok(()));
}

/// The papers' order: both students are faster than the teacher, depth is faster than width at (nearly) equal size.
#[test]
fn students_are_faster_than_their_teacher_and_the_shallow_one_fastest() {
    for row in compare_papers(&H100).unwrap() {
        let [width, depth] = row.speed_ups();
        assert!(1.0 < width && width < depth, "{row:?}");
    }
}

#[test]
fn a_kernel_with_nothing_to_do_waits() {
    let tiny = Shape::uniform(1, 16, LayerShape { heads: 1, kv_heads: 1, ffn: 16 }, 16, 32, true, true);
    let p = predict(&H100, &tiny, Weights::Bf16, &Work::Decode { sequences: 1, context: 1 }).unwrap();
    assert!(p.kernels.iter().all(|k| k.limit == Limit::Latency));
}
