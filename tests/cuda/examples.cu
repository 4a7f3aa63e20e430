// Small correct kernels that use all that the emulator offers. test_emulator.py knows what each computes.

#include "cuda_fp16.h"
#include "tensor_cores.h"

extern "C" __global__ void add(const float* x, const float* y, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = x[i] + y[i];
}

extern "C" __global__ void indices(int* out) {
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    int threads = blockDim.x * blockDim.y * blockDim.z;
    out[block * threads + thread] = block * 1000 + thread;
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int delta = 16; delta > 0; delta /= 2) x += __shfl_down_sync(0xffffffff, x, delta);
    return x;
}

// One block a row, of any length.
extern "C" __global__ void __launch_bounds__(128) row_sums(const float* __restrict__ x, float* out, int K) {
    __shared__ float parts[32];
    float sum = 0;
    for (int k = threadIdx.x; k < K; k += blockDim.x) sum += __ldg(&x[blockIdx.x * K + k]);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = warp_sum(threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0);
        if (threadIdx.x == 0) out[blockIdx.x] = sum;
    }
}

// out = a b, for an (R, K) and a (K, N) matrix of any size.
template <class T, int TILE>
__global__ void matmul(const T* a, const T* b, T* out, int R, int K, int N) {
    __shared__ T a_tile[TILE][TILE];
    __shared__ T b_tile[TILE][TILE + 1];
    int x = threadIdx.x, y = threadIdx.y;
    int row = blockIdx.y * TILE + y, column = blockIdx.x * TILE + x;
    T sum = 0;
    for (int k = 0; k < K; k += TILE) {
        a_tile[y][x] = row < R && k + x < K ? a[row * K + k + x] : T(0);
        b_tile[y][x] = k + y < K && column < N ? b[(k + y) * N + column] : T(0);
        __syncthreads();
        for (int i = 0; i < TILE; i++) sum += a_tile[y][i] * b_tile[i][x];
        __syncthreads();
    }
    if (row < R && column < N) out[row * N + column] = sum;
}

// Softmax of each row, which dynamic shared memory holds.
template <class T>
__global__ void softmax(const T* x, T* out, int K) {
    extern __shared__ __align__(16) unsigned char memory[];
    T* row = reinterpret_cast<T*>(memory);
    __shared__ T total;
    T biggest = -INFINITY;
    for (int k = 0; k < K; k++) biggest = max(biggest, x[blockIdx.x * K + k]);
    if (threadIdx.x == 0) total = 0;
    __syncthreads();
    for (int k = threadIdx.x; k < K; k += blockDim.x) {
        row[k] = exp(x[blockIdx.x * K + k] - biggest);
        atomicAdd(&total, row[k]);
    }
    __syncthreads();
    for (int k = K - 1 - int(threadIdx.x); k >= 0; k -= blockDim.x) out[blockIdx.x * K + k] = row[k] / total;
}

extern "C" __global__ void atomics(const int* x, int* ints, float* floats, double* doubles) {
    int value = x[blockIdx.x * blockDim.x + threadIdx.x];
    atomicAdd(&ints[0], value);
    atomicMax(&ints[1], value);
    atomicMin(&ints[2], value);
    int seen = ints[3], expected;  // what a stale value costs is another turn; see racing_read in bugs.cu
    do {
        expected = seen;
        seen = atomicCAS(&ints[3], expected, expected ^ value);
    } while (seen != expected);
    atomicAdd(floats, 1);
    atomicAdd(doubles, value);
}

// Each thread draws a number and leaves its own there.
extern "C" __global__ void order(int* counter, int* out) {
    out[atomicAdd(counter, 1)] = threadIdx.x;
}

// All kinds of shuffles and votes. `width` divides warps into segments.
extern "C" __global__ void exchange(const int* x, int* out, int argument, int width) {
    int n = blockDim.x, t = threadIdx.x, value = x[t];
    unsigned all = 0xffffffff;
    out[0 * n + t] = __shfl_sync(all, value, argument, width);
    out[1 * n + t] = __shfl_up_sync(all, value, argument, width);
    out[2 * n + t] = __shfl_down_sync(all, value, argument, width);
    out[3 * n + t] = __shfl_xor_sync(all, value, argument, width);
    out[4 * n + t] = __ballot_sync(all, value & 1);
    out[5 * n + t] = __any_sync(all, value > 90);
    out[6 * n + t] = __all_sync(all, value > 5);
    out[7 * n + t] = __syncthreads_count(value & 1);
    out[8 * n + t] = __syncthreads_or(value > 95);
    out[9 * n + t] = __syncthreads_and(value > 1);
    if (t % 32 < 16) value = __shfl_xor_sync(0x0000ffff, value, 8);
    out[10 * n + t] = value;
}

