// Packed blocks of quantised weights: what GGUF stores for a block of one output, for LANES outputs side by side.
//
// A packed block has its float16 numbers first (scale, then minimum), each for all outputs, then its words. They are
// the file's own bytes, but for a fifth bit of 32 weights (see repack.cpp), and Q6_K's in another order. Weights are
// taken 32 at a time, a sub-block, and in it by words of four: word g is of weights 4 g .. 4 g + 3. Each function is
// for one part of the outputs, a register.

#pragma once

#include "dots.h"

// as pack_quantized.py orders them
enum Kind : int { Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, GROUP_32, GROUP_64, GROUP_128, KINDS };

constexpr int SUB = 32;      // weights of a sub-block
constexpr int AHEAD = 4096;  // bytes that are asked for before they are read

template <int halves, int words>
struct Packed {
    static constexpr int HALF_NUMBERS = halves, WORD_NUMBERS = words, BYTES = halves * HALVES + words * WORDS;

    static INLINE reg half(const uint8_t* block, int i, int part) {
        return load_halves(block + i * HALVES + part * WIDTH * 2);
    }
    static INLINE ureg word(const uint8_t* block, int i, int part) {
        return load_words(block + halves * HALVES + i * WORDS + part * WIDTH * 4);
    }
    // which of the file's words word i is
    static constexpr int file_word(int i) { return i; }
};

// 32 weights of 4, 5 or 8 bits: scale * (number - OFFSET), or with a minimum scale * number + minimum
template <int bits, bool has_minimum>
struct Small : Packed<1 + has_minimum, bits == 8 ? 8 : bits> {
    using Base = Packed<1 + has_minimum, bits == 8 ? 8 : bits>;
    using Base::half, Base::word;
    static constexpr int WEIGHTS = 32, LARGEST = bits == 8 ? 128 : (1 << bits) - 1;
    static constexpr int OFFSET = has_minimum || bits == 8 ? 0 : 1 << (bits - 1);
    static constexpr bool MINIMUM = has_minimum, SUPER = false, ZERO_POINTS = false;

    static INLINE ureg quants(const uint8_t* block, int, int g, int part) {
        if (bits == 8) return word(block, g, part);
        const ureg low = (word(block, g % 4 + (bits == 5), part) >> (g < 4 ? 0 : 4)) & 0x0f0f0f0f;
        if (bits == 4) return low;
        const ureg high = word(block, 0, part);
        return low | ((g < 4 ? high << (4 - g) : high >> (g - 4)) & 0x10101010);
    }
    struct Scale {
        reg d, m;
        INLINE void load(const uint8_t* block, int, int part) {
            d = half(block, 0, part);
            if (has_minimum) m = half(block, 1, part);
        }
        INLINE reg times(reg number, int) const { return has_minimum ? d * number + m : d * number; }
    };
};

// 8 sub-blocks of 4 or 5 bits: scale * scale of the sub-block * number - minimum * minimum of the sub-block
template <int bits>
struct Super : Packed<2, 3 + (bits == 5 ? 8 : 0) + 32> {
    using Base = Packed<2, 3 + (bits == 5 ? 8 : 0) + 32>;
    using Base::half, Base::word;
    static constexpr int WEIGHTS = 256, LARGEST = (1 << bits) - 1, OFFSET = 0, FACTORS = 8;
    static constexpr bool MINIMUM = true, SUPER = true, ZERO_POINTS = false, SIGNED_FACTORS = false;

    static INLINE ureg quants(const uint8_t* block, int s, int g, int part) {
        const int first = bits == 5 ? 11 : 3;
        const ureg low = (word(block, first + s / 2 * 8 + g, part) >> (s % 2 * 4)) & 0x0f0f0f0f;
        return bits == 4 ? low : low | (((word(block, 3 + g, part) >> s) & 0x01010101) << 4);
    }
    // the 6-bit scales of sub-blocks 4 i .. 4 i + 3
    static INLINE ureg factor_bytes(const uint8_t* block, int i, int part) {
        const ureg a = word(block, 0, part);
        return i ? (word(block, 2, part) & 0x0f0f0f0f) | ((a >> 2) & 0x30303030) : a & 0x3f3f3f3f;
    }
    // their minimums, each of which is to be multiplied with the sum of the sub-block's activations
    static INLINE ureg sum_bytes(const uint8_t* block, int i, int part) {
        const ureg b = word(block, 1, part);
        return i ? ((word(block, 2, part) >> 4) & 0x0f0f0f0f) | ((b >> 2) & 0x30303030) : b & 0x3f3f3f3f;
    }
    struct Scale {
        reg d, m;
        INLINE void load(const uint8_t* block, int s, int part) {
            d = half(block, 0, part) * to_float(unsigned_bytes(factor_bytes(block, s / 4, part), s % 4));
            m = half(block, 1, part) * to_float(unsigned_bytes(sum_bytes(block, s / 4, part), s % 4));
        }
        INLINE reg times(reg number, int) const { return d * number - m; }
    };
};

