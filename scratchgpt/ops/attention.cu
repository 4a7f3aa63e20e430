// Causal attention in float and double, without an array of T x T numbers. Mathematics: attention.md, in the section
// "Attention without its matrix".
//
// qkv, dqkv (B, T, 3C) hold q, k, v side by side, and each of these its H heads of D: C = H D. qkv lacks its bias,
// (3C,) or null: that is added whenever rows are read. heads, dheads are (B, T, C), lse and delta (B, H, T). Here the
// type T is its own Wide<T>, and the length T is called `length`. H and B are at most 65535.
//
// Version 1 gives a thread to each query: it walks over the keys, with q and its sums in registers, and reads a number
//           from global memory for every multiplication.
// Version 2 lets the threads of a block share tiles of keys and values in shared memory. A multiplication still takes
//           one read, now from there: 32 numbers a cycle, for a multiprocessor that multiplies 64 or 128.
// Version 3, this one, gives each thread a tile of the products in registers, R x S: R + S reads for R S
//           multiplications. The probabilities go through shared memory once, to be the next product's left factor.
//
// All three kernels with tiles are one scheme. A block *owns* M rows and walks over the others, in tiles of N; tiles
// above the diagonal are never visited. Its 128 threads are 16 x 8: thread (down, across) computes
//
//     products[r][s]  of owned row down + 16 r and other row across + 8 s,
//     sums[r][.]      of owned row down + 16 r and D / 8 columns.
//
// So a row belongs to 8 lanes of one warp from its products to its sums: maxima take shuffles, and probabilities no
// more than __syncwarp. Rows are padded to an odd number of 16 bytes: reads of 16 bytes meet no bank conflicts.
//
//                         owns M            walks over N      sums      M, N where a row of D numbers has
//                                                                      <= 128 B  256 B   384 B   512 B
//     attention_forward   queries           keys, values      heads     64, 32   64, 32  32, 32  32, 16
//     attention_keys      keys, values      queries, dheads   dk, dv    32, 32   32, 32  32, 16  32,  8
//     attention_queries   queries, dheads   keys, values      dq        32, 32   32, 32  32, 16  32,  8
//
// and M = 32 for double. In shared memory: the rows owned, the tile walked over, M x N probabilities and, for each
// query, two words of dropout's bits: 15 to 45 KB. In registers: products and sums; with what is under way, 125 to 167
// a thread on sm_80, where a multiprocessor holds 3 or 4 blocks.
//
// No atomics: dq, dk and dv have one owner each, at the price of computing the probabilities twice in the backward.

#include "common.cuh"

constexpr int THREADS = 128, ACROSS = 8, DOWN = THREADS / ACROSS;
constexpr int BLOCKS = 2;  // that a multiprocessor's registers must suffice for

template <class T> constexpr int PACK = 16 / sizeof(T);  // also what each row of a tile is padded by

template <class T, int D> constexpr int FORWARD_OWNED = sizeof(T) == 4 && D <= 64 ? 64 : 32;
template <class T, int D> constexpr int FORWARD_OTHERS = D * sizeof(T) <= 384 ? 32 : 16;
constexpr int BACKWARD_OWNED = 32;
template <class T, int D> constexpr int BACKWARD_OTHERS = D * sizeof(T) <= 256 ? 32 : D * sizeof(T) <= 384 ? 16 : 8;

// So many of a thread's D / 8 columns are neighbours: sums[.][s + v] is of column ACROSS * s + across * NEIGHBOURS + v.
template <class T, int D> constexpr int NEIGHBOURS = D / ACROSS % PACK<T> == 0 ? PACK<T> : 2;

template <class T, int M, int N> struct alignas(16) Tile {
    T at[M][N + PACK<T>];
};

// Rows of D numbers, of one sequence and head: q, for example. Without a bias, that is null.
template <class T> struct Rows {
    const T *start, *bias;
    size_t stride;
};

// Part 0, 1 or 2 of qkv: q, k or v.
template <class T, int D>
__device__ __forceinline__ Rows<T> part(int which, const T* qkv, const T* bias, int b, int h, int length, int H) {
    const size_t stride = size_t(3) * H * D, column = (size_t(which) * H + h) * D;
    return {qkv + b * (length * stride) + column, bias ? bias + column : nullptr, stride};
}

