// What a .cu file needs in order to be C++: the compiler is told to include this first. How it works: docs/emulator.md.
#pragma once

#define __CUDA_EMULATOR__ 1  // for kernels that hide inline PTX in a macro
#define __CUDACC__ 1

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <cmath>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
// Within a function thread_local implies static, and `extern thread_local` is legal, so one word does for both kinds of
// shared memory. It also tells shared arrays from all others: in the symbol table they are of the type TLS.
#define __shared__ thread_local

// Vectors have CUDA's sizes and alignments.

#define EMULATOR_VECTOR(T, name, align2, align4)                                                     \
    struct alignas(align2) name##2 { T x, y; };                                                      \
    struct name##3 { T x, y, z; };                                                                   \
    struct alignas(align4) name##4 { T x, y, z, w; };                                                \
    inline __attribute__((unused)) name##2 make_##name##2(T x, T y) { return {x, y}; }               \
    inline __attribute__((unused)) name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }       \
    inline __attribute__((unused)) name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTOR(float, float, 8, 16)
EMULATOR_VECTOR(double, double, 16, 16)
EMULATOR_VECTOR(int, int, 8, 16)
EMULATOR_VECTOR(unsigned, uint, 8, 16)
EMULATOR_VECTOR(short, short, 4, 8)
EMULATOR_VECTOR(unsigned char, uchar, 2, 4)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// The runtime writes these whenever it resumes a thread. To that thread they are constant, as the compiler may know.
extern "C" const uint3 threadIdx, blockIdx, blockDim, gridDim;
constexpr int warpSize = 32;

// Calls into the runtime. A point where threads meet is identified by its line, not by its address: a compiler may
// duplicate a call, and threads that wait at two copies of it have still met. What calls is always inlined, so that the
// return address is within the kernel and tells its line.

extern "C" int emulator_barrier(int predicate, int line);  // returns for how many threads the predicate holds
extern "C" uint64_t emulator_shuffle(unsigned mask, uint64_t value, int source, int line);
extern "C" unsigned emulator_ballot(unsigned mask, int predicate, int line);
extern "C" void emulator_syncwarp(unsigned mask, int line);
extern "C" int emulator_lane();
extern "C" void emulator_atomic(const void* address, unsigned size, void* caller);

#define EMULATOR_HERE int line = __builtin_LINE()

__forceinline__ void __syncthreads(EMULATOR_HERE) { emulator_barrier(0, line); }
__forceinline__ int __syncthreads_count(int p, EMULATOR_HERE) { return emulator_barrier(p, line); }
__forceinline__ int __syncthreads_or(int p, EMULATOR_HERE) { return emulator_barrier(p, line) != 0; }
__forceinline__ int __syncthreads_and(int p, EMULATOR_HERE) { return emulator_barrier(!p, line) == 0; }
__forceinline__ void __syncwarp(unsigned mask = 0xffffffff, EMULATOR_HERE) { emulator_syncwarp(mask, line); }
__forceinline__ unsigned __ballot_sync(unsigned mask, int p, EMULATOR_HERE) { return emulator_ballot(mask, p, line); }
__forceinline__ int __any_sync(unsigned mask, int p, EMULATOR_HERE) { return emulator_ballot(mask, p, line) != 0; }
__forceinline__ int __all_sync(unsigned mask, int p, EMULATOR_HERE) { return emulator_ballot(mask, !p, line) == 0; }
// Blocks run in sequence and memory is sequentially consistent, so a fence has nothing to do. It orders no accesses
// either: only barriers do, as far as the checks are concerned.
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace emulator {
template <class T> __forceinline__ T shuffle(unsigned mask, T value, int source, int line) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = emulator_shuffle(mask, bits, source, line);
    memcpy(&value, &bits, sizeof(T));
    return value;
}
}  // namespace emulator

// A segment of `width` lanes is a warp of its own; a lane whose source lies outside keeps its value.

template <class T>
__forceinline__ T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMULATOR_HERE) {
    int first = emulator_lane() & ~(width - 1);
    return emulator::shuffle(mask, value, first | (source & (width - 1)), line);
}

template <class T>
__forceinline__ T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_HERE) {
    int lane = emulator_lane(), source = lane - int(delta);
    return emulator::shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, line);
}

template <class T>
__forceinline__ T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_HERE) {
    int lane = emulator_lane(), source = lane + int(delta);
    return emulator::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, line);
}

template <class T>
__forceinline__ T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMULATOR_HERE) {
    int lane = emulator_lane(), source = lane ^ bits;
    return emulator::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, line);
}

// Atomics are plain: one thread runs at a time. The runtime is told of each; the accesses themselves are not
// instrumented, as they would look like races.

namespace emulator {
template <class T> struct same { using type = T; };  // keeps the second argument from deciding what T is
template <class T> using Same = typename same<T>::type;
}  // namespace emulator

