// Products with packed blocks of quantised weights. Exact ones have the sums of gemm.cpp, number for number; with int8
// the activations are quantised too.

#include <algorithm>
#include <optional>

#include "exact.h"
#include "integers.h"
#include "product.h"
#include "stripes.h"

namespace {

// of a task, at most: its sums stay in the L2 cache, and weights that are unpacked are used often
constexpr int ROWS = 128, PANELS = 10;
constexpr int GATHERED = 256 << 10;     // bytes of quantised rows of a task, about
constexpr int STRIPES = PANEL / LANES;  // of a panel
constexpr int FEW = 4;                  // rows of a task for which no block is unpacked into memory
template <class B>                      // Q6_K's many scales, and the sums of more rows, do not fit into registers
constexpr int FEW_OF = std::is_same_v<B, SixBits> ? 1 : FEW;

// The rows of some tasks, first .. first + count - 1, as 8-bit integers, for weights in small blocks and in
// super-blocks.
struct IntegerRows {
    int first, count, height;
    std::optional<Tiles<SmallBlock>> small;
    std::optional<Tiles<SuperBlock>> super;

    IntegerRows(int first, int count, int K, bool has_small, bool has_super) : first(first), count(count) {
        const int most = count <= FEW ? FEW : TILE;
        height = ceil_div(count, ceil_div(count, most));
        if (has_small) small.emplace(count, height, K);
        if (has_super) super.emplace(count, height, K);
    }
};

NOT_INLINE void multiply_exactly(const float* a, int rows, const float* b, int kc, float* c, bool accumulate) {
    multiply_panel<MR, PANEL>(a, rows, b, kc, c, PANEL, accumulate);
}

struct Product {
    const float* x;
    int K;
    const int64_t* order;
    const int32_t* places;  // of each matrix's inputs in its blocks; null: they are in order
    int sides;              // with an activation two: gates and up projections, a stripe of each
    Stripes stripes[2];
    Epilogue epilogue;

    int64_t x_row(int row) const { return order ? order[row] : row; }
    const int32_t* places_of(int matrix) const {
        return places ? places + static_cast<std::size_t>(matrix) * K : nullptr;
    }
    int panels() const { return ceil_div(stripes[0].count(), STRIPES); }

    // use(panel of the task, stripe of the panel, the stripe's number)
    template <class Use>
    void each_stripe(const Task& task, const Use& use) const {
        for (int p = 0; p < task.panels; p++)
            for (int i = 0; i < STRIPES && (task.panel + p) * STRIPES + i < stripes[0].count(); i++)
                use(p, i, (task.panel + p) * STRIPES + i);
    }

