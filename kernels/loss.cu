// Losses of rows of logits. A block has a row; it reads it once for the maximum and the normaliser together, and a second time, which a large
// vocabulary mostly does out of the L2 cache, to make the gradient. What a row amounts to goes back in f64, and the host takes the logarithms
// and adds the rows in their order.
//
// NaN, infinities and excluded entries follow `crates/reference/src/loss.rs`: a row that is all negative infinity has no distribution and
// makes NaN; an entry of negative infinity has probability 0.
#include "common.cuh"

constexpr u32 IGNORE = 0xffffffffu;
constexpr u32 NONE = 0xffffffffu;

// What is subtracted before exponentials: the maximum, or 0 when all are negative infinity.
__device__ __forceinline__ float shift_of(float max) { return max == -INFINITY_F32 ? 0.0f : max; }

// The maximum so far and the sum of exp(x - max) so far (Milakov and Gimelshein, arXiv 1805.02867). NaN is never the maximum, but in the sum.
struct Online {
    float max = -INFINITY_F32;
    double sum = 0.0;

    template <int N> __device__ __forceinline__ void add(const Pack<N>& x) {
        float largest = max;
#pragma unroll
        for (int i = 0; i < N; i++) largest = fmaxf(largest, x.at[i]);
        if (largest > max) {
            sum *= exp_f32(max - largest);
            max = largest;
        }
        const float shift = shift_of(max);
        float part = exp_f32(x.at[0] - shift);
#pragma unroll
        for (int i = 1; i < N; i++) part += exp_f32(x.at[i] - shift);
        sum += part;
    }
    // Of the whole block, for every thread.
    __device__ __forceinline__ void reduce(float* floats, double* doubles) {
        const float own = max;
        max = block_max(max, floats);
        sum = block_sum(sum * exp_f32(own - shift_of(max)), doubles);
    }
};

// The first index of the largest value so far: NONE when no value was one.
struct First {
    float max = -INFINITY_F32;
    u32 index = NONE;

    __device__ __forceinline__ void add(float x, u32 i) {
        if (x > max || (x == max && i < index)) {
            max = x;
            index = i;
        }
    }
    __device__ __forceinline__ void reduce(float* floats, u32* indices) {
#pragma unroll
        for (u32 offset = WARP / 2; offset > 0; offset /= 2) {
            const float other = __shfl_xor_sync(ALL_LANES, max, offset);
            add(other, __shfl_xor_sync(ALL_LANES, index, offset));
        }
        const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
        __syncthreads(); // an earlier reduction may still be reading
        if (lane == warp) { // all lanes have them
            floats[lane] = max;
            indices[lane] = index;
        }
        __syncthreads();
        for (u32 i = 0; i < blockDim.x / WARP; i++) add(floats[i], indices[i]);
    }
};

// The row becomes scale * (softmax - [i = target]); row_sums [T, 3]: maximum, sum of exp(x - maximum), the target's logit.
template <int N> __device__ __forceinline__ void cross_entropy(float* row, u32 target, double* row_sums, u32 v, float scale, float* floats, double* doubles) {
    if (target == IGNORE) {
        each_of_row<N>(v, [&](u32 i) { store(row + i, Pack<N>{}); });
        if (threadIdx.x < 3) row_sums[threadIdx.x] = 0.0;
        return;
    }
    const float logit = row[target]; // before it is overwritten, which is after the barriers below
    Online online;
    each_of_row<N>(v, [&](u32 i) { online.add(load<N>(row + i)); });
    online.reduce(floats, doubles);
    const float shift = shift_of(online.max), inverse = 1.0f / (float)online.sum;
    each_of_row<N>(v, [&](u32 i) {
        Pack<N> x = load<N>(row + i);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float p = exp_f32(x.at[j] - shift) * inverse;
            x.at[j] = scale * (i + j == target ? p - 1.0f : p);
        }
        store(row + i, x);
    });
    if (threadIdx.x == 0) {
        row_sums[0] = online.max;
        row_sums[1] = online.sum;
        row_sums[2] = logit;
    }
}
extern "C" __global__ __launch_bounds__(512) void cross_entropy_rows_f32(float* __restrict__ logits, const u32* __restrict__ targets, double* __restrict__ sums, u32 v, u32 vector, float scale) {
    __shared__ float floats[WARP];
    __shared__ double doubles[WARP];
    float* row = logits + (u64)blockIdx.x * v;
    double* row_sums = sums + (u64)blockIdx.x * 3;
    if (vector) {
        cross_entropy<4>(row, targets[blockIdx.x], row_sums, v, scale, floats, doubles);
    } else {
        cross_entropy<1>(row, targets[blockIdx.x], row_sums, v, scale, floats, doubles);
    }
}

