// GELU of hidden + bias. Mathematics: gelu.md.
//
// hidden, active, dactive (R, K) are T; bias (K,) is Wide<T> and may be null. All grids are ceil(R K / 256 N), all
// blocks 256; nothing is shared.
//
// Version 1 adds the bias in a kernel of its own: the widest activation of a layer is read and written once more.
// Version 2 adds it on the fly, in the backward once again, and works on packs of 16 bytes. In half precision the
//           bytes are then so few that the instructions, most of them tanh's, take longer.
// Version 3, this one, has the gate g = (1 + tanh u) / 2 = 1 / (1 + exp(-2u)) in place of tanh, and fast instructions
//           for it.

#include "activation.cuh"

constexpr double SCALE = 0.7978845608028654, CUBIC = 0.044715;  // SCALE is the square root of 2 / pi

// CUDA's fast exponential errs by up to 2 + 1.2 |x| units in the last place. Where that is much, the result is so close
// to 0 or 1 that it hardly matters.
__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1, 1 + __expf(-x)); }
__device__ __forceinline__ double sigmoid(double x) { return 1 / (1 + exp(-x)); }

// (1 + tanh u) / 2
template <class W> __device__ __forceinline__ W gate_of(W x) {
    return sigmoid(2 * W(SCALE) * x * (1 + W(CUBIC) * x * x));
}

template <class T, int N>
__global__ void __launch_bounds__(THREADS)
gelu_forward(const T* __restrict__ hidden, const Wide<T>* __restrict__ bias, T* __restrict__ active, int R, int K) {
    const unsigned pack = pack_number();
    if (size_t(pack) * N >= size_t(R) * K) return;
    const Pack<Wide<T>, N> x = biased<N>(hidden, bias, pack, K);
    Pack<T, N> y;
#pragma unroll
    for (int i = 0; i < N; i++) y.at[i] = T(x.at[i] * gate_of(x.at[i]));
    store(active + size_t(pack) * N, y);
}

// dactive becomes dhidden.
template <class T, int N>
__global__ void __launch_bounds__(THREADS)
gelu_backward(T* __restrict__ dactive, const T* __restrict__ hidden, const Wide<T>* __restrict__ bias, int R, int K) {
    using W = Wide<T>;
    const unsigned pack = pack_number();
    if (size_t(pack) * N >= size_t(R) * K) return;
    const Pack<W, N> x = biased<N>(hidden, bias, pack, K);
    Pack<T, N> d = load<N>(dactive + size_t(pack) * N);
#pragma unroll
    for (int i = 0; i < N; i++) {
        const W gate = gate_of(x.at[i]), slope = W(SCALE) * (1 + 3 * W(CUBIC) * x.at[i] * x.at[i]);
        d.at[i] = T(W(d.at[i]) * (gate + 2 * x.at[i] * gate * (1 - gate) * slope));
    }
    store(dactive + size_t(pack) * N, d);
}
