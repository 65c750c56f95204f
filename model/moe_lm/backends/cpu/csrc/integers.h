// Products of packed blocks and quantised activations: whole numbers, which are exact, then the scales, in float32 and
// in a fixed order: block after block along K, in each the products and then what the minimum adds.

#pragma once

#include "activations.h"
#include "blocks.h"

// signed bytes 0 and 2, or 1 and 3, of every word as 16-bit numbers
INLINE ireg byte_pairs(ureg four, int odd) {
    typedef int16_t pairs __attribute__((vector_size(WIDTH * 4)));
    return (ireg)((odd ? (pairs)four : (pairs)four << 8) >> 8);
}

INLINE ireg same(int32_t x) {
    return x - ireg{};
}

// One part of a packed block, as its product takes it.
template <class Layout>
struct Direct {
    using B = Layout;
    const uint8_t* block;
    int part;

    // asks memory for what comes AHEAD of sub-block s, a share of it: see Ahead
    INLINE void ask(int s) const {
        constexpr int shares = B::WEIGHTS / SUB * PARTS, lines = (B::BYTES + 64 * shares - 1) / (64 * shares);
#pragma GCC unroll 16
        for (int line = 0; line < lines; line++)
            __builtin_prefetch(block + AHEAD + ((part * (B::WEIGHTS / SUB) + s) * lines + line) * 64);
    }
    INLINE ureg plane(int i, int s, int g) const { return Dots<B::LARGEST>::plane(B::quants(block, s, g, part), i); }
    INLINE ireg factor(int i) const {
        const ureg four = B::factor_bytes(block, i / 4, part);
        return factors(B::SIGNED_FACTORS ? signed_bytes(four, i % 4) : unsigned_bytes(four, i % 4));
    }
    INLINE ireg pairs(int i) const { return byte_pairs(B::sum_bytes(block, i / 2, part), i % 2); }
    INLINE reg half(int i) const { return B::half(block, i, part); }
    INLINE ireg zeros() const { return B::zeros(block, part); }
};

// The same, unpacked once for many rows.
template <class Layout>
struct Opened {
    using B = Layout;
    static constexpr int SUBS = B::WEIGHTS / SUB, PLANES = Dots<B::LARGEST>::PLANES;
    ureg planes_[SUBS * 8][PLANES];
    reg halves_[2];
    ireg zeros_;

    INLINE void open(const Direct<B>& from) {
        for (int s = 0; s < SUBS; s++)
#pragma GCC unroll 8
            for (int g = 0; g < 8; g++)
                for (int i = 0; i < PLANES; i++) planes_[s * 8 + g][i] = from.plane(i, s, g);
        for (int i = 0; i < B::HALF_NUMBERS; i++) halves_[i] = from.half(i);
        if constexpr (B::ZERO_POINTS) zeros_ = from.zeros();
    }
    INLINE void ask(int) const {}
    INLINE ureg plane(int i, int s, int g) const { return planes_[s * 8 + g][i]; }
    INLINE reg half(int i) const { return halves_[i]; }
    INLINE ireg zeros() const { return zeros_; }
};

template <class Layout>
struct OpenedSuper : Opened<Layout> {
    using B = Layout;
    ireg factors_[B::FACTORS], pairs_[B::FACTORS / 2];

    INLINE void open(const Direct<B>& from) {
        Opened<B>::open(from);
#pragma GCC unroll 16
        for (int i = 0; i < B::FACTORS; i++) factors_[i] = from.factor(i);
#pragma GCC unroll 8
        for (int i = 0; i < B::FACTORS / 2; i++) pairs_[i] = from.pairs(i);
    }
    INLINE ireg factor(int i) const { return factors_[i]; }
    INLINE ireg pairs(int i) const { return pairs_[i]; }
};

// sums[m] += block * the numbers x of rows m < rows, whose blocks are `own`
template <class Source, int rows>
INLINE void add_block(const Source& block, const int32_t* x, const SmallBlock* own, reg (&sums)[rows]) {
    using B = typename Source::B;
    using Sums = Dots<B::LARGEST>;
    constexpr int offset = B::OFFSET + Sums::OFFSET;
    for (int s = 0; s < B::WEIGHTS / SUB; s++, x += 8 * rows, own += rows) {
        Sums dots[rows];
        block.ask(s);
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) {
#pragma GCC unroll 2
            for (int i = 0; i < Sums::PLANES; i++) {
                const ureg four = block.plane(i, s, g);
#pragma GCC unroll 8
                for (int m = 0; m < rows; m++) dots[m].add(i, four, x[g * rows + m]);
            }
            if ((g + 1) % Sums::LIMIT == 0)
#pragma GCC unroll 8
                for (int m = 0; m < rows; m++) dots[m].flush();
        }
        const reg d = block.half(0);
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++) {
            ireg whole = dots[m].sums;
            if constexpr (B::ZERO_POINTS) whole -= block.zeros() * same(own[m].sum);
            if (offset) whole -= same(own[m].sum) * offset;
            sums[m] = fma(d * broadcast(own[m].d), to_float(whole), sums[m]);
            if (B::MINIMUM) sums[m] = fma(block.half(1), broadcast(own[m].s), sums[m]);
        }
    }
}

