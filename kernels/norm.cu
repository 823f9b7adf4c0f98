// RMSNorm and LayerNorm, alone and after the addition of the residual stream, forward and backward.
//
// A block has a row at a time. What it reads of the row stays in shared memory (`keep`) until the row's statistics are known; only rows that
// do not fit there are read twice. Every thread reads back what itself wrote, so that takes no barrier.
#include "common.cuh"

struct Forward {
    const float *a, *b; // `b` of the sum a + b
    float *sum, *y, *mean_t, *rstd_t;
    u32 d;
    float eps;
    bool keep;
};

// RESIDUAL: sum = a + b is what is normalised. CENTRED: LayerNorm (Ba et al., arXiv 1607.06450), y = (x - mean) rstd w + bias; otherwise
// RMSNorm (Zhang and Sennrich, arXiv 1910.07467), y = x rstd w.
template <class W, bool RESIDUAL, bool CENTRED, int N>
__device__ __forceinline__ void forward_row(const Forward& o, const typename W::Element* w, const typename W::Element* bias, float* kept, float* scratch) {
    const u64 start = (u64)blockIdx.x * o.d;
    const float* a = o.a + start;
    const float* b = RESIDUAL ? o.b + start : nullptr;
    float* sum = RESIDUAL ? o.sum + start : nullptr;
    float total = 0.0f;
    each_of_row<N>(o.d, [&](u32 i) {
        Pack<N> x = load<N>(a + i);
        if constexpr (RESIDUAL) {
            const Pack<N> other = load<N>(b + i);
#pragma unroll
            for (int j = 0; j < N; j++) x.at[j] += other.at[j];
            store(sum + i, x);
        }
        if (o.keep) store(kept + i, x);
#pragma unroll
        for (int j = 0; j < N; j++) total = CENTRED ? total + x.at[j] : fmaf(x.at[j], x.at[j], total);
    });
    const auto again = [&](u32 i) { return o.keep ? load<N>(kept + i) : load<N>((RESIDUAL ? sum : a) + i); };
    total = block_sum(total, scratch);
    float mean = 0.0f;
    if constexpr (CENTRED) {
        mean = total / (float)o.d;
        total = 0.0f;
        each_of_row<N>(o.d, [&](u32 i) {
            const Pack<N> x = again(i);
#pragma unroll
            for (int j = 0; j < N; j++) total = fmaf(x.at[j] - mean, x.at[j] - mean, total);
        });
        total = block_sum(total, scratch);
    }
    const float rstd = 1.0f / sqrtf(total / (float)o.d + o.eps);
    if (threadIdx.x == 0) {
        if (CENTRED) o.mean_t[blockIdx.x] = mean;
        o.rstd_t[blockIdx.x] = rstd;
    }
    float* y = o.y + start;
    each_of_row<N>(o.d, [&](u32 i) {
        Pack<N> x = again(i);
        const Pack<N> weight = load_as<W, N>(w + i);
        if constexpr (CENTRED) {
            const Pack<N> offset = load_as<W, N>(bias + i);
#pragma unroll
            for (int j = 0; j < N; j++) x.at[j] = fmaf((x.at[j] - mean) * rstd, weight.at[j], offset.at[j]);
        } else {
#pragma unroll
            for (int j = 0; j < N; j++) x.at[j] = x.at[j] * rstd * weight.at[j];
        }
        store(y + i, x);
    });
}

template <class W, bool RESIDUAL, bool CENTRED>
__device__ __forceinline__ void forward(const Forward& o, const typename W::Element* w, const typename W::Element* bias, u32 vector) {
    extern __shared__ __align__(16) float kept[];
    __shared__ float scratch[WARP];
    if (vector) {
        forward_row<W, RESIDUAL, CENTRED, 4>(o, w, bias, kept, scratch);
    } else {
        forward_row<W, RESIDUAL, CENTRED, 1>(o, w, bias, kept, scratch);
    }
}

struct Backward {
    const float *dy, *x, *mean_t, *rstd_t;
    float *dx, *dw, *dbias; // dw and dbias: one row of partial sums a block
    u32 rows, d, rows_per_block;
    bool add, keep_row;
};

