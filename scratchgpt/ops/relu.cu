// ReLU of hidden + bias. Mathematics: relu.md.
//
// hidden, active, dactive (R, K) are T; bias (K,) is Wide<T> and may be null. All grids are ceil(R K / 256 N), all
// blocks 256; nothing is shared.
//
// Version 1 adds the bias in a kernel of its own: the widest activation of a layer is read and written once more.
// Version 2, this one, adds it on the fly, in the backward once again, and works on packs of 16 bytes.

#include "activation.cuh"

template <class T, int N>
__global__ void __launch_bounds__(THREADS)
relu_forward(const T* __restrict__ hidden, const Wide<T>* __restrict__ bias, T* __restrict__ active, int R, int K) {
    const unsigned pack = pack_number();
    if (size_t(pack) * N >= size_t(R) * K) return;
    const Pack<Wide<T>, N> x = biased<N>(hidden, bias, pack, K);
    Pack<T, N> y;
#pragma unroll
    for (int i = 0; i < N; i++) y.at[i] = T(x.at[i] < 0 ? 0 : x.at[i]);  // nan stays nan; max would hide it
    store(active + size_t(pack) * N, y);
}

// dactive becomes dhidden.
template <class T, int N>
__global__ void __launch_bounds__(THREADS)
relu_backward(T* __restrict__ dactive, const T* __restrict__ hidden, const Wide<T>* __restrict__ bias, int R, int K) {
    using W = Wide<T>;
    const unsigned pack = pack_number();
    if (size_t(pack) * N >= size_t(R) * K) return;
    const Pack<W, N> x = biased<N>(hidden, bias, pack, K);
    Pack<T, N> d = load<N>(dactive + size_t(pack) * N);
#pragma unroll
    for (int i = 0; i < N; i++) d.at[i] = T(W(d.at[i]) * W(x.at[i] > 0));
    store(dactive + size_t(pack) * N, d);
}
