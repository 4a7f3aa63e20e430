// Half precision, in place of CUDA's header: arithmetic in float, rounded whenever a result is kept.
#pragma once

struct __half {
    _Float16 value;
    __half() = default;
    __half(float x) : value(static_cast<_Float16>(x)) {}
    __half(double x) : value(static_cast<_Float16>(x)) {}
    __half(int x) : value(static_cast<_Float16>(x)) {}
    operator float() const { return static_cast<float>(value); }
};
using half = __half;
struct alignas(4) __half2 { __half x, y; };
using half2 = __half2;

inline __half __float2half(float x) { return x; }
inline __half __float2half_rn(float x) { return x; }
inline __half __double2half(double x) { return x; }
inline float __half2float(__half x) { return x; }
inline __half2 make_half2(__half x, __half y) { return {x, y}; }
inline __half2 __floats2half2_rn(float x, float y) { return {x, y}; }
inline __half2 __float22half2_rn(float2 x) { return {x.x, x.y}; }
inline __half2 __halves2half2(__half x, __half y) { return {x, y}; }
inline float2 __half22float2(__half2 x) { return {x.x, x.y}; }
inline float __low2float(__half2 x) { return x.x; }
inline float __high2float(__half2 x) { return x.y; }

// Between two halves; what mixes them with other types is float arithmetic, by conversion.
#define EMULATOR_HALF(op)                                                                          \
    inline __half operator op(__half a, __half b) { return float(a) op float(b); }                 \
    inline __half& operator op##=(__half& a, __half b) { return a = float(a) op float(b); }
EMULATOR_HALF(+)
EMULATOR_HALF(-)
EMULATOR_HALF(*)
EMULATOR_HALF(/)

inline __half __hadd(__half a, __half b) { return a + b; }
inline __half __hsub(__half a, __half b) { return a - b; }
inline __half __hmul(__half a, __half b) { return a * b; }
inline __half __hdiv(__half a, __half b) { return a / b; }
inline __half __hfma(__half a, __half b, __half c) { return fmaf(a, b, c); }

namespace emulator {
template <> struct parameter<__half> { static constexpr char pointer = '.', kind = 'f', size = '2'; };
}  // namespace emulator