// With n = (x - mean) rstd and g = dy w:
//
// - dx (+)= rstd (g - mean(g) - n mean(g n)), without mean(g) when not CENTRED
// - dw = sum over the block's rows of dy n, dbias of dy
//
// KEEP_SUMS: sums of several rows are in shared memory until the last row; there may be room for the row as well.
template <class W, bool CENTRED, int N, bool KEEP_SUMS>
__device__ __forceinline__ void backward_rows(const Backward& o, const typename W::Element* w, float* shared, float* scratch) {
    constexpr u32 SUMS = CENTRED ? 2 : 1;
    float *dw = o.dw + (u64)blockIdx.x * o.d, *dbias = CENTRED ? o.dbias + (u64)blockIdx.x * o.d : nullptr;
    float *kept_g = shared + SUMS * o.d, *kept_n = shared + (SUMS + 1) * o.d;
    const u32 first = blockIdx.x * o.rows_per_block, end = min(o.rows, first + o.rows_per_block);
    for (u32 row = first; row < end; row++) {
        const float *dy = o.dy + (u64)row * o.d, *x = o.x + (u64)row * o.d;
        float* dx = o.dx + (u64)row * o.d;
        const float mean = CENTRED ? o.mean_t[row] : 0.0f, rstd = o.rstd_t[row];
        const auto normed = [&](u32 i) {
            Pack<N> n = load<N>(x + i);
#pragma unroll
            for (int j = 0; j < N; j++) n.at[j] = (CENTRED ? n.at[j] - mean : n.at[j]) * rstd;
            return n;
        };
        float product = 0.0f, sum = 0.0f;
        each_of_row<N>(o.d, [&](u32 i) {
            Pack<N> g = load<N>(dy + i);
            const Pack<N> n = normed(i), weight = load_as<W, N>(w + i);
            Pack<N> of_w = {}, of_bias = {};
            if (row != first) {
                of_w = KEEP_SUMS ? load<N>(shared + i) : load<N>(dw + i);
                if (CENTRED) of_bias = KEEP_SUMS ? load<N>(shared + o.d + i) : load<N>(dbias + i);
            }
#pragma unroll
            for (int j = 0; j < N; j++) {
                of_w.at[j] = fmaf(g.at[j], n.at[j], of_w.at[j]);
                of_bias.at[j] += g.at[j];
                g.at[j] *= weight.at[j];
                product = fmaf(g.at[j], n.at[j], product);
                sum += g.at[j];
            }
            if (KEEP_SUMS && row + 1 < end) {
                store(shared + i, of_w);
                if (CENTRED) store(shared + o.d + i, of_bias);
            } else {
                store(dw + i, of_w);
                if (CENTRED) store(dbias + i, of_bias);
            }
            if (KEEP_SUMS && o.keep_row) {
                store(kept_g + i, g);
                store(kept_n + i, n);
            }
        });
        product = block_sum(product, scratch) / (float)o.d;
        if (CENTRED) sum = block_sum(sum, scratch) / (float)o.d;
        each_of_row<N>(o.d, [&](u32 i) {
            Pack<N> g, n;
            if (KEEP_SUMS && o.keep_row) {
                g = load<N>(kept_g + i);
                n = load<N>(kept_n + i);
            } else {
                g = load<N>(dy + i);
                n = normed(i);
                const Pack<N> weight = load_as<W, N>(w + i);
#pragma unroll
                for (int j = 0; j < N; j++) g.at[j] *= weight.at[j];
            }
            Pack<N> out = {};
            if (o.add) out = load<N>(dx + i);
#pragma unroll
            for (int j = 0; j < N; j++) out.at[j] = fmaf(rstd, (CENTRED ? g.at[j] - sum : g.at[j]) - n.at[j] * product, out.at[j]);
            store(dx + i, out);
        });
    }
}

template <class W, bool CENTRED> __device__ __forceinline__ void backward(const Backward& o, const typename W::Element* w, u32 vector, u32 keep) {
    extern __shared__ __align__(16) float shared[];
    __shared__ float scratch[WARP];
    if (vector && keep) {
        backward_rows<W, CENTRED, 4, true>(o, w, shared, scratch);
    } else if (vector) {
        backward_rows<W, CENTRED, 4, false>(o, w, shared, scratch);
    } else if (keep) {
        backward_rows<W, CENTRED, 1, true>(o, w, shared, scratch);
    } else {
        backward_rows<W, CENTRED, 1, false>(o, w, shared, scratch);
    }
}

