// Quantised weights of 16 outputs side by side: a word is four weights' bytes of one output, a register holds the words
// of WIDTH outputs.

#pragma once

#include "simd.h"

constexpr int WORDS = LANES * 4;   // bytes of one word of each output
constexpr int HALVES = LANES * 2;  // bytes of one float16 number of each output

typedef uint32_t ureg __attribute__((vector_size(WIDTH * 4)));

INLINE ureg words(uint32_t x) {
    return x - ureg{};
}

INLINE ureg load_words(const uint8_t* p) {
    ureg r;
    std::memcpy(&r, p, sizeof r);
    return r;
}

INLINE void store_words(uint8_t* p, ureg r) {
    std::memcpy(p, &r, sizeof r);
}

INLINE reg to_float(ireg r) {
    return __builtin_convertvector(r, reg);
}

// WIDTH float16 numbers
INLINE reg load_halves(const uint8_t* p) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__AVX2__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
    typedef uint16_t narrow __attribute__((vector_size(WIDTH * 2)));
    narrow n;
    std::memcpy(&n, p, sizeof n);
    const ureg h = __builtin_convertvector(n, ureg), size = h & 0x7fff;
    const reg finite = (reg)(size << 13) * 0x1p112f;  // exponents begin 112 lower
    const ureg bits = size < 0x7c00 ? (ureg)finite : (size << 13) | 0x7f800000;
    return (reg)(bits | (h & 0x8000) << 16);
#endif
}

// WIDTH bytes (compilers convert them one by one)
INLINE ireg load_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
    return (ireg)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#elif defined(__AVX2__)
    return (ireg)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
#else
    typedef uint8_t bytes __attribute__((vector_size(WIDTH)));
    bytes b;
    std::memcpy(&b, p, sizeof b);
    return __builtin_convertvector(b, ireg);
#endif
}

// byte j of every word
INLINE ireg unsigned_bytes(ureg r, int j) {
    return (ireg)((r >> (8 * j)) & 0xff);
}

INLINE ireg signed_bytes(ureg r, int j) {
    return (ireg)(r << (24 - 8 * j)) >> 24;
}
