//! Generation against the full forward: with a cache, token by token, it chooses what all tokens at once would.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#[path = "../../model/tests/common/mod.rs"]
mod common;

use common::{FAMILIES, Golden, backends, cpu, logits};
use paring_engine::{Error, Generated, Request, generate};
use paring_model::{Batch, Model};
use paring_ops::Backend;
use paring_sampling::Sampler;

fn request(prompt: &[u32], max_tokens: usize) -> Request {
    Request { prompt: prompt.to_vec(), max_tokens, sampler: Sampler::greedy(), stop: vec![] }
}

fn run(backend: &dyn Backend, model: &Model, request: &Request) -> Generated {
    let mut emitted = Vec::new();
    let keep = &mut |token| {
        emitted.push(token);
        true
    };
    let generated = generate(backend, model, request, keep).unwrap();
    assert_eq!(generated.tokens, emitted, "what is emitted is what is returned");
    generated
}

/// The token with the highest logit after `ids`, the lowest id among equals; by a forward over all of them.
fn next(backend: &dyn Backend, model: &Model, ids: &[u32]) -> u32 {
    let all = logits(backend, model, &Batch::pack([ids]));
    let last = &all[all.len() - model.arch().vocab..];
    let best = last.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    last.iter().position(|&l| l == best).unwrap() as u32
}

#[test]
fn greedy_generation_takes_the_best_token_of_the_full_forward() {
    for family in FAMILIES {
        let golden = Golden::open(family);
        for (name, backend) in backends() {
            let (backend, model) = (&*backend, golden.model(&*backend));
            for prompt in [&golden.sequences[0][..1], &golden.sequences[1][..20]] {
                let got = run(backend, &model, &request(prompt, 24));
                let mut ids = prompt.to_vec();
                for (i, &token) in got.tokens.iter().enumerate() {
                    assert_eq!(token, next(backend, &model, &ids), "{family}, {name}: token {i}");
                    ids.push(token);
                }
                assert_eq!((got.tokens.len(), got.stopped), (24, false));
                assert!(0.0 < got.prefill_tokens_per_second && 0.0 < got.decode_tokens_per_second);
            }
        }
    }
}

#[test]
fn stop_tokens_end_the_text_and_are_no_part_of_it() {
    let golden = Golden::open("llama");
    let backend = cpu(1);
    let model = golden.model(&backend);
    let free = run(&backend, &model, &request(&[5, 6], 16)).tokens;
    for (i, &stop) in free.iter().enumerate() {
        let first = free.iter().position(|&t| t == stop).unwrap();
        let got = run(&backend, &model, &Request { stop: vec![stop], ..request(&[5, 6], 16) });
        assert_eq!((&got.tokens[..], got.stopped), (&free[..first], true), "token {i}");
    }
    let never = (0..163).find(|t| !free.contains(t)).unwrap();
    let got = run(&backend, &model, &Request { stop: vec![never], ..request(&[5, 6], 16) });
    assert_eq!((got.tokens, got.stopped), (free, false));
}

#[test]
fn who_listens_may_end_it() {
    let golden = Golden::open("llama-tied");
    let backend = cpu(1);
    let model = golden.model(&backend);
    let free = run(&backend, &model, &request(&[9], 12)).tokens;
    for n in 1..=12 {
        let mut seen = 0;
        let mut until = |_| {
            seen += 1;
            seen < n
        };
        let got = generate(&backend, &model, &request(&[9], 12), &mut until).unwrap();
        // The token that was refused has been shown already, so it belongs to the text.
        assert_eq!((&got.tokens[..], got.stopped, seen), (&free[..n], false, n));
    }
}

#[test]
fn sampling_repeats_itself_with_the_same_seed_only() {
    let golden = Golden::open("llama");
    let model = |backend: &dyn Backend| golden.model(backend);
    let sampled = |threads, seed| {
        let backend = cpu(threads);
        let sampler = Sampler { temperature: 1.0, seed, ..Sampler::greedy() };
        run(&backend, &model(&backend), &Request { sampler, ..request(&[5, 6, 7], 40) }).tokens
    };
    let first = sampled(1, 3);
    assert_eq!(sampled(1, 3), first);
    assert_eq!(sampled(2, 3), first, "threads decide nothing");
    assert_ne!(sampled(1, 4), first);
    let backend = cpu(1);
    let greedy = run(&backend, &model(&backend), &request(&[5, 6, 7], 40)).tokens;
    assert_ne!(greedy, first);
    // With one token to choose from, sampling is greedy.
    let sampler = Sampler { temperature: 1.0, top_k: 1, seed: 3, ..Sampler::greedy() };
    assert_eq!(run(&backend, &model(&backend), &Request { sampler, ..request(&[5, 6, 7], 40) }).tokens, greedy);
}

#[test]
fn what_cannot_be_generated_is_an_error() {
    let golden = Golden::open("llama");
    let backend = cpu(1);
    let model = golden.model(&backend);
    let go = |request: &Request| generate(&backend, &model, request, &mut |_| panic!("nothing to emit"));
    assert!(matches!(go(&request(&[], 4)), Err(Error::EmptyPrompt)));
    // The model has 256 positions.
    for (prompt, max_tokens) in [(200, 57), (257, 0), (1, 256), (1, usize::MAX)] {
        match go(&request(&vec![5; prompt], max_tokens)) {
            Err(Error::TooLong { prompt: p, max_tokens: m, positions: 256 }) => {
                assert_eq!((p, m), (prompt, max_tokens))
            }
            other => panic!("{prompt} + {max_tokens}: {other:?}"),
        }
    }
    let error = go(&request(&[5, 163], 4)).unwrap_err();
    let is_kind = matches!(&error, Error::Model(paring_model::Error::Ops(paring_ops::Error::Index { index: 163, .. })));
    assert!(is_kind, "{error:?}");
    // Exactly full, and nothing asked for.
    assert_eq!(run(&backend, &model, &request(&[5; 250], 6)).tokens.len(), 6);
    assert!(run(&backend, &model, &request(&[5], 0)).tokens.is_empty());

    let mut values = golden.values();
    values.last_mut().unwrap().1[0] = f32::NAN;
    let broken = common::model(&backend, golden.arch(), &values, paring_tensor::DType::F32);
    let error = generate(&backend, &broken, &request(&[5], 4), &mut |_| true).unwrap_err();
    assert!(matches!(error, Error::Sampling(paring_sampling::Error::NotFinite { token: 0 })), "{error:?}");
}
