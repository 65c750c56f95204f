// Rows of activations as 8-bit integers in blocks, each with its scale: llama.cpp's Q8_0 and Q8_1 (32 numbers, float16
// scales) for weights in blocks of 32, its Q8_K (256 numbers, float32 scales) for weights in blocks of 256.

#pragma once

#include <cmath>
#include <memory>

#include "parallel.h"
#include "words.h"

struct SmallBlock {
    float d, s;   // the scale, and the scale times the sum of the numbers
    int32_t sum;  // of the numbers
};

struct SuperBlock {
    float d;
    // sums of 32 and of 16 numbers, two 16-bit integers each: of the first and third of every four, then of the second
    // and fourth, as `byte_pairs` has the bytes of a word
    int32_t sums32[4], sums16[8];
};

INLINE float rounded_to_half(float x) {
    const float size = std::fabs(x);
    if (!(size < 0x1p-14f)) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if ((bits & 0x7fffffff) < 0x7f800000) bits = (bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fffu;
        float rounded;
        std::memcpy(&rounded, &bits, 4);
        return std::fabs(rounded) > 65504.0f ? rounded * INFINITY : rounded;
    }
    return std::copysign((size + 0.5f) - 0.5f, x);
}

// The largest |x|, or NaN or infinity where there is one.
INLINE float largest_size(const float* x, int n) {
    ireg top{};
    for (int i = 0; i < n; i += WIDTH) {
        const ireg bits = (ireg)load_reg(x + i) & 0x7fffffff;
        top = bits > top ? bits : top;
    }
    int32_t largest = 0;
    for (int i = 0; i < WIDTH; i++) largest = std::max(largest, top[i]);
    float size;
    std::memcpy(&size, &largest, 4);
    return size;
}

// x * factor rounded to whole numbers from -127 to 127, ties away from zero or to the even one; returns their sum
template <bool ties_to_even>
INLINE int32_t round_to_bytes(const float* x, float factor, int n, int8_t* to) {
    typedef int8_t narrow __attribute__((vector_size(WIDTH)));
    ireg sums{};
    for (int i = 0; i < n; i += WIDTH) {
        reg v = load_reg(x + i) * broadcast(factor);
        v = v > -127.0f ? v : broadcast(-127.0f);
        v = v < 127.0f ? v : broadcast(127.0f);
        ireg whole;
        if (ties_to_even) {
            whole = (ireg)(v + broadcast(12582912.0f)) - 0x4b400000;  // 1.5 * 2^23, whose last bits are whole numbers
        } else {
            whole = __builtin_convertvector(v, ireg);
            const reg rest = v - to_float(whole);
            whole = whole - (rest >= 0.5f) + (rest <= -0.5f);
        }
        sums += whole;
        const narrow bytes = __builtin_convertvector(whole, narrow);
        std::memcpy(to + i, &bytes, sizeof bytes);
    }
    int32_t sum = 0;
    for (int i = 0; i < WIDTH; i++) sum += sums[i];
    return sum;
}

INLINE void quantise(const float* x, int8_t* to, SmallBlock& block) {
    const float size = largest_size(x, 32);
    if (!(size < INFINITY)) {  // the product becomes NaN
        std::fill_n(to, 32, 0);
        block = {NAN, NAN, 0};
        return;
    }
    const float d = size / 127.0f;
    const int32_t sum = round_to_bytes<false>(x, d != 0.0f ? 1.0f / d : 0.0f, 32, to);
    block = {rounded_to_half(d), rounded_to_half(static_cast<float>(sum) * d), sum};
}

INLINE void quantise(const float* x, int8_t* to, SuperBlock& block) {
    const float size = largest_size(x, 256);
    const bool finite = size < INFINITY;
    const float factor = finite && size > 0.0f ? 127.0f / size : 0.0f;
    int16_t sums16[16], sums32[8];
    for (int i = 0; i < 16; i++)
        sums16[i] =
            finite ? round_to_bytes<true>(x + i * 16, factor, 16, to + i * 16) : (std::fill_n(to + i * 16, 16, 0), 0);
    for (int i = 0; i < 8; i++) sums32[i] = sums16[2 * i] + sums16[2 * i + 1];
    const auto pairs = [](const int16_t* from, int32_t* to, int count) {
        for (int i = 0; i < count; i++)
            to[i] = static_cast<uint16_t>(from[i / 2 * 4 + i % 2]) | from[i / 2 * 4 + i % 2 + 2] * 65536;
    };
    pairs(sums32, block.sums32, 4);
    pairs(sums16, block.sums16, 8);
    block.d = !finite ? NAN : factor != 0.0f ? 1.0f / factor : 0.0f;
}

template <class Block>
constexpr int NUMBERS = sizeof(Block) == sizeof(SmallBlock) ? 32 : 256;  // of a block

// Some rows as tiles of `height` (the last one of what is left), each K / 4 times `height` words and K / NUMBERS times
// `height` blocks: four numbers of the first row, four of the next one .., then the next four; blocks likewise.
template <class Block>
class Tiles {
  public:
    Tiles(int rows, int height, int K)
        : rows_(rows),
          height_(height),
          K_(K),
          words_(new int32_t[static_cast<std::size_t>(K / 4) * rows]),
          blocks_(new Block[static_cast<std::size_t>(K / NUMBERS<Block>) * rows]) {}

    int32_t* words(int row) { return words_.get() + static_cast<std::size_t>(K_ / 4) * row; }
    Block* blocks(int row) { return blocks_.get() + static_cast<std::size_t>(K_ / NUMBERS<Block>) * row; }
    const int32_t* words() const { return words_.get(); }
    const Block* blocks() const { return blocks_.get(); }

    // quantises row m, whose numbers are x
    void set(int m, const float* x) {
        const int first = m / height_ * height_, count = std::min(height_, rows_ - first);
        int32_t* to = words(first) + m - first;
        Block* block = blocks(first) + m - first;
        for (int k = 0; k < K_; k += NUMBERS<Block>, block += count) {
            alignas(4) int8_t numbers[NUMBERS<Block>];
            quantise(x + k, numbers, *block);
            for (int i = 0; i < NUMBERS<Block>; i += 4, to += count) std::memcpy(to, numbers + i, 4);
        }
    }

  private:
    int rows_, height_, K_;
    std::unique_ptr<int32_t[]> words_;
    std::unique_ptr<Block[]> blocks_;
};
