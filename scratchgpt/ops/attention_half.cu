// Causal attention of half-precision heads on tensor cores, from compute capability 8.0 on, without an array of T x T
// numbers. Mathematics: attention.md.
//
// qkv, dqkv (B, T, 3C) hold q, k, v side by side, and each of these its H heads of D: C = H D. qkv lacks its bias
// (3C,), of float, or null: that is added whenever rows are read. heads, dheads are (B, T, C), lse and delta (B, H, T)
// of float. T, the length of sequences, is called `length` here, as T is the type: __half, and no other.
//
// Version 1 lets threads multiply, as attention.cu does for floats: 128 multiplications and additions a cycle for each
//           multiprocessor, of the 1024 that an A100's tensor cores make of halves.
// Version 2 gives both products to tensor cores, but takes the scores through shared memory to threads that know whose
//           row is whose, and back.
// Version 3 knows which lane holds what (tensor_cores.cuh), and leaves scores where they are. A warp owns a strip of 16
//           rows: maxima are taken among 4 lanes, and probabilities, rounded, are the left factor of the next product.
//           But each right factor that is read from shared memory serves two mma, and takes as long as these do.
// Version 4, this one, gives each warp two strips for D <= 64, so that what is read serves four. For a larger D the
//           sums of one strip fill the registers. (The next would fetch a tile while it computes with another.)
//
// All three kernels with tiles are one scheme. A block owns rows and walks over the others, those above the diagonal
// excepted, in tiles half as large. Strips of what it owns are left factors, tiles are right factors:
//
//             owns             walks over       left factors in          sums    products of 16 rows and 16 others
//     forward queries          keys, values     registers: q             heads   q k, p v
//     keys    keys, values     queries, dheads  registers: k; shared: v  dk, dv  k q, v dy, p dy, ds q
//     queries queries, dheads  keys, values     registers: q, dy         dq      q k, dy v, ds k
//
// No atomics: dk, dv and dq have one owner each, at the price of computing the probabilities twice in the backward.
//
//     D                       16       32       48       64       96      128
//     strips of a warp         2        2        2        2        1        1
//     rows owned, walked 128, 64  128, 64  128, 64  128, 64   64, 32   64, 32
//     shared KB: keys         14       22       30       38       27       35
//                others        6       10       14       18       14       18
//     registers: forward     164      202      222      243      157      200    the most of sm_80, 86, 90 and 120;
//                keys        119      163      229      247      221      241    so 2 to 4 blocks share a
//                queries     124      162      209      232      168      220    multiprocessor
//
// On paper, for D = 64, 32 rows of a warp and 16 others, in cycles of an A100's multiprocessor: forward 64 for 32 mma,
// 32 for 8 ldmatrix and 32 for 512 powers; keys 128 for 64 mma and 96 for 24 ldmatrix; queries 96 for 48 mma and 48 for
// 12. So tensor cores are the limit, if other warps fill the pauses at barriers. None of this has been measured.
//
// Rows of tiles are an odd number of 16 bytes apart, so that no two rows of an ldmatrix share a bank. When tiles are
// written, 8 lanes write 128 bytes: without conflicts for D = 64 and 128; else at most two of them share a bank.
//
// Halves reach from 6e-8 to 65504. Products are summed in float, and so are the softmax, its sums, and delta. Rounded
// is what is stored and what is multiplied: probabilities, at most 1, lose what is below 3e-8; ds, which is of the size
// of dheads times probabilities, is saved from that by the loss's scale. 1 / sqrt(D) is applied to the sums at the end.
// What is too large becomes infinite, and then NaN in gradients: it is noticed, as scaling the loss demands.

#include "common.cuh"
#include "tensor_cores.cuh"

constexpr int THREADS = 128;
template <int D> constexpr int STRIPS = D <= 64 ? 2 : 1;  // of 16 rows, of each of the 4 warps
template <int D> constexpr int OWNED = 64 * STRIPS<D>;    // rows of a block
template <int D> constexpr int WALK = OWNED<D> / 2;       // rows of a tile that it walks over
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float ENDLESS = 1e30f;  // in place of infinity: exp2(x - ENDLESS) is 0 as well, and ENDLESS - ENDLESS not NaN

