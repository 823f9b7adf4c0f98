// Statistics of activations for calibration, in f64: of channels over the tokens of a sequence, and of the residual stream around a layer.
#include "common.cuh"

// parts [gridDim.y, 4, columns]: of x [rows, columns], over the rows of block y, each column's sums of x - x_0, |x|, x^2 and (x - x_0)^2, where
// x_0 is the sequence's first row: the variance of a large constant would drown in rounding without it. Blocks of 32 columns by 8: each of
// the 8 adds every 8th row, then they are added in their order.
extern "C" __global__ __launch_bounds__(256) void column_statistics_f32(const float* __restrict__ x, double* __restrict__ parts, u32 rows, u32 columns, u32 rows_per_block) {
    __shared__ double shared[4][8][WARP];
    const u32 column = blockIdx.x * WARP + threadIdx.x;
    const u32 end = min(rows, (blockIdx.y + 1) * rows_per_block);
    double deviation = 0.0, absolute = 0.0, square = 0.0, deviation_square = 0.0;
    if (column < columns) {
        const double first = x[column];
#pragma unroll 4
        for (u32 row = blockIdx.y * rows_per_block + threadIdx.y; row < end; row += 8) {
            const double value = x[(u64)row * columns + column], away = value - first;
            deviation += away;
            absolute += fabs(value);
            square = fma(value, value, square);
            deviation_square = fma(away, away, deviation_square);
        }
    }
    shared[0][threadIdx.y][threadIdx.x] = deviation;
    shared[1][threadIdx.y][threadIdx.x] = absolute;
    shared[2][threadIdx.y][threadIdx.x] = square;
    shared[3][threadIdx.y][threadIdx.x] = deviation_square;
    __syncthreads();
    if (threadIdx.y < 4 && column < columns) {
        double sum = shared[threadIdx.y][0][threadIdx.x];
#pragma unroll
        for (u32 i = 1; i < 8; i++) sum += shared[threadIdx.y][i][threadIdx.x];
        parts[((u64)blockIdx.y * 4 + threadIdx.y) * columns + column] = sum;
    }
}

// sums[c] = the column's entries of parts [count, columns], added in their order.
extern "C" __global__ __launch_bounds__(256) void sum_columns_f64(const double* __restrict__ parts, double* __restrict__ sums, u32 count, u32 columns) {
    const u32 column = blockIdx.x * blockDim.x + threadIdx.x;
    if (column >= columns) return;
    double sum = parts[column];
#pragma unroll 4
    for (u32 i = 1; i < count; i++) sum += parts[(u64)i * columns + column];
    sums[column] = sum;
}

// sums [rows, 3]: of each row of x and y [rows, d] the sums of x y, x^2 and y^2: what a cosine is made of.
template <int N> __device__ __forceinline__ void products(const float* x, const float* y, double* sums, u32 d, double* scratch) {
    double xy = 0.0, xx = 0.0, yy = 0.0;
    each_of_row<N>(d, [&](u32 i) {
        const Pack<N> a = load<N>(x + i), b = load<N>(y + i);
#pragma unroll
        for (int j = 0; j < N; j++) {
            const double p = a.at[j], q = b.at[j];
            xy = fma(p, q, xy);
            xx = fma(p, p, xx);
            yy = fma(q, q, yy);
        }
    });
    xy = block_sum(xy, scratch);
    xx = block_sum(xx, scratch);
    yy = block_sum(yy, scratch);
    if (threadIdx.x == 0) {
        sums[0] = xy;
        sums[1] = xx;
        sums[2] = yy;
    }
}
extern "C" __global__ __launch_bounds__(256) void row_products_f32(const float* __restrict__ x, const float* __restrict__ y, double* __restrict__ sums, u32 d, u32 vector) {
    __shared__ double scratch[WARP];
    const u64 start = (u64)blockIdx.x * d;
    if (vector) {
        products<4>(x + start, y + start, sums + (u64)blockIdx.x * 3, d, scratch);
    } else {
        products<1>(x + start, y + start, sums + (u64)blockIdx.x * 3, d, scratch);
    }
}
