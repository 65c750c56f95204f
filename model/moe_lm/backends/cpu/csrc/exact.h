// Weights of packed blocks as the float32 numbers that they stand for, with the operations of the gguf library in its
// order, and products with one row that keep them in registers.

#pragma once

#include "blocks.h"
#include "gemm.h"

// weight j of a word of four
template <class B>
INLINE reg number(ureg four, int j) {
    if constexpr (B::OFFSET || B::LARGEST == 128) {
        typedef int8_t bytes __attribute__((vector_size(WIDTH * 4)));
        return to_float(signed_bytes((ureg)((bytes)four - static_cast<int8_t>(B::OFFSET)), j));
    }
    return to_float(unsigned_bytes(four, j));
}

// The kc weights from k on of the outputs of a stripe, in rows of `room` that lie `row` apart; asks memory for the same
// ones of the stripe `next`.
template <class B>
NOT_INLINE void expand(const uint8_t* stripe, const uint8_t* next, int k, int kc, float* room, int row) {
    constexpr int sub_bytes = B::BYTES * SUB / B::WEIGHTS;
    for (int end = k + kc; k < end; k += SUB, room += SUB * row) {
        const uint8_t* block = stripe + static_cast<std::size_t>(k / B::WEIGHTS) * B::BYTES;
        const uint8_t* ahead = next + static_cast<std::size_t>(k / SUB) * sub_bytes;
        for (int line = 0; line < sub_bytes; line += 64) __builtin_prefetch(ahead + line);
        const int s = k % B::WEIGHTS / SUB;
        for (int part = 0; part < PARTS; part++) {
            typename B::Scale scale;
            scale.load(block, s, part);
#pragma GCC unroll 8
            for (int g = 0; g < 8; g++) {
                const ureg four = B::quants(block, s, g, part);
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++)
                    store_reg(room + (4 * g + j) * row + part * WIDTH, scale.times(number<B>(four, j), g));
            }
        }
    }
}

// to[0..LANES) of each of some stripes = the products with x, summed as the micro-kernel sums them
template <class B, int stripes>
NOT_INLINE void multiply_one_row(const uint8_t* const* from, const float* x, int K, float* to) {
    constexpr int sub_bytes = B::BYTES * SUB / B::WEIGHTS;
    const std::size_t bytes = static_cast<std::size_t>(K / B::WEIGHTS) * B::BYTES;
    reg totals[stripes][PARTS] = {};
    for (int k = 0; k < K; k += KC) {
        reg sums[stripes][PARTS] = {};
        for (int at = k; at < std::min(k + KC, K); at += SUB) {
            const int s = at % B::WEIGHTS / SUB;
            typename B::Scale scales[stripes][PARTS];
            const uint8_t* blocks[stripes];
#pragma GCC unroll 4
            for (int i = 0; i < stripes; i++) {
                blocks[i] = from[i] + static_cast<std::size_t>(at / B::WEIGHTS) * B::BYTES;
                std::size_t later = static_cast<std::size_t>(at / SUB) * sub_bytes + AHEAD;
                if (later >= bytes) later += bytes * (stripes - 1);  // on to the stripes after these, which lie there
                for (int line = 0; line < sub_bytes; line += 64) __builtin_prefetch(from[i] + later + line);
#pragma GCC unroll 4
                for (int part = 0; part < PARTS; part++) scales[i][part].load(blocks[i], s, part);
            }
#pragma GCC unroll 8
            for (int g = 0; g < 8; g++)
#pragma GCC unroll 4
                for (int i = 0; i < stripes; i++)
#pragma GCC unroll 4
                    for (int part = 0; part < PARTS; part++) {
                        const ureg four = B::quants(blocks[i], s, g, part);
#pragma GCC unroll 4
                        for (int j = 0; j < 4; j++)
                            sums[i][part] = fma(broadcast(x[at + 4 * g + j]),
                                                scales[i][part].times(number<B>(four, j), g), sums[i][part]);
                    }
        }
        for (int i = 0; i < stripes; i++)
            for (int part = 0; part < PARTS; part++)
                totals[i][part] = k ? totals[i][part] + sums[i][part] : sums[i][part];
    }
    for (int i = 0; i < stripes; i++)
        for (int part = 0; part < PARTS; part++) store_reg(to + i * LANES + part * WIDTH, totals[i][part]);
}

// The weights of one input of which a stripe has the codes at another place.
template <class B>
INLINE reg weight_at(const uint8_t* stripe, unsigned place, int part) {
    const uint8_t* block = stripe + static_cast<std::size_t>(place / B::WEIGHTS) * B::BYTES;
    const int s = place % B::WEIGHTS / SUB, g = place % SUB / 4;
    typename B::Scale scale;
    scale.load(block, s, part);
    return scale.times(number<B>(B::quants(block, s, g, part), place % 4), g);
}

// As `expand`, of the kc inputs that are at these places.
template <class B>
NOT_INLINE void expand_places(const uint8_t* stripe, const int32_t* places, int kc, float* room, int row) {
    for (int k = 0; k < kc; k++)
        for (int part = 0; part < PARTS; part++)
            store_reg(room + k * row + part * WIDTH, weight_at<B>(stripe, places[k], part));
}

// As `multiply_one_row`, with the inputs in their own order: input k is at places[k].
template <class B, int stripes>
NOT_INLINE void multiply_one_row(const uint8_t* const* from, const int32_t* places, const float* x, int K, float* to) {
    reg totals[stripes][PARTS] = {};
    for (int k = 0; k < K; k += KC) {
        reg sums[stripes][PARTS] = {};
        for (int at = k; at < std::min(k + KC, K); at++)
#pragma GCC unroll 4
            for (int i = 0; i < stripes; i++)
#pragma GCC unroll 4
                for (int part = 0; part < PARTS; part++)
                    sums[i][part] = fma(broadcast(x[at]), weight_at<B>(from[i], places[at], part), sums[i][part]);
        for (int i = 0; i < stripes; i++)
            for (int part = 0; part < PARTS; part++)
                totals[i][part] = k ? totals[i][part] + sums[i][part] : sums[i][part];
    }
    for (int i = 0; i < stripes; i++)
        for (int part = 0; part < PARTS; part++) store_reg(to + i * LANES + part * WIDTH, totals[i][part]);
}
