//! Sums in the order that the kernels have: a thread's elements, then the lanes of a warp, then the warps. With it results are right to the
//! last bit, which shows an element that is counted twice or not at all however small it is, and any other order. The kernels are launched
//! directly: the simulator fuses only what is written as fused.
use crate::{
    bits,
    numbers::numbers,
    sim::{
        Sim,
        Value::{self, F32, Pointer, U32, U64},
        text,
    },
};
use half::bf16;

const WARP: usize = 32;

/// What a sum over threads is made of.
pub(crate) trait Term: Copy + Default + std::ops::Add<Output = Self> {}
impl Term for f32 {}
impl Term for f64 {}

/// The lanes of a warp in a butterfly.
fn warp_sum<T: Term>(mut lanes: [T; WARP]) -> T {
    for offset in [16, 8, 4, 2, 1] {
        lanes = std::array::from_fn(|l| lanes[l] + lanes[l ^ offset]);
    }
    lanes[0]
}

/// The threads of a block.
pub(crate) fn block_sum<T: Term>(threads: &[T]) -> T {
    let mut warps = [T::default(); WARP];
    for (sum, lanes) in warps.iter_mut().zip(threads.chunks(WARP)) {
        *sum = warp_sum(lanes.try_into().unwrap());
    }
    warp_sum(warps)
}

/// A sum over a row of `d` elements by a block, of which each thread adds packs of `pack`.
pub(crate) fn row_sum<T: Term>(d: usize, pack: usize, threads: usize, add: impl Fn(T, usize) -> T) -> T {
    let mut sums = vec![T::default(); threads];
    for i in 0..d {
        let sum = &mut sums[i / pack % threads];
        *sum = add(*sum, i);
    }
    block_sum(&sums)
}

/// Numbers of which every one counts in a sum, and none that ends where another does.
pub(crate) fn uneven(seed: u64, n: usize) -> Vec<f32> {
    numbers(seed, n).into_iter().enumerate().map(|(i, x)| x * 3f32.powi(-(i as i32 % 7))).collect()
}

fn round(values: Vec<f32>, is_bf16: bool) -> Vec<f32> {
    if is_bf16 { values.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect() } else { values }
}

/// Rows of a norm, whose parts differ in size and whose mean is large beside what differs, and a kernel for them.
#[derive(Clone, Copy, Debug)]
struct Norm {
    rows: usize,
    d: usize,
    threads: usize,
    /// Four elements at once.
    vector: bool,
    /// 0: everything is read again; 1, of the forward: the row is kept; of the backward: the sums; 2: the sums and the row.
    keep: u32,
    is_bf16: bool,
    centred: bool,
}

/// Operands: rows of x and of the gradient, and a weight and a bias.
struct Operands {
    x: Vec<f32>,
    dy: Vec<f32>,
    w: Vec<f32>,
    bias: Vec<f32>,
}

const EPS: f32 = 0.05;

impl Norm {
    fn operands(&self) -> Operands {
        let n = self.rows * self.d;
        let size = |i: usize| if i * 3 < self.d { 0.01 } else { 1.0 };
        let shift = if self.centred { 7.0 } else { 0.0 };
        let x = numbers(1, n).into_iter().enumerate().map(|(i, x)| shift + size(i % self.d) * x).collect();
        let weight = |seed| round(numbers(seed, self.d), self.is_bf16);
        Operands { x, dy: numbers(2, n), w: weight(3), bias: weight(4) }
    }

    fn pack(&self) -> usize {
        if self.vector { 4 } else { 1 }
    }

    fn sum(&self, add: impl Fn(f32, usize) -> f32) -> f32 {
        row_sum(self.d, self.pack(), self.threads, add)
    }

    fn entry(&self, name: &str) -> String {
        let norm = if self.centred { "layer" } else { "rms" };
        let dtype = if self.is_bf16 { "bf16" } else { "f32" };
        name.replace('?', norm) + dtype
    }

    /// Mean (zero unless centred) and one over the deviation of a row.
    fn moments(&self, row: &[f32]) -> (f32, f32) {
        let d = self.d as f32;
        if !self.centred {
            return (0.0, 1.0 / (self.sum(|sum, i| row[i].mul_add(row[i], sum)) / d + EPS).sqrt());
        }
        let mean = self.sum(|sum, i| sum + row[i]) / d;
        let square = self.sum(|sum, i| (row[i] - mean).mul_add(row[i] - mean, sum));
        (mean, 1.0 / (square / d + EPS).sqrt())
    }

