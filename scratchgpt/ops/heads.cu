// Between rows, as linear maps know them, and heads, as attention does. What is moved: attention.md.
//
// x (rows, K * H * D), of B * length rows, holds K parts side by side (q, k, v, or one alone), and in each the heads;
// parts (K, B, H, length, D). Both are T. The neighbours in a pack are of one head.
//
// Version 1 gives a thread to each element, and spends its time on 64-bit divisions.
// Version 2, this one, gives a warp to each row, which reads or writes x in one piece, and `parts` in pieces of D. Two
//           divisions of 32 bits are left for each pack.

#include "common.cuh"

constexpr int WARPS = 4;  // rows of a block

// Where in `parts` column c of row b * length + t is.
__device__ __forceinline__ size_t place_in_parts(int row, int c, int rows, int H, int length, int D) {
    const int head = c / D, part = head / H, b = row / length;
    return ((size_t(part) * (rows / length) + b) * H + head % H) * length * D + size_t(row % length) * D + c % D;
}

// parts = x + bias (K * H * D,), Wide<T>, which may be null. grid ceil(rows / 4), block 128
template <class T, int N>
__global__ void __launch_bounds__(32 * WARPS) split_heads(
    const T* __restrict__ x,
    const Wide<T>* __restrict__ bias,
    T* __restrict__ parts,
    int rows,
    int K,
    int H,
    int length,
    int D
) {
    using W = Wide<T>;
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, columns = K * H * D;
    if (row >= rows) return;
    for (int c = threadIdx.x % 32 * N; c < columns; c += 32 * N) {
        Pack<T, N> pack = load<N>(x + size_t(row) * columns + c);
        if (bias) {
            const Pack<W, N> b = load<N>(bias + c);
#pragma unroll
            for (int i = 0; i < N; i++) pack.at[i] = T(W(pack.at[i]) + b.at[i]);
        }
        store(parts + place_in_parts(row, c, rows, H, length, D), pack);
    }
}

// The way back. grid ceil(rows / 4), block 128
template <class T, int N>
__global__ void __launch_bounds__(32 * WARPS)
join_heads(const T* __restrict__ parts, T* __restrict__ x, int rows, int K, int H, int length, int D) {
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, columns = K * H * D;
    if (row >= rows) return;
    for (int c = threadIdx.x % 32 * N; c < columns; c += 32 * N)
        store(x + size_t(row) * columns + c, load<N>(parts + place_in_parts(row, c, rows, H, length, D)));
}
