//! A few queries over a long cache (`kernels/attention_decode.cu`): the keys are split among blocks, so that one query can use the whole
//! device, and the splits are added up in their order. How many there are depends on the number of keys alone, so the result does not
//! depend on the device.
use super::{Inputs, Sizes};
use crate::{
    device::Device,
    driver::Address,
    grid::size,
    kernel::{Launch, arguments},
};
use paring_ops::{AttnSpec, Error, Result};

arguments! {
    /// One split of the keys, over a cache in f32.
    pub(crate) struct Decode in "attention_decode" for [
        "attention_decode_f32_8_1", "attention_decode_f32_8_4", "attention_decode_f32_8_8",
        "attention_decode_f32_16_1", "attention_decode_f32_16_4", "attention_decode_f32_16_8",
        "attention_decode_f32_32_1", "attention_decode_f32_32_4", "attention_decode_f32_32_8"
    ] {
        q: Address, k: Address, v: Address,
        /// Page table of the cache, or 0 where it is contiguous.
        pages: Address,
        y: Address, lse: Address,
        heads: u32, kv_heads: u32, head_dim: u32, past: u32, window: u32,
        /// The first key of the first split.
        first: u32,
        per_split: u32,
        page_shift: u32, scale: f32, cap: f32
    }
}

arguments! {
    /// The same over a cache in bf16: no operation of the trait has one yet, so nothing launches it but its tests.
    pub(crate) struct DecodeBf16 in "attention_decode" for [
        "attention_decode_bf16_8_1", "attention_decode_bf16_8_4", "attention_decode_bf16_8_8",
        "attention_decode_bf16_16_1", "attention_decode_bf16_16_4", "attention_decode_bf16_16_8"
    ] {
        q: Address, k: Address, v: Address, pages: Address, y: Address, lse: Address,
        heads: u32, kv_heads: u32, head_dim: u32, past: u32, window: u32, first: u32, per_split: u32,
        page_shift: u32, scale: f32, cap: f32
    }
}

arguments! {
    /// Adds the splits up.
    pub(crate) struct Combine in "attention_decode" for ["attention_combine_f32"] {
        split_y: Address, split_lse: Address, y: Address, lse: Address, rows: u32, splits: u32, head_dim: u32
    }
}

const THREADS: u32 = 128;
/// Queries up to which the cache is read again for each.
const MOST_QUERIES: usize = 4;
/// Keys of a split, at least, and splits, at most.
const LEAST_KEYS: usize = 64;
const MOST_SPLITS: usize = 64;

/// Kernels by the lanes that share a row of 8 elements a lane, and by the query heads of a block.
const KERNELS: [(usize, [(usize, &str); 3]); 3] = [
    (8, [(1, "attention_decode_f32_8_1"), (4, "attention_decode_f32_8_4"), (8, "attention_decode_f32_8_8")]),
    (16, [(1, "attention_decode_f32_16_1"), (4, "attention_decode_f32_16_4"), (8, "attention_decode_f32_16_8")]),
    (32, [(1, "attention_decode_f32_32_1"), (4, "attention_decode_f32_32_4"), (8, "attention_decode_f32_32_8")]),
];

/// The kernel for a spec, and the query heads that a block of it takes.
fn kernel(spec: &AttnSpec) -> Option<(&'static str, usize)> {
    let (_, by_heads) = KERNELS.iter().find(|(lanes, _)| spec.head_dim <= lanes * 8)?;
    let fitting = by_heads.iter().find(|(heads, _)| spec.group() <= *heads);
    // More heads than any takes are several blocks of the largest.
    fitting.or(by_heads.last()).map(|&(heads, entry)| (entry, heads))
}

/// Whether there are few queries, of one sequence, and rows of k and v that vectors of 16 bytes can read.
pub(super) fn fits(spec: &AttnSpec, inputs: &Inputs) -> bool {
    let vectors = spec.head_dim.is_multiple_of(4) && inputs.k.0.is_multiple_of(16) && inputs.v.0.is_multiple_of(16);
    let queries = spec.n_tokens();
    vectors && spec.cu_len.len() == 2 && (1..=MOST_QUERIES).contains(&queries) && kernel(spec).is_some()
}

/// Keys of a split, where queries see `keys`.
fn per_split(keys: usize) -> usize {
    keys.div_ceil(MOST_SPLITS).next_multiple_of(LEAST_KEYS).max(LEAST_KEYS)
}

pub(super) fn forward(
    device: &Device,
    y: Address,
    lse: Address,
    inputs: &Inputs,
    spec: &AttnSpec,
    sizes: Sizes,
) -> Result<()> {
    let op = "attention";
    let what = || format!("heads of {} elements", spec.head_dim);
    let (entry, heads_of_block) = kernel(spec).ok_or_else(|| Error::Unsupported { op, what: what() })?;
    let &Inputs { q, k, v } = inputs;
    let Sizes { tokens, heads, kv_heads, head_dim, past, window } = sizes;
    // From the first key that the first query sees to the last one's own.
    let first = spec.first_key(spec.past);
    let keys = spec.past + spec.n_tokens() - first;
    let per_split = per_split(keys);
    let (splits, first, per_split) = (size(op, keys.div_ceil(per_split))?, size(op, first)?, size(op, per_split)?);
    let blocks = size(op, spec.kv_heads * spec.group().div_ceil(heads_of_block))?;
    let launch = Launch { entry, grid: [splits, blocks, tokens], block: [THREADS, 1, 1], shared: 0 };
    let (scale, cap) = (spec.scale, spec.softcap.unwrap_or(0.0));
    let decode = |y, lse| {
        let (pages, page_shift) = (Address(0), 0);
        let arguments = Decode {
            q,
            k,
            v,
            pages,
            y,
            lse,
            heads,
            kv_heads,
            head_dim,
            past,
            window,
            first,
            per_split,
            page_shift,
            scale,
            cap,
        };
        device.launch(op, launch, arguments)
    };
    if splits == 1 {
        return decode(y, lse);
    }
    let rows = tokens * heads;
    let parts = rows as usize * splits as usize;
    let split_y = device.scratch(op, parts * head_dim as usize * 4)?;
    let split_lse = device.scratch(op, parts * 4)?;
    let (split_y, split_lse) = (split_y.address(), split_lse.address());
    decode(split_y, split_lse)?;
    let launch = Launch::linear("attention_combine_f32", rows.div_ceil(THREADS / 32), THREADS);
    device.launch(op, launch, Combine { split_y, split_lse, y, lse, rows, splits, head_dim })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_are_of_whole_steps_and_not_too_many() {
        assert_eq!([0, 1, 64, 65, 4096, 4097, 100_000].map(per_split), [64, 64, 64, 64, 64, 128, 1600]);
        for keys in 1..20_000usize {
            assert!(keys.div_ceil(per_split(keys)) <= MOST_SPLITS);
        }
    }

    #[test]
    fn kernels_hold_the_head_and_as_many_of_its_group_as_they_can() {
        let kernel = |group: usize, h| kernel(&AttnSpec::cached(group * 2, 2, h, 1, 10));
        assert_eq!(kernel(1, 64), Some(("attention_decode_f32_8_1", 1)));
        assert_eq!(kernel(3, 65), Some(("attention_decode_f32_16_4", 4)));
        assert_eq!(kernel(9, 256), Some(("attention_decode_f32_32_8", 8)));
        assert_eq!(kernel(1, 257), None);
    }
}