    void exact_row(const Task& task) const {
        const float* row = x + x_row(task.row) * K;
        const int32_t* at = places_of(task.matrix);
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
                        using B = decltype(b);
                        if (alike)
                            at ? multiply_one_row<B, STRIPES>(packed, at, row, K, sums[side])
                               : multiply_one_row<B, STRIPES>(packed, row, K, sums[side]);
                        else
                            at ? multiply_one_row<B, 1>(packed + i, at, row, K, sums[side] + i * LANES)
                               : multiply_one_row<B, 1>(packed + i, row, K, sums[side] + i * LANES);
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
        const int32_t* at = places_of(task.matrix);
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
                            if (at)
                                expand_places<decltype(b)>(stripe.packed, at + k, kc, room + i * LANES, PANEL);
                            else
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

    void integer_rows(const Task& task, const IntegerRows& rows) const {
        alignas(64) float sums[2][ROWS * LANES];
        each_stripe(task, [&](int, int, int number) {
            for (int side = 0; side < sides; side++) {
                const Stripe stripe = stripes[side].get(task.matrix, number);
                with_kind(stripe.kind, [&](auto b) {
                    using B = decltype(b);
                    if constexpr (B::SUPER)
                        multiply_stripe<B>(stripe.packed, *rows.super, task.rows, rows.height, sums[side]);
                    else
                        multiply_stripe<B>(stripe.packed, *rows.small, task.rows, rows.height, sums[side]);
                });
            }
            const Stripe stripe = stripes[0].get(task.matrix, number);
            for (int m = 0; m < task.rows; m++)
                epilogue.write<LANES>(sums[0] + m * LANES, sums[1] + m * LANES, task.row + m, stripe.first,
                                      stripe.outputs);
        });
    }

    // to[m][0..LANES) = the products of a stripe and all rows
    template <class B>
    void multiply_stripe(const uint8_t* stripe, const Tiles<Own<B>>& tiles, int count, int height, float* to) const {
        const int32_t* words = tiles.words();
        const Own<B>* own = tiles.blocks();
        constexpr int each = NUMBERS<Own<B>>;
        if (count <= FEW_OF<B>) {
            with_constant<FEW_OF<B>>(count, [&](auto m) { multiply_few_rows<B, m>(stripe, words, own, K, to); });
            return;
        }
        OpenedChunk<B> chunk;
        const uint8_t* packed = stripe;
        for (int k = 0; k < K; k += CHUNK) {
            const int kc = std::min(CHUNK, K - k), blocks = kc / B::WEIGHTS;
            chunk.open(packed, blocks);
            packed += static_cast<std::size_t>(blocks) * B::BYTES;
            Ahead ahead(packed, blocks * B::BYTES, blocks * PARTS * ceil_div(count, height));
            for (int m = 0; m < count; m += height) {
                const int some = std::min(height, count - m);
                with_constant<TILE>(some, [&](auto rows) {
                    chunk.template multiply<rows>(words + static_cast<std::size_t>(K / 4) * m + k / 4 * some,
                                                  own + static_cast<std::size_t>(K / each) * m + k / each * some, kc,
                                                  to + m * LANES, k > 0, ahead);
                });
            }
        }
    }

    // The rows of each group of tasks that have the same ones, and which of them each task has.
    std::vector<IntegerRows> quantised(GompParallel gomp, int threads, const std::vector<Task>& tasks,
                                       std::vector<int>& rows_of) const {
        const auto has = [&](bool super) { return stripes[0].has(super) || stripes[1].has(super); };
        std::vector<IntegerRows> found;
        for (const Task& task : tasks) {
            const auto same = [&](const IntegerRows& rows) { return rows.first == task.row; };
            const auto at = std::find_if(found.rbegin(), found.rend(), same);
            rows_of.push_back(at != found.rend() ? found.rend() - at - 1 : static_cast<int>(found.size()));
            if (at == found.rend()) found.emplace_back(task.row, task.rows, K, has(false), has(true));
        }
        std::vector<std::pair<IntegerRows*, int>> rows;
        for (IntegerRows& each : found)
            for (int m = 0; m < each.count; m++) rows.emplace_back(&each, m);
        parallel_for(gomp, threads, static_cast<int>(rows.size()), [&](int i) {
            const auto [of, m] = rows[i];
            const float* from = x + x_row(of->first + m) * K;
            if (of->small) of->small->set(m, from);
            if (of->super) of->super->set(m, from);
        });
        return found;
    }
};

// Is every input of each matrix that has rows somewhere in its blocks?
Fault check(const int32_t* places, const int64_t* offsets, int matrices, int K) {
    for (int e = 0; e < matrices; e++)
        for (int k = 0; k < K && offsets[e] < offsets[e + 1]; k++)
            if (const int place = places[static_cast<std::size_t>(e) * K + k]; place < 0 || place >= K) return PLACES;
    return NONE;
}

// The rows of a product, [M, K], each with its inputs where its matrix's blocks have them.
std::vector<float> in_blocks_order(GompParallel gomp, int threads, const float* x, const int64_t* order,
                                   const int32_t* places, const int64_t* offsets, int matrices, int M, int K) {
    std::vector<float> rows(static_cast<std::size_t>(M) * K);
    parallel_for_rows(gomp, threads, M, [&](int m) {
        const int matrix = std::upper_bound(offsets, offsets + matrices + 1, m) - offsets - 1;
        const int32_t* at = places + static_cast<std::size_t>(matrix) * K;
        const float* from = x + (order ? order[m] : m) * K;
        float* to = rows.data() + static_cast<std::size_t>(m) * K;
        for (int k = 0; k < K; k++) to[at[k]] = from[k];
    });
    return rows;
}

}  // namespace

int gemm_blocks(GompParallel gomp, int threads, const float* x, int x_rows, const int64_t* order,
                const int64_t* offsets, int matrices, const int64_t* parts, int part_count, const int32_t* places,
                int M, int K, int outputs, int activation, const float* bias, int accumulate, const float* row_scales,
                int int8, float* out) {
    if (const Fault fault = check(offsets, matrices, M, order, x_rows)) return fault;
    if (places)
        if (const Fault fault = check(places, offsets, matrices, K)) return fault;
    std::vector<float> rows_in_order;
    if (int8 && places) {
        rows_in_order = in_blocks_order(gomp, threads, x, order, places, offsets, matrices, M, K);
        x = rows_in_order.data(), order = nullptr;
    }
    const int sides = activation ? 2 : 1;
    Product product{x,
                    K,
                    order,
                    places,
                    sides,
                    {Stripes(parts, part_count / sides, K), Stripes(parts + 3, sides - 1, K)},
                    {outputs, activation, bias, accumulate, row_scales, out}};
    const int rows = int8 ? std::clamp(GATHERED / (K + 1) / TILE * TILE, 4 * TILE, ROWS) : ROWS;
    const std::vector<Task> tasks = divide(offsets, matrices, product.panels(), rows, PANELS / sides, threads);
    std::vector<int> rows_of;
    const std::vector<IntegerRows> quantised =
        int8 ? product.quantised(gomp, threads, tasks, rows_of) : std::vector<IntegerRows>();
    parallel_for(gomp, threads, static_cast<int>(tasks.size()), [&](int i) {
        if (int8)
            product.integer_rows(tasks[i], quantised[rows_of[i]]);
        else
            tasks[i].rows == 1 ? product.exact_row(tasks[i]) : product.exact_rows(tasks[i]);
    });
    return NONE;
}
