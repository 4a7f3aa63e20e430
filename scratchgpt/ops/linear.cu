// Sums of columns, the gradient of a linear map's bias. Mathematics: linear.md. The products themselves are cuBLAS's.
//
// Version 1 adds each row to the sums by atomics: another order, and another last bit, at every run.
// Version 2, this one, sums chunks of rows into partial sums, and these in order.

#include "common.cuh"

// partials (chunks, C), Wide<T>: the sums over chunks of `rows` rows of dy (R, C), T.
// grid (ceil(C / 32N), chunks), block (32, 8): a warp reads 32 N neighbours of every eighth row
template <class T, int N>
__global__ void __launch_bounds__(256)
column_partials(const T* __restrict__ dy, Wide<T>* __restrict__ partials, int rows, int R, int C) {
    using W = Wide<T>;
    __shared__ W parts[8][32 * N];  // for each neighbour i of a pack, 32 lanes side by side: no bank conflicts
    const int column = (blockIdx.x * 32 + threadIdx.x) * N, stop = min(R, (int(blockIdx.y) + 1) * rows);
    W sums[N] = {};
    for (int row = blockIdx.y * rows + threadIdx.y; row < stop && column < C; row += 8) {
        const Pack<T, N> in = load<N>(dy + size_t(row) * C + column);
#pragma unroll
        for (int i = 0; i < N; i++) sums[i] += W(in.at[i]);
    }
#pragma unroll
    for (int i = 0; i < N; i++) parts[threadIdx.y][i * 32 + threadIdx.x] = sums[i];
    __syncthreads();
    for (int i = threadIdx.y; i < N; i += 8) {
        W sum = 0;
#pragma unroll
        for (int y = 0; y < 8; y++) sum += parts[y][i * 32 + threadIdx.x];
        if (column < C) partials[size_t(blockIdx.y) * C + column + i] = sum;
    }
}

// out (C,) += the sums over the chunks of partials (chunks, C). All are Wide<T>.
// grid ceil(C / 32), block (32, 8): a thread sums every eighth chunk, as one alone would wait for memory hundreds of times
template <class T, int N>
__global__ void __launch_bounds__(256)
add_partials(const Wide<T>* __restrict__ partials, Wide<T>* __restrict__ out, int chunks, int C) {
    __shared__ Wide<T> parts[8][32];
    const int column = blockIdx.x * 32 + threadIdx.x;
    Wide<T> sum = 0;
    for (int chunk = threadIdx.y; chunk < chunks && column < C; chunk += 8)
        sum += partials[size_t(chunk) * C + column];
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= C) return;
#pragma unroll
    for (int y = 1; y < 8; y++) sum += parts[y][threadIdx.x];
    out[column] += sum;
}
