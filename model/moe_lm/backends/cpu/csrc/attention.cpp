#include <cmath>
#include <memory>

#include "gemm.h"
#include "kernels.h"

namespace {

constexpr int QUERIES = 48;      // rows of an attention task, about: a token has G of them
constexpr int AT_ONCE = 4;       // vectors of scores that become weights together
static_assert(PAGE <= KC && PAGE % (AT_ONCE * LANES) == 0);

Fault check(const int32_t* positions, const int32_t* sequences, const int32_t* table, int T, int N, int columns, int pages) {
    for (int t = 0; t < T; t++) {
        if (positions[t] < 0 || positions[t] / PAGE >= columns) return POSITIONS;
        if (sequences[t] < 0 || sequences[t] >= N) return SEQUENCES;
    }
    for (std::ptrdiff_t i = 0; i < static_cast<std::ptrdiff_t>(N) * columns; i++)
        if (table[i] < 0 || table[i] >= pages) return TABLE;
    return NONE;
}

}  // namespace

int append_kv(GompParallel gomp, int threads, const float* k, int k_row, const float* v, int v_row, int T, int J, int d,
              const int32_t* positions, const int32_t* sequences, const int32_t* table, int N, int columns, int pages, float* k_pages,
              float* v_pages) {
    if (const Fault fault = check(positions, sequences, table, T, N, columns, pages)) return fault;
    const int wide = ceil_div(d, SPAN) * SPAN;
    parallel_for_rows(gomp, threads, T, [&](int t) {
        const std::size_t page = table[static_cast<std::size_t>(sequences[t]) * columns + positions[t] / PAGE];
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

// A page's keys are one step of an online softmax. Neighbouring tokens whose keys lie on the same page read it together.
int paged_attention(GompParallel gomp, int threads, const float* q, int q_row, int T, int H, int J, int d, float scale,
                    const int32_t* positions, const int32_t* sequences, const int32_t* table, int N, int columns, int pages, int window,
                    const float* k_pages, const float* v_pages, float* out) {
    if (const Fault fault = check(positions, sequences, table, T, N, columns, pages)) return fault;
    const int G = H / J, wide = ceil_div(d, SPAN) * SPAN;
    const int some = std::max(1, QUERIES / G), chunks = ceil_div(T, some);
    // the last tokens first: they have the most to read, and a long task that starts last would be waited for
    parallel_for(gomp, threads, chunks * J, [&](int i) {
        const int j = i % J, first = (chunks - 1 - i / J) * some, tokens = std::min(some, T - first), rows = tokens * G;
        const int depths = ceil_div(d, KC);
        const std::unique_ptr<float[]> memory(new float[rows * ((depths + 1) * A_ROW + wide + LANES + 1)]);
        float *queries = memory.get(), *scores = queries + depths * rows * A_ROW, *sums = scores + rows * A_ROW;
        float *totals = sums + rows * wide, *tops = totals + rows * LANES;
        std::fill(sums, tops, 0.0f);
        std::fill_n(tops, rows, -INFINITY);
        const auto nothing = [](int, int) {};
        for (int t = 0, r = 0; t < tokens; t++)
            for (int g = 0; g < G; g++, r++)
                for (int n = 0; n < d; n += KC) {
                    const float* from = q + static_cast<std::size_t>(first + t) * q_row + (j * G + g) * d + n;
                    float* to = queries + (n / KC * rows + r) * A_ROW;
                    for (int c = 0, end = std::min(KC, d - n); c < end; c++) to[c] = from[c] * scale;
                }
        int begin = columns, end = 0;
        for (int t = first; t < first + tokens; t++) {
            begin = std::min(begin, window ? std::max(0, positions[t] + 1 - window) / PAGE : 0);
            end = std::max(end, positions[t] / PAGE + 1);
        }
        for (int at = begin; at < end; at++) {
            // the keys of this page that a token sees: low .. high - 1
            const auto low = [&](int t) { return window ? std::max(0, positions[t] + 1 - window - at * PAGE) : 0; };
            const auto high = [&](int t) { return std::min(PAGE, positions[t] + 1 - at * PAGE); };
            const auto page_of = [&](int t) { return table[static_cast<std::size_t>(sequences[t]) * columns + at]; };
            for (int t = first; t < first + tokens;) {
                if (low(t) >= high(t)) {
                    t++;
                    continue;
                }
                const std::size_t page = page_of(t);
                int last = t, keys = 0;
                for (; last < first + tokens && low(last) < high(last) && static_cast<std::size_t>(page_of(last)) == page; last++)
                    keys = std::max(keys, high(last));
                const float *k = k_pages + (page * J + j) * d * PAGE, *v = v_pages + (page * J + j) * PAGE * wide;
                const int from = (t - first) * G, count = (last - t) * G;
                for (int c = 0; c < keys; c += SPAN)
                    for (int n = 0; n < d; n += KC)
                        multiply_panel<SPAN, false>(queries + (n / KC * rows + from) * A_ROW, count, k + c * d + n * SPAN, std::min(KC, d - n),
                                                    scores + c, A_ROW, n > 0, {}, nothing);
                float* s = scores;
                for (int u = t, r = from; u < last; u++) {
                    const int lowest = low(u), highest = high(u), whole = ceil_div(highest, AT_ONCE * LANES) * AT_ONCE * LANES;
                    for (int g = 0; g < G; g++, r++, s += A_ROW) {
                        std::fill(s, s + lowest, -INFINITY);
                        std::fill(s + highest, s + whole, -INFINITY);
                        std::fill(s + whole, s + std::max(whole, keys), 0.0f);
                        vec top = load(s);
                        for (int c = LANES; c < whole; c += LANES) top = larger(top, load(s + c));
                        vec total = load(totals + r * LANES);
                        if (const float new_top = largest(top); new_top > tops[r]) {
                            const vec shrink = splat(exp(splat(tops[r] - new_top)).part[0][0]);
                            tops[r] = new_top;
                            total = total * shrink;
                            for (int c = 0; c < wide; c += LANES) store(sums + r * wide + c, load(sums + r * wide + c) * shrink);
                        }
                        for (int c = 0; c < whole; c += AT_ONCE * LANES) {
                            vec weights[AT_ONCE];
                            for (int n = 0; n < AT_ONCE; n++) weights[n] = load(s + c + n * LANES) - splat(tops[r]);
                            exp(weights);
                            for (int n = 0; n < AT_ONCE; n++) {
                                store(s + c + n * LANES, weights[n]);
                                total = total + weights[n];
                            }
                        }
                        store(totals + r * LANES, total);
                    }
                }
                for (int c = 0; c < wide; c += SPAN)
                    multiply_panel<SPAN, false>(scores, count, v + c * PAGE, keys, sums + from * wide + c, wide, true, {}, nothing);
                t = last;
            }
        }
        for (int t = 0, r = 0; t < tokens; t++)
            for (int g = 0; g < G; g++, r++) {
                const float total = sum(load(totals + r * LANES));
                float* to = out + (static_cast<std::size_t>(first + t) * H + j * G + g) * d;
                for (int c = 0; c < d; c++) to[c] = sums[r * wide + c] / total;
            }
    });
    return NONE;
}
