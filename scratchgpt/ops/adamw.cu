// AdamW, and the sum of squares that clipping needs, over flat arrays. Mathematics: adamw.md.
//
// params, grads, moments and sums are Wide<T>; T is the type of the rounded copy of the matrices, which there is for
// __half alone. Arrays begin at multiples of 16 bytes, ranges anywhere. P may exceed 32 bits.
//
// Version 1 clips, updates, decays, zeroes and rounds one after the other, and so reads or writes an array 17 times.
// Version 2, this one, does all of it with the numbers in registers: 9 times. A thread takes N neighbours, 16 bytes of
//           each array; where the arrays end in a part of a pack, one thread takes its elements one by one.

#include "common.cuh"

constexpr int THREADS = 256;

// partials (blocks,): each block's Σ grads². A thread adds every 256 * blocks'th pack: in the same order at every run.
// grid any number of blocks, block 256
template <class T, int N>
__global__ void __launch_bounds__(THREADS)
sum_of_squares(const Wide<T>* __restrict__ grads, Wide<T>* __restrict__ partials, Word P) {
    using W = Wide<T>;
    __shared__ W scratch[32];
    W sum = 0;
    for (Word i = (Word(blockIdx.x) * THREADS + threadIdx.x) * N; i < P; i += Word(gridDim.x) * THREADS * N) {
        if (i + N <= P) {
            const Pack<W, N> g = load<N>(grads + i);
#pragma unroll
            for (int k = 0; k < N; k++) sum += g.at[k] * g.at[k];
        } else {
#pragma unroll 1
            for (Word k = i; k < P; k++) sum += grads[k] * grads[k];
        }
    }
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

// out () = Σ partials (count,). grid 1, block 256
template <class T, int N>
__global__ void __launch_bounds__(THREADS)
sum_partials(const Wide<T>* __restrict__ partials, Wide<T>* __restrict__ out, int count) {
    using W = Wide<T>;
    __shared__ W scratch[32];
    W sum = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += partials[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) *out = sum;
}

template <class T> struct AdamW {
    using W = Wide<T>;
    W *params, *grads, *first, *second;
    T* rounded;  // null, or (n_rounded,)
    Word n_rounded;
    W decay, beta1, beta2, first_gain, second_gain, step, epsilon;

    // Parameters i .. i + N - 1.
    template <int N> __device__ __forceinline__ void update(Word i) const {
        Pack<W, N> p = load<N>(params + i), m = load<N>(first + i), v = load<N>(second + i);
        const Pack<W, N> g = load<N>(grads + i);
        Pack<T, N> copy;
#pragma unroll
        for (int k = 0; k < N; k++) {
            m.at[k] = beta1 * m.at[k] + first_gain * g.at[k];
            const W small = second_gain * g.at[k];  // before it is squared: g² might overflow
            v.at[k] = beta2 * v.at[k] + small * small;
            p.at[k] *= decay;
            p.at[k] -= step * (m.at[k] / (sqrt(v.at[k]) + epsilon));
            copy.at[k] = T(p.at[k]);
        }
        store(params + i, p);
        store(first + i, m);
        store(second + i, v);
        store(grads + i, Pack<W, N>{});
        if (!rounded) return;
        if (i + N <= n_rounded) {
            store(rounded + i, copy);
        } else {
#pragma unroll
            for (int k = 0; k < N; k++)
                if (i + k < n_rounded) rounded[i + k] = copy.at[k];
        }
    }
};

// One update of the parameters begin .. end - 1, which also zeroes their gradients. A thread has a pack, and of the
// first and the last one only what belongs to the range. grid: for ceil(end / N) - floor(begin / N) threads, block 256;
// with registers for five blocks of a multiprocessor rather than four, compilers for sm_120 spill.
template <class T, int N>
__global__ void __launch_bounds__(THREADS, 4) adamw_update(
    Wide<T>* params,
    Wide<T>* grads,
    Wide<T>* first,
    Wide<T>* second,
    T* rounded,
    Word begin,
    Word end,
    Word n_rounded,
    double decay,
    double beta1,
    double beta2,
    double first_gain,
    double second_gain,
    double step,
    double epsilon
) {
    using W = Wide<T>;
    const AdamW<T> adamw{
        params, grads, first, second, rounded, n_rounded,
        W(decay), W(beta1), W(beta2), W(first_gain), W(second_gain), W(step), W(epsilon)
    };
    const Word i = (begin / N + Word(blockIdx.x) * THREADS + threadIdx.x) * N;
    if (i >= begin && i + N <= end) {
        adamw.template update<N>(i);
    } else {
        const Word from = i < begin ? begin : i, to = i + N < end ? i + N : end;
#pragma unroll 1
        for (Word k = from; k < to; k++) adamw.template update<1>(k);
    }
}