    fn upload_weight(&self, sim: &mut Sim, w: &[f32]) -> u64 {
        match self.is_bf16 {
            true => sim.upload(&w.iter().map(|&w| bf16::from_f32(w).to_bits()).collect::<Vec<_>>()),
            false => sim.upload(w),
        }
    }

    /// The norm of x, or of a sum that is x.
    fn check_forward(&self, residual: bool) {
        let Norm { rows, d, .. } = *self;
        let Operands { x, w, bias, .. } = self.operands();
        let b = numbers(5, rows * d);
        let x: Vec<f32> = if residual { x.iter().zip(&b).map(|(x, b)| x + b).collect() } else { x };
        let moments: Vec<(f32, f32)> = x.chunks(d).map(|row| self.moments(row)).collect();
        let one = |(i, x): (usize, &f32)| {
            let ((mean, rstd), w) = (moments[i / d], w[i % d]);
            if self.centred { ((x - mean) * rstd).mul_add(w, bias[i % d]) } else { x * rstd * w }
        };
        let y: Vec<f32> = x.iter().enumerate().map(one).collect();

        let mut sim = Sim::new();
        let to = [0; 2].map(|_| sim.alloc(4 * rows * d));
        let of_rows = [0; 2].map(|_| sim.alloc(4 * rows));
        let mut arguments = match residual {
            true => vec![sim.upload(&self.operands().x), sim.upload(&b)],
            false => vec![sim.upload(&x)],
        };
        arguments.push(self.upload_weight(&mut sim, &w));
        if self.centred {
            arguments.push(self.upload_weight(&mut sim, &bias));
        }
        arguments.extend(&to[usize::from(!residual)..]);
        arguments.extend(&of_rows[usize::from(!self.centred)..]);
        let sizes = [d as u32, self.vector.into(), self.keep].map(U32);
        let arguments: Vec<Value> = arguments.into_iter().map(Pointer).chain(sizes).chain([F32(EPS)]).collect();
        let entry = self.entry(if residual { "add_?_norm_" } else { "?_norm_" });
        let shared = if self.keep == 0 { 0 } else { 4 * d };
        sim.launch(text("norm"), &entry, [rows as u32, 1, 1], [self.threads as u32, 1, 1], shared, &arguments);
        let what = format!("{entry} {self:?}");
        assert_eq!(bits(&sim.download(to[1], rows * d)), bits(&y), "{what}");
        if residual {
            assert_eq!(bits(&sim.download(to[0], rows * d)), bits(&x), "{what}: sum");
        }
        let (means, rstds): (Vec<f32>, Vec<f32>) = moments.into_iter().unzip();
        assert_eq!(bits(&sim.download(of_rows[1], rows)), bits(&rstds), "{what}: rstd");
        if self.centred {
            assert_eq!(bits(&sim.download(of_rows[0], rows)), bits(&means), "{what}: mean");
        }
    }

