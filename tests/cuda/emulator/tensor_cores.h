// Tensor cores, in place of inline PTX: a header of kernels that wraps it includes this one if __CUDA_EMULATOR__ is
// defined. How matrices are distributed over lanes is PTX's ("Matrix fragments for mma.m16n8k16").
#pragma once

#include "cuda_fp16.h"

extern "C" void emulator_together(void (*compute)(void* const*), void* brought, int line);
extern "C" void emulator_matrix_row(const void* row);

namespace emulator {

struct Rows {
    const __half* mine;
    const __half* all[32];
};

// Each lane learns all addresses, and then reads what it receives: an access like any other.
inline void exchange_rows(void* const* lanes) {
    for (int to = 0; to < 32; to++)
        for (int from = 0; from < 32; from++)
            static_cast<Rows*>(lanes[to])->all[from] = static_cast<Rows*>(lanes[from])->mine;
}

struct Product {
    _Float16 a[8], b[4];
    float d[4];
};

__attribute__((no_sanitize("thread"))) inline void multiply(void* const* lanes) {
    float a[16][16], b[16][8];
    for (int lane = 0; lane < 32; lane++) {
        const Product& from = *static_cast<Product*>(lanes[lane]);
        const int group = lane / 4, pair = lane % 4 * 2;
        for (int i = 0; i < 8; i++) a[group + i / 2 % 2 * 8][pair + i % 2 + i / 4 * 8] = float(from.a[i]);
        for (int i = 0; i < 4; i++) b[pair + i % 2 + i / 2 * 8][group] = float(from.b[i]);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            float sum = 0;
            for (int k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            static_cast<Product*>(lanes[lane])->d[i] += sum;
        }
}

}  // namespace emulator

// ldmatrix.sync.aligned.m8n8.x4.shared.b16: lanes 8 i to 8 i + 7 bring the addresses of the rows of matrix i.
__forceinline__ void ldmatrix(unsigned (&fragment)[4], const __half* row, EMULATOR_HERE) {
    emulator_matrix_row(row);
    emulator::Rows rows{row, {}};
    emulator_together(emulator::exchange_rows, &rows, line);
    const int lane = emulator_lane();
    for (int i = 0; i < 4; i++)
        fragment[i] = *reinterpret_cast<const unsigned*>(rows.all[8 * i + lane / 4] + lane % 4 * 2);
}

// The same with .trans: each matrix arrives transposed.
__forceinline__ void ldmatrix_transposed(unsigned (&fragment)[4], const __half* row, EMULATOR_HERE) {
    emulator_matrix_row(row);
    emulator::Rows rows{row, {}};
    emulator_together(emulator::exchange_rows, &rows, line);
    const int lane = emulator_lane();
    for (int i = 0; i < 4; i++) {
        const __half2 pair = {rows.all[8 * i + lane % 4 * 2][lane / 4], rows.all[8 * i + lane % 4 * 2 + 1][lane / 4]};
        memcpy(&fragment[i], &pair, sizeof pair);
    }
}

// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32: d += a b. Sums are in float, in the order of k.
__forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, EMULATOR_HERE) {
    const unsigned b[2] = {b0, b1};
    emulator::Product product;
    memcpy(product.a, a, sizeof a);
    memcpy(product.b, b, sizeof b);
    memcpy(product.d, d, sizeof d);
    emulator_together(emulator::multiply, &product, line);
    memcpy(d, product.d, sizeof d);
}
