// Dropout of a batch of sequences, for kernels that visit each element once.
//
// A block of random bytes decides about 32 neighbours, more than a thread's pack. So a warp takes a tile of 1024
// neighbours of one sequence: each lane draws one block, and all share the 32 through shared memory.
#pragma once

#include "common.cuh"

constexpr int TILE = 1024;  // elements of a warp
constexpr int WARPS = 4;    // of a block
constexpr int THREADS = 32 * WARPS;

// Calls visit(b, i, mask) for each pack of N neighbours: elements i .. i + N - 1 of sequence b's `size`, and the masks
// that multiply them. grid (ceil(size / 4096), B), block 128
template <class W, int N, class Visit>
__device__ __forceinline__ void for_each_masked(const Dropout& dropout, int size, Visit visit) {
    __shared__ Block drawn[WARPS][32];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, b = blockIdx.y;
    const size_t tile = size_t(blockIdx.x) * WARPS + warp;
    if (tile * TILE >= size) return;

    drawn[warp][lane] = dropout.threshold ? dropout.draw(b, tile * 32 + lane) : Block{};
    __syncwarp();
    const W scale = dropout.scale<W>();
    const auto bytes = reinterpret_cast<const unsigned char*>(drawn[warp]);
    const int stop = min(TILE, int(size - tile * TILE));
    for (int i = lane * N; i < stop; i += 32 * N) {
        const Pack<unsigned char, N> random = load<N>(bytes + i);
        Pack<W, N> mask;
#pragma unroll
        for (int j = 0; j < N; j++) mask.at[j] = random.at[j] < dropout.threshold ? W(0) : scale;
        visit(b, unsigned(tile * TILE) + i, mask);
    }
}
