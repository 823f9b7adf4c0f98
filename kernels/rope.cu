// Rotary embeddings in place (Su et al., arXiv 2104.09864), pairs as Hugging Face's `rotate_half` makes them: element i < h/2 of a head
// turns with i + h/2.
#include "common.cuh"

// A block has one row of x [rows, heads * 2 * half] and its row of the table [positions, 2 * half], cosines then sines: threads along x
// have pairs, threads along y heads, so a pair's cosine is read once for all of the thread's heads.
template <int N>
__device__ __forceinline__ void rotate(float* x, const float* table, const u32* positions, u32 heads, u32 half, float sign) {
    float* row = x + (u64)blockIdx.x * heads * 2 * half;
    const float* turn = table + (u64)positions[blockIdx.x] * 2 * half;
    for (u32 i = threadIdx.x * N; i < half; i += blockDim.x * N) {
        const Pack<N> cosine = load<N>(turn + i), sine = load<N>(turn + half + i);
        for (u32 head = threadIdx.y; head < heads; head += blockDim.y) {
            float* at = row + (u64)head * 2 * half + i;
            Pack<N> a = load<N>(at), b = load<N>(at + half);
#pragma unroll
            for (int j = 0; j < N; j++) {
                const float s = sign * sine.at[j], first = a.at[j];
                a.at[j] = first * cosine.at[j] - b.at[j] * s;
                b.at[j] = b.at[j] * cosine.at[j] + first * s;
            }
            store(at, a);
            store(at + half, b);
        }
    }
}

// `sign` is -1 to turn back. With `vector`, 16 bytes at a time: half is a multiple of 4 and pointers are aligned.
extern "C" __global__ __launch_bounds__(256) void rope_f32(float* __restrict__ x, const float* __restrict__ table, const u32* __restrict__ positions, u32 heads, u32 half, u32 vector, float sign) {
    if (vector) {
        rotate<4>(x, table, positions, heads, half, sign);
    } else {
        rotate<1>(x, table, positions, heads, half, sign);
    }
}