template <int D> struct alignas(16) Tile {
    static constexpr int STRIDE = D + 8;
    __half at[WALK<D>][STRIDE];
};

template <int D> struct alignas(16) Bias {
    __half at[3][D];  // of q, k and v of one head
};

// bias = this head's part of `from` (3C,), or zeros without one
template <int D> __device__ __forceinline__ void read(Bias<D>& bias, const float* from, int h, int H) {
    for (int n = threadIdx.x; n < 3 * D; n += THREADS)
        bias.at[n / D][n % D] = __half(from ? from[(n / D * H + h) * D + n % D] : 0.0f);
}

// Rows of D numbers, to which a bias in shared memory is to be added, or null.
struct Rows {
    const __half* start;
    size_t stride;
    const __half* bias;
};

// q, k or v of one sequence and head: part 0, 1 or 2 of qkv.
template <int D>
__device__ __forceinline__ Rows
part(int which, const __half* qkv, const Bias<D>& biases, int b, int h, int length, int H) {
    const size_t stride = size_t(3) * H * D;
    return {qkv + b * (length * stride) + (which * H + h) * D, stride, biases.at[which]};
}

// tiles[0] = rows of `x` from first_x on, tiles[1] = rows of `y` from first_y on. From `length` on it is the last row
// again: what is made of it has weight 0 or is not written. All reads from global memory go before any write, and none
// of them is in a branch, so that they are under way together.
template <int D>
__device__ __forceinline__ void
read(Tile<D> (&tiles)[2], const Rows& x, int first_x, const Rows& y, int first_y, int length) {
    constexpr int ACROSS = D / 8, N = WALK<D> * ACROSS / THREADS;
    Pack<__half, 8> packs[2][N];
#pragma unroll
    for (int which = 0; which < 2; which++) {
        const Rows& rows = which ? y : x;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int n = i * THREADS + threadIdx.x, row = min((which ? first_y : first_x) + n / ACROSS, length - 1);
            packs[which][i] = load<8>(rows.start + row * rows.stride + n % ACROSS * 8);
        }
    }
#pragma unroll
    for (int which = 0; which < 2; which++) {
        const Rows& rows = which ? y : x;
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int n = i * THREADS + threadIdx.x, row = n / ACROSS, column = n % ACROSS * 8;
            Pack<__half, 8>& pack = packs[which][i];
            if (rows.bias) {
                const Pack<__half, 8> bias = load<8>(rows.bias + column);
#pragma unroll
                for (int j = 0; j < 8; j += 2) {
                    __half2& pair = *reinterpret_cast<__half2*>(&pack.at[j]);
                    pair = __hadd2(pair, *reinterpret_cast<const __half2*>(&bias.at[j]));
                }
            }
            store(&tiles[which].at[row][column], pack);
        }
    }
}

// A warp's strips of two tiles, as left factors.
template <int M, int D> struct Strips {
    unsigned at[M][D / 16][4];
    __device__ __forceinline__ Strips(const Tile<D> (&tiles)[2]) {
        const int warp = threadIdx.x / 32;
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int i = 0; i < D / 16; i++)
                load_a(at[m][i], &tiles[warp / 2].at[(warp % 2 * M + m) * 16][16 * i], Tile<D>::STRIDE);
        }
    }
};

// products[m][n] and [n + 1] = strip m times rows first .. first + 15 of a tile, transposed. What is read of the tile
// serves all strips.
template <int M, int N, int D>
__device__ __forceinline__ void
multiply(float (&products)[M][N][4], int n, const Strips<M, D>& strips, const Tile<D>& tile, int first) {
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int i = 0; i < 4; i++) products[m][n][i] = products[m][n + 1][i] = 0;
    }
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        unsigned columns[4];
        load_b_of_columns(columns, &tile.at[first][16 * i], tile.STRIDE);
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma(products[m][n], strips.at[m][i], columns[0], columns[1]);
            mma(products[m][n + 1], strips.at[m][i], columns[2], columns[3]);
        }
    }
}