// tile = rows first .. first + M - 1, zero from `length` on
template <class T, int M, int D>
__device__ __forceinline__ void read(Tile<T, M, D>& tile, const Rows<T>& rows, int first, int length) {
    constexpr int N = PACK<T>, ACROSS_ROW = D / N;
#pragma unroll 2
    for (int n = threadIdx.x; n < M * ACROSS_ROW; n += THREADS) {
        const int row = n / ACROSS_ROW, column = n % ACROSS_ROW * N;
        Pack<T, N> in{};
        if (first + row < length) {
            in = load<N>(rows.start + (first + row) * rows.stride + column);
            if (rows.bias) {
                const Pack<T, N> bias = load<N>(rows.bias + column);
#pragma unroll
                for (int i = 0; i < N; i++) in.at[i] += bias.at[i];
            }
        }
        store(&tile.at[row][column], in);
    }
}

// products[r][s] = the product of a's row and b's row, over D
template <class T, int R, int S, int M, int N, int D>
__device__ __forceinline__ void multiply(
    T (&products)[R][S], const Tile<T, M, D>& a, const Tile<T, N, D>& b, int down, int across
) {
#pragma unroll
    for (int r = 0; r < R; r++) {
#pragma unroll
        for (int s = 0; s < S; s++) products[r][s] = 0;
    }
#pragma unroll 2
    for (int d = 0; d < D; d += PACK<T>) {
        Pack<T, PACK<T>> left[R], right[S];
#pragma unroll
        for (int r = 0; r < R; r++) left[r] = load<PACK<T>>(&a.at[down + DOWN * r][d]);
#pragma unroll
        for (int s = 0; s < S; s++) right[s] = load<PACK<T>>(&b.at[across + ACROSS * s][d]);
#pragma unroll
        for (int i = 0; i < PACK<T>; i++) {
#pragma unroll
            for (int r = 0; r < R; r++) {
#pragma unroll
                for (int s = 0; s < S; s++) products[r][s] += left[r].at[i] * right[s].at[i];
            }
        }
    }
}

// sums[r][.] += the sum over n of weights.at[row][n] * b[n][.]
template <class T, int R, int M, int N, int D, int S>
__device__ __forceinline__ void accumulate(
    T (&sums)[R][S], const Tile<T, M, N>& weights, const Tile<T, N, D>& b, int down, int across
) {
    constexpr int V = NEIGHBOURS<T, D>;
#pragma unroll 1
    for (int n = 0; n < N; n += PACK<T>) {
        Pack<T, PACK<T>> left[R];
#pragma unroll
        for (int r = 0; r < R; r++) left[r] = load<PACK<T>>(&weights.at[down + DOWN * r][n]);
#pragma unroll
        for (int i = 0; i < PACK<T>; i++) {
#pragma unroll
            for (int s = 0; s < S; s += V) {
                const Pack<T, V> right = load<V>(&b.at[n + i][ACROSS * s + across * V]);
#pragma unroll
                for (int r = 0; r < R; r++) {
#pragma unroll
                    for (int v = 0; v < V; v++) sums[r][s + v] += left[r].at[i] * right.at[v];
                }
            }
        }
    }
}

// to = factor * sums, a thread's part of one row
template <int D, class T>
__device__ __forceinline__ void write(T* to, const T (&sums)[D / ACROSS], T factor, int across) {
    constexpr int V = NEIGHBOURS<T, D>;
#pragma unroll
    for (int s = 0; s < D / ACROSS; s += V) {
        Pack<T, V> out;
#pragma unroll
        for (int v = 0; v < V; v++) out.at[v] = factor * sums[s + v];
        store(to + ACROSS * s + across * V, out);
    }
}

