// The micro-kernel, and how it covers a tile of any number of rows: shared by products and attention.

#pragma once

#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "parallel.h"
#include "simd.h"

// The vector registers, how many of them the micro-kernel's sums may take, its rows at most for panels of products and
// of attention, and how many k one turn of its loop takes.
#if defined(__AVX512F__)
constexpr int REGISTERS = 32, SUMS = 24, UNROLL = 2;
constexpr int MR = 8, ATTENTION_MR = 6;
#elif defined(__AVX2__)
constexpr int REGISTERS = 16, SUMS = 12, UNROLL = 4;
constexpr int MR = 4, ATTENTION_MR = 4;
#else
constexpr int REGISTERS = 32, SUMS = 24, UNROLL = 2;
constexpr int MR = 4, ATTENTION_MR = 6;
#endif
// Inputs summed in registers before the sum is added to the output: longer chains round more. It is part of the
// result's definition.
constexpr int KC = 128;

// Rows of a lie this far apart: at a power of two they would fall into the same few sets of the L1 cache.
constexpr int A_ROW = KC + LANES;

// What the micro-kernel asks memory for while it computes, `step` bytes for each k: the processor's own prefetching
// stops at every 4 KB.
struct Prefetch {
    const char* from;
    int step;
};

// sums[m] += a[m][k] * b[k], for m < mr
template <int mr, int parts>
INLINE void add_outer_product(reg (&sums)[mr][parts], const float* a_k, const float* b_k) {
    reg row[parts];
#pragma GCC unroll 16
    for (int n = 0; n < parts; n++) row[n] = load_reg(b_k + n * WIDTH);
#pragma GCC unroll 16
    for (int m = 0; m < mr; m++) {
        const reg factor = broadcast(a_k[m * A_ROW]);
#pragma GCC unroll 16
        for (int n = 0; n < parts; n++) sums[m][n] = fma(factor, row[n], sums[m][n]);
        keep(factor);
    }
}

// c[m][0..nr) = or += sum over k < kc of a[m][k] * b[k][0..nr), for m < mr; b's rows are b_row apart
template <int mr, int nr, int b_row, bool prefetches>
inline void micro_kernel(const float* a, const float* b, int kc, float* c, std::ptrdiff_t c_row, bool accumulate,
                         Prefetch prefetch) {
    constexpr int parts = nr / WIDTH;
    reg sums[mr][parts];
#pragma GCC unroll 16
    for (int m = 0; m < mr; m++)
#pragma GCC unroll 16
        for (int n = 0; n < parts; n++) sums[m][n] = reg{};
    int k = 0;
    for (; k + UNROLL <= kc; k += UNROLL) {
        if constexpr (prefetches)
            for (int line = 0; line < UNROLL * prefetch.step; line += 64)
                __builtin_prefetch(prefetch.from + k * prefetch.step + line, 0, 2);
#pragma GCC unroll 8
        for (int u = k; u < k + UNROLL; u++) add_outer_product(sums, a + u, b + u * b_row);
    }
    for (; k < kc; k++) add_outer_product(sums, a + k, b + k * b_row);
#pragma GCC unroll 16
    for (int m = 0; m < mr; m++)
#pragma GCC unroll 16
        for (int n = 0; n < parts; n++) {
            float* to = c + m * c_row + n * WIDTH;
            store_reg(to, accumulate ? load_reg(to) + sums[m][n] : sums[m][n]);
        }
}

// The widest strip of a panel of `columns` whose sums, with mr rows, fit into the registers, beside a row of b and one
// number of a. (One or two rows read b from memory.)
constexpr int strip_width(int mr, int columns) {
    const auto fits = [=](int parts) { return mr * parts <= SUMS && (mr < 3 || (mr + 1) * parts < REGISTERS); };
    int strips = 1;
    while (columns % (strips * WIDTH) || !fits(columns / strips / WIDTH)) strips++;
    return columns / strips;
}

// run(the number of rows, 1 .. most, as a constant)
template <int most, class Run>
INLINE void with_constant(int rows, const Run& run) {
    if constexpr (most > 1)
        if (rows < most) return with_constant<most - 1>(rows, run);
    run(std::integral_constant<int, most>());
}

// c[m][0..columns) = or += a[m] @ b for any number of rows, in tiles of up to most_rows, all about as high.
// done(first row, rows) is called after each tile.
template <int most_rows, int columns, bool prefetches, class Done>
inline void multiply_panel(const float* a, int rows, const float* b, int kc, float* c, std::ptrdiff_t c_row,
                           bool accumulate, Prefetch prefetch, const Done& done) {
    const int tiles = ceil_div(rows, most_rows), height = ceil_div(rows, tiles);
    for (int first = 0; first < rows; first += height) {
        const int some = std::min(height, rows - first);
        with_constant<most_rows>(some, [&](auto mr) {
            constexpr int nr = strip_width(mr, columns);
            const int step = prefetch.step * nr / columns / tiles;
            for (int n = 0; n < columns; n += nr, prefetch.from += kc * step)
                micro_kernel<mr, nr, columns, prefetches>(a + first * A_ROW, b + n, kc, c + first * c_row + n, c_row,
                                                          accumulate, {prefetch.from, step});
        });
        done(first, some);
    }
}

// The same for a b that is read often, and so lies in a cache.
template <int most_rows, int columns>
inline void multiply_panel(const float* a, int rows, const float* b, int kc, float* c, std::ptrdiff_t c_row,
                           bool accumulate) {
    multiply_panel<most_rows, columns, false>(a, rows, b, kc, c, c_row, accumulate, {nullptr, 0}, [](int, int) {});
}