// sums[m] += weights[m][n] and [n + 1] times rows first .. first + 15 of a tile
template <int M, int N, int D>
__device__ __forceinline__ void accumulate(
    float (&sums)[M][D / 8][4], const float (&weights)[M][N][4], int n, const Tile<D>& tile, int first
) {
    unsigned left[M][4];
#pragma unroll
    for (int m = 0; m < M; m++) round_to_a(left[m], weights[m][n], weights[m][n + 1]);
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        unsigned columns[4];
        load_b_of_rows(columns, &tile.at[first][16 * i], tile.STRIDE);
#pragma unroll
        for (int m = 0; m < M; m++) {
            mma(sums[m][2 * i], left[m], columns[0], columns[1]);
            mma(sums[m][2 * i + 1], left[m], columns[2], columns[3]);
        }
    }
}

// to = sums * factor, in rows `first` to `length`
template <int M, int N>
__device__ __forceinline__ void
write(__half* to, size_t stride, const float (&sums)[M][N][4], float factor, int first, int length) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int row = first + 16 * m + 8 * r + lane / 4;
            if (row >= length) continue;
#pragma unroll
            for (int n = 0; n < N; n++)
                *reinterpret_cast<__half2*>(to + row * stride + 8 * n + lane % 4 * 2) =
                    __floats2half2_rn(sums[m][n][2 * r] * factor, sums[m][n][2 * r + 1] * factor);
        }
    }
}

// Bit i says whether element first + i of sequence b is kept.
__device__ __forceinline__ unsigned draw_kept(const Dropout& dropout, int b, Word first) {
    Word window = 0;
#pragma unroll 1
    for (int i = first % 32 ? 1 : 0; i >= 0; i--) {
        const Block drawn = dropout.draw(b, first / 32 + i);
        unsigned kept = 0;
#pragma unroll
        for (int j = 0; j < 32; j++)
            kept |= unsigned(int(drawn.word[j / 8] >> j % 8 * 8 & 255) >= dropout.threshold) << j;
        window = window << 32 | kept;
    }
    return unsigned(window >> first % 32);
}

// The sum over the four lanes that share a row.
__device__ __forceinline__ float row_sum(float x) {
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

__device__ __forceinline__ float row_max(float x) {
    x = max(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return max(x, __shfl_xor_sync(ALL_LANES, x, 2));
}

// grid (ceil(length / OWNED), H, B), block 128
template <class T, int D>
__global__ void __launch_bounds__(THREADS, D == 16 || D == 96 ? 3 : 2) attention_half_forward(
    const T* __restrict__ qkv,
    const float* __restrict__ bias,
    T* __restrict__ heads,
    float* __restrict__ lse,
    int length,
    int H,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place
) {
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    constexpr int M = STRIPS<D>, KEYS = WALK<D>, WORDS = KEYS / 32;
    __shared__ Tile<D> tiles[2];
    __shared__ Bias<D> biases;
    Tile<D>&k = tiles[0], &v = tiles[1];
    const int h = blockIdx.y, b = blockIdx.z, C = H * D;
    const int first = (gridDim.x - 1 - blockIdx.x) * OWNED<D>;  // the last queries see most keys, and so come first
    const int lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2, own = first + threadIdx.x / 32 * 16 * M;
    const Rows queries = part(0, qkv, biases, b, h, length, H), keys = part(1, qkv, biases, b, h, length, H);
    const Rows values = part(2, qkv, biases, b, h, length, H);
    const float scale = rsqrtf(D), scale2 = scale * LOG2_E;

    read(biases, bias, h, H);
    __syncthreads();
    read(tiles, queries, first, queries, first + WALK<D>, length);
    __syncthreads();
    const Strips<M, D> q(tiles);

    // Of each strip, a lane keeps `row` and `row + 8`.
    float sums[M][D / 8][4] = {}, top[M][2], total[M][2] = {};
#pragma unroll
    for (int m = 0; m < M; m++) top[m][0] = top[m][1] = -ENDLESS;

    for (int start = 0; start < min(first + OWNED<D>, length); start += KEYS) {
        __syncthreads();
        read(tiles, keys, start, values, start, length);
        __syncthreads();
        if (own >= length || own + 16 * M <= start) continue;  // none of the warp's rows is there, or sees these keys

        float p[M][KEYS / 8][4];  // scores, then probabilities, of keys start + 8 n + column and the next
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) multiply(p, n, q, k, 8 * n);
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (start + KEYS > own) {
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (int i = 0; i < 4; i++)
                        if (start + 8 * n + column + i % 2 > own + 16 * m + row + i / 2 * 8) p[m][n][i] = -ENDLESS;
                }
            }
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float most = top[m][r];
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) most = max(most, max(p[m][n][2 * r], p[m][n][2 * r + 1]));
                most = row_max(most);
                const float factor = exp2f((top[m][r] - most) * scale2), shift = most * scale2;
                top[m][r] = most;
                total[m][r] *= factor;
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (int i = 2 * r; i < 2 * r + 2; i++) {
                        p[m][n][i] = exp2f(p[m][n][i] * scale2 - shift);
                        total[m][r] += p[m][n][i];
                    }
                }