    /// Gradients, of blocks of `per_block` rows.
    fn check_backward(&self, per_block: usize, add: bool) {
        let Norm { rows, d, centred, .. } = *self;
        let Operands { x, dy, w, .. } = self.operands();
        let (before, blocks) = (numbers(6, rows * d), rows.div_ceil(per_block));
        let moments: Vec<(f32, f32)> = x.chunks(d).map(|row| self.moments(row)).collect();
        let (mut dx, mut dw, mut dbias) = (vec![0.0; rows * d], vec![0.0f32; blocks * d], vec![0.0; blocks * d]);
        for (row, &(mean, rstd)) in moments.iter().enumerate() {
            let (at, sums) = (row * d, row / per_block * d);
            let n = |i: usize| (if centred { x[at + i] - mean } else { x[at + i] }) * rstd;
            let g = |i: usize| dy[at + i] * w[i];
            let product = self.sum(|sum, i| g(i).mul_add(n(i), sum)) / d as f32;
            let sum = self.sum(|sum, i| sum + g(i)) / d as f32;
            for i in 0..d {
                dw[sums + i] = dy[at + i].mul_add(n(i), dw[sums + i]);
                dbias[sums + i] += dy[at + i];
                let slope = (if centred { g(i) - sum } else { g(i) }) - n(i) * product;
                dx[at + i] = rstd.mul_add(slope, if add { before[at + i] } else { 0.0 });
            }
        }

        let mut sim = Sim::new();
        let (means, rstds): (Vec<f32>, Vec<f32>) = moments.into_iter().unzip();
        let mut pointers = vec![sim.upload(&dy), sim.upload(&x), self.upload_weight(&mut sim, &w)];
        if centred {
            pointers.push(sim.upload(&means));
        }
        pointers.push(sim.upload(&rstds));
        let to = if add { sim.upload(&before) } else { sim.alloc(4 * rows * d) };
        let parts = [0; 2].map(|_| sim.alloc(4 * blocks * d));
        pointers.push(to);
        pointers.extend(&parts[..1 + usize::from(centred)]);
        let sizes = [rows as u32, d as u32, per_block as u32, self.vector.into(), add.into(), self.keep];
        let arguments: Vec<Value> = pointers.into_iter().map(Pointer).chain(sizes.map(U32)).collect();
        let sums = if centred { 2 } else { 1 };
        let shared = 4 * d * [0, sums, sums + 2][self.keep as usize];
        let entry = self.entry("?_norm_backward_");
        sim.launch(text("norm"), &entry, [blocks as u32, 1, 1], [self.threads as u32, 1, 1], shared, &arguments);
        let what = format!("{entry} {self:?}, {per_block} rows a block");
        assert_eq!(bits(&sim.download(to, rows * d)), bits(&dx), "{what}");
        assert_eq!(bits(&sim.download(parts[0], blocks * d)), bits(&dw), "{what}: dw");
        if centred {
            assert_eq!(bits(&sim.download(parts[1], blocks * d)), bits(&dbias), "{what}: dbias");
        }
    }
}

/// Rows that are shorter than a warp, than a block, and longer; not all threads have as many elements.
fn norms(is_bf16: bool, centred: bool) -> impl Iterator<Item = Norm> {
    let shapes = [(3, 1, 32), (2, 20, 32), (2, 77, 64), (3, 100, 64), (7, 1028, 256), (5, 1111, 256), (2, 2212, 96)];
    shapes.into_iter().flat_map(move |(rows, d, threads): (usize, usize, usize)| {
        let ways = [(false, 0), (false, 1), (false, 2), (true, 0), (true, 1), (true, 2)];
        let ways = ways.into_iter().filter(move |(vector, _)| !vector || d.is_multiple_of(4));
        ways.map(move |(vector, keep)| Norm { rows, d, threads, vector, keep, is_bf16, centred })
    })
}

fn check_forward(is_bf16: bool, centred: bool, residual: bool) {
    norms(is_bf16, centred).filter(|norm| norm.keep < 2).for_each(|norm| norm.check_forward(residual));
}

fn check_backward(is_bf16: bool, centred: bool) {
    for (i, norm) in norms(is_bf16, centred).enumerate() {
        // Blocks of one row, of several, and a last one that has fewer.
        for (rows, per_block) in [(3, 1), (5, 3)] {
            Norm { rows, ..norm }.check_backward(per_block, (i + rows).is_multiple_of(2));
        }
    }
}

macro_rules! norms {
    ($($test:ident: $check:ident($($argument:literal),+);)+) => {
        $(#[test]
        fn $test() {
            $check($($argument),+);
        })+
    };
}

norms! {
    rms_norm_f32: check_forward(false, false, false);
    rms_norm_bf16: check_forward(true, false, false);
    add_rms_norm_f32: check_forward(false, false, true);
    add_rms_norm_bf16: check_forward(true, false, true);
    layer_norm_f32: check_forward(false, true, false);
    layer_norm_bf16: check_forward(true, true, false);
    add_layer_norm_f32: check_forward(false, true, true);
    add_layer_norm_bf16: check_forward(true, true, true);
    rms_norm_backward_f32: check_backward(false, false);
    rms_norm_backward_bf16: check_backward(true, false);
    layer_norm_backward_f32: check_backward(false, true);
    layer_norm_backward_bf16: check_backward(true, true);
}

