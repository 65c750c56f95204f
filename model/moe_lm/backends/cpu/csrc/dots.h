// Sums of products of small integers, lane by lane: exact, so that every processor's instructions give the same.

#pragma once

#include "words.h"

// A lane's number as a factor for `Dots::flush`: twice, where the instruction multiplies 16-bit numbers in pairs.
#if defined(__AVX512VNNI__) || !defined(__AVX2__)
constexpr bool WIDE_FACTORS = true;
#else
constexpr bool WIDE_FACTORS = false;
#endif

INLINE ireg factors(ireg r) {
    return WIDE_FACTORS ? r : (ireg)(((ureg)r & 0xffff) | ((ureg)r << 16));
}

// The two products of a lane's signed 16-bit numbers, added.
INLINE ireg pair_products(ireg a, int32_t b) {
#if defined(__AVX512BW__)
    return (ireg)_mm512_madd_epi16((__m512i)a, _mm512_set1_epi32(b));
#elif defined(__AVX2__)
    return (ireg)_mm256_madd_epi16((__m256i)a, _mm256_set1_epi32(b));
#else
    return ((a << 16) >> 16) * static_cast<int16_t>(b) + (a >> 16) * (b >> 16);
#endif
}

// sums of weights * activations, where no weight is larger than `largest`; with 128 they are signed, else not
template <int largest>
struct Dots {
#if defined(__AVX512VNNI__) || !defined(__AVX2__)
    static constexpr int OFFSET = largest == 128 ? 128 : 0;  // what was added to each signed weight
    static constexpr int LIMIT = 8;                          // words that `add` takes before a `flush`
#else
    static constexpr int OFFSET = 0;
    static constexpr int LIMIT = largest == 128 ? 1 : largest == 15 ? 8 : largest == 31 ? 4 : 2;
    static_assert(LIMIT * 2 * 127 * largest <= 32767, "16-bit sums would overflow");
#endif
    ireg part{}, sums{};

    // four weights of each lane times the four activations of x
    INLINE void add(ureg w, int32_t x) {
#if defined(__AVX512VNNI__)
        part = (ireg)_mm512_dpbusd_epi32((__m512i)part, (__m512i)w, _mm512_set1_epi32(x));
#elif defined(__AVX512BW__)
        __m512i a = (__m512i)w, b = _mm512_set1_epi32(x);
        if (largest == 128) {
            b = _mm512_mask_sub_epi8(b, _mm512_movepi8_mask(a), _mm512_setzero_si512(), b);
            a = _mm512_abs_epi8(a);
        }
        part = (ireg)_mm512_add_epi16((__m512i)part, _mm512_maddubs_epi16(a, b));
#elif defined(__AVX2__)
        __m256i a = (__m256i)w, b = _mm256_set1_epi32(x);
        if (largest == 128) {
            b = _mm256_sign_epi8(b, a);
            a = _mm256_abs_epi8(a);
        }
        part = (ireg)_mm256_add_epi16((__m256i)part, _mm256_maddubs_epi16(a, b));
        asm(""
            : "+x"(part));  // as a tree, which GCC makes of a chain, the sums of some rows do not fit into 16 registers
#else
        for (int j = 0; j < 4; j++) part += unsigned_bytes(w, j) * static_cast<int8_t>(x >> (8 * j));
#endif
    }

    // adds what `add` gave, times the lane's factor, to the sums
    INLINE void flush(ireg factor) {
#if defined(__AVX512VNNI__) || !defined(__AVX2__)
        sums += part * factor;
#elif defined(__AVX512BW__)
        sums += (ireg)_mm512_madd_epi16((__m512i)part, (__m512i)factor);
#else
        sums += (ireg)_mm256_madd_epi16((__m256i)part, (__m256i)factor);
#endif
        part = ireg{};
    }

    INLINE void flush() {
        if constexpr (WIDE_FACTORS) {
            sums += part;
            part = ireg{};
        } else {
            flush((ireg)words(0x10001));
        }
    }
};
