// Token and position embedding with dropout. Mathematics: embedding.md.
//
// tokens (B, T) are 64-bit; token_table (V, C), position_table (P, C) are T; x (B, T, C), of the residual stream, and
// all of the backward's arrays are Wide<T>.

#include "dropout.cuh"

constexpr int ADDERS = 256;  // threads of a block that adds rows

// x = (token_table[tokens] + position_table) * mask. grid (ceil(T C / 4096), B), block 128
//
// The ladder is that of dropout.cu: the tiles in which bytes are drawn need not be rows.
template <class T, int N>
__global__ void __launch_bounds__(THREADS) embedding_forward(
    const long long* __restrict__ tokens,
    const T* __restrict__ token_table,
    const T* __restrict__ position_table,
    Wide<T>* __restrict__ x,
    int threshold,
    Word seed,
    Word step,
    Word sequence,
    int layer,
    int place,
    int sequence_length,
    int C
) {
    using W = Wide<T>;
    const Dropout dropout{threshold, seed, step, sequence, layer, place};
    const int size = sequence_length * C;
    for_each_masked<W, N>(dropout, size, [&](int b, unsigned i, const Pack<W, N>& mask) {
        const long long token = tokens[size_t(b) * sequence_length + i / C];
        const Pack<T, N> row = load<N>(token_table + token * C + i % C), position = load<N>(position_table + i);
        Pack<W, N> out;
#pragma unroll
        for (int j = 0; j < N; j++) out.at[j] = (W(row.at[j]) + W(position.at[j])) * mask.at[j];
        store(x + size_t(b) * size + i, out);
    });
}

// table[token] += the sum of the rows of this token, for each token; rows are sorted by them.
//
// Version 1 adds each row to the table by atomics: another order, and another last bit, at every run.
// Version 2 gives a warp to each token: with few different ones, a handful of warps do all the work.
// Version 3, this one, cuts the sorted rows into chunks of 32, however long the runs of equal tokens are, and gives a
//           thread a pack of columns of a chunk. All runs but a chunk's first begin in it, so nobody else adds to their
//           rows of the table; the first run may have begun earlier, and its sum goes to `carries`, a row for each
//           chunk. (Nothing is before chunk 0: it carries 0.) These are sorted as well, so the same kernel adds them:
//           first 16,384 rows, then 512, 16, 1. All sums are made in the same order at every run.
//
// rows (n, C) are dx (B T, C) with stride 1, later the carries of the launch before, each of which stands for `stride`
// sorted rows. order (B T,): the places of the tokens (B T,), sorted by token. carries (ceil(n / 32), C).
// grid ceil(ceil(n / 32) C / ADDERS N), block ADDERS
constexpr int CHUNK = 32;

template <class T, int N>
__global__ void __launch_bounds__(ADDERS) embedding_add_rows(
    const Wide<T>* __restrict__ rows,
    const long long* __restrict__ order,
    const long long* __restrict__ tokens,
    Wide<T>* __restrict__ table,
    Wide<T>* __restrict__ carries,
    int stride,
    int n,
    int C
) {
    using W = Wide<T>;
    const unsigned pack = blockIdx.x * ADDERS + threadIdx.x, packs = C / N;
    const int chunk = pack / packs, c = pack % packs * N;
    const int first = chunk * CHUNK, stop = min(n, first + CHUNK);
    if (first >= n) return;

    const auto token_of = [&](int i) { return tokens[order[size_t(i) * stride]]; };
    const auto add = [&](Pack<W, N>& sum, int i) {
        const Pack<W, N> row = load<N>(rows + (stride == 1 ? order[i] : i) * C + c);
#pragma unroll
        for (int j = 0; j < N; j++) sum.at[j] += row.at[j];
    };

    int i = first;
    Pack<W, N> sum{};
    if (chunk > 0) {
        const long long token = token_of(first);
        while (i < stop && token_of(i) == token) add(sum, i++);
    }
    store(carries + size_t(chunk) * C + c, sum);
    while (i < stop) {
        const long long token = token_of(i);
        W* const total = table + token * C + c;
        sum = load<N>(total);
        do add(sum, i++);
        while (i < stop && token_of(i) == token);
        store(total, sum);
    }
}