#define EMULATOR_ATOMIC(name, result)                                                               \
    template <class T>                                                                              \
    __attribute__((noinline, no_sanitize("thread"))) T name(T* address, emulator::Same<T> value) {  \
        emulator_atomic(address, sizeof(T), __builtin_return_address(0));                           \
        T old = *address;                                                                           \
        *address = result;                                                                          \
        return old;                                                                                 \
    }
EMULATOR_ATOMIC(atomicAdd, old + value)
EMULATOR_ATOMIC(atomicSub, old - value)
EMULATOR_ATOMIC(atomicExch, value)
EMULATOR_ATOMIC(atomicMax, old > value ? old : value)
EMULATOR_ATOMIC(atomicMin, old < value ? old : value)
EMULATOR_ATOMIC(atomicAnd, old & value)
EMULATOR_ATOMIC(atomicOr, old | value)
EMULATOR_ATOMIC(atomicXor, old ^ value)

template <class T>
__attribute__((noinline, no_sanitize("thread"))) T
atomicCAS(T* address, emulator::Same<T> compare, emulator::Same<T> value) {
    emulator_atomic(address, sizeof(T), __builtin_return_address(0));
    T old = *address;
    if (old == compare) *address = value;
    return old;
}
template <> float atomicMax(float*, float) = delete;  // CUDA has none either
template <> float atomicMin(float*, float) = delete;

// Arithmetic. The fast names are as exact here as the others: what they cost in precision, only a GPU can tell.

template <class T> T __ldg(const T* address) { return *address; }
template <class T> T __ldcs(const T* address) { return *address; }
template <class T> T __ldcg(const T* address) { return *address; }
template <class T> void __stcs(T* address, emulator::Same<T> value) { *address = value; }

template <class T> constexpr T min(T a, emulator::Same<T> b) { return b < a ? b : a; }
template <class T> constexpr T max(T a, emulator::Same<T> b) { return a < b ? b : a; }
inline float min(float a, float b) { return fminf(a, b); }  // as CUDA's: NaN only if both are
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float rsqrt(float x) { return 1 / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __exp10f(float x) { return exp10f(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline float __powf(float x, float y) { return powf(x, y); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return 1 / sqrtf(x); }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned((uint64_t(x) * y) >> 32); }
inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(x) * y) >> 64);
}
inline int __mulhi(int x, int y) { return int((int64_t(x) * y) >> 32); }

namespace emulator {
template <class To, class From> To bits(From value) {
    To result;
    static_assert(sizeof(To) == sizeof(From));
    memcpy(&result, &value, sizeof(To));
    return result;
}
}  // namespace emulator
inline int __float_as_int(float x) { return emulator::bits<int>(x); }
inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
inline float __int_as_float(int x) { return emulator::bits<float>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits<float>(x); }

// How a kernel is called from outside: its arguments as an array of addresses. Its parameters are described by three
// strings of one character each: '*' for a pointer, the kind of number in NumPy's letters, its size; '?' if it is none.

namespace emulator {
template <class T> struct parameter {
    static constexpr bool number = std::is_arithmetic<T>::value;
    static constexpr char kind = !number                            ? '?'
                                 : std::is_same<T, bool>::value     ? 'b'
                                 : std::is_floating_point<T>::value ? 'f'
                                 : std::is_signed<T>::value         ? 'i'
                                                                    : 'u';
    static constexpr char pointer = '.', size = number ? char('0' + sizeof(T)) : '?';
};
template <class T> struct parameter<const T> : parameter<T> {};
template <> struct parameter<void> { static constexpr char kind = '?', size = '?'; };
template <class T> struct parameter<T*> : parameter<T> { static constexpr char pointer = '*'; };

template <class... P> const char* signature(void (*)(P...)) {
    static const char text[] = {parameter<P>::pointer..., parameter<P>::kind..., parameter<P>::size..., '\0'};
    return text;
}

// Not instrumented: the array of addresses is no memory of the kernel's.
template <class... P, size_t... I>
__attribute__((no_sanitize("thread", "alignment")))
void call(void (*kernel)(P...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<P*>(arguments[I])...);
}

template <class... P>
__attribute__((no_sanitize("thread", "alignment"))) void call(void (*kernel)(P...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<P...>());
}
}  // namespace emulator

#define EMULATOR_EXPORT(number, ...)                                                                            \
    extern "C" __attribute__((visibility("default"))) const char* emulator_signature_##number() {               \
        return emulator::signature(__VA_ARGS__);                                                                \
    }                                                                                                           \
    extern "C" __attribute__((visibility("default"), no_sanitize("thread", "alignment")))                       \
    void emulator_kernel_##number(void** arguments) { emulator::call(__VA_ARGS__, arguments); }
