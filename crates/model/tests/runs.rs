//! One model, many ways to run it: packed or alone, at once or with a cache, on few threads or many. All give the same numbers.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{
    FAMILIES, Figures, Golden, backends, bits, config, cpu, gradients, logits, model, nmse, random_ids, random_values,
};
use paring_exec::Ctx;
use paring_model::{Arch, Batch, Error, Model};
use paring_ops::Backend;
use paring_tensor::DType;

fn random_model(backend: &dyn Backend, tied: bool, dtype: DType) -> Model {
    let arch = Arch::from_config(&config(tied)).unwrap();
    model(backend, &arch, &random_values(&arch, 1), dtype)
}

#[test]
fn packed_sequences_do_not_see_each_other() {
    for family in FAMILIES {
        let golden = Golden::open(family);
        for (name, backend) in backends() {
            let (backend, model) = (&*backend, golden.model(&*backend));
            let packed = logits(backend, &model, &golden.batch());
            let alone: Vec<f32> =
                golden.sequences.iter().flat_map(|s| logits(backend, &model, &Batch::pack([s.as_slice()]))).collect();
            assert_eq!(bits(&packed), bits(&alone), "{family}, {name}");
            // Empty sequences and a single token between them change nothing for the others.
            let [first, second] = [&golden.sequences[0][..], &golden.sequences[1]];
            let mixed = logits(backend, &model, &Batch::pack([&[][..], first, &[7], &[], second]));
            let vocab = golden.arch().vocab;
            let (before, after) = (&mixed[..first.len() * vocab], &mixed[(first.len() + 1) * vocab..]);
            assert_eq!(bits(&packed), bits(&[before, after].concat()), "{family}, {name}");
        }
    }
}

#[test]
fn a_run_in_pieces_is_the_whole_run() {
    for (name, backend) in backends() {
        let backend = &*backend;
        let model = random_model(backend, true, DType::F32);
        let layers = model.arch().layers.len();
        let ids = random_ids(model.arch().vocab, 40, 11);
        let batch = Batch::pack([&ids[..15], &ids[15..]]);
        let whole = model.hidden(&mut Ctx::infer(backend), &batch, None).unwrap().tensor;
        let whole = backend.download(&whole).unwrap();
        for cut in 0..=layers {
            let mut cx = Ctx::infer(backend);
            let x = model.embed(&mut cx, &batch).unwrap();
            let stream = model.blocks(&mut cx, &batch, 0..cut, x).unwrap().tensor;
            // Twice from the same stream: a later run must not write into what an earlier one kept.
            for _ in 0..2 {
                let mut cx = Ctx::infer(backend);
                let x = cx.input(stream.clone());
                let x = model.blocks(&mut cx, &batch, cut..layers, x).unwrap();
                let x = model.finish(&mut cx, &x).unwrap().tensor;
                assert_eq!(bits(&backend.download(&x).unwrap()), bits(&whole), "{name}, cut at {cut}");
            }
        }
        let mut cx = Ctx::infer(backend);
        let x = model.embed(&mut cx, &batch).unwrap();
        let error = model.blocks(&mut cx, &batch, [layers], x).unwrap_err();
        assert!(matches!(error, Error::NoBlock { got, blocks } if (got, blocks) == (layers, layers)), "{error}");
    }
}

