// c[m, n] = sum_k a(m, k) b(k, n) in f32, with fused multiply-adds in the order of k; the layouts are those of gemm_bf16.cu. Rows may begin
// anywhere: pieces of 16 bytes are read where the host says that they are aligned, else element by element.
#include "epilogue.cuh"

constexpr u32 A_VECTOR = 32, B_VECTOR = 64; // bits of `flags`
constexpr int K_TILE = 16, THREADS = 256;

// One operand's tile: K_TILE rows of EXTENT in shared memory, k by k. Four rows at a time have their columns exchanged in groups of eight,
// so that a tile that is turned on its way in is written without bank conflicts.
template <int EXTENT, bool TRANSPOSED> struct Operand {
    static constexpr int CHUNKS = (TRANSPOSED ? EXTENT : K_TILE) / 4, PASS = THREADS / CHUNKS;
    static constexpr int PASSES = EXTENT * K_TILE / 4 / THREADS;

    const float* from;
    u64 pass_stride, tile_stride;
    u32 row, chunk;
    u32 inside; // rows or columns from this thread's first one to the end of the matrix
    int k_left;
    u32 vector;
    float4 held[PASSES];

    __device__ __forceinline__ Operand(const float* matrix, u32 ld, u32 first, u32 extent, u32 k_begin, u32 k_end, u32 vector)
        : vector(vector) {
        row = threadIdx.x / CHUNKS;
        chunk = threadIdx.x % CHUNKS;
        pass_stride = (u64)PASS * ld;
        const u32 along = first + (TRANSPOSED ? chunk * 4 : row);
        const u32 k = TRANSPOSED ? row : chunk * 4;
        from = TRANSPOSED ? matrix + (u64)(k_begin + k) * ld + along : matrix + (u64)along * ld + k_begin + k;
        tile_stride = TRANSPOSED ? (u64)K_TILE * ld : K_TILE;
        inside = along < extent ? extent - along : 0;
        k_left = (int)(k_end - k_begin - k);
    }

    // Reads the next tile into registers.
    __device__ __forceinline__ void read() {
#pragma unroll
        for (int p = 0; p < PASSES; p++) {
            const float* at = from + p * pass_stride;
            const bool row_inside = TRANSPOSED ? k_left > p * PASS : inside > p * PASS;
            const int columns = TRANSPOSED ? (int)inside : k_left;
            float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (row_inside && vector) {
                if (columns > 0) x = *reinterpret_cast<const float4*>(at);
            } else if (row_inside) {
                if (columns > 0) x.x = at[0];
                if (columns > 1) x.y = at[1];
                if (columns > 2) x.z = at[2];
                if (columns > 3) x.w = at[3];
            }
            held[p] = x;
        }
        from += tile_stride;
        k_left -= K_TILE;
    }

    // Writes them to shared memory.
    __device__ __forceinline__ void write(float* tile) const {
#pragma unroll
        for (int p = 0; p < PASSES; p++) {
            const u32 r = row + p * PASS;
            if constexpr (TRANSPOSED) {
                *reinterpret_cast<float4*>(tile + r * EXTENT + (chunk * 4 ^ r / 4 % 4 * 8)) = held[p];
            } else {
                float* column = tile + chunk * 4 * EXTENT + (r ^ chunk * 8);
                column[0] = held[p].x;
                column[EXTENT] = held[p].y;
                column[2 * EXTENT] = held[p].z;
                column[3 * EXTENT] = held[p].w;
            }
        }
    }
};

