// c[m, n] = sum_k a(m, k) b(k, n) of bf16 with tensor cores, summed in f32. Three layouts:
//   nt: a is [m, k], b is [n, k]   (y = x w^T)
//   nn: a is [m, k], b is [k, n]   (dx = dy w)
//   tn: a is [k, m], b is [k, n]   (dw = dy^T x)
// Rows of a and b are padded to 16 bytes with zeros. Tiles of both operands go through a ring of shared memory,
// filled by cp.async and swizzled so that neither the copies nor ldmatrix meet a bank twice.
#include "epilogue.cuh"

constexpr int K_TILE = 32; // elements of k in a stage: two steps of mma
constexpr int K_STEP = 16;

// How one operand's tile of EXTENT (rows of a, columns of b) by K_TILE gets into shared memory and from there into registers.
// TRANSPOSED: rows in memory run along EXTENT; ldmatrix.trans turns them.
template <int EXTENT, bool TRANSPOSED, int THREADS> struct Operand {
    static constexpr int BYTES = EXTENT * K_TILE * 2;
    static constexpr int ROW_BYTES = TRANSPOSED ? EXTENT * 2 : K_TILE * 2;
    static constexpr int CHUNKS = ROW_BYTES / 16, ROWS = TRANSPOSED ? K_TILE : EXTENT;
    static constexpr int PASS = THREADS / CHUNKS; // rows that all threads copy at once, a chunk of 16 bytes each
    static constexpr int PASSES = ROWS / PASS;
    static_assert(PASS % 8 == 0 && ROWS % PASS == 0, "the swizzle repeats after 8 rows");

    // Chunk `chunk` of row `row`. Eight rows of one chunk, which is what a quarter of ldmatrix reads, lie in eight groups of banks: rows
    // of 64 bytes come in pairs, longer ones fill all banks.
    static __device__ __forceinline__ u32 offset(u32 row, u32 chunk) {
        return row * ROW_BYTES + ((chunk ^ (TRANSPOSED ? row % 8 : row / 2 % 4)) << 4);
    }

    const bf16* from;
    u64 pass_stride, tile_stride; // elements
    u32 to;
    int k_left;    // elements of k from this thread's first one to the end
    bool inside[TRANSPOSED ? 1 : PASSES]; // along EXTENT

    __device__ __forceinline__ Operand(const bf16* matrix, u32 ld, u32 first, u32 extent, u32 k_begin, u32 k_end) {
        const u32 row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        to = offset(row, chunk);
        pass_stride = (u64)PASS * ld;
        if constexpr (TRANSPOSED) {
            const u32 column = first + chunk * 8;
            from = matrix + (u64)(k_begin + row) * ld + column;
            tile_stride = (u64)K_TILE * ld;
            k_left = (int)(k_end - k_begin - row);
            inside[0] = column < extent;
        } else {
            from = matrix + (u64)(first + row) * ld + k_begin + chunk * 8;
            tile_stride = K_TILE;
            k_left = (int)(k_end - k_begin - chunk * 8);
#pragma unroll
            for (int p = 0; p < PASSES; p++) inside[p] = first + row + p * PASS < extent;
        }
    }

    // Copies the next tile to `stage`. Beyond the matrix nothing is read and zeros are written.
    __device__ __forceinline__ void copy(u32 stage) {
#pragma unroll
        for (int p = 0; p < PASSES; p++) {
            const bool valid = TRANSPOSED ? k_left > p * PASS && inside[0] : k_left > 0 && inside[TRANSPOSED ? 0 : p];
            cp_async_16(stage + to + p * PASS * ROW_BYTES, from + p * pass_stride, valid ? 16 : 0);
        }
        from += tile_stride;
        k_left -= K_TILE;
    }
};

