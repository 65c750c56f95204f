// Vectors of LANES numbers on registers of any width.
//
// Every sum is defined on LANES lanes, so a result has the same bits whatever the register's width. Fused multiply-adds
// are written out and the compiler is told to contract nothing (-ffp-contract=off): what it chooses to contract differs
// from target to target.

#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

#define INLINE inline __attribute__((always_inline))
// For a loop whose sums fill the registers: inlined, the compiler would keep some of a larger function's variables
// there. (noinline alone is not enough: GCC 12 then drops stores of `expand` as if nobody read them, misled by its own
// summary of what the function writes; noipa forbids such summaries.)
#if defined(__clang__)
#define NOT_INLINE __attribute__((noinline))
#else
#define NOT_INLINE __attribute__((noipa))
#endif

constexpr int LANES = 16;
#if defined(__AVX512F__)
constexpr int WIDTH = 16;  // numbers of a register
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
constexpr int PARTS = LANES / WIDTH;

typedef float reg __attribute__((vector_size(WIDTH * 4)));
typedef int32_t ireg __attribute__((vector_size(WIDTH * 4)));

INLINE reg load_reg(const float* p) {
    reg r;
    std::memcpy(&r, p, sizeof r);
    return r;
}

INLINE void store_reg(float* p, reg r) {
    std::memcpy(p, &r, sizeof r);
}

INLINE reg broadcast(float x) {
    return x - reg{};
}

// a * b + c, rounded once
INLINE reg fma(reg a, reg b, reg c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__ARM_NEON)
    return vfmaq_f32(c, a, b);
#else
    for (int i = 0; i < WIDTH; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#endif
}

// Makes the compiler keep r in its register up to here: else it writes the last sum that r is a factor of over r, and
// moves it back later.
INLINE void keep(reg r) {
#if defined(__x86_64__)
    asm volatile("" ::"v"(r));
#elif defined(__ARM_NEON)
    asm volatile("" ::"w"(r));
#endif
}

// the numbers indices... of a and, from WIDTH on, of b
template <int... indices>
INLINE reg shuffle(reg a, reg b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, indices...);
#else
    return __builtin_shuffle(a, b, ireg{indices...});
#endif
}

struct vec {
    reg part[PARTS];
};

template <class Op, class... Vectors>
INLINE vec map(const Op& op, const Vectors&... v) {
    vec out;
#pragma GCC unroll 4
    for (int i = 0; i < PARTS; i++) out.part[i] = op(v.part[i]...);
    return out;
}

INLINE vec operator+(const vec& a, const vec& b) {
    return map([](reg x, reg y) { return x + y; }, a, b);
}
INLINE vec operator-(const vec& a, const vec& b) {
    return map([](reg x, reg y) { return x - y; }, a, b);
}
INLINE vec operator*(const vec& a, const vec& b) {
    return map([](reg x, reg y) { return x * y; }, a, b);
}
INLINE vec operator/(const vec& a, const vec& b) {
    return map([](reg x, reg y) { return x / y; }, a, b);
}
INLINE vec fma(const vec& a, const vec& b, const vec& c) {
    return map([](reg x, reg y, reg z) { return fma(x, y, z); }, a, b, c);
}

INLINE vec splat(float x) {
    return map([x](reg) { return broadcast(x); }, vec{});
}

INLINE vec load(const float* p) {
    vec v;
#pragma GCC unroll 4
    for (int i = 0; i < PARTS; i++) v.part[i] = load_reg(p + i * WIDTH);
    return v;
}

INLINE void store(float* p, const vec& v) {
#pragma GCC unroll 4
    for (int i = 0; i < PARTS; i++) store_reg(p + i * WIDTH, v.part[i]);
}

INLINE reg larger(reg a, reg b) {
    return a > b ? a : b;
}

INLINE vec larger(const vec& a, const vec& b) {
    return map([](reg x, reg y) { return larger(x, y); }, a, b);
}

template <int distance, int... i>
INLINE reg lower_by(reg r, std::integer_sequence<int, i...>) {
    return shuffle<(i + distance) % WIDTH...>(r, r);
}

// op over lanes i and i + distance, for distances down to 1; the result is lane 0's
template <int distance, class Op>
INLINE float reduce(vec v, const Op& op) {
    if constexpr (distance >= WIDTH) {
#pragma GCC unroll 4
        for (int i = 0; i < distance / WIDTH; i++) v.part[i] = op(v.part[i], v.part[i + distance / WIDTH]);
    } else {
        v.part[0] = op(v.part[0], lower_by<distance>(v.part[0], std::make_integer_sequence<int, WIDTH>()));
    }
    if constexpr (distance > 1) return reduce<distance / 2>(v, op);
    return v.part[0][0];
}

INLINE float largest(const vec& v) {
    return reduce<LANES / 2>(v, [](reg a, reg b) { return larger(a, b); });
}

INLINE float sum(const vec& v) {
    return reduce<LANES / 2>(v, [](reg a, reg b) { return a + b; });
}

// e^x to 2 ulp (Cephes' coefficients) from -87 to 88, the ends beyond; 0 below -88; NaN stays NaN. Several vectors at
// once, step by step: the steps of a single one would wait for each other.
template <int count>
INLINE void exp(vec (&x)[count]) {
    constexpr float log2_e = 1.44269504f,
                    round = 12582912.0f;  // adding 1.5 * 2^23 leaves the nearest integer in a float's last bits
    vec rounded[count], p[count];
    const auto each = [](const auto& step) {
#pragma GCC unroll 8
        for (int i = 0; i < count; i++) step(i);
    };
    const auto limit = [](reg v) {
        v = v < -88.0f ? broadcast(-88.0f) : v;
        return v > 88.0f ? broadcast(88.0f) : v;
    };
    each([&](int i) { x[i] = map(limit, x[i]); });
    each([&](int i) { rounded[i] = fma(x[i], splat(log2_e), splat(round)); });
    each([&](int i) { x[i] = fma(rounded[i] - splat(round), splat(-0.693359375f), x[i]); });
    each([&](int i) { x[i] = fma(rounded[i] - splat(round), splat(2.12194440e-4f), x[i]); });
    each([&](int i) { p[i] = fma(x[i], splat(1.9875691500e-4f), splat(1.3981999507e-3f)); });
    for (const float c : {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        each([&](int i) { p[i] = fma(p[i], x[i], splat(c)); });
    each([&](int i) { p[i] = fma(p[i], x[i] * x[i], x[i] + splat(1.0f)); });
    const auto scale = [](reg v, reg n) { return v * (reg)(((ireg)n + 127) << 23); };
    each([&](int i) { x[i] = map(scale, p[i], rounded[i]); });
}

INLINE vec exp(const vec& x) {
    vec one[] = {x};
    exp(one);
    return one[0];
}