#[test]
fn products_of_rows() {
    for (d, threads, vector) in [(1, 32, false), (77, 64, false), (100, 64, true), (1111, 256, false), (2212, 96, true)]
    {
        let (rows, pack) = (7, if vector { 4 } else { 1 });
        let (x, y) = (uneven(1, rows * d), uneven(2, rows * d));
        let of = |row: usize, a: &[f32], b: &[f32]| {
            let term = |i: usize| (f64::from(a[row * d + i]), f64::from(b[row * d + i]));
            row_sum(d, pack, threads, |sum, i| term(i).0.mul_add(term(i).1, sum))
        };
        let want: Vec<f64> = (0..rows).flat_map(|row| [of(row, &x, &y), of(row, &x, &x), of(row, &y, &y)]).collect();
        let mut sim = Sim::new();
        let (px, py, sums) = (sim.upload(&x), sim.upload(&y), sim.alloc(8 * 3 * rows));
        let arguments = [Pointer(px), Pointer(py), Pointer(sums), U32(d as u32), U32(vector.into())];
        let (grid, block) = ([rows as u32, 1, 1], [threads as u32, 1, 1]);
        sim.launch(text("statistics"), "row_products_f32", grid, block, 0, &arguments);
        assert_eq!(sim.download::<f64>(sums, 3 * rows), want, "{d} {threads}");
    }
}

#[test]
fn squares() {
    for (n, blocks, threads) in [(3, 1, 32), (77, 2, 64), (1024, 1, 256), (5003, 3, 96), (9001, 2, 64)] {
        let x = uneven(3, n);
        let (groups, stride) = (n / 4, blocks * threads);
        let mut sums = vec![0.0f64; stride];
        for (i, &x) in x.iter().enumerate() {
            let thread = if i / 4 < groups { i / 4 % stride } else { (i - groups * 4) % stride };
            sums[thread] = f64::from(x).mul_add(f64::from(x), sums[thread]);
        }
        let want: Vec<f64> = sums.chunks(threads).map(block_sum).collect();
        for vector in [0, 1] {
            let mut sim = Sim::new();
            let (from, to) = (sim.upload(&x), sim.alloc(8 * blocks));
            let arguments = [Pointer(from), Pointer(to), U64(n as u64), U32(vector)];
            let (grid, block) = ([blocks as u32, 1, 1], [threads as u32, 1, 1]);
            sim.launch(text("elementwise"), "sum_squares_f32", grid, block, 0, &arguments);
            assert_eq!(sim.download::<f64>(to, blocks), want, "{n}");
        }
    }
}

/// The second step of a sum, with fewer and more parts than threads.
#[test]
fn parts() {
    for (n, threads) in [(1, 32), (31, 64), (200, 256), (256, 256), (257, 256), (300, 256), (511, 256), (1000, 96)] {
        let parts: Vec<f64> = uneven(4, n).into_iter().map(|x| f64::from(x) / 3.0).collect();
        let want = row_sum(n, 1, threads, |sum: f64, i| sum + parts[i]);
        let mut sim = Sim::new();
        let (from, to) = (sim.upload(&parts), sim.alloc(8));
        let arguments = [Pointer(from), Pointer(to), U32(n as u32)];
        sim.launch(text("elementwise"), "sum_parts_f64", [1, 1, 1], [threads as u32, 1, 1], 0, &arguments);
        assert_eq!(sim.download::<f64>(to, 1), [want], "{n}");
    }
}

/// Sums of parts in their order, a column a thread: counts around what is unrolled, columns around a warp and a block.
#[test]
fn columns() {
    for (count, columns) in [(1, 1), (2, 33), (3, 64), (4, 31), (5, 257), (6, 256), (7, 3), (8, 40), (9, 100), (14, 7)]
    {
        let parts: Vec<f64> = uneven(5, count * columns).into_iter().map(|x| f64::from(x) / 3.0).collect();
        let sum = |c: usize| (1..count).fold(parts[c], |sum, i| sum + parts[i * columns + c]);
        let want: Vec<f64> = (0..columns).map(sum).collect();
        let mut sim = Sim::new();
        let (from, to) = (sim.upload(&parts), sim.alloc(8 * columns));
        let arguments = [Pointer(from), Pointer(to), U32(count as u32), U32(columns as u32)];
        let grid = [columns.div_ceil(256) as u32, 1, 1];
        sim.launch(text("statistics"), "sum_columns_f64", grid, [256, 1, 1], 0, &arguments);
        assert_eq!(sim.download::<f64>(to, columns), want, "{count} {columns}");
    }
}
