// What the emulator must find: each kernel is right, or, with -DBUG=1, wrong in one way. An arrow marks the lines that
// findings may name, of which a race has two. test_emulator.py holds the emulator to them.

#include "tensor_cores.h"

#define SIZE 64  // threads in a block: two warps

extern "C" __global__ void read_past_the_end(const float* x, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n - !BUG) out[i] = x[i + 1] - x[i];  // <-
}

extern "C" __global__ void write_past_the_end(const float* x, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n + BUG)
        out[i] = 1;  // <-
}

extern "C" __global__ void write_after_read(const float* x, float* out) {
    __shared__ float tile[SIZE];
    int t = threadIdx.x;
    for (int round = 0; round < 2; round++) {
        tile[t] = x[round * SIZE + t];  // <-
        __syncthreads();
        out[round * SIZE + t] = tile[SIZE - 1 - t];  // <-
        if (!BUG) __syncthreads();
    }
}

// The same, where the reader is of another warp than all later readers, and the writer reads last of all.
extern "C" __global__ void write_after_many_reads(const float* x, float* out) {
    __shared__ float first;
    int t = threadIdx.x;
    if (t == 0) first = x[0];
    __syncthreads();
    out[t] = first;  // <-
    if (BUG) __syncwarp();
    else __syncthreads();
    if (t == 0) first = x[1];  // <-
}

extern "C" __global__ void read_after_write(const float* x, float* out) {
    __shared__ float tile[SIZE];
    int t = threadIdx.x;
    tile[t] = x[t];  // <-
    if (!BUG) __syncthreads();
    out[t] = tile[SIZE - 1 - t];  // <-
}

extern "C" __global__ void read_after_write_in_a_warp(const float* x, float* out) {
    __shared__ float tile[SIZE];
    int t = threadIdx.x;
    tile[t] = x[t];  // <-
    if (!BUG) __syncwarp();
    out[t] = tile[t ^ 1];  // <-
}

// Halves of a warp wait, but not for each other.
extern "C" __global__ void wrong_mask(const float* x, float* out) {
    __shared__ float tile[SIZE];
    int t = threadIdx.x;
    tile[t] = x[t];  // <-
    __syncwarp(!BUG ? 0xffffffff : t % 32 < 16 ? 0x0000ffff : 0xffff0000);
    out[t] = tile[t ^ 16];  // <-
}

extern "C" __global__ void sum_across_blocks(const float* x, float* out) {
    if (threadIdx.x != 0) return;
#if BUG
    *out += x[blockIdx.x];  // <-
#else
    atomicAdd(out, x[blockIdx.x]);
#endif
}

extern "C" __global__ void sum_within_a_block(const float* x, float* out) {
#if BUG
    *out += x[threadIdx.x];  // <-
#else
    atomicAdd(out, x[threadIdx.x]);
#endif
}

// A plain read beside atomic updates.
extern "C" __global__ void racing_read(float* counter, float* out) {
    atomicAdd(counter, 1);  // <-
    if (!BUG) __syncthreads();
    if (threadIdx.x == 0) *out = *counter;  // <-
}

extern "C" __global__ void handed_to_another_block(const float* x, float* between, float* out) {
    between[blockIdx.x] = x[blockIdx.x];  // <-
    out[blockIdx.x] = between[BUG ? 0 : blockIdx.x];  // <-
}

extern "C" __global__ void shuffle_as_a_fence(const float* x, float* out) {
    __shared__ float tile[SIZE];
    int t = threadIdx.x;
    tile[t] = x[t];  // <-
    float sum = __shfl_xor_sync(0xffffffff, x[t], 1);
    if (!BUG) __syncwarp();
    out[t] = sum + tile[t ^ 2];  // <-
}

