// Products with packed blocks of quantised weights. `exact`: the weights become float32, and then the sums are those of
// gemm.cpp, number for number. `int8`: the activations are quantised too, and blocks are multiplied as integers.

#include <optional>

#include "activations.h"
#include "blocks.h"
#include "product.h"

namespace {

constexpr int PANELS = 20, STRIPES = PANEL / LANES;  // panels of a task, at most; stripes of a panel
constexpr int TILE = 4;                              // rows that a stripe's blocks are multiplied with together

struct Part {
    const uint8_t* packed;
    int kind, outputs, stripes, first;  // its first output
    std::size_t bytes;                  // of a stripe

    const uint8_t* stripe(int matrix, int i) const {
        return packed + (static_cast<std::size_t>(matrix) * stripes + i) * bytes;
    }
};

struct Stripe {
    const uint8_t* packed;
    int kind, first, outputs;
};

// The parts' stripes, one after the other.
class Stripes {
  public:
    Stripes(const int64_t* parts, int count, int K) {
        int first = 0;
        for (int i = 0; i < count; i++, parts += 3) {
            const int kind = parts[1], outputs = parts[2], stripes = ceil_div(outputs, LANES);
            parts_.push_back(
                {reinterpret_cast<const uint8_t*>(parts[0]), kind, outputs, stripes, first, stripe_bytes(kind, K)});
            first += outputs;
            count_ += stripes;
        }
    }
    int count() const { return count_; }
    bool has(bool super) const {
        for (const Part& part : parts_)
            if ((part.kind >= Q4_K) == super) return true;
        return false;
    }
    Stripe get(int matrix, int i) const {
        const Part* part = parts_.data();
        for (; i >= part->stripes; part++) i -= part->stripes;
        return {part->stripe(matrix, i), part->kind, part->first + i * LANES,
                std::min(LANES, part->outputs - i * LANES)};
    }

  private:
    std::vector<Part> parts_;
    int count_ = 0;
};

// Quantised rows, in the blocks that the weights need.
struct QuantisedRows {
    std::optional<Activations<SmallBlock>> small;
    std::optional<Activations<SuperBlock>> super;
};

template <class B, int rows, class Numbers>
INLINE void add_dots(const uint8_t* block, int s, int part, Dots<B::LARGEST> (&dots)[rows], const Numbers& numbers,
                     const ireg (&factor)[2]) {
    constexpr int groups = std::is_same_v<B, SixBits> ? std::min(4, Dots<B::LARGEST>::LIMIT) : Dots<B::LARGEST>::LIMIT;
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        ureg four = B::quants(block, s, g, part);
        if (Dots<B::LARGEST>::OFFSET) four ^= 0x80808080;
#pragma GCC unroll 8
        for (int m = 0; m < rows; m++) {
            int32_t x;
            std::memcpy(&x, numbers(m) + s * SUB + g * 4, 4);
            dots[m].add(four, x);
        }
        if ((g + 1) % groups == 0)
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++) B::SUPER ? dots[m].flush(factor[g / 4]) : dots[m].flush();
    }
}

// sums[m] of one part of a stripe's outputs += the products of a block and of rows of activations
template <class B, int rows>
INLINE void add_block(const uint8_t* block, int part, const int8_t* const* x, const SmallBlock* const* blocks, int b,
                      reg (&sums)[rows][PARTS]) {
    Dots<B::LARGEST> dots[rows];
    add_dots<B, rows>(block, 0, part, dots, [&](int m) { return x[m] + b * SUB; }, {});
    const reg d = B::half(block, 0, part);
    constexpr int offset = B::OFFSET + Dots<B::LARGEST>::OFFSET;
    for (int m = 0; m < rows; m++) {
        const SmallBlock& own = blocks[m][b];
        const ireg whole = dots[m].sums - own.sum * offset;
        sums[m][part] = fma(d * broadcast(own.d), to_float(whole), sums[m][part]);
        if (B::MINIMUM) sums[m][part] = fma(B::half(block, 1, part), broadcast(own.s), sums[m][part]);
    }
}

