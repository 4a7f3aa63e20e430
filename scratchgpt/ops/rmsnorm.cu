// Root-mean-square normalisation of rows. Mathematics: rmsnorm.md.
//
// x, dx (R, C) are of the residual stream and Wide<T>, as are gain, bias (C,) and rrms (R,); normed, xhat and dnormed
// (R, C) are T. bias may be null. What the gain and the bias do is layernorm.cu's: normed again, and their gradients.
//
// Version 1, this one, gives a warp to each row, as version 2 of layernorm.cu: it has a pass less, since there is no
//           mean to wait for.

#include "common.cuh"

constexpr int WARPS = 4;  // rows of a block

// grid ceil(R / 4), block 128
template <class T, int N>
__global__ void __launch_bounds__(32 * WARPS) rmsnorm_forward(
    const Wide<T>* __restrict__ x,
    const Wide<T>* __restrict__ gain,
    const Wide<T>* __restrict__ bias,
    T* __restrict__ normed,
    T* __restrict__ xhat,
    Wide<T>* __restrict__ rrms,
    double epsilon,
    int R,
    int C
) {
    using W = Wide<T>;
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, first = threadIdx.x % 32 * N;
    if (row >= R) return;
    const size_t start = size_t(row) * C;

    W squares = 0;
    for (int c = first; c < C; c += 32 * N) {
        const Pack<W, N> in = load<N>(x + start + c);
#pragma unroll
        for (int i = 0; i < N; i++) squares += in.at[i] * in.at[i];
    }
    const W r = 1 / sqrt(warp_sum(squares) / C + W(epsilon));
    if (first == 0) rrms[row] = r;

    for (int c = first; c < C; c += 32 * N) {
        const Pack<W, N> in = load<N>(x + start + c), g = load<N>(gain + c);
        Pack<W, N> b{};
        if (bias) b = load<N>(bias + c);
        Pack<T, N> hat, out;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const W value = in.at[i] * r;
            hat.at[i] = T(value);
            out.at[i] = T(value * g.at[i] + b.at[i]);
        }
        store(xhat + start + c, hat);
        store(normed + start + c, out);
    }
}

// dx += the gradient with respect to x. grid ceil(R / 4), block 128
template <class T, int N>
__global__ void __launch_bounds__(32 * WARPS) rmsnorm_backward(
    const T* __restrict__ dnormed,
    const T* __restrict__ xhat,
    const Wide<T>* __restrict__ rrms,
    const Wide<T>* __restrict__ gain,
    Wide<T>* __restrict__ dx,
    int R,
    int C
) {
    using W = Wide<T>;
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, first = threadIdx.x % 32 * N;
    if (row >= R) return;
    const size_t start = size_t(row) * C;

    W along = 0;
    for (int c = first; c < C; c += 32 * N) {
        const Pack<T, N> dy = load<N>(dnormed + start + c), hat = load<N>(xhat + start + c);
        const Pack<W, N> g = load<N>(gain + c);
#pragma unroll
        for (int i = 0; i < N; i++) along += W(dy.at[i]) * g.at[i] * W(hat.at[i]);
    }
    along = warp_sum(along) / C;

    const W r = rrms[row];
    for (int c = first; c < C; c += 32 * N) {
        const Pack<T, N> dy = load<N>(dnormed + start + c), hat = load<N>(xhat + start + c);
        const Pack<W, N> g = load<N>(gain + c);
        Pack<W, N> out = load<N>(dx + start + c);
#pragma unroll
        for (int i = 0; i < N; i++) out.at[i] += r * (W(dy.at[i]) * g.at[i] - W(hat.at[i]) * along);
        store(dx + start + c, out);
    }
}