// With s, t the logits less their maxima and p = e^t: the sum of p (t - s), of which and of the normalisers the host makes
// KL = sum / sum_t + log(sum_s / sum_t). In place of the student's logits, GRADIENT leaves scale * (q - p).
template <bool GRADIENT, int N>
__device__ __forceinline__ double divergence(float* student, const float* teacher, const Online& s, const Online& t, u32 v, float scale, double* doubles) {
    const float s_shift = shift_of(s.max), t_shift = shift_of(t.max);
    const float s_inverse = 1.0f / (float)s.sum, t_inverse = 1.0f / (float)t.sum;
    double sum = 0.0;
    each_of_row<N>(v, [&](u32 i) {
        Pack<N> x = load<N>(student + i);
        const Pack<N> y = load<N>(teacher + i);
        float part = 0.0f;
#pragma unroll
        for (int j = 0; j < N; j++) {
            const float a = x.at[j] - s_shift, b = y.at[j] - t_shift, p = exp_f32(b);
            // What the teacher rules out adds nothing, though the logarithm may be infinite there. A NaN is not 0 and stays.
            part += p == 0.0f ? 0.0f : p * (b - a);
            if (GRADIENT) x.at[j] = scale * (exp_f32(a) * s_inverse - p * t_inverse);
        }
        if (GRADIENT) store(student + i, x);
        sum += part;
    });
    return block_sum(sum, doubles);
}

// row_sums [T, 3]: sum of exp(x - maximum) of the student, of the teacher, and `divergence`; it needs no maximum.
template <int N> __device__ __forceinline__ void kl(float* student, const float* teacher, double* row_sums, u32 v, float scale, float* floats, double* doubles) {
    Online s, t;
    each_of_row<N>(v, [&](u32 i) {
        s.add(load<N>(student + i));
        t.add(load<N>(teacher + i));
    });
    s.reduce(floats, doubles);
    t.reduce(floats, doubles);
    const double sum = divergence<true, N>(student, teacher, s, t, v, scale, doubles);
    if (threadIdx.x == 0) {
        row_sums[0] = s.sum;
        row_sums[1] = t.sum;
        row_sums[2] = sum;
    }
}
extern "C" __global__ __launch_bounds__(512) void kl_rows_f32(float* __restrict__ student, const float* __restrict__ teacher, double* __restrict__ sums, u32 v, u32 vector, float scale) {
    __shared__ float floats[WARP];
    __shared__ double doubles[WARP];
    const u64 start = (u64)blockIdx.x * v;
    if (vector) {
        kl<4>(student + start, teacher + start, sums + (u64)blockIdx.x * 3, v, scale, floats, doubles);
    } else {
        kl<1>(student + start, teacher + start, sums + (u64)blockIdx.x * 3, v, scale, floats, doubles);
    }
}

// row_sums [T, 8]: maximum and sum of the student, of the teacher, `divergence`, the target's logit of the student and of the teacher, and 1 where both put the same token first.
template <int N>
__device__ __forceinline__ void compare(const float* student, const float* teacher, u32 target, double* row_sums, u32 v, float* floats, double* doubles, u32* indices) {
    if (target == IGNORE) {
        if (threadIdx.x < 8) row_sums[threadIdx.x] = 0.0;
        return;
    }
    Online s, t;
    First s_first, t_first;
    each_of_row<N>(v, [&](u32 i) {
        const Pack<N> x = load<N>(student + i), y = load<N>(teacher + i);
        s.add(x);
        t.add(y);
#pragma unroll
        for (int j = 0; j < N; j++) {
            s_first.add(x.at[j], i + j);
            t_first.add(y.at[j], i + j);
        }
    });
    s.reduce(floats, doubles);
    t.reduce(floats, doubles);
    s_first.reduce(floats, indices);
    t_first.reduce(floats, indices);
    const double sum = divergence<false, N>(const_cast<float*>(student), teacher, s, t, v, 0.0f, doubles);
    if (threadIdx.x == 0) {
        row_sums[0] = s.max;
        row_sums[1] = s.sum;
        row_sums[2] = t.max;
        row_sums[3] = t.sum;
        row_sums[4] = sum;
        row_sums[5] = student[target];
        row_sums[6] = teacher[target];
        row_sums[7] = s_first.index == t_first.index ? 1.0 : 0.0;
    }
}
extern "C" __global__ __launch_bounds__(512) void compare_rows_f32(const float* __restrict__ student, const float* __restrict__ teacher, const u32* __restrict__ targets, double* __restrict__ sums, u32 v, u32 vector) {
    __shared__ float floats[WARP];
    __shared__ double doubles[WARP];
    __shared__ u32 indices[WARP];
    const u64 start = (u64)blockIdx.x * v;
    double* row_sums = sums + (u64)blockIdx.x * 8;
    if (vector) {
        compare<4>(student + start, teacher + start, targets[blockIdx.x], row_sums, v, floats, doubles, indices);
    } else {
        compare<1>(student + start, teacher + start, targets[blockIdx.x], row_sums, v, floats, doubles, indices);
    }
}
