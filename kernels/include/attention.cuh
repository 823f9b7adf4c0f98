// What the attention kernels share: which keys a query sees, tiles of bf16 in shared memory, a capped score.
//
// Rows of q, k and v are absolute. Query `t` of a sequence that begins at row `begin` sees the key rows
// `max(begin, past + t + 1 - window) ..= past + t`; `past` is 0 unless the sequence is the only one (AttnSpec). All row numbers fit an int.
#pragma once
#include "common.cuh"

constexpr float LN_2 = 0.6931471805599453f;

// A block's piece of a sequence: rows `first ..` of the sequence whose rows are `begin .. end`. The host lists those with most work first;
// without a list all rows are one sequence, cut into pieces of `ROWS`. Late queries see most keys, early keys are seen by most queries.
struct Piece {
    int first, begin, end;
};
enum class Of { Queries, Keys };
template <int ROWS, Of OF> __device__ __forceinline__ Piece piece_of_block(const u32* __restrict__ pieces, int tokens) {
    if (pieces == nullptr) return {(int)(OF == Of::Queries ? gridDim.x - 1 - blockIdx.x : blockIdx.x) * ROWS, 0, tokens};
    const uint4 p = reinterpret_cast<const uint4*>(pieces)[blockIdx.x];
    return {(int)p.x, (int)p.y, (int)p.z};
}

// The first key row that query `t` sees.
__device__ __forceinline__ int first_key(int t, int begin, int past, int window) { return max(begin, past + t + 1 - window); }
// One past the last query that sees key row `j`, without a cache.
__device__ __forceinline__ int end_query(int j, int end, int window) { return end - j <= window ? end : j + window; }

// The byte where 16-byte chunk `chunk` of row `row` lies in a tile of rows of `D` bf16. Chunks are permuted within a row, so that eight
// rows of one column, which ldmatrix reads at once, lie in eight different groups of four banks.
template <int D> struct Swizzle {
    static constexpr int CHUNKS = D / 8, ROW = CHUNKS * 16;
    // How many chunk positions the row stride alone repeats: the rest has to come from the permutation.
    static constexpr int SHIFT = CHUNKS % 8 == 0 ? 0 : CHUNKS % 4 == 0 ? 1 : 2;
    static constexpr int MASK = (CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2) - 1;
    static __device__ __forceinline__ u32 at(int row, int chunk) { return row * ROW + ((chunk ^ ((row >> SHIFT) & MASK)) << 4); }
    // The address of `at(row + R, chunk + C)` from that of `at(row, chunk)`, for constants R a multiple of 16 and C an even number, and
    // row < 16, chunk < 2: one exclusive or, since a tile is aligned to more than the bits that it changes.
    static __device__ __forceinline__ u32 moved(u32 address, int rows, int chunks) {
        return (address ^ ((chunks & MASK) << 4)) + (chunks & ~MASK) * 16 + rows * ROW;
    }
};

// Starts copying rows `row .. row + ROWS` of one head (`stride` elements apart) into a tile; rows from `end` on become zero.
// `row` itself lies before `end`.
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void copy_tile(u32 tile, const bf16* __restrict__ head, int stride, int row, int end) {
    constexpr int CHUNKS = D / 8, TOTAL = ROWS * CHUNKS;
#pragma unroll
    for (int i = 0; i < (TOTAL + THREADS - 1) / THREADS; i++) {
        const int index = threadIdx.x + i * THREADS;
        if (TOTAL % THREADS != 0 && index >= TOTAL) break;
        const int r = index / CHUNKS, chunk = index % CHUNKS;
        const bool valid = row + r < end;
        cp_async_16(tile + Swizzle<D>::at(r, chunk), head + (u64)(u32)(valid ? row + r : row) * (u32)stride + chunk * 8, valid ? 16 : 0);
    }
}

// Fragments of a tile, by the roles that matrices have in `mma_bf16`. Rows and columns are in elements, multiples of 16.

// a: 16 rows from `row`, 16 columns from `column`.
template <int D> __device__ __forceinline__ void load_a(u32 (&a)[4], u32 tile, int row, int column) {
    const int lane = threadIdx.x % WARP;
    ldmatrix_x4(a, Swizzle<D>::moved(tile + Swizzle<D>::at(lane % 16, lane / 16), row, column / 8));
}
// Two b whose columns n are tile rows: (b[0], b[1]) is rows `row .. row + 8`, (b[2], b[3]) the next eight; k is 16 tile columns.
template <int D> __device__ __forceinline__ void load_b(u32 (&b)[4], u32 tile, int row, int column) {
    const int lane = threadIdx.x % WARP;
    ldmatrix_x4(b, Swizzle<D>::moved(tile + Swizzle<D>::at(lane % 8 + lane / 16 * 8, lane / 8 % 2), row, column / 8));
}
// Two b whose columns n are tile columns: (b[0], b[1]) is columns `column .. column + 8`, (b[2], b[3]) the next eight; k is 16 tile rows.
template <int D> __device__ __forceinline__ void load_b_trans(u32 (&b)[4], u32 tile, int row, int column) {
    const int lane = threadIdx.x % WARP;
    ldmatrix_x4_trans(b, Swizzle<D>::moved(tile + Swizzle<D>::at(lane % 16, lane / 16), row, column / 8));
}

