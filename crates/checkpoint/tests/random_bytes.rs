//! Random and mutated bytes for both readers: nothing panics, and what is accepted lies in the file.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod common;

use common::{RawGguf, Scratch, safetensors};
use paring_checkpoint::{
    Gguf, Limits, SafetensorsFile, StorageType, TensorSource, TensorSpec,
    gguf::{GgufWriter, Value},
};
use proptest::prelude::*;
use std::path::Path;

/// Reads everything there is to read. What the header declares has to be in a file of `len` bytes.
fn read_all(source: &dyn TensorSource, len: usize, whole_blocks: bool) -> std::result::Result<(), TestCaseError> {
    let mut total = 0;
    for name in source.names() {
        let info = source.info(&name).unwrap();
        total += info.bytes;
        let elements: usize = info.shape.iter().product();
        if let Some((block, bytes)) = info.storage.block() {
            prop_assert!(!whole_blocks || elements.is_multiple_of(block));
            prop_assert_eq!(info.bytes as usize, elements / block * bytes);
        }
        match source.read_f32(&name) {
            Ok(values) => prop_assert_eq!(values.len(), elements),
            Err(e) => prop_assert!(matches!(e, paring_checkpoint::Error::Storage { .. }), "{}", e),
        }
    }
    prop_assert!(total <= len as u64, "{} bytes of tensors in a file of {}", total, len);
    Ok(())
}

fn read_gguf(scratch: &Scratch, bytes: &[u8]) -> std::result::Result<bool, TestCaseError> {
    match Gguf::open(&scratch.write("f.gguf", bytes), &Limits::default()) {
        Ok(gguf) => {
            for (key, value) in gguf.metadata() {
                prop_assert!(value.to_string().len() <= 20_000);
                let _ = (gguf.get_u32(key), gguf.get_str(key), gguf.get_f32(key), gguf.get_bool(key));
                let _ = (gguf.get_str_array(key), gguf.get_i32_array(key), gguf.get_f32_array(key));
            }
            read_all(&gguf, bytes.len(), true).map(|()| true)
        }
        Err(e) => {
            prop_assert!(e.is_input() && e.to_string().contains("f.gguf"), "{}", e);
            Ok(false)
        }
    }
}

fn read_safetensors(scratch: &Scratch, bytes: &[u8]) -> std::result::Result<bool, TestCaseError> {
    match SafetensorsFile::open(&scratch.write("f.safetensors", bytes)) {
        Ok(file) => read_all(&file, bytes.len(), false).map(|()| true),
        Err(e) => {
            prop_assert!(e.is_input() && e.to_string().contains("f.safetensors"), "{}", e);
            Ok(false)
        }
    }
}

fn good_gguf() -> Vec<u8> {
    let kinds = [StorageType::F32, StorageType::BF16, StorageType::Q8_0, StorageType::Q4_0, StorageType::Q4_1];
    let specs: Vec<_> = kinds.iter().map(|&k| TensorSpec::new(k.name(), k, [2, 32])).collect();
    let metadata: [(&str, Value); 6] = [
        ("general.architecture", "llama".into()),
        ("general.alignment", 32u32.into()),
        ("a.tokens", vec!["a", "bc", ""].into()),
        ("a.scores", vec![1.5f32, -1.0].into()),
        ("a.flags", vec![true, false].into()),
        ("a.eps", 1e-5f32.into()),
    ];
    let mut writer = GgufWriter::new(Vec::new(), Path::new("f"), &metadata, &specs).unwrap();
    for kind in kinds {
        writer.values(kind.name(), &[0.5; 64]).unwrap();
    }
    writer.finish().unwrap()
}

fn good_safetensors() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b.c":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"i":{"dtype":"I64","shape":[1],"data_offsets":[32,40]}}"#;
    safetensors(header, &[1; 40])
}

/// What to do to a file: overwrite, insert, cut out, cut off. Positions are taken modulo its length.
#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Word(usize, u64),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Truncate(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // Mostly near the front, where the header is.
    let at = prop_oneof![0usize..400, any::<usize>()];
    let near =
        prop::sample::select(vec![0, 1, 31, 32, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, u64::MAX - 31, u64::MAX]);
    prop_oneof![
        4 => (at.clone(), any::<u8>()).prop_map(|(i, b)| Mutation::Set(i, b)),
        4 => (at.clone(), prop_oneof![near, 0u64..300, any::<u64>()]).prop_map(|(i, n)| Mutation::Word(i, n)),
        2 => (at.clone(), prop::collection::vec(any::<u8>(), 1..20)).prop_map(|(i, b)| Mutation::Insert(i, b)),
        2 => (at.clone(), 1usize..40).prop_map(|(i, n)| Mutation::Remove(i, n)),
        1 => at.prop_map(Mutation::Truncate),
    ]
}

