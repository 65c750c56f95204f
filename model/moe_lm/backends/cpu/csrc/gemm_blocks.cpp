// Products with packed blocks of quantised weights. Exact ones have the sums of gemm.cpp, number for number; with int8
// the activations are quantised too.

#include <optional>

#include "exact.h"
#include "integers.h"
#include "product.h"
#include "stripes.h"

namespace {

// of a task, at most: its sums stay in the L2 cache, and weights that are unpacked are used often
constexpr int ROWS = 128, PANELS = 10;
constexpr int STRIPES = PANEL / LANES;  // of a panel
constexpr int FEW = 4;                  // rows of a task for which no block is unpacked into memory

template <class Block>
struct GatheredRows {
    static constexpr int MOST = ROWS * CHUNK;
    alignas(64) int32_t numbers[MOST / 4];
    Block blocks[MOST / Activations<Block>::NUMBERS];
};

NOT_INLINE void multiply_exactly(const float* a, int rows, const float* b, int kc, float* c, bool accumulate) {
    multiply_panel<MR, PANEL>(a, rows, b, kc, c, PANEL, accumulate);
}

struct Product {
    const float* x;
    int K;
    const int64_t* order;
    int sides;  // with an activation two: gates and up projections, a stripe of each
    Stripes stripes[2];
    Epilogue epilogue;
    std::optional<Activations<SmallBlock>> small;  // of x, where weights need them
    std::optional<Activations<SuperBlock>> super;

    int64_t x_row(int row) const { return order ? order[row] : row; }
    int panels() const { return ceil_div(stripes[0].count(), STRIPES); }

    // use(panel of the task, stripe of the panel, the stripe's number)
    template <class Use>
    void each_stripe(const Task& task, const Use& use) const {
        for (int p = 0; p < task.panels; p++)
            for (int i = 0; i < STRIPES && (task.panel + p) * STRIPES + i < stripes[0].count(); i++)
                use(p, i, (task.panel + p) * STRIPES + i);
    }

    template <class B>
    const Activations<Own<B>>& activations() const {
        if constexpr (B::SUPER)
            return *super;
        else
            return *small;
    }

    void exact_row(const Task& task) const {
        const float* row = x + x_row(task.row) * K;
        for (int p = 0; p < task.panels; p++) {
            const int begin = (task.panel + p) * STRIPES, count = std::min(STRIPES, stripes[0].count() - begin);
            alignas(64) float sums[2][PANEL];
            for (int side = 0; side < sides; side++) {
                Stripe all[STRIPES];
                const uint8_t* packed[STRIPES];
                for (int i = 0; i < count; i++)
                    all[i] = stripes[side].get(task.matrix, begin + i), packed[i] = all[i].packed;
                const bool alike =
                    count == STRIPES && all[0].kind == all[STRIPES - 1].kind && all[0].kind == all[1].kind;
                for (int i = 0; i < count; i += alike ? STRIPES : 1)
                    with_kind(all[i].kind, [&](auto b) {
                        if (alike)
                            multiply_one_row<decltype(b), STRIPES>(packed, row, K, sums[side]);
                        else
                            multiply_one_row<decltype(b), 1>(packed + i, row, K, sums[side] + i * LANES);
                    });
            }
            for (int i = 0; i < count; i++) {
                const Stripe stripe = stripes[0].get(task.matrix, begin + i);
                epilogue.write<LANES>(sums[0] + i * LANES, sums[1] + i * LANES, task.row, stripe.first, stripe.outputs);
            }
        }
    }

    void exact_rows(const Task& task) const {
        alignas(64) float sums[ROWS * PANEL * PANELS], a[ROWS * A_ROW], room[KC * PANEL];
        for (int k = 0; k < K; k += KC) {
            const int kc = std::min(KC, K - k);
            for (int m = 0; m < task.rows; m++) {
                const float* from = x + x_row(task.row + m) * K + k;
                for (int i = 0; i < kc; i += LANES) store(a + m * A_ROW + i, load(from + i));
            }
            for (int p = 0; p < task.panels; p++)
                for (int side = 0; side < sides; side++) {
                    const int begin = (task.panel + p) * STRIPES, count = std::min(STRIPES, stripes[0].count() - begin);
                    for (int i = 0; i < count; i++) {
                        const Stripe stripe = stripes[side].get(task.matrix, begin + i);
                        const Stripe next =
                            stripes[side].get(task.matrix, std::min(begin + i + STRIPES, stripes[0].count() - 1));
                        with_kind(stripe.kind, [&](auto b) {
                            expand<decltype(b)>(stripe.packed, next.packed, k, kc, room + i * LANES, PANEL);
                        });
                    }
                    multiply_exactly(a, task.rows, room, kc, sums + (p * sides + side) * ROWS * PANEL, k > 0);
                }
        }
        each_stripe(task, [&](int p, int i, int number) {
            const Stripe stripe = stripes[0].get(task.matrix, number);
            const float* s = sums + p * sides * ROWS * PANEL + i * LANES;
            for (int m = 0; m < task.rows; m++, s += PANEL)
                epilogue.write<LANES>(s, s + ROWS * PANEL, task.row + m, stripe.first, stripe.outputs);
        });
    }