#pragma unroll
                for (int n = 0; n < D / 8; n++) {
                    sums[m][n][2 * r] *= factor;
                    sums[m][n][2 * r + 1] *= factor;
                }
            }
            if (threshold) {
                const Word query = Word(h) * length + own + 16 * m + lane / WORDS;
                const unsigned drawn = draw_kept(dropout, b, query * length + start + lane % WORDS * 32);
#pragma unroll
                for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                    for (int r = 0; r < 2; r++) {
                        const unsigned kept = __shfl_sync(ALL_LANES, drawn, (row + 8 * r) * WORDS + n / 4) >> column;
                        if (!(kept >> n % 4 * 8 & 1)) p[m][n][2 * r] = 0;
                        if (!(kept >> n % 4 * 8 & 2)) p[m][n][2 * r + 1] = 0;
                    }
                }
            }
        }
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) accumulate(sums, p, n, v, 8 * n);
    }

#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            total[m][r] = row_sum(total[m][r]);
            const float factor = 1 / total[m][r];
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                sums[m][n][2 * r] *= factor;
                sums[m][n][2 * r + 1] *= factor;
            }
            const int query = own + 16 * m + 8 * r + row;
            if (query < length && column == 0)
                lse[(size_t(b) * H + h) * length + query] = top[m][r] * scale + logf(total[m][r]);
        }
    }
    write(heads + b * (size_t(length) * C) + h * D, C, sums, dropout.scale<float>(), own, length);
}

// delta (B, H, length) = the sums of dheads * heads over each head's D numbers.
// grid ceil(8 B length H / 128), block 128: 8 lanes share a row, 16 bytes each at a time
template <class T, int D>
__global__ void __launch_bounds__(THREADS) attention_half_delta(
    const T* __restrict__ dheads, const T* __restrict__ heads, float* __restrict__ delta, int B, int length, int H
) {
    const unsigned thread = blockIdx.x * THREADS + threadIdx.x, row = thread / 8, lane = thread % 8;
    const bool there = row < unsigned(B) * length * H;
    float sum = 0;
#pragma unroll
    for (int d = lane * 8; d < D && there; d += 64) {
        const Pack<T, 8> dy = load<8>(dheads + size_t(row) * D + d), y = load<8>(heads + size_t(row) * D + d);
#pragma unroll
        for (int i = 0; i < 8; i++) sum += float(dy.at[i]) * float(y.at[i]);
    }
#pragma unroll
    for (int distance = 4; distance > 0; distance /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, distance);
    const unsigned h = row % H, t = row / H % length, b = row / H / length;
    if (there && lane == 0) delta[(size_t(b) * H + h) * length + t] = sum;
}