// 16 sub-blocks of 16 weights of 6 bits: scale * signed scale of the sub-block * (number - 32). First the scales, then
// for each half of the block its upper and its lower bits: as they are read, so that memory is asked for them in order.
struct SixBits : Packed<1, 52> {
    static constexpr int WEIGHTS = 256, LARGEST = 63, OFFSET = 32, FACTORS = 16;
    static constexpr bool MINIMUM = false, SUPER = true, ZERO_POINTS = false, SIGNED_FACTORS = true;

    static constexpr int file_word(int i) {
        const int half = (i - 4) / 24, at = (i - 4) % 24;
        return i < 4 ? 48 + i : at < 8 ? 32 + half * 8 + at : half * 16 + at - 8;
    }
    static INLINE ureg quants(const uint8_t* block, int s, int g, int part) {
        const int first = 4 + s / 4 * 24 + g, quarter = s % 4;
        const ureg low = (word(block, first + 8 + quarter % 2 * 8, part) >> (quarter / 2 * 4)) & 0x0f0f0f0f;
        return low | (((word(block, first, part) >> (quarter * 2)) & 0x03030303) << 4);
    }
    // the scales of sub-blocks 4 i .. 4 i + 3; an offset of all weights is multiplied with the sums of activations
    static INLINE ureg factor_bytes(const uint8_t* block, int i, int part) { return word(block, i, part); }
    static INLINE ureg sum_bytes(const uint8_t* block, int i, int part) { return word(block, i, part); }

    struct Scale {
        reg d[2];
        INLINE void load(const uint8_t* block, int s, int part) {
            const ureg four = factor_bytes(block, s / 2, part);
            for (int i = 0; i < 2; i++) d[i] = half(block, 0, part) * to_float(signed_bytes(four, s % 2 * 2 + i));
        }
        INLINE reg times(reg number, int g) const { return d[g / 4] * number; }
    };
};

// A group of GPTQ or AWQ, or as much of a larger one: (number - zero point) * scale. First the outputs' scales in
// float32 and their zero points, a byte each, then words as those of 32 weights of 4 bits.
template <int weights>
struct Grouped {
    static constexpr int WEIGHTS = weights, LARGEST = 15, OFFSET = 0, HALF_NUMBERS = 1, ZEROS_AT = LANES * 4;
    static constexpr int WORDS_AT = ZEROS_AT + LANES, BYTES = WORDS_AT + weights / 8 * WORDS;
    static constexpr bool MINIMUM = false, SUPER = false, ZERO_POINTS = true;

    static INLINE ureg quants(const uint8_t* block, int s, int g, int part) {
        const ureg both = load_words(block + WORDS_AT + (s * 4 + g % 4) * WORDS + part * WIDTH * 4);
        return (both >> (g < 4 ? 0 : 4)) & 0x0f0f0f0f;
    }
    static INLINE reg half(const uint8_t* block, int, int part) { return (reg)load_words(block + part * WIDTH * 4); }
    static INLINE ireg zeros(const uint8_t* block, int part) { return load_bytes(block + ZEROS_AT + part * WIDTH); }
    struct Scale {
        reg d, zero;
        INLINE void load(const uint8_t* block, int, int part) {
            d = half(block, 0, part), zero = to_float(zeros(block, part));
        }
        INLINE reg times(reg number, int) const { return (number - zero) * d; }
    };
};

// use(the layout of a kind, as a value)
template <class Use>
INLINE auto with_kind(int kind, const Use& use) {
    switch (kind) {
        case Q8_0:
            return use(Small<8, false>());
        case Q4_0:
            return use(Small<4, false>());
        case Q4_1:
            return use(Small<4, true>());
        case Q5_0:
            return use(Small<5, false>());
        case Q5_1:
            return use(Small<5, true>());
        case Q4_K:
            return use(Super<4>());
        case Q5_K:
            return use(Super<5>());
        case Q6_K:
            return use(SixBits());
        case GROUP_32:
            return use(Grouped<32>());
        case GROUP_64:
            return use(Grouped<64>());
        default:
            return use(Grouped<128>());
    }
}

inline std::size_t stripe_bytes(int kind, int K) {
    return with_kind(kind, [=](auto b) { return static_cast<std::size_t>(K / b.WEIGHTS) * b.BYTES; });
}