extern "C" __global__ void barrier_in_a_branch(const float* x, float* out) {
    if (!BUG || threadIdx.x < 32) {
        __syncthreads();  // <-
    }
    out[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void barriers_in_two_branches(const float* x, float* out) {
    if (BUG && threadIdx.x < 32) {
        __syncthreads();  // <-
    } else {
        __syncthreads();  // <-
    }
    out[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void barrier_after_return(const float* x, float* out) {
    if (BUG && threadIdx.x == 5) return;
    __syncthreads();  // <-
    out[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void shuffle_in_a_branch(const float* x, float* out) {
    float value = x[threadIdx.x];
    if (!BUG || threadIdx.x % 32 < 8)
        value += __shfl_xor_sync(0xffffffff, value, 1);  // <-
    __syncthreads();
    out[threadIdx.x] = value;
}

extern "C" __global__ void shuffle_after_return(const float* x, float* out) {
    if (BUG && threadIdx.x == 40) return;
    out[threadIdx.x] = __shfl_down_sync(0xffffffff, x[threadIdx.x], 1);  // <-
}

extern "C" __global__ void shuffle_from_outside(const float* x, float* out) {
    float value = x[threadIdx.x];
    if (threadIdx.x % 32 < 16)
        value = __shfl_sync(0x0000ffff, value, BUG ? 16 : 15);  // <-
    out[threadIdx.x] = value;
}

extern "C" __global__ void shared_written_out_of_bounds(const float* x, float* out) {
    __shared__ float tile[SIZE];
    __shared__ float other[SIZE];
    int t = threadIdx.x;
    other[t] = 0;
    tile[t + BUG] = x[t];  // <-
    __syncthreads();
    out[t] = tile[t] + other[t];
}

extern "C" __global__ void shared_read_out_of_bounds(const float* x, float* out) {
    __shared__ float tile[SIZE];
    int t = threadIdx.x;
    tile[t] = x[t];
    __syncthreads();
    out[t] = tile[BUG ? t + 1 : t];  // <-
}

extern "C" __global__ void dynamic_shared_out_of_bounds(const float* x, float* out) {
    extern __shared__ float buffer[];  // the launch gives it SIZE floats
    buffer[threadIdx.x + BUG] = x[threadIdx.x];  // <-
    out[threadIdx.x] = x[threadIdx.x];
}

extern "C" __global__ void shared_never_written(const float* x, float* out) {
    __shared__ float tile[SIZE];
    int t = threadIdx.x;
    if (!BUG || blockIdx.x == 0) tile[t] = x[t];
    __syncthreads();
    out[blockIdx.x * SIZE + t] = tile[t];  // <-
}

extern "C" __global__ void output_never_written(const float* x, float* out) {
    int t = threadIdx.x;
#if BUG
    out[t] += x[t];  // <-
#else
    out[t] = x[t];
#endif
}

extern "C" __global__ void misaligned(const float* x, float* out) {
    float4 v = *reinterpret_cast<const float4*>(x + 4 * threadIdx.x + BUG);  // <-
    out[threadIdx.x] = v.x + v.y + v.z + v.w;
}

// Local memory is each thread's own, wherever a pointer to it may go.
extern "C" __global__ void local_of_another_thread(const float* x, float* out) {
    __shared__ float* pointers[SIZE];
    int t = threadIdx.x;
    float local[2] = {x[t], x[t] + 1};
    pointers[t] = local;
    __syncthreads();
    out[t] = pointers[BUG ? SIZE - 1 - t : t][1];  // <-
    __syncthreads();
}

extern "C" __global__ void too_much_local_memory(const float* x, float* out) {
    float local[BUG ? 40000 : 400];
    for (float& value : local) value = x[threadIdx.x];  // <-
    out[threadIdx.x] = local[int(x[threadIdx.x]) % 100 + 100];
}

// The writer is the last of the readers.
extern "C" __global__ void write_after_its_own_read(const float* x, float* out) {
    __shared__ float first;
    int t = threadIdx.x;
    if (t == 0) first = x[0];
    __syncthreads();
    float value = t == 0 ? 0 : first;  // <-
    value += __shfl_sync(0xffffffff, value, 0);
    if (!BUG) __syncwarp();
    if (t == 0) {
        value = first;
        first = x[1];  // <-
    }
    out[t] = value;
}

extern "C" __global__ void read_after_its_own_update(float* counter, float* out) {
    atomicAdd(counter, 1);  // <-
    __ballot_sync(0xffffffff, 1);
    if (!BUG) __syncwarp();
    if (threadIdx.x == 0) {
        atomicAdd(counter, 1);
        *out = *counter;  // <-
    }
}

extern "C" __global__ void different_masks(const float* x, float* out) {
    int t = threadIdx.x;
    unsigned mask = !BUG || t % 32 < 16 ? 0xffffffff : 0xffff0000;
    out[t] = __shfl_xor_sync(mask, x[t], 1);  // <-
}

extern "C" __global__ void mask_without_oneself(const float* x, float* out) {
    int t = threadIdx.x;
    out[t] = __shfl_xor_sync(BUG ? 0x0000ffff : 0xffffffff, x[t], 1);  // <-
}

extern "C" __global__ void shuffles_in_two_branches(const float* x, float* out) {
    float value = x[threadIdx.x];
    if (BUG && threadIdx.x % 32 < 16)
        value += __shfl_xor_sync(0xffffffff, value, 1);  // <-
    else
        value -= __shfl_xor_sync(0xffffffff, value, 1);  // <-
    out[threadIdx.x] = value;
}

extern "C" __global__ void update_of_nothing(const float* x, float* out) {
    if (!BUG) out[threadIdx.x] = 0;
    atomicAdd(&out[threadIdx.x], x[threadIdx.x]);  // <-
}

extern "C" __global__ void misaligned_update(const float* x, float* out) {
    if (threadIdx.x == 0) *out = 0;
    __syncthreads();
    float* place = reinterpret_cast<float*>(reinterpret_cast<char*>(out) + (BUG ? 2 : 0));
    atomicAdd(place, *x);  // <-
}

// Of the last vector, only half is there.
extern "C" __global__ void vector_past_the_end(const float4* x, float4* out, int n) {
    int t = threadIdx.x;
    if (4 * t + (BUG ? 0 : 3) < n)
        out[t] = x[t];  // <-
    else
        out[t] = make_float4(0, 0, 0, 0);
}

// The length is not a multiple of the block's, and some lanes leave the loop earlier than others.
extern "C" __global__ void shuffle_in_a_ragged_loop(const float* x, float* out, int n) {
    int t = threadIdx.x;
    float sum = 0;
    for (int i = t; (BUG ? i : i - t) < n; i += SIZE)
        sum += __shfl_xor_sync(0xffffffff, i < n ? x[i] : 0, 1);  // <-
    out[t] = sum;
}

// Here and below, matrices of 8 x 8 halves are read by a warp from a tile that holds some of x.
extern "C" __global__ void matrix_misaligned(const float* x, float* out) {
    __shared__ __align__(16) __half tile[32 * 9];
    const int t = threadIdx.x;
    for (int i = t; i < 32 * 9; i += SIZE) tile[i] = x[i % SIZE];
    __syncthreads();
    unsigned fragment[4];
    ldmatrix(fragment, tile + t % 32 * (8 + BUG));  // <-
    out[t] = fragment[0];
}

extern "C" __global__ void matrix_out_of_bounds(const float* x, float* out) {
    __shared__ __align__(16) __half tile[32 * 8];
    const int t = threadIdx.x;
    for (int i = t; i < 32 * 8; i += SIZE) tile[i] = x[i % SIZE];
    __syncthreads();
    unsigned fragment[4];
    ldmatrix_transposed(fragment, tile + (t % 32 + BUG) * 8);  // <-
    out[t] = fragment[0];
}

extern "C" __global__ void matrix_in_global_memory(const float* x, float* out) {
    __shared__ __align__(16) __half tile[32 * 8];
    const int t = threadIdx.x;
    for (int i = t; i < 32 * 8; i += SIZE) tile[i] = x[i % SIZE];
    __syncthreads();
    unsigned fragment[4];
    ldmatrix(fragment, BUG ? reinterpret_cast<const __half*>(x) : tile);  // <-
    out[t] = fragment[0];
}

extern "C" __global__ void matrix_never_written(const float* x, float* out) {
    __shared__ __align__(16) __half tile[32 * 8];
    const int t = threadIdx.x;
    for (int i = t; i < 32 * 8 - BUG; i += SIZE) tile[i] = x[i % SIZE];
    __syncthreads();
    unsigned fragment[4];
    ldmatrix(fragment, tile + t % 32 * 8);  // <-
    out[t] = fragment[3];
}

extern "C" __global__ void matrix_read_too_early(const float* x, float* out) {
    __shared__ __align__(16) __half tile[32 * 8];
    const int t = threadIdx.x;
    for (int i = t; i < 32 * 8; i += SIZE) tile[i] = x[i % SIZE];  // <-
    if (!BUG) __syncthreads();
    unsigned fragment[4];
    ldmatrix(fragment, tile + t % 32 * 8);  // <-
    out[t] = fragment[0];
}

extern "C" __global__ void product_in_a_branch(const float* x, float* out) {
    const int t = threadIdx.x;
    const unsigned a[4] = {};
    float d[4] = {x[t], x[t], x[t], x[t]};
    if (!BUG || t % 32 < 16)
        mma(d, a, 0, 0);  // <-
    out[t] = d[0];
}