template <class Source, int rows>
INLINE void add_block(const Source& block, const int32_t* x, const SuperBlock* own, reg (&sums)[rows]) {
    using B = typename Source::B;
    using Sums = Dots<B::LARGEST>;
    constexpr int each = B::WEIGHTS / B::FACTORS / 4;  // words of a factor
    Sums dots[rows];
#pragma GCC unroll 4
    for (int s = 0; s < B::WEIGHTS / SUB; s++) {
        block.ask(s);
#pragma GCC unroll 8
        for (int g = 0; g < 8; g++) {
            const ureg four = block.plane(0, s, g);
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++) dots[m].add(0, four, x[(s * 8 + g) * rows + m]);
            if ((g + 1) % std::min(Sums::LIMIT, each) == 0) {
                const ireg factor = block.factor((s * 8 + g) / each);
#pragma GCC unroll 8
                for (int m = 0; m < rows; m++) dots[m].flush(factor);
            }
        }
    }
    ireg added[rows] = {};  // minimums, or scales, times the sums of the activations
#pragma GCC unroll 8
    for (int i = 0; i < B::FACTORS / 2; i++) {
        const ireg pairs = block.pairs(i);
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++)
            added[m] += pair_products(pairs, B::FACTORS == 8 ? own[m].sums32[i] : own[m].sums16[i]);
    }
    const reg d = block.half(0);
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) {
        const reg scale = broadcast(own[m].d);
        const ireg whole = B::OFFSET ? dots[m].sums - added[m] * B::OFFSET : dots[m].sums;
        sums[m] = fma(d * scale, to_float(whole), sums[m]);
        if (B::MINIMUM) sums[m] = fma(block.half(1) * scale, to_float(-added[m]), sums[m]);
    }
}

template <class B>
using Own = std::conditional_t<B::SUPER, SuperBlock, SmallBlock>;

template <class B>
constexpr int OWN_BLOCKS = B::SUPER ? 1 : B::WEIGHTS / SUB;  // of activations, for a block of weights

// to[m][0..LANES) = the products of a stripe and a few rows, gathered in x and own
template <class B, int rows>
NOT_INLINE void multiply_few_rows(const uint8_t* block, const int32_t* x, const Own<B>* own, int K, float* to) {
    reg sums[PARTS][rows] = {};
    for (int k = 0; k < K;
         k += B::WEIGHTS, block += B::BYTES, x += B::WEIGHTS / 4 * rows, own += OWN_BLOCKS<B> * rows) {
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++) add_block(Direct<B>{block, part}, x, own, sums[part]);
    }
    for (int part = 0; part < PARTS; part++)
        for (int m = 0; m < rows; m++) store_reg(to + m * LANES + part * WIDTH, sums[part][m]);
}

constexpr int CHUNK = 256;  // numbers that a stripe is opened for at once

// What memory is asked for while a chunk is multiplied, some lines for each block of it: the lines of a whole chunk at
// once would be more than a processor waits for at a time, and its other loads would wait behind them.
struct Ahead {
    const uint8_t* from;
    int lines;

    Ahead(const uint8_t* from, int bytes, int times) : from(from), lines((bytes + 64 * times - 1) / (64 * times)) {}
    INLINE void ask() {
        for (int line = 0; line < lines; line++, from += 64) __builtin_prefetch(from);
    }
};

// Rows that are multiplied together once a stripe is opened: their sums fit into registers.
#if defined(__AVX512F__)
constexpr int TILE = 8;
#else
constexpr int TILE = 4;
#endif

// The blocks of up to CHUNK weights of a stripe, opened.
template <class B>
struct OpenedChunk {
    static constexpr int MOST = CHUNK / B::WEIGHTS;
    std::conditional_t<B::SUPER, OpenedSuper<B>, Opened<B>> blocks[PARTS][MOST];

    NOT_INLINE void open(const uint8_t* block, int count) {
        for (int b = 0; b < count; b++, block += B::BYTES)
            for (int part = 0; part < PARTS; part++) blocks[part][b].open(Direct<B>{block, part});
    }

    // to[m][0..LANES) = or += the products with a tile of rows
    template <int rows>
    NOT_INLINE void multiply(const int32_t* x, const Own<B>* own, int kc, float* to, bool accumulate,
                             Ahead& ahead) const {
        for (int part = 0; part < PARTS; part++) {
            reg sums[rows];
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++) sums[m] = accumulate ? load_reg(to + m * LANES + part * WIDTH) : reg{};
            for (int b = 0; b < kc / B::WEIGHTS; b++) {
                ahead.ask();
                add_block(blocks[part][b], x + b * (B::WEIGHTS / 4 * rows), own + b * OWN_BLOCKS<B> * rows, sums);
            }
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++) store_reg(to + m * LANES + part * WIDTH, sums[m]);
        }
    }
};
