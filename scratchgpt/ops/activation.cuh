// What activations share: where in the array a thread works, and its input with the bias added.
//
// An activation sees R * K numbers as a line of packs; each thread has one of them, so that no lane is idle for any K.
// Up to 2^32 packs.
#pragma once

#include "common.cuh"

constexpr int THREADS = 256;

__device__ __forceinline__ unsigned pack_number() { return blockIdx.x * THREADS + threadIdx.x; }

// Pack number `pack` of hidden (R, K) + bias (K,), which may be null.
template <int N, class T>
__device__ __forceinline__ Pack<Wide<T>, N> biased(const T* hidden, const Wide<T>* bias, unsigned pack, int K) {
    const Pack<T, N> in = load<N>(hidden + size_t(pack) * N);
    Pack<Wide<T>, N> x{};
    if (bias) x = load<N>(bias + pack % (K / N) * N);
#pragma unroll
    for (int i = 0; i < N; i++) x.at[i] += Wide<T>(in.at[i]);
    return x;
}