// Half a warp hands something to the other half by shared memory, and then each pair of lanes within itself.
extern "C" __global__ void warp_steps(const double* x, double* out) {
    __shared__ double tile[64];
    int t = threadIdx.x, lane = t % 32;
    if (lane < 16) tile[t] = x[t];
    __syncwarp();
    if (lane >= 16) tile[t] = 2 * tile[t - 16];
    unsigned mask = lane < 16 ? 0x0000ffff : 0xffff0000;
    __syncwarp(mask);
    out[t] = tile[t ^ 1];
    __syncwarp();  // for all: the upper half has read what the lower half now overwrites
    tile[t] = 0;
}

extern "C" __global__ void vectors(const float4* x, float4* out, double2* sums, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        float4 v = x[i];
        out[i] = make_float4(v.w, v.z, v.y, v.x);
        sums[i] = double2{double(v.x) + v.y, double(v.z) + v.w};
    }
}

// Neighbours write halves of one word.
extern "C" __global__ void axpy_half(const __half* x, __half* y, float scale, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = __float2half(scale * __half2float(x[i]) + __half2float(y[i]));
}

__constant__ float coefficients[3] = {1, -2, 3};
__device__ int calls;

extern "C" __global__ void polynomial(const float* x, float* out, const float* bias) {
    float local[3], sum = bias ? *bias : 0;
    for (int i = 0; i < 3; i++) local[(i + threadIdx.x) % 3] = coefficients[i];
    for (int i = 2; i >= 0; i--) sum = sum * x[threadIdx.x] + local[(i + threadIdx.x) % 3];
    out[threadIdx.x] = sum;
    if (threadIdx.x == 0) atomicAdd(&calls, 1);
}

// Runs a program for each thread: steps of (operation, place), and what all wait for after each step.
extern "C" __global__ void interpret(const int* operations, const int* places, const int* waits, int steps) {
    __shared__ int memory[8];
    int sum = 0;
    if (threadIdx.x < 8) memory[threadIdx.x] = 0;
    __syncthreads();
    for (int step = 0; step < steps; step++) {
        int i = step * blockDim.x + threadIdx.x;
        int* place = &memory[places[i]];
        if (operations[i] == 1) sum += *static_cast<volatile int*>(place);
        if (operations[i] == 2) *place = step;
        if (operations[i] == 3) atomicAdd(place, 1);
        if (waits[step] == 1) __syncwarp();
        if (waits[step] == 2) __syncthreads();
    }
}

// Arithmetic of pairs of halves, one result a row of out (6, n).
extern "C" __global__ void half_pairs(const __half2* x, const __half2* y, __half2* out, int n) {
    const int i = threadIdx.x;
    const float2 wide = __half22float2(x[i]);
    out[i] = __hadd2(x[i], y[i]);
    out[n + i] = __hsub2(x[i], y[i]);
    out[2 * n + i] = __hmul2(x[i], y[i]);
    out[3 * n + i] = __hfma2(x[i], y[i], __float2half2_rn(0.1f));
    out[4 * n + i] = __floats2half2_rn(wide.x / 3, __expf(wide.y));
    out[5 * n + i] = __halves2half2(__high2half(x[i]), __low2half(__half2half2(__low2half(y[i]))));
}

// d (32, 4) += the product of a (32, 4) and b (32, 2), each a warp's lanes.
extern "C" __global__ void product(const unsigned* a, const unsigned* b, float* d) {
    const int lane = threadIdx.x;
    unsigned left[4];
    float sums[4];
    for (int i = 0; i < 4; i++) {
        left[i] = a[4 * lane + i];
        sums[i] = d[4 * lane + i];
    }
    mma(sums, left, b[2 * lane], b[2 * lane + 1]);
    for (int i = 0; i < 4; i++) d[4 * lane + i] = sums[i];
}

// Lane l gives the address of row rows[l] of x (40, 8); out (2, 32, 4) is what the lanes get, plain and transposed.
extern "C" __global__ void matrices(const __half* x, const int* rows, unsigned* out) {
    __shared__ __align__(16) __half tile[40 * 8];
    const int lane = threadIdx.x;
    for (int i = lane; i < 40 * 8; i += 32) tile[i] = x[i];
    __syncwarp();
    unsigned plain[4], transposed[4];
    ldmatrix(plain, tile + 8 * rows[lane]);
    ldmatrix_transposed(transposed, tile + 8 * rows[lane]);
    for (int i = 0; i < 4; i++) {
        out[4 * lane + i] = plain[i];
        out[128 + 4 * lane + i] = transposed[i];
    }
}
