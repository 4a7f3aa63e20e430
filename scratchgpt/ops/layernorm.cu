// Layer normalisation of rows. Mathematics: layernorm.md.
//
// x, dx (R, C) are of the residual stream and Wide<T>, as are gain, bias (C,) and rstd (R,); normed, xhat and dnormed
// (R, C) are T. bias may be null.
//
// Version 1 gives a thread to each row: neighbouring threads read addresses C apart, and most of each transaction is
//           thrown away.
// Version 2, this one, gives a warp to each row: it reads 512 neighbouring bytes at once and sums by shuffles. A row is
//           read again for each pass over it, from the cache; nothing is kept in shared memory, so that any C will do.

#include "common.cuh"

constexpr int WARPS = 4;  // rows of a block

// grid ceil(R / 4), block 128
template <class T, int N>
__global__ void __launch_bounds__(32 * WARPS) layernorm_forward(
    const Wide<T>* __restrict__ x,
    const Wide<T>* __restrict__ gain,
    const Wide<T>* __restrict__ bias,
    T* __restrict__ normed,
    T* __restrict__ xhat,
    Wide<T>* __restrict__ rstd,
    double epsilon,
    int R,
    int C
) {
    using W = Wide<T>;
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, first = threadIdx.x % 32 * N;
    if (row >= R) return;
    const size_t start = size_t(row) * C;

    W sum = 0;
    for (int c = first; c < C; c += 32 * N) {
        const Pack<W, N> in = load<N>(x + start + c);
#pragma unroll
        for (int i = 0; i < N; i++) sum += in.at[i];
    }
    const W mean = warp_sum(sum) / C;

    W squares = 0;
    for (int c = first; c < C; c += 32 * N) {
        const Pack<W, N> in = load<N>(x + start + c);
#pragma unroll
        for (int i = 0; i < N; i++) squares += (in.at[i] - mean) * (in.at[i] - mean);
    }
    const W r = 1 / sqrt(warp_sum(squares) / C + W(epsilon));
    if (first == 0) rstd[row] = r;

    for (int c = first; c < C; c += 32 * N) {
        const Pack<W, N> in = load<N>(x + start + c), g = load<N>(gain + c);
        Pack<W, N> b{};
        if (bias) b = load<N>(bias + c);
        Pack<T, N> hat, out;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const W value = (in.at[i] - mean) * r;
            hat.at[i] = T(value);
            out.at[i] = T(value * g.at[i] + b.at[i]);
        }
        store(xhat + start + c, hat);
        store(normed + start + c, out);
    }
}

// normed again, from xhat: cheaper than to keep both. grid ceil(R / 4), block 128
template <class T, int N>
__global__ void __launch_bounds__(32 * WARPS) layernorm_apply(
    const T* __restrict__ xhat,
    const Wide<T>* __restrict__ gain,
    const Wide<T>* __restrict__ bias,
    T* __restrict__ normed,
    int R,
    int C
) {
    using W = Wide<T>;
    const int row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= R) return;
    const size_t start = size_t(row) * C;
    for (int c = threadIdx.x % 32 * N; c < C; c += 32 * N) {
        const Pack<T, N> hat = load<N>(xhat + start + c);
        const Pack<W, N> g = load<N>(gain + c);
        Pack<W, N> b{};
        if (bias) b = load<N>(bias + c);
        Pack<T, N> out;
#pragma unroll
        for (int i = 0; i < N; i++) out.at[i] = T(W(hat.at[i]) * g.at[i] + b.at[i]);
        store(normed + start + c, out);
    }
}

// dx += the gradient with respect to x. grid ceil(R / 4), block 128
template <class T, int N>
__global__ void __launch_bounds__(32 * WARPS) layernorm_backward(
    const T* __restrict__ dnormed,
    const T* __restrict__ xhat,
    const Wide<T>* __restrict__ rstd,
    const Wide<T>* __restrict__ gain,
    Wide<T>* __restrict__ dx,
    int R,
    int C
) {
    using W = Wide<T>;
    const int row = blockIdx.x * WARPS + threadIdx.x / 32, first = threadIdx.x % 32 * N;
    if (row >= R) return;
    const size_t start = size_t(row) * C;

    W sum = 0, along = 0;
    for (int c = first; c < C; c += 32 * N) {
        const Pack<T, N> dy = load<N>(dnormed + start + c), hat = load<N>(xhat + start + c);
        const Pack<W, N> g = load<N>(gain + c);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const W dhat = W(dy.at[i]) * g.at[i];
            sum += dhat;
            along += dhat * W(hat.at[i]);
        }
    }
    sum = warp_sum(sum) / C;
    along = warp_sum(along) / C;

    const W r = rstd[row];
    for (int c = first; c < C; c += 32 * N) {
        const Pack<T, N> dy = load<N>(dnormed + start + c), hat = load<N>(xhat + start + c);
        const Pack<W, N> g = load<N>(gain + c);
        Pack<W, N> out = load<N>(dx + start + c);
#pragma unroll
        for (int i = 0; i < N; i++) out.at[i] += r * (W(dy.at[i]) * g.at[i] - sum - W(hat.at[i]) * along);
        store(dx + start + c, out);
    }
}

// partials (2, chunks, C): the sums over each chunk of `rows` rows, of dnormed * xhat and of dnormed. The chunks are
// summed by `add_partials` (linear.cu): in the same order at every run, as atomics would not.
// grid (ceil(C / 32N), chunks), block (32, 8): a warp reads 32 N neighbours of every eighth row
template <class T, int N>
__global__ void __launch_bounds__(256) layernorm_partials(
    const T* __restrict__ dnormed, const T* __restrict__ xhat, Wide<T>* __restrict__ partials, int rows, int R, int C
) {
    using W = Wide<T>;
    __shared__ W parts[2][8][32 * N];
    const int column = (blockIdx.x * 32 + threadIdx.x) * N, stop = min(R, (int(blockIdx.y) + 1) * rows);
    W dgain[N] = {}, dbias[N] = {};
    for (int row = blockIdx.y * rows + threadIdx.y; row < stop && column < C; row += 8) {
        const Pack<T, N> dy = load<N>(dnormed + size_t(row) * C + column), hat = load<N>(xhat + size_t(row) * C + column);
#pragma unroll
        for (int i = 0; i < N; i++) {
            dgain[i] += W(dy.at[i]) * W(hat.at[i]);
            dbias[i] += W(dy.at[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < N; i++) {
        parts[0][threadIdx.y][i * 32 + threadIdx.x] = dgain[i];
        parts[1][threadIdx.y][i * 32 + threadIdx.x] = dbias[i];
    }
    __syncthreads();
    // Of the 2 * 32 * N sums of 8, each thread makes some: lane by lane for one neighbour i after the other.
    for (int which = threadIdx.y; which < 2 * N; which += 8) {
        const int i = which % N;
        W sum = 0;
#pragma unroll
        for (int y = 0; y < 8; y++) sum += parts[which / N][y][i * 32 + threadIdx.x];
        if (column < C) partials[(size_t(which / N) * gridDim.y + blockIdx.y) * C + column + i] = sum;
    }
}
