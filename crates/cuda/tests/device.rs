//! What the backend promises beyond the operations: memory that ends says for what, devices that are not there are named, staging memory is
//! not reused too early, threads may share a backend.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use paring_cuda::{Allocation, Cuda};
use paring_ops::Backend;
use paring_tensor::{DType, Shape, Tensor};
use ptx_sim_driver::Config;

const MIB: usize = 1 << 20;

fn small(bytes: usize, allocation: Allocation) -> common::Opened {
    let mut config = Config::default();
    config.memory = bytes;
    common::open_with(&config, allocation)
}

fn shape(dims: &[usize]) -> Shape {
    Shape::new(dims).unwrap()
}

#[test]
fn memory_that_ends_says_for_which_tensor_and_how_much_there_is() {
    let opened = small(16 * MIB, Allocation::Pooled);
    if opened.device.simulated.is_none() {
        return;
    }
    let held = opened.cuda.alloc(DType::F32, shape(&[1024, 2048])).unwrap();
    let error = opened.cuda.alloc(DType::BF16, shape(&[3000, 4096])).unwrap_err().to_string();
    for part in
        ["out of memory", "bf16", "3000", "4096", "24576000 bytes", "16777216 bytes", "8388608 bytes are in use"]
    {
        assert!(error.contains(part), "`{error}` does not say `{part}`");
    }
    drop(held);
    // What was given back is there again, in other sizes too.
    for mib in [12, 3, 15, 7] {
        drop(opened.cuda.zeros(DType::F32, shape(&[mib, MIB / 4])).unwrap());
    }
    assert_eq!(opened.cuda.held().live, 0);
    opened.clean();
}

#[test]
fn a_device_that_is_not_there_is_named_with_how_many_there_are() {
    drop(common::open());
    let error = Cuda::new(60_000).unwrap_err().to_string();
    assert!(error.contains("there is no device 60000") && error.contains("numbered from 0"), "{error}");
}

/// Uploads are queued: what they read must stay until they have run.
#[test]
fn many_uploads_before_anybody_waits_keep_their_values() {
    for allocation in [Allocation::Pooled, Allocation::Exact] {
        let opened = common::open_with(&Config::default(), allocation);
        let values = |i: usize| -> Vec<f32> { (0..1000 + i).map(|j| (i * 10_000 + j) as f32).collect() };
        let upload = |i| opened.cuda.upload(&values(i), DType::F32, shape(&[1000 + i])).unwrap();
        let tensors: Vec<Tensor> = (0..300).map(upload).collect();
        for (i, tensor) in tensors.iter().enumerate() {
            assert_eq!(opened.cuda.download(tensor).unwrap(), values(i), "{i}, {allocation:?}");
        }
        opened.clean();
    }
}

/// Memory of tensors that were dropped goes to the next ones while work on it is still queued.
#[test]
fn memory_is_reused_in_the_order_of_the_stream() {
    let opened = common::open_with(&Config::default(), Allocation::Pooled);
    let cuda = &opened.cuda;
    let mut sum = cuda.zeros(DType::F32, shape(&[5000])).unwrap();
    for i in 1..=40 {
        let x = cuda.upload(&[i as f32; 5000], DType::F32, shape(&[5000])).unwrap();
        let mut next = cuda.alloc(DType::F32, shape(&[5000])).unwrap();
        cuda.add(&mut next, &sum, &x).unwrap();
        sum = next;
    }
    assert_eq!(cuda.download(&sum).unwrap(), [820.0; 5000]);
    opened.clean();
}

#[test]
fn threads_share_a_backend() {
    let opened = common::open_with(&Config::default(), Allocation::Pooled);
    std::thread::scope(|scope| {
        for t in 0..4 {
            let cuda = &opened.cuda;
            scope.spawn(move || {
                for i in 0..20 {
                    let value = (100 * t + i) as f32;
                    let mut x = cuda.upload(&[value; 777], DType::F32, shape(&[777])).unwrap();
                    cuda.scale(&mut x, 0.5).unwrap();
                    assert_eq!(cuda.download(&x).unwrap(), [value / 2.0; 777]);
                }
            });
        }
    });
    opened.clean();
}

#[test]
fn tensors_of_another_device_are_strangers() {
    let (a, b) = (common::open(), common::open());
    if a.device.simulated.is_none() {
        return;
    }
    let mut x = a.cuda.upload(&[1.0; 4], DType::F32, shape(&[4])).unwrap();
    assert!(b.cuda.scale(&mut x, 2.0).is_err());
    assert!(b.cuda.download(&x).is_err());
    a.cuda.scale(&mut x, 2.0).unwrap();
    assert_eq!(a.cuda.download(&x).unwrap(), [2.0; 4]);
}
