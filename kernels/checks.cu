// Functions of `common.cuh` alone, so that tests can hold them against f64 over their whole range. No operation launches these.
#include "common.cuh"

extern "C" __global__ __launch_bounds__(256) void exp_values_f32(const float* __restrict__ x, float* __restrict__ y, u64 n) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = exp_f32(x[i]);
}
extern "C" __global__ __launch_bounds__(256) void sigmoid_values_f32(const float* __restrict__ x, float* __restrict__ y, u64 n) {
    const u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = sigmoid_f32(x[i]);
}