#[test]
fn decoding_with_a_cache_is_the_full_forward() {
    for family in FAMILIES {
        let golden = Golden::open(family);
        for (name, backend) in backends() {
            let (backend, model) = (&*backend, golden.model(&*backend));
            let mut figures = Figures::new(&format!("{family}, {name}"));
            for ids in &golden.sequences {
                let full = logits(backend, &model, &Batch::pack([ids.as_slice()]));
                // A prompt, then pieces: most of them single tokens, as in generation.
                for pieces in [vec![1; 48], vec![20, 1, 1, 1, 25], vec![47, 1], vec![48]] {
                    let mut cache = model.kv_cache(backend, ids.len()).unwrap();
                    let (mut at, mut cached) = (0, Vec::new());
                    for n in pieces {
                        let batch = Batch::continuing(&ids[at..at + n], at);
                        let x = model.hidden(&mut Ctx::infer(backend), &batch, Some(&mut cache)).unwrap().tensor;
                        cached.extend(backend.download(&model.logits(backend, &x).unwrap()).unwrap());
                        at += n;
                        assert_eq!(cache.len(), at);
                    }
                    figures.check("logits of cached decoding", "all", nmse(&cached, &full), 1e-12);
                }
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let model = |backend: &dyn Backend, dtype| random_model(backend, false, dtype);
    // Enough rows and columns that every kernel has something to share out.
    let sequences: Vec<Vec<u32>> = [150, 1, 93].iter().map(|&n| random_ids(301, n.min(128), n as u64)).collect();
    let batch = Batch::pack(sequences.iter().map(Vec::as_slice));
    for dtype in [DType::F32, DType::BF16] {
        let one = cpu(1);
        let (want_logits, want) =
            (bits(&logits(&one, &model(&one, dtype), &batch)), gradients(&one, &model(&one, dtype), &batch, false));
        for threads in [2, 3] {
            let many = cpu(threads);
            let model = model(&many, dtype);
            assert_eq!(bits(&logits(&many, &model, &batch)), want_logits, "{dtype}, {threads} threads");
            for recompute in [false, true] {
                let (loss, grads) = gradients(&many, &model, &batch, recompute);
                assert_eq!(loss.to_bits(), want.0.to_bits(), "{dtype}, {threads} threads");
                for (spec, (got, want)) in model.specs().iter().zip(grads.iter().zip(&want.1)) {
                    assert_eq!(bits(got), bits(want), "{dtype}, {threads} threads: {}", spec.name);
                }
            }
        }
    }
    for family in FAMILIES {
        let golden = Golden::open(family);
        let run = |threads| {
            let backend = cpu(threads);
            let model = golden.model(&backend);
            let (loss, grads) = gradients(&backend, &model, &golden.batch(), false);
            let grads: Vec<Vec<u32>> = grads.iter().map(|g| bits(g)).collect();
            (bits(&logits(&backend, &model, &golden.batch())), loss.to_bits(), grads)
        };
        let one = run(1);
        assert!(run(2) == one && run(3) == one, "{family}");
    }
}

#[test]
fn bf16_weights_come_close_to_f32_and_not_closer_than_they_can() {
    for (name, backend) in backends() {
        let mut figures = Figures::new(&name);
        let batch = Batch::pack([random_ids(301, 60, 3).as_slice()]);
        let of = |dtype| logits(&*backend, &random_model(&*backend, true, dtype), &batch);
        let error = nmse(&of(DType::BF16), &of(DType::F32));
        // Eight bits of significand: each rounding is off by 2^-9 at most, in NMSE by about (2^-9)^2 / 3 = 1.3e-6.
        figures.check("logits in bf16", "all", error, 2e-4);
        assert!(1e-7 < error, "{name}: computed in f32 after all? NMSE {error:e}");
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    for (name, backend) in backends() {
        let (backend, model) = (&*backend, random_model(&*backend, true, DType::F32));
        let run = |ids: &[u32]| model.hidden(&mut Ctx::infer(backend), &Batch::pack([ids]), None).map(|_| ());
        assert!(run(&[1; 128]).is_ok(), "{name}");
        let error = run(&[1; 129]).unwrap_err();
        assert!(matches!(error, Error::TooLong { tokens: 129, max: 128 }), "{name}: {error}");
        let error = run(&[5, 301]).unwrap_err();
        let index = paring_ops::Error::Index { op: "embed", index: 301, len: 301 };
        assert!(matches!(&error, Error::Ops(e) if *e == index), "{name}: {error}");

        let mut cache = model.kv_cache(backend, 4).unwrap();
        let mut decode = |ids: &[u32], past| {
            let batch = Batch::continuing(ids, past);
            model.hidden(&mut Ctx::infer(backend), &batch, Some(&mut cache)).map(|_| ())
        };
        decode(&[1, 2, 3], 0).unwrap();
        let error = decode(&[4, 5], 3).unwrap_err();
        let full = paring_ops::Error::Index { op: "kv_cache", index: 5, len: 4 };
        assert!(matches!(&error, Error::Ops(e) if *e == full), "{name}: {error}");
        decode(&[4], 3).unwrap();
        let mut cache = model.kv_cache(backend, 4).unwrap();
        let error = model.hidden(&mut Ctx::record(backend), &Batch::pack([&[1][..]]), Some(&mut cache)).unwrap_err();
        assert!(matches!(error, Error::Ops(paring_ops::Error::NotRecording { .. })), "{name}: {error}");
    }
}
