// Cross-entropy of softmax and its gradient, in one kernel. Mathematics: cross_entropy.md.
//
// logits (R, S) are T, of which the first V columns count; S makes rows begin at multiples of 16 bytes. targets (R,)
// are 64-bit whole numbers below V, or -1 where a row does not count; weights (R,), which may be null, and losses (R,)
// are Wide<T>. The gradient takes the place of the logits, and zeros that of what lies behind them, so that products may
// run over all S columns.
//
// Version 1 makes passes for the maximum, the sum, the probabilities, the loss and the gradient, and keeps the
//           probabilities: for GPT-2's vocabulary the largest array of all.
// Version 2, this one, reads each row twice and writes it once. The first pass has maximum and sum at once: whenever
//           the maximum grows, the sum so far shrinks along. In shared memory is one number a warp.

#include "common.cuh"

// logits become weight * scale * (softmax - onehot). grid R, block any whole number of warps up to 8
template <class T, int N>
__global__ void __launch_bounds__(256) cross_entropy(
    T* __restrict__ logits,
    const long long* __restrict__ targets,
    const Wide<T>* __restrict__ weights,
    Wide<T>* __restrict__ losses,
    double scale,
    int V,
    int S
) {
    using W = Wide<T>;
    __shared__ W largest_parts[32], sum_parts[32];
    T* const row = logits + size_t(blockIdx.x) * S;
    const int first = threadIdx.x * N, stride = blockDim.x * N, target = int(targets[blockIdx.x]);
    const W weight = target < 0 ? W(0) : weights ? weights[blockIdx.x] : W(1), factor = weight * W(scale);
    if (target < 0 && threadIdx.x == 0) losses[blockIdx.x] = 0;

    Exponentials<W> part;
    for (int c = first; c < V; c += stride) part.add(load<N>(row + c), V - c);
    const W largest = block_max(part.largest, largest_parts);
    const W sum = block_sum(part.sum * exp(part.largest - largest), sum_parts), share = 1 / sum;

    for (int c = first; c < S; c += stride) {
        const Pack<T, N> in = load<N>(row + c);
        Pack<T, N> out{};
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (c + i >= V) continue;
            const W shifted = W(in.at[i]) - largest;
            if (c + i == target) losses[blockIdx.x] = weight * (log(sum) - shifted);
            out.at[i] = T(factor * (exp(shifted) * share - W(c + i == target)));
        }
        store(row + c, out);
    }
}