    void integer_few_rows(const Task& task) const {
        std::vector<int32_t> small_numbers, super_numbers;
        std::vector<SmallBlock> small_blocks;
        std::vector<SuperBlock> super_blocks;
        int64_t rows[FEW];
        for (int m = 0; m < task.rows; m++) rows[m] = x_row(task.row + m);
        const auto gather = [&](const auto& from, auto& numbers, auto& blocks) {
            if (!from) return;
            numbers.resize(K / 4 * task.rows), blocks.resize(K / from->NUMBERS * task.rows);
            from->gather(rows, task.rows, 0, K, numbers.data(), blocks.data());
        };
        gather(small, small_numbers, small_blocks), gather(super, super_numbers, super_blocks);
        each_stripe(task, [&](int, int, int number) {
            alignas(64) float sums[2][FEW * LANES];
            for (int side = 0; side < sides; side++) {
                const Stripe stripe = stripes[side].get(task.matrix, number);
                with_kind(stripe.kind, [&](auto b) {
                    using B = decltype(b);
                    with_constant<FEW>(task.rows, [&](auto rows) {
                        if constexpr (B::SUPER)
                            multiply_few_rows<B, rows>(stripe.packed, super_numbers.data(), super_blocks.data(), K,
                                                       sums[side]);
                        else
                            multiply_few_rows<B, rows>(stripe.packed, small_numbers.data(), small_blocks.data(), K,
                                                       sums[side]);
                    });
                });
            }
            const Stripe stripe = stripes[0].get(task.matrix, number);
            for (int m = 0; m < task.rows; m++)
                epilogue.write<LANES>(sums[0] + m * LANES, sums[1] + m * LANES, task.row + m, stripe.first,
                                      stripe.outputs);
        });
    }

    void integer_rows(const Task& task) const {
        alignas(64) float sums[ROWS * PANEL * PANELS];
        GatheredRows<SmallBlock> small_rows;
        GatheredRows<SuperBlock> super_rows;
        int64_t rows[ROWS];
        for (int m = 0; m < task.rows; m++) rows[m] = x_row(task.row + m);
        const int height = ceil_div(task.rows, ceil_div(task.rows, TILE));
        for (int k = 0; k < K; k += CHUNK) {
            const int kc = std::min(CHUNK, K - k);
            const auto gather = [&](const auto& from, auto& to) {
                if (!from) return;
                for (int m = 0; m < task.rows; m += height)
                    from->gather(rows + m, std::min(height, task.rows - m), k, kc, to.numbers + m * kc / 4,
                                 to.blocks + m * (kc / from->NUMBERS));
            };
            gather(small, small_rows), gather(super, super_rows);
            each_stripe(task, [&](int p, int i, int number) {
                float* c = sums + (p * STRIPES + i) * sides * ROWS * LANES;
                for (int side = 0; side < sides; side++) {
                    const Stripe stripe = stripes[side].get(task.matrix, number);
                    const Stripe next = stripes[side].get(task.matrix, std::min(number + 1, stripes[0].count() - 1));
                    with_kind(stripe.kind, [&](auto b) {
                        using B = decltype(b);
                        const auto& from = [&]() -> const GatheredRows<Own<B>>& {
                            if constexpr (B::SUPER)
                                return super_rows;
                            else
                                return small_rows;
                        }();
                        OpenedChunk<B> chunk;
                        chunk.open(stripe.packed, next.packed, k, kc);
                        for (int m = 0; m < task.rows; m += height)
                            with_constant<TILE>(std::min(height, task.rows - m), [&](auto some) {
                                chunk.template multiply<some>(from.numbers + m * kc / 4,
                                                              from.blocks + m * (kc / Activations<Own<B>>::NUMBERS), kc,
                                                              c + (side * ROWS + m) * LANES, k > 0);
                            });
                    });
                }
                if (k + kc < K) return;
                const Stripe stripe = stripes[0].get(task.matrix, number);
                for (int m = 0; m < task.rows; m++)
                    epilogue.write<LANES>(c + m * LANES, c + (ROWS + m) * LANES, task.row + m, stripe.first,
                                          stripe.outputs);
            });
        }
    }
};

}  // namespace

int gemm_blocks(GompParallel gomp, int threads, const float* x, int x_rows, const int64_t* order,
                const int64_t* offsets, int matrices, const int64_t* parts, int part_count, int M, int K, int outputs,
                int activation, const float* bias, int accumulate, const float* row_scales, int int8, float* out) {
    if (const Fault fault = check(offsets, matrices, M, order, x_rows)) return fault;
    const int sides = activation ? 2 : 1;
    Product product{x,
                    K,
                    order,
                    sides,
                    {Stripes(parts, part_count / sides, K), Stripes(parts + 3, sides - 1, K)},
                    {outputs, activation, bias, accumulate, row_scales, out},
                    {},
                    {}};
    const auto has = [&](bool super) { return product.stripes[0].has(super) || product.stripes[1].has(super); };
    if (int8 && has(false)) product.small.emplace(gomp, threads, x, x_rows, K);
    if (int8 && has(true)) product.super.emplace(gomp, threads, x, x_rows, K);
    const std::vector<Task> tasks = divide(offsets, matrices, product.panels(), ROWS, PANELS / sides, threads);
    parallel_for(gomp, threads, static_cast<int>(tasks.size()), [&](int i) {
        if (int8)
            tasks[i].rows <= FEW ? product.integer_few_rows(tasks[i]) : product.integer_rows(tasks[i]);
        else
            tasks[i].rows == 1 ? product.exact_row(tasks[i]) : product.exact_rows(tasks[i]);
    });
    return NONE;
}
