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

// Keeps the compiler from adding up a chain of terms as a tree, as GCC does with whole numbers: the terms of some rows
// do not fit into AVX2's 16 registers.
INLINE void in_order(ireg& sums) {
#if defined(__AVX2__)
    asm("" : "+x"(sums));
#else
    (void)sums;
#endif
}

// sums of weights * activations, where no weight is larger than `largest`; with 128 they are signed, else not
template <int largest>
struct Dots {
#if defined(__AVX512VNNI__) || !defined(__AVX2__)
    static constexpr int PLANES = 1;  // words that a word of weights is taken apart into
    static constexpr int LIMIT = 8;   // words of weights that `add` takes before a `flush`
#else
    // Products are summed in 16 bits: a byte is taken as its upper and its lower half.
    static constexpr int PLANES = largest == 128 ? 2 : 1;
    static constexpr int LIMIT = largest == 128 || largest == 15 ? 8 : largest == 31 ? 4 : 2;
    static_assert(LIMIT * 2 * 127 * (largest == 128 ? 15 : largest) <= 32767, "16-bit sums would overflow");
#endif
    static constexpr int OFFSET = largest == 128 ? 128 : 0;  // what is added to each signed weight
    ireg parts[PLANES] = {}, sums{};

    // plane i of four weights of each lane
    static INLINE ureg plane(ureg four, int i) {
        if (OFFSET) four ^= 0x80808080;
        return PLANES == 1 ? four : (i ? four : four >> 4) & 0x0f0f0f0f;
    }

    // a plane of four weights of each lane times the four activations of x
    INLINE void add(int i, ureg w, int32_t x) {
        ireg& part = parts[i];
#if defined(__AVX512VNNI__)
        part = (ireg)_mm512_dpbusd_epi32((__m512i)part, (__m512i)w, _mm512_set1_epi32(x));
#elif defined(__AVX512BW__)
        part = (ireg)_mm512_add_epi16((__m512i)part, _mm512_maddubs_epi16((__m512i)w, _mm512_set1_epi32(x)));
#elif defined(__AVX2__)
        part = (ireg)_mm256_add_epi16((__m256i)part, _mm256_maddubs_epi16((__m256i)w, _mm256_set1_epi32(x)));
        in_order(part);
#else
        for (int j = 0; j < 4; j++) part += unsigned_bytes(w, j) * static_cast<int8_t>(x >> (8 * j));
#endif
    }

    // adds what `add` gave, times the lane's factor, to the sums
    INLINE void flush(ireg factor) {
        for (ireg& part : parts) {
            const ireg times = PLANES == 2 && &part == parts ? factor * 16 : factor;
#if defined(__AVX512VNNI__) || !defined(__AVX2__)
            sums += part * times;
#elif defined(__AVX512BW__)
            sums += (ireg)_mm512_madd_epi16((__m512i)part, (__m512i)times);
#else
            sums += (ireg)_mm256_madd_epi16((__m256i)part, (__m256i)times);
            in_order(sums);
#endif
            part = ireg{};
        }
    }

    INLINE void flush() {
        if constexpr (WIDE_FACTORS) {
            sums += parts[0];
            parts[0] = ireg{};
        } else {
            flush((ireg)words(0x10001));
        }
    }
};
