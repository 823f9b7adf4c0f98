//! Attention of few queries over caches that the trait does not have yet: in bf16, and in pages that lie anywhere.
use crate::{
    problem::{Forward, Problem, distance},
    sim::{Sim, Value::*, text},
};
use paring_ops::AttnSpec;
use paring_ptx_sim::Counters;

/// How a cache lies in memory.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cache {
    bf16: bool,
    /// Rows of a page as a power of two, for a cache in pages.
    page_shift: Option<u32>,
}

/// Rows of a page table's pages: not in order, and with a page between that no key lies in.
fn page_table(pages: usize) -> Vec<u32> {
    let step = if pages.is_multiple_of(3) { 5 } else { 3 };
    let step = if pages.is_multiple_of(15) { 7 } else { step };
    (0..pages).map(|i| ((i * step + 1) % pages + 1) as u32).collect()
}

/// `rows` laid out in `cache`; what no key lies in is NaN.
fn place(rows: &[f32], cols: usize, cache: Cache, table: &[u32]) -> Vec<f32> {
    let Some(shift) = cache.page_shift else { return rows.to_vec() };
    let page = 1 << shift;
    let mut placed = vec![f32::NAN; (table.len() + 1) * page * cols];
    for (j, row) in rows.chunks(cols).enumerate() {
        let to = table[j / page] as usize * page + j % page;
        placed[to * cols..][..cols].copy_from_slice(row);
    }
    placed
}

/// Runs the kernels with so many keys a split. Returns the counters of the first.
fn decode(problem: &Problem, cache: Cache, per_split: usize) -> (Forward, Counters) {
    let spec = &problem.spec;
    let (queries, keys, h) = (spec.n_tokens(), spec.past + spec.n_tokens(), spec.head_dim);
    let mut sim = Sim::new();
    let q = sim.upload(&problem.q);
    let table = cache.page_shift.map_or(Vec::new(), |shift| page_table(keys.div_ceil(1 << shift)));
    let [k, v] = [&problem.k, &problem.v].map(|rows| {
        let placed = place(rows, spec.kv_cols(), cache, &table);
        if !cache.bf16 {
            return sim.upload(&placed);
        }
        // The numbers are bf16: nothing is lost.
        let halves: Vec<u16> = placed.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
        sim.upload(&halves)
    });
    let pages = if table.is_empty() { 0 } else { sim.upload(&table) };
    let lanes = [8, 16, 32].into_iter().find(|lanes| h <= lanes * 8).unwrap();
    let block_heads = [1, 4].into_iter().find(|&n| spec.group() <= n).unwrap_or(8);
    let first = spec.first_key(spec.past);
    let splits = (keys - first).div_ceil(per_split);
    let (split_y, split_lse) =
        (sim.alloc(4 * queries * spec.q_cols() * splits), sim.alloc(4 * queries * spec.heads * splits));
    let window = spec.window.unwrap_or(i32::MAX as usize);
    let shift = cache.page_shift.unwrap_or(0) as usize;
    let sizes = [spec.heads, spec.kv_heads, h, spec.past, window, first, per_split, shift].map(|n| U32(n as u32));
    let scores = [F32(spec.scale), F32(spec.softcap.unwrap_or(0.0))];
    let arguments = [&[q, k, v, pages, split_y, split_lse].map(Pointer)[..], &sizes, &scores].concat();
    let kind = if cache.bf16 { "bf16" } else { "f32" };
    let entry = format!("attention_decode_{kind}_{lanes}_{block_heads}");
    let grid = [splits, spec.kv_heads * spec.group().div_ceil(block_heads), queries];
    let counters = sim.launch(text("attention_decode"), &entry, grid.map(|n| n as u32), [128, 1, 1], 0, &arguments);
    let rows = queries * spec.heads;
    let (y, lse) = (sim.alloc(4 * rows * h), sim.alloc(4 * rows));
    let sizes = [rows, splits, h].map(|n| U32(n as u32));
    let arguments = [&[split_y, split_lse, y, lse].map(Pointer)[..], &sizes].concat();
    sim.launch(
        text("attention_decode"),
        "attention_combine_f32",
        [rows.div_ceil(4) as u32, 1, 1],
        [128, 1, 1],
        0,
        &arguments,
    );
    (Forward { y: sim.download(y, rows * h), lse: sim.download(lse, rows) }, counters)
}

