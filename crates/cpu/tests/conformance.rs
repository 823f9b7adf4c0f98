//! The table of `paring-conformance`, for every instruction set that this machine has, and what this backend promises beyond it.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
use paring_conformance::{Failure, check_all, random_shapes};
use paring_cpu::{Cpu, Isa};
use paring_ops::{AttnSpec, Backend};
use paring_tensor::{DType, Shape};

/// One and two threads of each instruction set.
fn backends() -> Vec<Cpu> {
    let each = |isa| [1, 2].map(|threads| Cpu::with_isa(Some(threads), isa).unwrap());
    Isa::all_available().into_iter().flat_map(each).collect()
}

#[test]
fn every_case_of_the_table() {
    let backends = backends();
    let backends: Vec<&dyn Backend> = backends.iter().map(|b| b as &dyn Backend).collect();
    let failures: Vec<String> = check_all(&backends).iter().map(Failure::to_string).collect();
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn shapes_that_nobody_thought_of() {
    for cpu in backends() {
        if let Err(failure) = random_shapes(&cpu, 150) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_sequence_of_a_packed_batch_gets_the_bits_that_it_gets_alone() {
    let (t, cut, heads, kv, h) = (150, 43, 4, 2, 8);
    let wave = |n: usize, step: f32| (0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<f32>>();
    let (q, k, v) = (wave(t * heads * h, 0.7), wave(t * kv * h, 1.3), wave(t * kv * h, 2.1));
    for cpu in backends() {
        let tensor =
            |x: &[f32], cols: usize| cpu.upload(x, DType::F32, Shape::new(&[x.len() / cols, cols]).unwrap()).unwrap();
        let run = |from: usize, cu_len: Vec<usize>| {
            let part = |x: &[f32], cols: usize| tensor(&x[from * cols..], cols);
            let (mut y, mut lse) = (part(&q, heads * h), tensor(&vec![0.0; (t - from) * heads], heads));
            let (q, k, v) = (part(&q, heads * h), part(&k, kv * h), part(&v, kv * h));
            cpu.attention(&mut y, &mut lse, &q, &k, &v, &AttnSpec::packed(heads, kv, h, cu_len)).unwrap();
            cpu.download(&y).unwrap()
        };
        let (all, alone) = (run(0, vec![0, cut, t]), run(cut, vec![0, t - cut]));
        assert_eq!(all[cut * heads * h..], alone, "{cpu:?}");
    }
}

#[test]
fn no_threads_are_no_backend() {
    assert!(Cpu::new(Some(0)).is_err());
}
