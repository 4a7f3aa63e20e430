// What the kernels share: types, packs of numbers, sums over a warp or a block, and dropout's random bits.
//
// T is the type that a kernel stores and multiplies in: double, float or __half. Sums are kept in Wide<T>; the residual
// stream, vectors (gains, biases) and the gradients of parameters are of that type, too.
#pragma once

#include <cuda_fp16.h>

template <class T> struct WideOf { using type = T; };
template <> struct WideOf<__half> { using type = float; };
template <class T> using Wide = typename WideOf<T>::type;

constexpr unsigned ALL_LANES = 0xffffffff;

// N neighbours in memory, read or written by as few instructions as their size allows (16 bytes each). Their address must
// be a multiple of 16 bytes, or of their size if that is less.
template <class T, int N> struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
    T at[N];
};

template <int N, class T> __device__ __forceinline__ Pack<T, N> load(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <int N, class T> __device__ __forceinline__ void store(T* to, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// The sum over the lanes of a warp, known to each of them. All 32 must call it.
template <class W> __device__ __forceinline__ W warp_sum(W x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

template <class W> __device__ __forceinline__ W warp_max(W x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x = max(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

// The sum over the threads of a block, known to each of them. All must call it, in whole warps, up to 1024 threads.
// `scratch` is shared memory of 32 numbers that nobody else uses before the next barrier.
template <class W> __device__ __forceinline__ W block_sum(W x, W* scratch) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    W part = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : W(0);
    return warp_sum(part);
}

template <class W> __device__ __forceinline__ W block_max(W x, W* scratch) {
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    return warp_max(scratch[threadIdx.x % 32 < blockDim.x / 32 ? threadIdx.x % 32 : 0]);
}

// A sum of exponentials that cannot overflow, of numbers that are met once: Σ exp(x) = exp(largest) * sum.
template <class W> struct Exponentials {
    W largest = W(-3e38);  // below all numbers that matter, and finite: 0 * exp(largest - largest) must be 0
    W sum = 0;

    // Add the first `count` of a pack, or all if there are fewer.
    template <class T, int N> __device__ __forceinline__ void add(const Pack<T, N>& x, int count) {
        W top = largest;
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < count) top = max(top, W(x.at[i]));
        sum *= exp(largest - top);
#pragma unroll
        for (int i = 0; i < N; i++)
            if (i < count) sum += exp(W(x.at[i]) - top);
        largest = top;
    }
};

// ------------------------------------------------------------------------------------------------------- dropout
//
// The generator is Philox 4x64-10, as ops/dropout.md states it to the last bit: the masks are those of the CPU.

using Word = unsigned long long;

struct alignas(16) Block {
    Word word[4];  // 32 random bytes, the lowest of word[0] first
};

// What decides about the dropout of one place in one step. Kernels take it as six arguments, in this order.
struct Dropout {
    int threshold;  // a byte below it drops its element; 0: nothing is dropped
    Word seed, step;
    Word sequence;  // number of the first sequence of the batch within the whole step
    int layer, place;

    // What is kept is multiplied by this.
    template <class W> __device__ __forceinline__ W scale() const { return W(256) / W(256 - threshold); }

    // What an element is multiplied by, given its byte.
    template <class W> __device__ __forceinline__ W factor(unsigned char byte) const {
        return byte < threshold ? W(0) : scale<W>();
    }

    // The bytes of elements 32 * block .. 32 * block + 31 of sequence b of the batch.
    __device__ __forceinline__ Block draw(int b, Word block) const {
        Word c0 = block + 1, c1 = sequence + b, c2 = layer, c3 = place;
        Word k0 = seed, k1 = step;
#pragma unroll
        for (int round = 0; round < 10; round++) {
            const Word high0 = __umul64hi(0xD2E7470EE14C6C93, c0), low0 = 0xD2E7470EE14C6C93 * c0;
            const Word high1 = __umul64hi(0xCA5A826395121157, c2), low1 = 0xCA5A826395121157 * c2;
            c0 = high1 ^ c1 ^ k0;
            c1 = low1;
            c2 = high0 ^ c3 ^ k1;
            c3 = low0;
            k0 += 0x9E3779B97F4A7C15;
            k1 += 0xBB67AE8584CAA73B;
        }
        return {{c0, c1, c2, c3}};
    }
};
