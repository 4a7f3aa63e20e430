// Dropout at the end of a branch. Mathematics and random bits: dropout.md.
//
// x, dx (B, T, C) are of the residual stream and Wide<T>, as is bias (C,), which may be null; y, dy (B, T, C) are T.
// `size` is T * C. All grids are (ceil(T C / 4096), B), all blocks 128; the random bytes are in shared memory.
//
// Version 1 draws a mask into memory, multiplies, and adds, in three kernels: most of the time goes to memory.
// Version 2 does all at once and has each thread draw the bytes of its own pack: the same block is drawn by up to 32.
// Version 3, this one, draws each block once and shares it within a warp (dropout.cuh).

#include "dropout.cuh"

// x += (y + bias) * mask
template <class T, int N>
__global__ void __launch_bounds__(THREADS) dropout_add(
    Wide<T>* __restrict__ x,
    const T* __restrict__ y,
    const Wide<T>* __restrict__ bias,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place,
    int size,
    int C
) {
    using W = Wide<T>;
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    for_each_masked<W, N>(dropout, size, [&](int b, unsigned i, const Pack<W, N>& mask) {
        const size_t at = size_t(b) * size + i;
        const Pack<T, N> in = load<N>(y + at);
        Pack<W, N> out = load<N>(x + at), shift{};
        if (bias) shift = load<N>(bias + i % C);
#pragma unroll
        for (int j = 0; j < N; j++) out.at[j] += (W(in.at[j]) + shift.at[j]) * mask.at[j];
        store(x + at, out);
    });
}

// dy = dx * mask
template <class T, int N>
__global__ void __launch_bounds__(THREADS) dropout_backward(
    const Wide<T>* __restrict__ dx,
    T* __restrict__ dy,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place,
    int size
) {
    using W = Wide<T>;
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    for_each_masked<W, N>(dropout, size, [&](int b, unsigned i, const Pack<W, N>& mask) {
        const size_t at = size_t(b) * size + i;
        const Pack<W, N> in = load<N>(dx + at);
        Pack<T, N> out;
#pragma unroll
        for (int j = 0; j < N; j++) out.at[j] = T(in.at[j] * mask.at[j]);
        store(dy + at, out);
    });
}