#[test]
fn caches_in_bf16_and_in_pages() {
    // Groups of 1, 2, 3, 7, 8 and 9 query heads; widths up to what the lanes hold, and below.
    let specs = [
        AttnSpec::cached(4, 2, 64, 1, 200),
        AttnSpec::cached(3, 1, 128, 2, 77),
        AttnSpec::cached(9, 1, 80, 1, 40),
        AttnSpec::cached(2, 2, 96, 1, 0),
        AttnSpec::cached(7, 1, 8, 3, 95),
        AttnSpec::cached(8, 1, 120, 1, 66),
        AttnSpec { window: Some(30), ..AttnSpec::cached(4, 2, 16, 4, 95) },
        AttnSpec { window: Some(1), softcap: Some(3.0), ..AttnSpec::cached(6, 2, 24, 4, 50) },
        AttnSpec { softcap: Some(20.0), ..AttnSpec::cached(2, 1, 256, 1, 50) },
    ];
    for spec in specs {
        let problem = Problem::new(spec.clone());
        let want = problem.reference();
        for (bf16, page_shift) in [(false, None), (false, Some(4)), (true, None), (true, Some(0)), (true, Some(3))] {
            // The widest heads have no kernel for bf16.
            if bf16 && 128 < spec.head_dim {
                continue;
            }
            for per_split in [17, 64, 1000] {
                let (got, counters) = decode(&problem, Cache { bf16, page_shift }, per_split);
                let what = format!("{spec:?}, bf16 {bf16}, pages {page_shift:?}, {per_split} keys a split");
                for (got, want, cols) in [(&got.y, &want.y, spec.head_dim), (&got.lse, &want.lse, 1)] {
                    assert!(distance(got, want, cols) < 4e-6, "{what}: {:e}", distance(got, want, cols));
                }
                assert_eq!(counters.shared_wavefronts, counters.shared_ideal_wavefronts, "{what}");
            }
        }
    }
}

/// One kernel: the widths and groups that it is for, queries behind nothing, little and much, with windows, caps, pages and splits of any length.
fn check_kernel(bf16: bool, lanes: usize, block_heads: usize) {
    let groups = match block_heads {
        1 => vec![1],
        4 => vec![2, 3, 4],
        _ => vec![5, 8, 9],
    };
    // A head is aligned to 16 bytes; half of the lanes have a kernel of their own.
    let step = if bf16 { 8 } else { 4 };
    let widths = [8 * lanes, 8 * lanes - step, 4 * lanes + step];
    for n in 0..30 {
        let (tokens, past) = [(1, 0), (1, 6), (2, 63), (1, 129), (3, 40)][n % 5];
        let (group, head_dim) = (groups[n / 5 % groups.len()], widths[n % 3]);
        let kv_heads = 1 + n % 2;
        let spec = AttnSpec {
            window: [None, Some(20), None, Some(1), None, Some(65), None][n % 7],
            softcap: [None, Some(3.0), None, Some(0.5)][n % 4],
            ..AttnSpec::cached(group * kv_heads, kv_heads, head_dim, tokens, past)
        };
        let cache = Cache { bf16, page_shift: [None, Some(0), Some(3)][n / 2 % 3] };
        let mut problem = Problem::new(spec);
        // Small scores let every key count, large ones only a few.
        let factor = [1.0, 0.125, 0.0][n / 3 % 3];
        problem.q.iter_mut().for_each(|q| *q *= factor);
        let (want, per_split) = (problem.reference(), [7, 64, 1000, 33][n / 2 % 4]);
        let (got, _) = decode(&problem, cache, per_split);
        for (got, want, cols) in [(&got.y, &want.y, head_dim), (&got.lse, &want.lse, 1)] {
            let far = distance(got, want, cols);
            assert!(far < 4e-6, "{:?}, {cache:?}, {per_split} keys a split: {far:e}", problem.spec);
        }
    }
}

/// The product of a query and a key as the lanes make it: each has eight elements, and they are added in a butterfly.
fn dot(bf16: bool, lanes: usize, q: &[f32], k: &[f32]) -> f32 {
    let element = |l: usize, i: usize| if bf16 { l * 8 + i } else { (i / 4 * lanes + l) * 4 + i % 4 };
    let own = |l| (0..8).map(|i| element(l, i)).fold(0.0f32, |dot, c| q[c].mul_add(k[c], dot));
    let mut dots: Vec<f32> = (0..lanes).map(own).collect();
    let mut offset = lanes / 2;
    while 0 < offset {
        dots = (0..lanes).map(|l| dots[l] + dots[l ^ offset]).collect();
        offset /= 2;
    }
    dots[0]
}