// dk and dv. A block owns keys and walks over the queries that see them.
// grid (ceil(length / OWNED), H, B), block 128
template <class T, int D>
__global__ void __launch_bounds__(THREADS, D == 16 ? 4 : D == 32 ? 3 : 2) attention_half_keys(
    const T* __restrict__ qkv,
    const float* __restrict__ bias,
    const T* __restrict__ dheads,
    const float* __restrict__ lse,
    const float* __restrict__ delta,
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
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    constexpr int M = STRIPS<D>, QUERIES = WALK<D>, WORDS = OWNED<D> / 32;
    __shared__ Tile<D> v[2], tiles[2];
    __shared__ Bias<D> biases;
    __shared__ float lses[QUERIES], deltas[QUERIES];
    __shared__ unsigned kept[QUERIES][WORDS];  // a bit a key
    Tile<D>&q = tiles[0], &dy = tiles[1];
    const int h = blockIdx.y, b = blockIdx.z, C = H * D, first = blockIdx.x * OWNED<D>;
    const int lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2, own = first + threadIdx.x / 32 * 16 * M;
    const size_t rows = (size_t(b) * H + h) * length;  // of lse and delta
    const Rows queries = part(0, qkv, biases, b, h, length, H), keys = part(1, qkv, biases, b, h, length, H);
    const Rows values = part(2, qkv, biases, b, h, length, H);
    const Rows gradients{dheads + b * (size_t(length) * C) + h * D, size_t(C), nullptr};
    const float scale = rsqrtf(D), scale2 = scale * LOG2_E, kept_scale = dropout.scale<float>();

    read(biases, bias, h, H);
    __syncthreads();
    read(tiles, keys, first, keys, first + WALK<D>, length);
    read(v, values, first, values, first + WALK<D>, length);
    __syncthreads();
    const Strips<M, D> k(tiles);

    float dk[M][D / 8][4] = {}, dv[M][D / 8][4] = {};
    for (int start = first; start < length; start += QUERIES) {
        __syncthreads();
        read(tiles, queries, start, gradients, start, length);
        if (threadIdx.x < QUERIES) {
            const int query = start + threadIdx.x;
            lses[threadIdx.x] = query < length ? lse[rows + query] * LOG2_E : ENDLESS;  // the probability of none is 0
            deltas[threadIdx.x] = query < length ? delta[rows + query] : 0;
        }
        if (threshold) {
            for (int n = threadIdx.x; n < QUERIES * WORDS; n += THREADS) {
                const Word query = Word(h) * length + start + n / WORDS;
                kept[n / WORDS][n % WORDS] = draw_kept(dropout, b, query * length + first + n % WORDS * 32);
            }
        }
        __syncthreads();
        if (own >= length) continue;
#pragma unroll 1
        for (int n = 0; n < QUERIES; n += 16) {
            if (start + n < own) continue;  // none of these queries sees one of the warp's keys
            float p[M][2][4], ds[M][2][4];  // of queries n + 8 j + column and the next; a strip's rows are keys
            multiply(p, 0, k, q, n);
            multiply(ds, 0, Strips<M, D>(v), dy, n);
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
                for (int j = 0; j < 2; j++) {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const int key = own + 16 * m + 8 * (i / 2) + row, query = n + 8 * j + column + i % 2;
                        const bool seen = key <= start + query;
                        const bool keep = !threshold || kept[query][(key - first) / 32] >> (key - first) % 32 & 1;
                        const float probability = seen ? exp2f(p[m][j][i] * scale2 - lses[query]) : 0;
                        ds[m][j][i] = probability * ((keep ? ds[m][j][i] * kept_scale : 0) - deltas[query]);
                        p[m][j][i] = keep ? probability : 0;
                    }
                }
            }
            accumulate(dv, p, 0, dy, n);
            accumulate(dk, ds, 0, q, n);
        }
    }
    write(dqkv + (keys.start - qkv), keys.stride, dk, scale, own, length);
    write(dqkv + (values.start - qkv), values.stride, dv, kept_scale, own, length);
}

