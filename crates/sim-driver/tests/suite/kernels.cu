extern "C" __global__ void scale_f32(float* y, const float* x, unsigned n, float factor) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = factor * x[i];
}
extern "C" __global__ void scale_one_more_f32(float* y, const float* x, unsigned n, float factor) {
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = factor * x[i];
}
extern "C" __global__ void __launch_bounds__(128) reverse_f32(float* y, const float* x) {
    __shared__ float tile[128];
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}
extern "C" __global__ void reverse_dynamic_f32(float* y, const float* x) {
    extern __shared__ float dynamic[];
    dynamic[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = dynamic[blockDim.x - 1 - threadIdx.x];
}