// `keep`: d floats of dynamic shared memory. Of the backward: 1 for the sums, d floats (of LayerNorm 2 d); 2 for the row as well, 2 d more.
#define NORM(NAME, W)                                                                                                                                \
    extern "C" __global__ __launch_bounds__(256) void rms_norm_##NAME(                                                                               \
        const float* __restrict__ x, const W::Element* __restrict__ w, float* __restrict__ y, float* __restrict__ rstd, u32 d, u32 vector,           \
        u32 keep, float eps) {                                                                                                                       \
        forward<W, false, false>({x, nullptr, nullptr, y, nullptr, rstd, d, eps, keep != 0}, w, nullptr, vector);                                    \
    }                                                                                                                                                \
    extern "C" __global__ __launch_bounds__(256) void add_rms_norm_##NAME(                                                                           \
        const float* __restrict__ a, const float* __restrict__ b, const W::Element* __restrict__ w, float* __restrict__ sum,                         \
        float* __restrict__ y, float* __restrict__ rstd, u32 d, u32 vector, u32 keep, float eps) {                                                   \
        forward<W, true, false>({a, b, sum, y, nullptr, rstd, d, eps, keep != 0}, w, nullptr, vector);                                               \
    }                                                                                                                                                \
    extern "C" __global__ __launch_bounds__(256) void layer_norm_##NAME(                                                                             \
        const float* __restrict__ x, const W::Element* __restrict__ w, const W::Element* __restrict__ bias, float* __restrict__ y,                   \
        float* __restrict__ mean, float* __restrict__ rstd, u32 d, u32 vector, u32 keep, float eps) {                                                \
        forward<W, false, true>({x, nullptr, nullptr, y, mean, rstd, d, eps, keep != 0}, w, bias, vector);                                           \
    }                                                                                                                                                \
    extern "C" __global__ __launch_bounds__(256) void add_layer_norm_##NAME(                                                                         \
        const float* __restrict__ a, const float* __restrict__ b, const W::Element* __restrict__ w, const W::Element* __restrict__ bias,             \
        float* __restrict__ sum, float* __restrict__ y, float* __restrict__ mean, float* __restrict__ rstd, u32 d, u32 vector, u32 keep,             \
        float eps) {                                                                                                                                 \
        forward<W, true, true>({a, b, sum, y, mean, rstd, d, eps, keep != 0}, w, bias, vector);                                                      \
    }                                                                                                                                                \
    extern "C" __global__ __launch_bounds__(256) void rms_norm_backward_##NAME(                                                                      \
        const float* __restrict__ dy, const float* __restrict__ x, const W::Element* __restrict__ w, const float* __restrict__ rstd,                 \
        float* __restrict__ dx, float* __restrict__ dw_parts, u32 rows, u32 d, u32 rows_per_block, u32 vector, u32 add, u32 keep) {                  \
        backward<W, false>({dy, x, nullptr, rstd, dx, dw_parts, nullptr, rows, d, rows_per_block, add != 0, keep > 1}, w, vector, keep);         \
    }                                                                                                                                                \
    extern "C" __global__ __launch_bounds__(256, 6) void layer_norm_backward_##NAME(                                                                 \
        const float* __restrict__ dy, const float* __restrict__ x, const W::Element* __restrict__ w, const float* __restrict__ mean,                 \
        const float* __restrict__ rstd, float* __restrict__ dx, float* __restrict__ dw_parts, float* __restrict__ dbias_parts, u32 rows, u32 d,      \
        u32 rows_per_block, u32 vector, u32 add, u32 keep) {                                                                                         \
        backward<W, true>({dy, x, mean, rstd, dx, dw_parts, dbias_parts, rows, d, rows_per_block, add != 0, keep > 1}, w, vector, keep);         \
    }
NORM(f32, F32)
NORM(bf16, Bf16)

// sums[c] += the column's entries of parts [count, columns]. Blocks of 32 columns by 8: each of the 8 adds every 8th entry, then they are
// added in their order.
extern "C" __global__ __launch_bounds__(256) void add_columns_f32(const float* __restrict__ parts, float* __restrict__ sums, u32 count, u32 columns) {
    __shared__ float shared[8][WARP];
    const u32 column = blockIdx.x * WARP + threadIdx.x;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 4
        for (u32 i = threadIdx.y; i < count; i += 8) sum += parts[(u64)i * columns + column];
    }
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        sum = shared[0][threadIdx.x];
#pragma unroll
        for (u32 i = 1; i < 8; i++) sum += shared[i][threadIdx.x];
        sums[column] += sum;
    }
}