// dq. A block owns queries and walks over the keys that they see.
// grid (ceil(length / OWNED), H, B), block 128
template <class T, int D>
__global__ void __launch_bounds__(THREADS, D == 16 ? 4 : D == 32 || D == 96 ? 3 : 2) attention_half_queries(
    const T* __restrict__ qkv,
    const float* __restrict__ bias,
    const T* __restrict__ dheads,
    const float* __restrict__ lse,
    const float* __restrict__ delta,
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
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    constexpr int M = STRIPS<D>, KEYS = WALK<D>, WORDS = KEYS / 32;
    __shared__ Tile<D> tiles[2];
    __shared__ Bias<D> biases;
    Tile<D>&k = tiles[0], &v = tiles[1];
    const int h = blockIdx.y, b = blockIdx.z, C = H * D, first = (gridDim.x - 1 - blockIdx.x) * OWNED<D>;
    const int lane = threadIdx.x % 32, row = lane / 4, column = lane % 4 * 2, own = first + threadIdx.x / 32 * 16 * M;
    const size_t rows = (size_t(b) * H + h) * length;  // of lse and delta
    const Rows queries = part(0, qkv, biases, b, h, length, H), keys = part(1, qkv, biases, b, h, length, H);
    const Rows values = part(2, qkv, biases, b, h, length, H);
    const Rows gradients{dheads + b * (size_t(length) * C) + h * D, size_t(C), nullptr};
    const float scale = rsqrtf(D), scale2 = scale * LOG2_E, kept_scale = dropout.scale<float>();

    read(biases, bias, h, H);
    __syncthreads();
    read(tiles, queries, first, queries, first + WALK<D>, length);
    __syncthreads();
    const Strips<M, D> q(tiles);
    __syncthreads();
    read(tiles, gradients, first, gradients, first + WALK<D>, length);
    __syncthreads();
    const Strips<M, D> dy(tiles);
    float lses[M][2], deltas[M][2];  // of queries `row` and `row + 8` of a strip
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int query = own + 16 * m + 8 * r + row;
            lses[m][r] = query < length ? lse[rows + query] * LOG2_E : ENDLESS;
            deltas[m][r] = query < length ? delta[rows + query] : 0;
        }
    }

    float dq[M][D / 8][4] = {};
    for (int start = 0; start < min(first + OWNED<D>, length); start += KEYS) {
        __syncthreads();
        read(tiles, keys, start, values, start, length);
        unsigned drawn[M] = {};
        if (threshold) {
#pragma unroll
            for (int m = 0; m < M; m++) {
                const Word query = Word(h) * length + own + 16 * m + lane / WORDS;
                drawn[m] = draw_kept(dropout, b, query * length + start + lane % WORDS * 32);
            }
        }
        __syncthreads();
        if (own >= length) continue;
#pragma unroll 1
        for (int n = 0; n < KEYS && start + n < own + 16 * M; n += 16) {
            float p[M][2][4], ds[M][2][4];  // of keys n + 8 j + column and the next
            multiply(p, 0, q, k, n);
            multiply(ds, 0, dy, v, n);
#pragma unroll
            for (int m = 0; m < M; m++) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int word = (row + 8 * r) * WORDS + n / 32;
                    const unsigned kept = __shfl_sync(ALL_LANES, drawn[m], word) >> n % 32 + column;
#pragma unroll
                    for (int j = 0; j < 2; j++) {
#pragma unroll
                        for (int i = 2 * r; i < 2 * r + 2; i++) {
                            const bool seen = start + n + 8 * j + column + i % 2 <= own + 16 * m + 8 * r + row;
                            const bool keep = !threshold || kept >> 8 * j + i % 2 & 1;
                            const float probability = seen ? exp2f(p[m][j][i] * scale2 - lses[m][r]) : 0;
                            ds[m][j][i] = probability * ((keep ? ds[m][j][i] * kept_scale : 0) - deltas[m][r]);
                        }
                    }
                }
            }
            accumulate(dq, ds, 0, k, n);
        }
    }
    write(dqkv + (queries.start - qkv), queries.stride, dq, scale, own, length);
}