// Where this lane's ldmatrix reads: the 16 rows (or columns) `block` of the warp's part, step `step` of the tile.
template <class O, bool TRANSPOSED, int BLOCKS> struct Fragments {
    u32 at[TRANSPOSED ? BLOCKS : 2];

    // `order`: whether the second 8x8 matrix lies along EXTENT (a) or along k (b).
    __device__ __forceinline__ Fragments(u32 first, bool along_extent) {
        const u32 lane = threadIdx.x % WARP, one = lane / 8 % 2, two = lane / 16;
        const u32 extent = along_extent ? one : two, k = along_extent ? two : one;
        if constexpr (TRANSPOSED) {
#pragma unroll
            for (int i = 0; i < BLOCKS; i++) at[i] = O::offset(k * 8 + lane % 8, first / 8 + i * 2 + extent);
        } else {
#pragma unroll
            for (int step = 0; step < 2; step++) at[step] = O::offset(first + extent * 8 + lane % 8, step * 2 + k);
        }
    }

    __device__ __forceinline__ void load(u32 (&r)[BLOCKS][4], u32 stage, int step) const {
#pragma unroll
        for (int i = 0; i < BLOCKS; i++) {
            if constexpr (TRANSPOSED) {
                ldmatrix_x4_trans(r[i], stage + at[i] + step * K_STEP * O::ROW_BYTES);
            } else {
                ldmatrix_x4(r[i], stage + at[step] + i * 16 * O::ROW_BYTES);
            }
        }
    }
};