// signed bytes 0 and 2, or 1 and 3, of every word as 16-bit numbers
INLINE ireg byte_pairs(ureg four, int odd) {
    typedef int16_t pairs __attribute__((vector_size(WIDTH * 4)));
    return (ireg)((odd ? (pairs)four : (pairs)four << 8) >> 8);
}

template <class B, int rows>
INLINE void add_block(const uint8_t* block, int part, const int8_t* const* x, const SuperBlock* const* blocks, int b,
                      reg (&sums)[rows][PARTS]) {
    Dots<B::LARGEST> dots[rows];
    ireg minimums[rows] = {};
    const auto numbers = [&](int m) { return x[m] + b * B::WEIGHTS; };
    if constexpr (B::MINIMUM) {
        const typename B::Scales scales(block, part);
        for (int i = 0; i < 2; i++) {
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const ireg factor = factors(unsigned_bytes(scales.scales[i], j));
                add_dots<B, rows>(block, 4 * i + j, part, dots, numbers, {factor, factor});
            }
            for (int odd = 0; odd < 2; odd++)
                for (int m = 0; m < rows; m++)
                    minimums[m] += pair_products(byte_pairs(scales.minimums[i], odd), blocks[m][b].sums32[2 * i + odd]);
        }
    } else {
        for (int i = 0; i < 4; i++) {
            const ureg four = B::scales(block, i, part);
#pragma GCC unroll 2
            for (int j = 0; j < 2; j++)
                add_dots<B, rows>(block, 2 * i + j, part, dots, numbers,
                                  {factors(signed_bytes(four, 2 * j)), factors(signed_bytes(four, 2 * j + 1))});
            for (int odd = 0; odd < 2; odd++)
                for (int m = 0; m < rows; m++)
                    minimums[m] += pair_products(byte_pairs(four, odd), blocks[m][b].sums16[2 * i + odd]);
        }
    }
    const reg d = B::half(block, 0, part);
    for (int m = 0; m < rows; m++) {
        const reg scale = broadcast(blocks[m][b].d);
        const ireg whole = B::MINIMUM ? dots[m].sums : dots[m].sums - minimums[m] * B::OFFSET;
        sums[m][part] = fma(d * scale, to_float(whole), sums[m][part]);
        if constexpr (B::MINIMUM)
            sums[m][part] = fma(B::half(block, 1, part) * scale, to_float(-minimums[m]), sums[m][part]);
    }
}

// Products of a stripe with some rows as [rows][LANES].
template <class B, int rows, class Block>
void multiply_stripe(const uint8_t* stripe, int K, const int8_t* const* x, const Block* const* blocks, float* to) {
    reg sums[rows][PARTS] = {};
    for (int b = 0; b < K / B::WEIGHTS; b++, stripe += B::BYTES)
#pragma GCC unroll 4
        for (int part = 0; part < PARTS; part++) add_block<B, rows>(stripe, part, x, blocks, b, sums);
    for (int m = 0; m < rows; m++)
        for (int part = 0; part < PARTS; part++) store_reg(to + m * LANES + part * WIDTH, sums[m][part]);
}

void multiply_stripe(const Stripe& stripe, int K, const QuantisedRows& rows, const int64_t* ids, int some, float* to) {
    with_kind(stripe.kind, [&](auto b) {
        using B = decltype(b);
        using Block = std::conditional_t<B::SUPER, SuperBlock, SmallBlock>;
        const Activations<Block>* from;
        if constexpr (B::SUPER)
            from = &*rows.super;
        else
            from = &*rows.small;
        const int8_t* x[TILE];
        const Block* blocks[TILE];
        for (int m = 0; m < some; m++) x[m] = from->numbers(ids[m]), blocks[m] = from->blocks(ids[m]);
        with_constant<TILE>(some, [&](auto m) { multiply_stripe<B, m>(stripe.packed, K, x, blocks, to); });
    });
}

}  // namespace

