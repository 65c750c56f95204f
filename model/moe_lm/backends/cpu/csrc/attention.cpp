#include <cmath>
#include <memory>

#include "gemm.h"
#include "kernels.h"

namespace {

// Where tokens lie: see append_kv in kernels.h.
struct Places {
    const int32_t *positions, *sequences, *table;
    int N, columns;
};

constexpr int QUERIES = 48;  // rows of a task, about: each token has G of them
constexpr int AT_ONCE = 4;   // vectors of scores that become weights together
static_assert(PAGE <= KC && PAGE % (AT_ONCE * LANES) == 0);

Fault check(const Places& places, int T, int pages) {
    for (int t = 0; t < T; t++) {
        if (places.positions[t] < 0 || places.positions[t] / PAGE >= places.columns) return POSITIONS;
        if (places.sequences[t] < 0 || places.sequences[t] >= places.N) return SEQUENCES;
    }
    for (std::ptrdiff_t i = 0; i < static_cast<std::ptrdiff_t>(places.N) * places.columns; i++)
        if (places.table[i] < 0 || places.table[i] >= pages) return TABLE;
    return NONE;
}

// the page of a token's sequence that holds the positions column * PAGE and on
std::size_t page_of(const Places& places, int t, int column) {
    return places.table[static_cast<std::size_t>(places.sequences[t]) * places.columns + column];
}

// The state of an online softmax for one row: the largest score so far, and on LANES lanes the sum of e^(score - top).
struct Softmax {
    float* top;
    float* totals;
};

// Turns a row's scores of one page into weights e^(score - top). Scores outside low .. high - 1 weigh nothing, up to
// `keys` of them. Where the page has a larger score than those before it, `sums` of weighted values shrink accordingly.
INLINE void softmax_step(float* scores, int low, int high, int keys, Softmax state, float* sums, int wide) {
    const int whole = ceil_div(high, AT_ONCE * LANES) * AT_ONCE * LANES;
    std::fill(scores, scores + low, -INFINITY);
    std::fill(scores + high, scores + whole, -INFINITY);
    std::fill(scores + whole, scores + std::max(whole, keys), 0.0f);
    vec tops = load(scores);
    for (int c = LANES; c < whole; c += LANES) tops = larger(tops, load(scores + c));
    vec totals = load(state.totals);
    const float old_top = *state.top, top = std::max(old_top, largest(tops));
    if (top > old_top) {
        const vec shrink = splat(exp(splat(old_top - top)).part[0][0]);
        *state.top = top;
        totals = totals * shrink;
        for (int c = 0; c < wide; c += LANES) store(sums + c, load(sums + c) * shrink);
    }
    for (int c = 0; c < whole; c += AT_ONCE * LANES) {
        vec weights[AT_ONCE];
#pragma GCC unroll 4
        for (int n = 0; n < AT_ONCE; n++) weights[n] = load(scores + c + n * LANES) - splat(top);
        exp(weights);
#pragma GCC unroll 4
        for (int n = 0; n < AT_ONCE; n++) {
            store(scores + c + n * LANES, weights[n]);
            totals = totals + weights[n];
        }
    }
    store(state.totals, totals);
}

}  // namespace

int append_kv(GompParallel gomp, int threads, const float* k, int k_row, const float* v, int v_row, int T, int J, int d,
              const int32_t* positions, const int32_t* sequences, const int32_t* table, int N, int columns, int pages,
              float* k_pages, float* v_pages) {
    const Places places{positions, sequences, table, N, columns};
    if (const Fault fault = check(places, T, pages)) return fault;
    const int wide = ceil_div(d, SPAN) * SPAN;
    parallel_for_rows(gomp, threads, T, [&](int t) {
        const std::size_t page = page_of(places, t, positions[t] / PAGE);
        const int at = positions[t] % PAGE;
        for (int j = 0; j < J; j++) {
            const float* key = k + static_cast<std::size_t>(t) * k_row + j * d;
            const float* value = v + static_cast<std::size_t>(t) * v_row + j * d;
            float* to_key = k_pages + (page * J + j) * PAGE * d + at / SPAN * SPAN * d + at % SPAN;
            float* to_value = v_pages + (page * J + j) * PAGE * wide + at * SPAN;
            for (int c = 0; c < d; c++) to_key[c * SPAN] = key[c];
            for (int c = 0; c < d; c += SPAN) std::copy_n(value + c, std::min(SPAN, d - c), to_value + c * PAGE);
        }
    });
    return NONE;
}