// The sum and the maximum over the 8 lanes that share a row.
template <class T> __device__ __forceinline__ T row_sum(T x) {
#pragma unroll
    for (int distance = ACROSS / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

template <class T> __device__ __forceinline__ T row_max(T x) {
#pragma unroll
    for (int distance = ACROSS / 2; distance > 0; distance /= 2) x = max(x, __shfl_xor_sync(ALL_LANES, x, distance));
    return x;
}

// Which probabilities dropout keeps, of M queries and up to 32 keys: a bit for each. A probability is element
// (h T + i) T + j of its sequence, and 32 elements are drawn at once: unless T is a multiple of 32, a query's first key
// is anywhere among these, and its last one among the next.
template <int M> struct Kept {
    unsigned drawn[2][M];

    // The element where query i's keys begin.
    static __device__ __forceinline__ Word start(int h, int i, int j, int length) {
        return (Word(h) * length + i) * length + j;
    }

    // For queries i .. i + M - 1 and keys j .. j + keys - 1. All threads of the block must call it.
    __device__ __forceinline__ void draw(const Dropout& dropout, int b, int h, int i, int j, int keys, int length) {
        for (int n = threadIdx.x; n < 2 * M; n += THREADS) {
            const Word first = start(h, i + n % M, j, length);
            unsigned bits = 0;
            if (n < M || first % 32 + keys > 32) {
                const Block block = dropout.draw(b, first / 32 + n / M);
#pragma unroll
                for (int byte = 0; byte < 32; byte++) {
                    bits |= unsigned((block.word[byte / 8] >> byte % 8 * 8 & 255) >= dropout.threshold) << byte;
                }
            }
            drawn[n / M][n % M] = bits;
        }
    }

    // Bit n is that of key j + n, for query i, which is `row` of those drawn.
    __device__ __forceinline__ unsigned bits(int row, int h, int i, int j, int length) const {
        return (Word(drawn[1][row]) << 32 | drawn[0][row]) >> start(h, i, j, length) % 32;
    }
};

// grid (ceil(T / FORWARD_OWNED), H, B), block 128
template <class T, int D>
__global__ void __launch_bounds__(THREADS, BLOCKS) attention_forward(
    const T* __restrict__ qkv,
    const T* __restrict__ bias,
    T* __restrict__ heads,
    T* __restrict__ lse,
    int length,
    int H,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place
) {
    constexpr int M = FORWARD_OWNED<T, D>, N = FORWARD_OTHERS<T, D>, R = M / DOWN, S = N / ACROSS;
    __shared__ Tile<T, M, D> q;
    __shared__ Tile<T, N, D> k, v;
    __shared__ Tile<T, M, N> weights;
    __shared__ Kept<M> kept;
    const int down = threadIdx.x / ACROSS, across = threadIdx.x % ACROSS, h = blockIdx.y, b = blockIdx.z;
    const int first = (gridDim.x - 1 - blockIdx.x) * M;  // the rows with most keys start first
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    const T scale = 1 / sqrt(T(D)), infinity = __int_as_float(0x7f800000);

    T sums[R][D / ACROSS] = {}, largest[R], total[R] = {};  // total: of this thread's keys
#pragma unroll
    for (int r = 0; r < R; r++) largest[r] = -infinity;

    read(q, part<T, D>(0, qkv, bias, b, h, length, H), first, length);
    for (int key = 0; key < min(first + M, length); key += N) {
        read(k, part<T, D>(1, qkv, bias, b, h, length, H), key, length);
        read(v, part<T, D>(2, qkv, bias, b, h, length, H), key, length);
        if (threshold) kept.draw(dropout, b, h, first, key, N, length);
        __syncthreads();

        T p[R][S];
        multiply(p, q, k, down, across);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const int row = down + DOWN * r, i = first + row;
            T largest_now = largest[r];
#pragma unroll
            for (int s = 0; s < S; s++) {
                p[r][s] = key + across + ACROSS * s <= i ? p[r][s] * scale : -infinity;
                largest_now = max(largest_now, p[r][s]);
            }
            largest_now = row_max(largest_now);  // finite: the first tile has key 0, which all queries see
            const T shrink = exp(largest[r] - largest_now);
            largest[r] = largest_now;
            total[r] *= shrink;
#pragma unroll
            for (int s = 0; s < D / ACROSS; s++) sums[r][s] *= shrink;

            const unsigned bits = threshold ? kept.bits(row, h, i, key, length) : ~0u;
#pragma unroll
            for (int s = 0; s < S; s++) {
                const int column = across + ACROSS * s;
                p[r][s] = exp(p[r][s] - largest_now);
                total[r] += p[r][s];
                weights.at[row][column] = bits >> column & 1 ? p[r][s] : 0;
            }
        }
        __syncwarp();
        accumulate(sums, weights, v, down, across);
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < R; r++) {
        const int i = first + down + DOWN * r;
        total[r] = row_sum(total[r]);
        if (i >= length) continue;
        const T factor = dropout.scale<T>() / total[r];
        write<D>(heads + ((size_t(b) * length + i) * H + h) * D, sums[r], factor, across);
        if (across == 0) lse[(size_t(b) * H + h) * length + i] = largest[r] + log(total[r]);
    }
}

// delta_i = dheads_i . heads_i, over each head. Softmax's backward asks for the sum over j of dP_ij P_ij. With dropout
// dP_ij = mask_ij (dheads_i . v_j); that sum is dheads_i . (the sum over j of mask_ij P_ij v_j), and this is heads_i.
// grid ceil(B T H / 16), block 128: 8 lanes for each head of each row
template <class T, int D>
__global__ void __launch_bounds__(THREADS) attention_delta(
    const T* __restrict__ dheads, const T* __restrict__ heads, T* __restrict__ delta, int B, int length, int H
) {
    constexpr int V = NEIGHBOURS<T, D>;
    const int across = threadIdx.x % ACROSS;
    const size_t row = size_t(blockIdx.x) * DOWN + threadIdx.x / ACROSS;  // (b T + i) H + h
    const bool exists = row < size_t(B) * length * H;
    T sum = 0;
    if (exists) {
#pragma unroll
        for (int s = 0; s < D / ACROSS; s += V) {
            const Pack<T, V> dy = load<V>(dheads + row * D + ACROSS * s + across * V);
            const Pack<T, V> y = load<V>(heads + row * D + ACROSS * s + across * V);
#pragma unroll
            for (int v = 0; v < V; v++) sum += dy.at[v] * y.at[v];
        }
    }
    sum = row_sum(sum);
    const size_t h = row % H, i = row / H % length, b = row / H / length;
    if (exists && across == 0) delta[(b * H + h) * length + i] = sum;
}

// dk and dv. grid (ceil(T / BACKWARD_OWNED), H, B), block 128
template <class T, int D>
__global__ void __launch_bounds__(THREADS, BLOCKS) attention_keys(
    const T* __restrict__ qkv,
    const T* __restrict__ bias,
    const T* __restrict__ dheads,
    const T* __restrict__ lse,
    const T* __restrict__ delta,
    T* __restrict__ dqkv,
    int length,
    int H,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place
) {
    constexpr int M = BACKWARD_OWNED, N = BACKWARD_OTHERS<T, D>, R = M / DOWN, S = N / ACROSS;
    __shared__ Tile<T, M, D> k, v;
    __shared__ Tile<T, N, D> q, dy;
    __shared__ Tile<T, M, N> weights;
    __shared__ T lses[N], deltas[N];
    __shared__ Kept<N> kept;
    const int down = threadIdx.x / ACROSS, across = threadIdx.x % ACROSS, h = blockIdx.y, b = blockIdx.z;
    const int first = blockIdx.x * M;
    const size_t C = size_t(H) * D, head = size_t(b) * H + h;
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    const T scale = 1 / sqrt(T(D));

    T dk[R][D / ACROSS] = {}, dv[R][D / ACROSS] = {};
    read(k, part<T, D>(1, qkv, bias, b, h, length, H), first, length);
    read(v, part<T, D>(2, qkv, bias, b, h, length, H), first, length);
    for (int query = first; query < length; query += N) {
        read(q, part<T, D>(0, qkv, bias, b, h, length, H), query, length);
        read(dy, Rows<T>{dheads + b * (length * C) + h * D, nullptr, C}, query, length);
        if (threadIdx.x < N) {  // a query that does not exist: dy = 0 and delta = 0, so it adds nothing
            const bool exists = query + threadIdx.x < length;
            lses[threadIdx.x] = exists ? lse[head * length + query + threadIdx.x] : 0;
            deltas[threadIdx.x] = exists ? delta[head * length + query + threadIdx.x] : 0;
        }
        if (threshold) kept.draw(dropout, b, h, query, first, M, length);
        __syncthreads();

        T p[R][S], ds[R][S];
        multiply(p, k, q, down, across);
        multiply(ds, v, dy, down, across);
#pragma unroll
        for (int s = 0; s < S; s++) {
            const int column = across + ACROSS * s, i = query + column;
            const unsigned bits = threshold ? kept.bits(column, h, i, first, length) : ~0u;
#pragma unroll
            for (int r = 0; r < R; r++) {
                const int row = down + DOWN * r;
                const T mask = bits >> row & 1 ? dropout.scale<T>() : 0;
                p[r][s] = first + row <= i ? exp(p[r][s] * scale - lses[column]) : 0;
                ds[r][s] = p[r][s] * (ds[r][s] * mask - deltas[column]) * scale;
                weights.at[row][column] = p[r][s] * mask;
            }
        }
        __syncwarp();
        accumulate(dv, weights, dy, down, across);
        __syncwarp();
#pragma unroll
        for (int r = 0; r < R; r++) {
#pragma unroll
            for (int s = 0; s < S; s++) weights.at[down + DOWN * r][across + ACROSS * s] = ds[r][s];
        }
        __syncwarp();
        accumulate(dk, weights, q, down, across);
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < R; r++) {
        const int j = first + down + DOWN * r;
        if (j >= length) continue;
        T* to = dqkv + (size_t(b) * length + j) * 3 * C + h * D;
        write<D>(to + C, dk[r], T(1), across);
        write<D>(to + 2 * C, dv[r], T(1), across);
    }
}

// dq. grid (ceil(T / BACKWARD_OWNED), H, B), block 128
template <class T, int D>
__global__ void __launch_bounds__(THREADS, BLOCKS) attention_queries(
    const T* __restrict__ qkv,
    const T* __restrict__ bias,
    const T* __restrict__ dheads,
    const T* __restrict__ lse,
    const T* __restrict__ delta,
    T* __restrict__ dqkv,
    int length,
    int H,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place
) {
    constexpr int M = BACKWARD_OWNED, N = BACKWARD_OTHERS<T, D>, R = M / DOWN, S = N / ACROSS;
    __shared__ Tile<T, M, D> q, dy;
    __shared__ Tile<T, N, D> k, v;
    __shared__ Tile<T, M, N> weights;
    __shared__ Kept<M> kept;
    const int down = threadIdx.x / ACROSS, across = threadIdx.x % ACROSS, h = blockIdx.y, b = blockIdx.z;
    const int first = (gridDim.x - 1 - blockIdx.x) * M;  // the rows with most keys start first
    const size_t C = size_t(H) * D, head = size_t(b) * H + h;
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    const T scale = 1 / sqrt(T(D));

    T dq[R][D / ACROSS] = {}, lses[R], deltas[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        const int i = first + down + DOWN * r;
        lses[r] = i < length ? lse[head * length + i] : 0;
        deltas[r] = i < length ? delta[head * length + i] : 0;
    }
    read(q, part<T, D>(0, qkv, bias, b, h, length, H), first, length);
    read(dy, Rows<T>{dheads + b * (length * C) + h * D, nullptr, C}, first, length);
    for (int key = 0; key < min(first + M, length); key += N) {
        read(k, part<T, D>(1, qkv, bias, b, h, length, H), key, length);
        read(v, part<T, D>(2, qkv, bias, b, h, length, H), key, length);
        if (threshold) kept.draw(dropout, b, h, first, key, N, length);
        __syncthreads();

        T p[R][S], ds[R][S];
        multiply(p, q, k, down, across);
        multiply(ds, dy, v, down, across);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const int row = down + DOWN * r, i = first + row;
            const unsigned bits = threshold ? kept.bits(row, h, i, key, length) : ~0u;
#pragma unroll
            for (int s = 0; s < S; s++) {
                const int column = across + ACROSS * s;
                const T mask = bits >> column & 1 ? dropout.scale<T>() : 0;
                p[r][s] = key + column <= i ? exp(p[r][s] * scale - lses[r]) : 0;
                weights.at[row][column] = p[r][s] * (ds[r][s] * mask - deltas[r]) * scale;
            }
        }
        __syncwarp();
        accumulate(dq, weights, k, down, across);
        __syncthreads();
    }

#pragma unroll
    for (int r = 0; r < R; r++) {
        const int i = first + down + DOWN * r;
        if (i < length) write<D>(dqkv + (size_t(b) * length + i) * 3 * C + h * D, dq[r], T(1), across);
    }
}