// A block has a tile of TILE x TILE, a thread 4 x 4 elements of each of its quarters (or of the whole, for 64).
template <int TILE, bool A_TRANSPOSED, bool B_TRANSPOSED>
__device__ __forceinline__ void gemm(const float* a, const float* b, Output out, u32 m, u32 n, u32 k, u32 lda, u32 ldb, u32 k_split,
                                     u32 split_bits) {
    constexpr int QUARTERS = TILE / 64;
    __shared__ __align__(16) float tiles[2][2][K_TILE * TILE];
    const u32 split = blockIdx.z & ((1u << split_bits) - 1);
    const u32 m0 = ((blockIdx.z >> split_bits) * gridDim.x + blockIdx.x) * TILE, n0 = blockIdx.y * TILE;
    if (m0 >= m) return;
    const u32 k_begin = min(split * k_split, k), k_end = min(k_begin + k_split, k);
    Operand<TILE, A_TRANSPOSED> read_a(a, lda, m0, m, k_begin, k_end, out.flags & A_VECTOR);
    Operand<TILE, B_TRANSPOSED> read_b(b, ldb, n0, n, k_begin, k_end, out.flags & B_VECTOR);

    // A warp has 16 x 32 elements: what its lanes read at a time is 4 and 8 neighbouring pieces of 16 bytes.
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 own_m = (warp / 2 * 4 + lane / 8) * 4, own_n = (warp % 2 * 8 + lane % 8) * 4;
    float sums[4 * QUARTERS][4 * QUARTERS];
#pragma unroll
    for (int i = 0; i < 4 * QUARTERS; i++)
#pragma unroll
        for (int j = 0; j < 4 * QUARTERS; j++) sums[i][j] = 0.0f;

    read_a.read();
    read_b.read();
    read_a.write(tiles[0][0]);
    read_b.write(tiles[0][1]);
    __syncthreads();
    const u32 count = (k_end - k_begin + K_TILE - 1) / K_TILE;
#pragma unroll 1
    for (u32 t = 0; t < count; t++) {
        read_a.read(); // past the end these are zeros
        read_b.read();
        const float* tile_a = tiles[t % 2][0];
        const float* tile_b = tiles[t % 2][1];
#pragma unroll
        for (int kk = 0; kk < K_TILE; kk++) {
            float fa[4 * QUARTERS], fb[4 * QUARTERS];
#pragma unroll
            for (int q = 0; q < QUARTERS; q++) {
                const float4 x = *reinterpret_cast<const float4*>(tile_a + kk * TILE + q * 64 + (own_m ^ kk / 4 * 8));
                const float4 y = *reinterpret_cast<const float4*>(tile_b + kk * TILE + q * 64 + (own_n ^ kk / 4 * 8));
                fa[4 * q] = x.x, fa[4 * q + 1] = x.y, fa[4 * q + 2] = x.z, fa[4 * q + 3] = x.w;
                fb[4 * q] = y.x, fb[4 * q + 1] = y.y, fb[4 * q + 2] = y.z, fb[4 * q + 3] = y.w;
            }
#pragma unroll
            for (int i = 0; i < 4 * QUARTERS; i++)
#pragma unroll
                for (int j = 0; j < 4 * QUARTERS; j++) sums[i][j] = fmaf(fa[i], fb[j], sums[i][j]);
        }
        read_a.write(tiles[(t + 1) % 2][0]);
        read_b.write(tiles[(t + 1) % 2][1]);
        __syncthreads();
    }

    out.c += split * ((u64)m * n);
    // Four neighbours of a thread after the other, so that the epilogue is there once.
#pragma unroll 1
    for (u32 piece = 0; piece < 4 * QUARTERS * QUARTERS; piece++) {
        const u32 row = piece / QUARTERS, quarter = piece % QUARTERS;
        float4 x = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int i = 0; i < 4 * QUARTERS; i++)
#pragma unroll
            for (int q = 0; q < QUARTERS; q++) {
                if (i == row && q == quarter)
                    x = make_float4(sums[i][4 * q], sums[i][4 * q + 1], sums[i][4 * q + 2], sums[i][4 * q + 3]);
            }
        const u32 r = m0 + row / 4 * 64 + own_m + row % 4, column = n0 + quarter * 64 + own_n;
        if (r >= m || column >= n) continue;
        const u64 start = (u64)r * n;
        if (out.flags & ALIGNED) {
            out.put4(x, start, column);
        } else {
            const u32 count = min(n - column, 4u);
#pragma unroll 1
            for (u32 e = 0; e < count; e++) {
                out.put(x.x, start, column + e);
                x.x = x.y, x.y = x.z, x.z = x.w;
            }
        }
    }
}

#define GEMM(LAYOUT, A_TRANSPOSED, B_TRANSPOSED, TILE)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS, TILE == 128 ? 2 : 3) gemm_##LAYOUT##_f32_##TILE##x##TILE(                      \
        const float* a, const float* b, float* c, bf16* c_bf16, const float* bias, const float* residual, u32 m, u32 n, u32 k, u32 lda,  \
        u32 ldb, u32 k_split, u32 split_bits, u32 flags) {                                                                               \
        gemm<TILE, A_TRANSPOSED, B_TRANSPOSED>(a, b, Output{c, c_bf16, bias, residual, flags}, m, n, k, lda, ldb, k_split, split_bits);  \
    }
GEMM(nt, false, false, 128)
GEMM(nn, false, true, 128)
GEMM(tn, true, true, 128)
GEMM(nt, false, false, 64)
GEMM(nn, false, true, 64)
GEMM(tn, true, true, 64)