// A page is one step of an online softmax. Neighbouring tokens whose keys lie on the same page read it together.
int paged_attention(GompParallel gomp, int threads, const float* q, int q_row, int T, int H, int J, int d, float scale,
                    const int32_t* positions, const int32_t* sequences, const int32_t* table, int N, int columns,
                    int pages, int window, const float* k_pages, const float* v_pages, float* out) {
    const Places places{positions, sequences, table, N, columns};
    if (const Fault fault = check(places, T, pages)) return fault;
    const int G = H / J, depths = ceil_div(d, KC), wide = ceil_div(d, SPAN) * SPAN;
    const int some = std::max(1, QUERIES / G), chunks = ceil_div(T, some);
    // the last tokens first: they have the most to read, and a long task that starts last would be waited for
    parallel_for(gomp, threads, chunks * J, [&](int i) {
        const int j = i % J, first = (chunks - 1 - i / J) * some, end = std::min(first + some, T);
        const int rows = (end - first) * G;
        const std::unique_ptr<float[]> memory(new float[rows * ((depths + 1) * A_ROW + wide + LANES + 1)]);
        float *queries = memory.get(), *scores = queries + depths * rows * A_ROW, *sums = scores + rows * A_ROW;
        float *totals = sums + rows * wide, *tops = totals + rows * LANES;
        std::fill(sums, tops, 0.0f);
        std::fill_n(tops, rows, -INFINITY);
        for (int t = first, r = 0; t < end; t++)
            for (int g = 0; g < G; g++, r++) {
                const float* from = q + static_cast<std::size_t>(t) * q_row + (j * G + g) * d;
                for (int n = 0; n < depths; n++)
                    for (int c = n * KC; c < std::min(d, (n + 1) * KC); c++)
                        queries[(n * rows + r) * A_ROW + c - n * KC] = from[c] * scale;
            }
        int column = columns, last_column = 0;
        for (int t = first; t < end; t++) {
            column = std::min(column, window ? std::max(0, positions[t] + 1 - window) / PAGE : 0);
            last_column = std::max(last_column, positions[t] / PAGE);
        }
        for (; column <= last_column; column++) {
            // the keys of this page that a token sees: low .. high - 1
            const auto low = [&](int t) { return window ? std::max(0, positions[t] + 1 - window - column * PAGE) : 0; };
            const auto high = [&](int t) { return std::min(PAGE, positions[t] + 1 - column * PAGE); };
            for (int t = first, next; t < end; t = next) {
                const std::size_t page = page_of(places, t, column);
                int keys = 0;
                for (next = t; next < end && low(next) < high(next) && page_of(places, next, column) == page; next++)
                    keys = std::max(keys, high(next));
                if (next == t) {  // this token sees none of the page's keys
                    next++;
                    continue;
                }
                const float *k = k_pages + (page * J + j) * PAGE * d, *v = v_pages + (page * J + j) * PAGE * wide;
                const int row = (t - first) * G, count = (next - t) * G;
                for (int c = 0; c < keys; c += SPAN)
                    for (int n = 0; n < depths; n++)
                        multiply_panel<ATTENTION_MR, SPAN>(queries + (n * rows + row) * A_ROW, count,
                                                           k + c * d + n * KC * SPAN, std::min(KC, d - n * KC),
                                                           scores + c, A_ROW, n > 0);
                for (int u = t, r = 0; u < next; u++)
                    for (int g = 0; g < G; g++, r++)
                        softmax_step(scores + r * A_ROW, low(u), high(u), keys,
                                     {tops + row + r, totals + (row + r) * LANES}, sums + (row + r) * wide, wide);
                for (int c = 0; c < wide; c += SPAN)
                    multiply_panel<ATTENTION_MR, SPAN>(scores, count, v + c * PAGE, keys, sums + row * wide + c, wide,
                                                       true);
            }
        }
        for (int t = first, r = 0; t < end; t++)
            for (int g = 0; g < G; g++, r++) {
                const float total = sum(load(totals + r * LANES));
                float* to = out + (static_cast<std::size_t>(t) * H + j * G + g) * d;
                for (int c = 0; c < d; c++) to[c] = sums[r * wide + c] / total;
            }
    });
    return NONE;
}
