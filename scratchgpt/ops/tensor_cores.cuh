// Tensor cores (compute capability 8.0 and later): products of half-precision matrices, summed in float.
//
// A warp holds its matrices together. Lane l keeps of a 16 x 16 matrix `a` (rows, depth), of a 16 x 8 matrix `b`
// (depth, columns) and of their 16 x 8 product `d`, with g = l / 4 and p = 2 (l % 4), two halves in each word:
//
//     a[0]: row g, depth p, p + 1           b0: depth p, p + 1, column g        d[0], d[1]: row g, columns p, p + 1
//     a[1]: row g + 8, depth p, p + 1       b1: depth p + 8, p + 9, column g    d[2], d[3]: row g + 8, the same
//     a[2]: row g, depth p + 8, p + 9
//     a[3]: row g + 8, depth p + 8, p + 9
//
// So d, rounded to half, is half of an `a` without any number changing its lane: two products side by side can be the
// left factor of the next product. All 32 lanes must call each of these functions.
#pragma once

#include <cuda_fp16.h>

#ifdef __CUDA_EMULATOR__
#include <tensor_cores.h>  // the same three functions in C++
#else

// Four 8 x 8 matrices from shared memory. Lanes 8 i to 8 i + 7 give the addresses of the rows of matrix i, multiples of
// 16 bytes. Lane l gets in fragment[i] the elements (l / 4, 2 (l % 4)) and (l / 4, 2 (l % 4) + 1) of matrix i.
__device__ __forceinline__ void ldmatrix(unsigned (&fragment)[4], const __half* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(unsigned(__cvta_generic_to_shared(row)))
                 : "memory");
}

// The same of the transposed matrices: elements (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).
__device__ __forceinline__ void ldmatrix_transposed(unsigned (&fragment)[4], const __half* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(unsigned(__cvta_generic_to_shared(row)))
                 : "memory");
}

// d += a b
__device__ __forceinline__ void mma(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif

// Of a matrix in shared memory whose rows are `stride` apart, the 16 x 16 elements from `from` on, as an `a`.
__device__ __forceinline__ void load_a(unsigned (&a)[4], const __half* from, int stride) {
    const int lane = threadIdx.x % 32;
    ldmatrix(a, from + lane % 16 * stride + lane / 16 * 8);
}

// The same as two `b` side by side, words 0, 1 and words 2, 3. Here the rows are columns of b: for products x yᵀ.
__device__ __forceinline__ void load_b_of_columns(unsigned (&b)[4], const __half* from, int stride) {
    const int lane = threadIdx.x % 32;
    ldmatrix(b, from + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
}

// And here the rows are those of b, one a step of depth: for products x y.
__device__ __forceinline__ void load_b_of_rows(unsigned (&b)[4], const __half* from, int stride) {
    const int lane = threadIdx.x % 32;
    ldmatrix_transposed(b, from + lane % 16 * stride + lane / 16 * 8);
}

// Two products side by side, as the `a` of the next.
__device__ __forceinline__ void round_to_a(unsigned (&a)[4], const float (&left)[4], const float (&right)[4]) {
    const __half2 words[4] = {
        __floats2half2_rn(left[0], left[1]),
        __floats2half2_rn(left[2], left[3]),
        __floats2half2_rn(right[0], right[1]),
        __floats2half2_rn(right[2], right[3]),
    };
#pragma unroll
    for (int i = 0; i < 4; i++) a[i] = *reinterpret_cast<const unsigned*>(&words[i]);
}