/// tanh below 0.6, as NVIDIA's compiler makes it.
fn tanh(x: f32) -> f32 {
    let square = x * x;
    let terms = [0xbd56_3cae, 0x3e08_5941, 0xbeaa_a9ed, 0].map(f32::from_bits);
    terms.into_iter().fold(f32::from_bits(0x3c80_f082), |sum, term| sum.mul_add(square, term)).mul_add(x, x)
}

/// One key of which all others are so far that they weigh nothing: its value and its score come back to the last bit, from every place that a
/// block has for keys and whichever of a lane's elements count.
fn check_one_key(bf16: bool, lanes: usize, block_heads: usize, softcap: Option<f32>) {
    const FAR: f32 = -1000.0;
    let (h, places, at_once) = (8 * lanes, 128 / lanes, if block_heads == 1 { 4 } else { 2 });
    let (kv_heads, keys) = (32, places * at_once);
    let spec = AttnSpec { scale: 1.0, softcap, ..AttnSpec::cached(block_heads * kv_heads, kv_heads, h, 1, keys - 1) };
    let mut problem = Problem::new(spec);
    let near = |kv: usize| kv % at_once * places + kv * 7 % places;
    for (row, k) in problem.k.chunks_mut(h).enumerate() {
        if row / kv_heads != near(row % kv_heads) {
            k.fill(FAR);
        }
    }
    for (head, q) in problem.q.chunks_mut(h).enumerate() {
        let (kv, g) = (head / block_heads, head % block_heads);
        // One element, each in turn, or all of them.
        let one = (kv / at_once + g) % 8 + 8 * ((kv * 3 + g) % lanes);
        let all = (kv / 8 + g).is_multiple_of(2);
        for (c, q) in q.iter_mut().enumerate() {
            *q = match all {
                true => q.abs() + 0.5,
                false => f32::from(u8::from(c == one)),
            };
        }
    }
    let (got, _) = decode(&problem, Cache { bf16, page_shift: None }, keys);
    for head in 0..block_heads * kv_heads {
        let kv = head / block_heads;
        let row = |x: &[f32]| x[(near(kv) * kv_heads + kv) * h..][..h].to_vec();
        let (q, k, v) = (&problem.q[head * h..][..h], row(&problem.k), row(&problem.v));
        assert_eq!(got.y[head * h..][..h], v, "head {head}");
        let dot = dot(bf16, lanes, q, &k);
        let score = softcap.map_or(dot, |cap| cap * tanh(dot * (1.0 / cap)));
        assert_eq!(got.lse[head], score, "head {head}");
    }
}

macro_rules! kernels {
    ($($test:ident: $bf16:literal $lanes:literal $block_heads:literal;)+) => {
        $(#[test]
        fn $test() {
            check_kernel($bf16, $lanes, $block_heads);
            for softcap in [None, Some(4096.0)] {
                check_one_key($bf16, $lanes, $block_heads, softcap);
            }
        })+
    };
}

kernels! {
    f32_8_1: false 8 1;
    f32_8_4: false 8 4;
    f32_8_8: false 8 8;
    f32_16_1: false 16 1;
    f32_16_4: false 16 4;
    f32_16_8: false 16 8;
    f32_32_1: false 32 1;
    f32_32_4: false 32 4;
    f32_32_8: false 32 8;
    bf16_8_1: true 8 1;
    bf16_8_4: true 8 4;
    bf16_8_8: true 8 8;
    bf16_16_1: true 16 1;
    bf16_16_4: true 16 4;
    bf16_16_8: true 16 8;
}

#[test]
fn a_group_reads_the_cache_once() {
    for (heads, bf16) in [(1, false), (4, false), (8, false), (8, true)] {
        let spec = AttnSpec::cached(heads, 1, 64, 1, 255);
        let problem = Problem::new(spec.clone());
        let (_, counters) = decode(&problem, Cache { bf16, page_shift: None }, 64);
        let cache = 2 * 256 * 64 * if bf16 { 2 } else { 4 };
        // And q, once for each of the 16 places that share its 64 elements in each of 4 splits.
        let queries = heads * 64 * 4 * 16 * 4;
        assert_eq!(counters.global_bytes_read, (cache + queries) as u64, "{heads} heads, bf16 {bf16}");
    }
}

#[test]
fn pages_are_not_in_order() {
    for pages in 1..50 {
        let mut table = page_table(pages);
        assert!(pages < 4 || table.windows(2).any(|w| w[1] < w[0]));
        table.sort_unstable();
        assert_eq!(table, (1..=pages as u32).collect::<Vec<_>>());
    }
}
