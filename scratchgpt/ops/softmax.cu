// Causal softmax with dropout, of attention's scores. Mathematics: softmax.md, attention.md.
//
// All arrays are (B, H, length, length), T: a row for each query, a column for each key. Row i of a head uses columns
// 0 .. i. Behind these, inputs are never used, and outputs are 0.
//
// Version 1 gives a thread to each row. Neighbours read addresses a row apart, and most of each transaction is thrown
//           away.
// Version 2 gives a warp to each row, which reads neighbours and sums by shuffles. Maximum and sum come from one pass;
//           the second pass finds the row in the cache, as it is a few kilobytes. A whole block a row would read no
//           faster, and wait at barriers.
// Version 3, this one, shares the random bytes. A warp draws 32 blocks of 32 bytes in the time of one: where rows are
//           short, most of what it drew for a row of its own would be thrown away. But rows follow each other in the
//           stream of bytes as they do in memory: so all threads of a block draw for all its rows, into shared memory,
//           and nothing that lies behind the diagonal.

#include "common.cuh"

// Every kernel: grid (ceil(H * length / rows), B), block 32 * rows, up to 256; with dropout, shared memory for
// 31 + rows * length bytes, rounded up to a multiple of 32.

// What a warp works on.
struct Row {
    bool exists;
    int i;                       // its position
    size_t start;                // of its elements
    const unsigned char* bytes;  // which decide about them; null without dropout

    // Those of columns c .. c + N - 1. Without dropout they are 0, which is not below the threshold, 0.
    template <int N> __device__ __forceinline__ Pack<unsigned char, N> random(int c) const {
        return bytes ? load<N>(bytes + c) : Pack<unsigned char, N>{};
    }
};

// Fill shared memory with the random bytes of the block's rows, and return where these begin. All threads must call it.
__device__ __forceinline__ const unsigned char* draw_rows(const Dropout& dropout, int first, int rows, int length) {
    extern __shared__ Block blocks[];
    const Word first_element = Word(first) * length;
    const int before = first_element % 32, stop = before + rows * length;
    for (int k = threadIdx.x; 32 * k < stop; k += blockDim.x) {
        const int element = 32 * k - before, column = element % length;
        const bool in_one_row = column + 32 <= length;
        if (in_one_row && column > (first + element / length) % length) continue;  // all behind the diagonal
        blocks[k] = dropout.draw(blockIdx.y, first_element / 32 + k);
    }
    __syncthreads();
    return reinterpret_cast<const unsigned char*>(blocks) + before;
}

// All threads must call it.
__device__ __forceinline__ Row row_of_warp(const Dropout& dropout, int H, int length) {
    const int rows = blockDim.x / 32, first = blockIdx.x * rows, all = H * length, warp = threadIdx.x / 32;
    const unsigned char* bytes = nullptr;
    if (dropout.threshold) bytes = draw_rows(dropout, first, rows, length) + warp * length;
    return {first + warp < all, (first + warp) % length, (size_t(blockIdx.y) * all + first + warp) * length, bytes};
}

// scores become probabilities; weights, unless null, are these after dropout.
template <class T, int N>
__global__ void __launch_bounds__(256, 4) softmax_forward(
    T* __restrict__ scores,
    T* __restrict__ weights,
    int H,
    int length,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place
) {
    using W = Wide<T>;
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    const Row row = row_of_warp(dropout, H, length);
    if (!row.exists) return;
    const int first = threadIdx.x % 32 * N;

    Exponentials<W> part;
    for (int c = first; c <= row.i; c += 32 * N) part.add(load<N>(scores + row.start + c), row.i + 1 - c);
    const W largest = warp_max(part.largest), share = 1 / warp_sum(part.sum * exp(part.largest - largest));

    for (int c = first; c < length; c += 32 * N) {
        Pack<T, N> p{}, weight{};
        if (c <= row.i) {
            const Pack<T, N> score = load<N>(scores + row.start + c);
            const Pack<unsigned char, N> random = row.template random<N>(c);
#pragma unroll
            for (int k = 0; k < N; k++) {
                if (c + k > row.i) continue;
                p.at[k] = T(exp(W(score.at[k]) - largest) * share);
                weight.at[k] = T(W(p.at[k]) * dropout.factor<W>(random.at[k]));
            }
        }
        store(scores + row.start + c, p);
        if (weights) store(weights + row.start + c, weight);
    }
}

// The weights once more, from the probabilities: cheaper than to keep both.
template <class T, int N>
__global__ void __launch_bounds__(256, 4) softmax_dropped(
    const T* __restrict__ probabilities,
    T* __restrict__ weights,
    int H,
    int length,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place
) {
    using W = Wide<T>;
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    const Row row = row_of_warp(dropout, H, length);
    if (!row.exists) return;
    for (int c = threadIdx.x % 32 * N; c < length; c += 32 * N) {
        Pack<T, N> weight{};
        if (c <= row.i) {
            const Pack<T, N> p = load<N>(probabilities + row.start + c);
            const Pack<unsigned char, N> random = row.template random<N>(c);
#pragma unroll
            for (int k = 0; k < N; k++) weight.at[k] = T(W(p.at[k]) * dropout.factor<W>(random.at[k]));
        }
        store(weights + row.start + c, weight);
    }
}

// dweights become dscores.
template <class T, int N>
__global__ void __launch_bounds__(256, 4) softmax_backward(
    T* __restrict__ dweights,
    const T* __restrict__ probabilities,
    int H,
    int length,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place
) {
    using W = Wide<T>;
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    const Row row = row_of_warp(dropout, H, length);
    if (!row.exists) return;
    const int first = threadIdx.x % 32 * N;

    W along = 0;
    for (int c = first; c <= row.i; c += 32 * N) {
        const Pack<T, N> dweight = load<N>(dweights + row.start + c), p = load<N>(probabilities + row.start + c);
        const Pack<unsigned char, N> random = row.template random<N>(c);
#pragma unroll
        for (int k = 0; k < N; k++)
            if (c + k <= row.i) along += W(dweight.at[k]) * dropout.factor<W>(random.at[k]) * W(p.at[k]);
    }
    along = warp_sum(along);

    for (int c = first; c < length; c += 32 * N) {
        Pack<T, N> dscore{};
        if (c <= row.i) {
            const Pack<T, N> dweight = load<N>(dweights + row.start + c), p = load<N>(probabilities + row.start + c);
            const Pack<unsigned char, N> random = row.template random<N>(c);
#pragma unroll
            for (int k = 0; k < N; k++) {
                if (c + k > row.i) continue;
                const W dp = W(dweight.at[k]) * dropout.factor<W>(random.at[k]);
                dscore.at[k] = T(W(p.at[k]) * (dp - along));
            }
        }
        store(dweights + row.start + c, dscore);
    }
}