// The tile of TM x TN that this block has, by warps of WM x WN, in a ring of STAGES stages.
template <int TM, int TN, int WM, int WN, int STAGES, bool A_TRANSPOSED, bool B_TRANSPOSED>
__device__ __forceinline__ void gemm(const bf16* a, const bf16* b, Output out, u32 m, u32 n, u32 k, u32 lda, u32 ldb, u32 k_split,
                                     u32 split_bits) {
    constexpr int WARPS = TM / WM * (TN / WN), THREADS = WARPS * WARP;
    typedef Operand<TM, A_TRANSPOSED, THREADS> A;
    typedef Operand<TN, B_TRANSPOSED, THREADS> B;
    constexpr int STAGE = A::BYTES + B::BYTES, MI = WM / 16, NJ = WN / 16;
    extern __shared__ __align__(128) unsigned char shared[];
    const u32 ring = shared_address(shared), warp = threadIdx.x / WARP;

    // Blocks along x share the columns, of which a group of rows is computed together: both operands then stay in L2.
    const u32 split = blockIdx.z & ((1u << split_bits) - 1);
    const u32 m0 = ((blockIdx.z >> split_bits) * gridDim.x + blockIdx.x) * TM, n0 = blockIdx.y * TN;
    if (m0 >= m) return;
    const u32 k_begin = min(split * k_split, k), k_end = min(k_begin + k_split, k);

    A copy_a(a, lda, m0, m, k_begin, k_end);
    B copy_b(b, ldb, n0, n, k_begin, k_end);
    const u32 warp_m = warp / (TN / WN) * WM, warp_n = warp % (TN / WN) * WN;
    const Fragments<A, A_TRANSPOSED, MI> read_a(warp_m, true);
    const Fragments<B, B_TRANSPOSED, NJ> read_b(warp_n, false);

    float sums[MI][NJ * 2][4];
#pragma unroll
    for (int i = 0; i < MI; i++)
#pragma unroll
        for (int j = 0; j < NJ * 2; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;

    auto fill = [&](u32 stage) {
        copy_a.copy(stage);
        copy_b.copy(stage + A::BYTES);
        cp_async_commit();
    };
#pragma unroll
    for (int s = 0; s < STAGES - 1; s++) fill(ring + s * STAGE);
    cp_async_wait<STAGES - 2>();
    __syncthreads();

    // Registers are filled a step ahead of the products that need them.
    u32 fa[2][MI][4], fb[2][NJ][4];
    u32 reading = ring, writing = ring + (STAGES - 1) * STAGE;
    read_a.load(fa[0], reading, 0);
    read_b.load(fb[0], reading + A::BYTES, 0);
    const u32 tiles = (k_end - k_begin + K_TILE - 1) / K_TILE;
#pragma unroll 1
    for (u32 t = 0; t < tiles; t++) {
#pragma unroll
        for (int step = 0; step < 2; step++) {
            if (step == 0) {
                read_a.load(fa[1], reading, 1);
                read_b.load(fb[1], reading + A::BYTES, 1);
                fill(writing);
                writing = reading; // the stage that is done with after this tile
            } else {
                reading = reading == ring + (STAGES - 1) * STAGE ? ring : reading + STAGE;
                cp_async_wait<STAGES - 2>();
                __syncthreads();
                read_a.load(fa[0], reading, 0); // past the last tile these are zeros
                read_b.load(fb[0], reading + A::BYTES, 0);
            }
#pragma unroll
            for (int i = 0; i < MI; i++)
#pragma unroll
                for (int j = 0; j < NJ; j++) {
                    mma_bf16(sums[i][2 * j], fa[step][i], fb[step][j][0], fb[step][j][1]);
                    mma_bf16(sums[i][2 * j + 1], fa[step][i], fb[step][j][2], fb[step][j][3]);
                }
        }
    }
    cp_async_wait<0>();
    __syncthreads();

    // Sums of 16 rows at a time pass through shared memory, so that rows leave in pieces of 16 bytes a lane. A warp writes its own part;
    // the stride keeps the eight rows of a store in different banks.
    constexpr int STRIDE = WN + 8;
    static_assert(WARPS * 16 * STRIDE * 4 <= STAGES * STAGE, "the ring has room for the rows");
    const float* rows = reinterpret_cast<const float*>(shared) + warp * 16 * STRIDE;
    const u32 own = ring + warp * 16 * STRIDE * 4, lane = threadIdx.x % WARP;
    out.select(split, (u64)m * n);
#pragma unroll 1
    for (int block = 0; block < MI; block++) {
#pragma unroll
        for (int i = 0; i < MI; i++) {
            if (i != block) continue;
#pragma unroll
            for (int j = 0; j < NJ * 2; j++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    const u32 to = own + ((lane / 4 + half * 8) * STRIDE + j * 8 + lane % 4 * 2) * 4;
                    store_shared_f32x2(to, sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
                }
        }
        __syncwarp();
        store_rows<16, WN>(out, rows, STRIDE, m0 + warp_m + block * 16, n0 + warp_n, m, n);
        __syncwarp();
    }
}

#define GEMM(LAYOUT, A_TRANSPOSED, B_TRANSPOSED, NAME, TM, TN, WM, WN, STAGES, THREADS, BLOCKS)                                          \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) gemm_##LAYOUT##_bf16_##NAME(                                           \
        const bf16* a, const bf16* b, float* c, bf16* c_bf16, const float* bias, const float* residual, u32 m, u32 n, u32 k, u32 lda,    \
        u32 ldb, u32 k_split, u32 split_bits, u32 flags) {                                                                               \
        gemm<TM, TN, WM, WN, STAGES, A_TRANSPOSED, B_TRANSPOSED>(a, b, Output{c, c_bf16, bias, residual, flags}, m, n, k, lda, ldb,      \
                                                                 k_split, split_bits);                                                   \
    }
#define LAYOUTS(NAME, TM, TN, WM, WN, STAGES, THREADS, BLOCKS)                                                                           \
    GEMM(nt, false, false, NAME, TM, TN, WM, WN, STAGES, THREADS, BLOCKS)                                                                \
    GEMM(nn, false, true, NAME, TM, TN, WM, WN, STAGES, THREADS, BLOCKS)                                                                 \
    GEMM(tn, true, true, NAME, TM, TN, WM, WN, STAGES, THREADS, BLOCKS)

LAYOUTS(128x256, 128, 256, 64, 64, 4, 256, 1)
LAYOUTS(128x128, 128, 128, 64, 64, 3, 128, 2)
LAYOUTS(64x64, 64, 64, 32, 32, 4, 128, 3)