// Where a thread's elements of an accumulator c lie in its 16x8 block: element j is row `row(j)`, column `column(j)`.
__device__ __forceinline__ int c_row(int j) { return threadIdx.x % WARP / 4 + j / 2 * 8; }
__device__ __forceinline__ int c_column(int j) { return threadIdx.x % 4 * 2 + j % 2; }

// Accumulators of 16 x 8N as the a of a product that sums over their columns 16k .. 16k + 16: the layouts agree, so nothing moves.
template <int N> __device__ __forceinline__ void a_of_c(u32 (&a)[4], const float (&c)[N][4], int k) {
    a[0] = pack_bf16(c[2 * k][0], c[2 * k][1]);
    a[1] = pack_bf16(c[2 * k][2], c[2 * k][3]);
    a[2] = pack_bf16(c[2 * k + 1][0], c[2 * k + 1][1]);
    a[3] = pack_bf16(c[2 * k + 1][2], c[2 * k + 1][3]);
}

template <int N> __device__ __forceinline__ void clear(float (&c)[N][4]) {
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) c[i][j] = 0.0f;
}

// c += A B^T for a warp's 16 rows of tile `a` from `a_row` and N * 8 rows of tile `b`, summed over D columns.
template <int D, int N> __device__ __forceinline__ void product_rows(float (&c)[N][4], u32 a_tile, int a_row, u32 b_tile) {
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        u32 a[4];
        load_a<D>(a, a_tile, a_row, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            u32 b[4];
            load_b<D>(b, b_tile, n * 8, k);
            mma_bf16(c[n], a, b[0], b[1]);
            mma_bf16(c[n + 1], a, b[2], b[3]);
        }
    }
}
// The same with A in registers, 16 M rows of it: each b is used M times.
template <int D, int M, int N>
__device__ __forceinline__ void product_rows(float (&c)[M][N][4], const u32 (&a)[M][D / 16][4], u32 b_tile) {
#pragma unroll
    for (int k = 0; k < D; k += 16)
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            u32 b[4];
            load_b<D>(b, b_tile, n * 8, k);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(c[m][n], a[m][k / 16], b[0], b[1]);
                mma_bf16(c[m][n + 1], a[m][k / 16], b[2], b[3]);
            }
        }
}
// c += P B for a warp's 16 M x 8 N accumulators P, rounded to bf16, and 8N rows of tile `b`.
template <int D, int M, int N>
__device__ __forceinline__ void product_columns(float (&c)[M][D / 8][4], const float (&p)[M][N][4], u32 b_tile) {
#pragma unroll
    for (int k = 0; k < N / 2; k++) {
        u32 a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) a_of_c<N>(a[m], p[m], k);
#pragma unroll
        for (int n = 0; n < D / 8; n += 2) {
            u32 b[4];
            load_b_trans<D>(b, b_tile, k * 16, n * 8);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_bf16(c[m][n], a[m], b[0], b[1]);
                mma_bf16(c[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// e^x for x = a score - the largest one, or - their lse, in f32. The product with log2(e) is rounded like the scores themselves are, so
// that it loses as many bits as they have lost: `exp_f32` would keep none of them.
__device__ __forceinline__ float exp_score(float x) { return ex2(x * 1.4426950408889634f); }

// tanh to about 1e-7 of 1, for scores of bf16 factors.
__device__ __forceinline__ float tanh_near(float x) { return 1.0f - __fdividef(2.0f, ex2(fminf(x, 40.0f) * 2.8853900817779268f) + 1.0f); }
// tanh(x * inner) of every score, where scores are capped.
template <int N> __device__ __forceinline__ void cap_scores(float (&s)[N][4], float inner) {
    if (inner == 0.0f) return;
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) s[i][j] = tanh_near(s[i][j] * inner);
}

// The widest head of the next narrower kernels, on tensor cores and in f32: one of D has more columns, which need no question.
template <int D> constexpr int NARROWER_MMA = D == 128 ? 96 : D == 96 ? 80 : D == 80 ? 64 : D == 64 ? 32 : 0;
template <int D> constexpr int NARROWER_F32 = D == 256 ? 128 : D == 128 ? 64 : 0;

// A warp's 16 rows of D columns, times a factor for each of a thread's two rows, to f32 rows of `head_dim` <= D elements.
// `at(h)` gives the address of the thread's row h, or null to skip it. Pairs are written at once where every row allows it.
template <int D, class At>
__device__ __forceinline__ void store_rows(const float (&c)[D / 8][4], float factor_0, float factor_1, int head_dim, bool pairs, At at) {
    const int left = head_dim - c_column(0); // columns of the head from the thread's first one on
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float* __restrict__ row = at(h);
        if (row == nullptr) continue;
        const float factor = h == 0 ? factor_0 : factor_1;
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            const int column = i * 8 + c_column(0);
            const bool inside = i * 8 + 7 <= NARROWER_MMA<D>;
            const float x = c[i][2 * h] * factor, y = c[i][2 * h + 1] * factor;
            if (pairs) {
                if (inside || i * 8 < left) *reinterpret_cast<float2*>(row + column) = make_float2(x, y);
            } else {
                if (inside || i * 8 < left) row[column] = x;
                if (inside || i * 8 + 1 < left) row[column + 1] = y;
            }
        }
    }
}
// Whether every row of `head_dim` elements from `p` on is a row of aligned pairs.
__device__ __forceinline__ bool rows_of_pairs(const float* p, int head_dim) { return head_dim % 2 == 0 && (u64)p % 8 == 0; }