fn mutated(mut bytes: Vec<u8>, mutations: &[Mutation]) -> Vec<u8> {
    for m in mutations {
        let len = bytes.len().max(1);
        match m {
            Mutation::Set(i, b) => bytes.iter_mut().skip(i % len).take(1).for_each(|x| *x = *b),
            Mutation::Word(i, n) => bytes.iter_mut().skip(i % len).zip(n.to_le_bytes()).for_each(|(x, b)| *x = b),
            Mutation::Insert(i, new) => drop(bytes.splice(i % len..i % len, new.clone())),
            Mutation::Remove(i, n) => drop(bytes.drain((i % len).min(bytes.len())..(i % len + n).min(bytes.len()))),
            Mutation::Truncate(i) => bytes.truncate(i % len),
        }
    }
    bytes
}

#[test]
fn the_files_that_are_mutated_are_good() {
    let scratch = Scratch::new();
    assert!(read_gguf(&scratch, &good_gguf()).unwrap());
    assert!(read_safetensors(&scratch, &good_safetensors()).unwrap());
}

#[test]
fn every_byte_of_the_headers_flipped() {
    let scratch = Scratch::new();
    let (gguf, safetensors) = (good_gguf(), good_safetensors());
    // Behind the header are numbers, and any is allowed. (The paddings are counted to the header.)
    let header = gguf.len() - 64 * 4 - 64 * 2 - 2 * 34 - 2 * 18 - 2 * 20;
    for (bytes, len, read) in [(&gguf, header, read_gguf as Read), (&safetensors, safetensors.len(), read_safetensors)]
    {
        for i in 0..len {
            for flip in [1, 0x80] {
                let mut bytes = bytes.clone();
                bytes[i] ^= flip;
                read(&scratch, &bytes).unwrap();
            }
        }
    }
}

type Read = fn(&Scratch, &[u8]) -> std::result::Result<bool, TestCaseError>;

fn cases() -> ProptestConfig {
    ProptestConfig::with_cases(256)
}

#[test]
fn random_bytes() {
    let scratch = Scratch::new();
    proptest!(cases(), |(bytes in prop::collection::vec(any::<u8>(), 0..300))| {
        read_gguf(&scratch, &bytes)?;
        read_safetensors(&scratch, &bytes)?;
        // And behind the right beginning.
        read_gguf(&scratch, &RawGguf::new(3, 1, 2).bytes(&bytes).0)?;
        read_safetensors(&scratch, &[&(bytes.len() as u64).to_le_bytes(), bytes.as_slice()].concat())?;
    });
}

#[test]
fn mutated_files() {
    let scratch = Scratch::new();
    proptest!(cases(), |(mutations in prop::collection::vec(mutation(), 1..4))| {
        read_gguf(&scratch, &mutated(good_gguf(), &mutations))?;
        read_safetensors(&scratch, &mutated(good_safetensors(), &mutations))?;
    });
}

/// Descriptions of tensors that are well-formed one by one: accepted exactly when all are in the file and apart from each other.
#[test]
fn tensors_of_random_sizes_and_places() {
    let scratch = Scratch::new();
    let tensors = prop::collection::vec((dims(), prop::sample::select(KINDS.to_vec()), 0u64..20), 1..4);
    let shift = prop_oneof![9 => Just(0u64), 1 => Just(4u64)];
    proptest!(cases(), |(tensors in tensors, data in 0u64..3000, shift in shift)| {
        let (mut raw, mut places, mut right) = (RawGguf::new(3, tensors.len() as u64, 0), Vec::new(), shift == 0);
        for (i, (dims, (id, block, bytes), place)) in tensors.iter().enumerate() {
            let start = place * 32 + shift;
            raw = raw.tensor(&format!("t{i}"), dims, *id, start);
            let end = start + dims.iter().product::<u64>() / block * bytes;
            right &= dims[0] % block == 0 && end <= data && places.iter().all(|&(s, e)| end <= s || e <= start);
            places.push((start, end));
        }
        prop_assert_eq!(read_gguf(&scratch, &raw.pad(32).bytes(&vec![0x3c; data as usize]).0)?, right);
    });
}

/// Number, block and its bytes of F32, F16, Q4_0, Q8_0, Q6_K, F64.
const KINDS: [(u32, u64, u64); 6] = [(0, 1, 4), (1, 1, 2), (2, 32, 18), (8, 32, 34), (14, 256, 210), (28, 1, 8)];

/// One to four dimensions, of which the first is often that of whole blocks.
fn dims() -> impl Strategy<Value = Vec<u64>> {
    let rest = prop::collection::vec(1u64..4, 0..4);
    (prop_oneof![1u64..40, Just(32), Just(64), Just(256)], rest).prop_map(|(first, rest)| [vec![first], rest].concat())
}