int gemm_blocks(GompParallel gomp, int threads, const float* x, int x_rows, const int64_t* order,
                const int64_t* offsets, int matrices, const int64_t* parts, int part_count, int M, int K, int outputs,
                int activation, const float* bias, int accumulate, const float* row_scales, int int8, float* out) {
    if (const Fault fault = check(offsets, matrices, M, order, x_rows)) return fault;
    const Epilogue epilogue{outputs, activation, bias, accumulate, row_scales, out};
    // with an activation each panel is one of gates and one of up projections
    const Stripes stripes(parts, activation ? 1 : part_count, K), ups(parts + 3, activation ? 1 : 0, K);
    const int panels = ceil_div(stripes.count(), STRIPES), sides = activation ? 2 : 1;
    const std::vector<Task> tasks = divide(offsets, matrices, panels, PANELS / sides, threads);
    QuantisedRows quantised;
    if (int8 && (stripes.has(false) || ups.has(false))) quantised.small.emplace(gomp, threads, x, x_rows, K);
    if (int8 && (stripes.has(true) || ups.has(true))) quantised.super.emplace(gomp, threads, x, x_rows, K);

    const auto each_stripe = [&](int panel, const auto& use) {
        for (int i = 0; i < STRIPES && panel * STRIPES + i < stripes.count(); i++) use(i, panel * STRIPES + i);
    };
    const auto exact = [&](const Task& task) {
        alignas(64) float sums[ROWS * PANEL * PANELS], a[ROWS * A_ROW], room[KC * PANEL];
        for (int k = 0; k < K; k += KC) {
            const int kc = std::min(KC, K - k);
            for (int m = 0; m < task.rows; m++)
                std::copy_n(x + static_cast<std::size_t>(order ? order[task.row + m] : task.row + m) * K + k, kc,
                            a + m * A_ROW);
            for (int p = 0; p < task.panels; p++)
                for (int side = 0; side < sides; side++) {
                    each_stripe(task.panel + p, [&](int i, int number) {
                        const Stripe stripe = (side ? ups : stripes).get(task.matrix, number);
                        with_kind(stripe.kind, [&](auto b) {
                            for (int j = 0; j < kc; j += SUB)
                                expand<decltype(b)>(stripe.packed, k + j, room + j * PANEL + i * LANES, PANEL);
                        });
                    });
                    multiply_panel<MR, PANEL>(a, task.rows, room, kc, sums + (p * sides + side) * ROWS * PANEL, PANEL,
                                              k > 0);
                }
        }
        for (int p = 0; p < task.panels; p++)
            each_stripe(task.panel + p, [&](int i, int number) {
                const Stripe stripe = stripes.get(task.matrix, number);
                for (int m = 0; m < task.rows; m++) {
                    const float* s = sums + (p * sides * ROWS + m) * PANEL + i * LANES;
                    epilogue.write<LANES>(s, s + ROWS * PANEL, task.row + m, stripe.first, stripe.outputs);
                }
            });
    };
    const auto integers = [&](const Task& task) {
        alignas(64) float sums[2][TILE * LANES];
        for (int p = 0; p < task.panels; p++)
            each_stripe(task.panel + p, [&](int, int number) {
                const Stripe stripe = stripes.get(task.matrix, number);
                for (int first = task.row; first < task.row + task.rows; first += TILE) {
                    const int some = std::min(TILE, task.row + task.rows - first);
                    int64_t ids[TILE];
                    for (int m = 0; m < some; m++) ids[m] = order ? order[first + m] : first + m;
                    multiply_stripe(stripe, K, quantised, ids, some, sums[0]);
                    if (activation) multiply_stripe(ups.get(task.matrix, number), K, quantised, ids, some, sums[1]);
                    for (int m = 0; m < some; m++)
                        epilogue.write<LANES>(sums[0] + m * LANES, sums[1] + m * LANES, first + m, stripe.first,
                                              stripe.outputs);
                }
            });
    };
    parallel_for(gomp, threads, static_cast<int>(tasks.size()),
                 [&](int i) { int8 ? integers(tasks[i]) : exact(tasks[i]); });
    return NONE;
}
