// The CPU's kernels: matrix products over packed weights, and attention over pages. `compiled.py` builds and calls them.
//
// Every number is summed in an order of its own, whatever else is computed beside it: in products vector lanes hold different outputs,
// each a chain of fused multiply-adds; a norm's and a softmax's sums lie on LANES lanes on every processor, added up in one order.
// So a row's bits depend neither on how many rows came with it nor on the vectors' width.
//
// M rows, K inputs, O outputs; T tokens, H query heads, J key/value heads, G = H / J, d head_dim; PAGE tokens a page.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int LANES = 16, PANEL = 2 * LANES;  // outputs a panel of packed weights holds
#ifdef __AVX512F__
constexpr int TILE = 12;                      // rows whose sums with one panel stay in registers
#else
constexpr int TILE = 3;
#endif
constexpr int CHAIN = 128;                    // inputs summed in registers before they are added to the output: longer chains round more
constexpr int DEPTH = CHAIN;                  // inputs of a panel that all rows of a task take before the next ones: they stay in the L1 cache
constexpr int STRIDE = DEPTH + LANES;         // of a task's copy of its rows: in x itself rows may lie where the L1 cache holds but a few
constexpr int ROWS = 96, PANELS = 16;         // of a task, at most: its sums stay in the L2 cache
constexpr int PAGE = 128;
constexpr int QUERIES = 48;  // rows of an attention task

typedef float vec __attribute__((vector_size(64)));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef uint32_t uvec __attribute__((vector_size(64)));
typedef uint16_t half_vec __attribute__((vector_size(32)));
typedef void (*Start)(void (*)(void*), void*, unsigned, unsigned);

inline vec load(const float* p) {
    vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float* p, vec v) { std::memcpy(p, &v, sizeof v); }

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

inline vec zeros() { return vec{} ; }

inline vec larger_of(vec a, vec b) { return a > b ? a : b; }

template <class Join>
inline float join(vec v, Join op) {
    v = op(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = op(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    return op(v, __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14))[0];
}

inline float largest(vec v) {
    return join(v, larger_of);
}

inline float sum_of(vec v) {
    return join(v, [](vec a, vec b) { return a + b; });
}

// e^x to 2 ulp (Cephes' coefficients); 0 and below as it is used here, and up to 88
inline vec exp(vec x) {
    x = x < -87.0f ? zeros() - 87.0f : x;
    x = x > 88.0f ? zeros() + 88.0f : x;
    const vec n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    vec r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = zeros() + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + (r + 1.0f);
    const ivec scale = (__builtin_convertvector(n, ivec) + 127) << 23;
    return p * (vec)scale;
}

enum Activation { NONE, SILU, GELU_TANH };

inline vec activate(int activation, vec x) {
    if (activation == SILU) return x / (1.0f + exp(-x));
    const vec y = 1.5957691216f * (x + 0.044715f * x * x * x);  // x * (1 + tanh(y / 2)) / 2
    return x / (1.0f + exp(-y));
}

// `threads` workers take tasks in turn; which worker takes which changes no bit
template <class Task>
void share(Start start, int threads, int tasks, const Task& task) {
    struct Shared {
        const Task& task;
        std::atomic<int> next;
        int tasks;
    } shared{task, {0}, tasks};
    const auto work = [](void* data) {
        auto& s = *static_cast<Shared*>(data);
        for (int i; (i = s.next.fetch_add(1)) < s.tasks;) s.task(i);
    };
    if (start && threads > 1 && tasks > 1)
        start(work, &shared, std::min(threads, tasks), 0);
    else
        work(&shared);
}

// what a tile asks memory for while it computes, so many bytes an input: the processor's own prefetching stops at every 4 KB
struct Ahead {
    const char* from;
    int step;
};

// out[m][0..PANEL) += or = sum over k of a[m][k] * b[k][0..PANEL)
template <int M>
inline void tile(Ahead ahead, const float* a, std::ptrdiff_t a_row, const float* b, std::ptrdiff_t b_row, int depth, float* out, std::ptrdiff_t out_row, bool add) {
    for (int begin = 0; begin < depth; begin += CHAIN, add = true) {
        vec sum[M][2];
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) sum[m][0] = sum[m][1] = zeros();
        for (int k = begin; k < std::min(depth, begin + CHAIN); k++) {
            __builtin_prefetch(ahead.from + k * ahead.step, 0, 2);
            if (ahead.step > 64) __builtin_prefetch(ahead.from + k * ahead.step + 64, 0, 2);
            __builtin_prefetch(a + M * a_row + k * LANES, 0, 3);  // the next tile's rows
            const vec lower = load(b + k * b_row), upper = load(b + k * b_row + LANES);
#pragma GCC unroll 16
            for (int m = 0; m < M; m++) {
                const float s = a[m * a_row + k];
                sum[m][0] += s * lower;
                sum[m][1] += s * upper;
            }
        }
#pragma GCC unroll 16
        for (int m = 0; m < M; m++) {
            float* o = out + m * out_row;
            store(o, add ? load(o) + sum[m][0] : sum[m][0]);
            store(o + LANES, add ? load(o + LANES) + sum[m][1] : sum[m][1]);
        }
    }
}

// the same for any number of rows; `then` is told the first row of each tile and their number
template <class Then>
inline void tiles(Ahead ahead, int rows, const float* a, std::ptrdiff_t a_row, const float* b, std::ptrdiff_t b_row, int depth, float* out, std::ptrdiff_t out_row, bool add,
                  const Then& then) {
    const int even = ceil_div(rows, ceil_div(rows, TILE));
    ahead.step /= ceil_div(rows, even);
    for (int row = 0; row < rows; row += even, a += even * a_row, out += even * out_row, ahead.from += depth * ahead.step) {
        const int some = std::min(rows - row, even);
        switch (some) {
            case 1: tile<1>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 2: tile<2>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 3: tile<3>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 4: tile<4>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 5: tile<5>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 6: tile<6>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 7: tile<7>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 8: tile<8>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 9: tile<9>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 10: tile<10>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            case 11: tile<11>(ahead, a, a_row, b, b_row, depth, out, out_row, add); break;
            default: tile<TILE>(ahead, a, a_row, b, b_row, depth, out, out_row, add);
        }
        then(row, some);
    }
}

// `depth` rows of a packed panel as float32
const float* widen(const void* weights, bool bfloat16, std::size_t at, int depth, float* room) {
    if (!bfloat16) return static_cast<const float*>(weights) + at;
    const uint16_t* from = static_cast<const uint16_t*>(weights) + at;
    for (int i = 0; i < depth * PANEL; i += LANES) {
        half_vec h;
        std::memcpy(&h, from + i, sizeof h);
        store(room + i, (vec)(__builtin_convertvector(h, uvec) << 16));
    }
    return room;
}

struct Block {
    int matrix, row, rows, panel, panels;
};

}  // namespace

extern "C" {

// Products of the rows offsets[e]..offsets[e+1] of x with matrix e, for each of `matrices`: out = x @ w.T + bias, or with an activation
// act(x @ gate.T) * (x @ up.T). x [.., K] and out [M, outputs] float32; row m is x[order[m]] where there is an `order`;
// weights [matrices, panels, K, PANEL], see `Packed` in compiled.py.
void products(Start start, int threads, const float* x, const int64_t* order, const int64_t* offsets, int matrices, const void* weights, int bfloat16, int K,
              int outputs, int activation, const float* bias, float* out) {
    const int wide = activation ? LANES : PANEL;  // outputs of one panel
    const int panels = ceil_div(outputs, wide), size = bfloat16 ? 2 : 4;
    int parts = 0;
    for (int e = 0; e < matrices; e++) parts += ceil_div(offsets[e + 1] - offsets[e], ROWS);
    const int most = std::clamp(panels * parts / (8 * threads), 1, PANELS);  // enough tasks, so that none is waited for
    const int step = ceil_div(panels, ceil_div(panels, most));
    std::vector<Block> blocks;
    for (int e = 0; e < matrices; e++)
        for (int row = offsets[e], end = offsets[e + 1]; row < end;) {
            const int even = ceil_div((end - row) / ceil_div(end - row, ROWS), TILE) * TILE;
            const int rows = std::min({even, ROWS, end - row});
            for (int panel = 0; panel < panels; panel += step) blocks.push_back({e, row, rows, panel, std::min(step, panels - panel)});
            row += rows;
        }
    share(start, threads, static_cast<int>(blocks.size()), [&](int i) {
        const auto [e, row, rows, panel, count] = blocks[i];
        alignas(64) float sums[ROWS * PANEL * PANELS], copy[ROWS * STRIDE], room[DEPTH * PANEL];
        const auto place = [&, e = e, panel = panel](int p, int k) { return ((static_cast<std::size_t>(e) * panels + panel + p) * K + k) * PANEL; };
        for (int k = 0; k < K; k += DEPTH) {
            const int depth = std::min(DEPTH, K - k);
            for (int m = 0; m < rows; m++) {
                const std::size_t from = order ? order[row + m] : row + m;
                std::memcpy(copy + m * STRIDE, x + from * K + k, depth * sizeof(float));
            }
            for (int p = 0; p < count; p++) {
                const std::size_t next = p + 1 < count ? place(p + 1, k) : place(0, k + depth);
                const Ahead ahead{static_cast<const char*>(weights) + next * size, PANEL * size};
                const float* b = widen(weights, bfloat16, place(p, k), depth, room);
                const int first = (panel + p) * wide, some = std::min(wide, outputs - first);
                // a tile's outputs go to memory while the next one is computed
                const auto write = [&, row = row](int begin, int tile_rows) {
                    if (k + depth < K) return;
                    for (int m = begin; m < begin + tile_rows; m++) {
                        float* s = sums + (p * ROWS + m) * PANEL;
                        if (activation) store(s, activate(activation, load(s)) * load(s + LANES));
                        float* o = out + static_cast<std::size_t>(row + m) * outputs + first;
                        if (bias)
                            for (int c = 0; c < some; c++) o[c] = s[c] + bias[first + c];
                        else
                            std::memcpy(o, s, some * sizeof(float));
                    }
                };
                tiles(ahead, rows, copy, STRIDE, b, PANEL, depth, sums + p * ROWS * PANEL, PANEL, k > 0, write);
            }
        }
    });
}

// RMS norm of T rows of D: x / sqrt(mean(x^2) + eps) * (offset + weight)
void normalise(Start start, int threads, const float* x, const float* weight, int T, int D, float eps, float offset, float* out) {
    const int some = 16, whole = D / LANES * LANES;
    share(start, threads, ceil_div(T, some), [&](int i) {
        for (int t = i * some; t < std::min(T, (i + 1) * some); t++) {
            const float* from = x + static_cast<std::size_t>(t) * D;
            float* to = out + static_cast<std::size_t>(t) * D;
            vec squares = zeros();
            for (int c = 0; c < whole; c += LANES) squares += load(from + c) * load(from + c);
            float sum = sum_of(squares);
            for (int c = whole; c < D; c++) sum += from[c] * from[c];
            const float factor = 1.0f / std::sqrt(sum / D + eps);
            for (int c = 0; c < D; c++) to[c] = from[c] * factor * (offset + weight[c]);
        }
    });
}

// Rotary embedding in place, half-split layout: the first `heads` heads of d in each of T rows of `width`; cos and sin [T, d / 2].
void rotate(Start start, int threads, float* x, const float* cos, const float* sin, int T, int heads, int d, int width) {
    const int some = 16, half = d / 2;
    share(start, threads, ceil_div(T, some), [&](int i) {
        for (int t = i * some; t < std::min(T, (i + 1) * some); t++)
            for (int h = 0; h < heads; h++) {
                float *lower = x + static_cast<std::size_t>(t) * width + h * d, *upper = lower + half;
                const float *c = cos + static_cast<std::size_t>(t) * half, *s = sin + static_cast<std::size_t>(t) * half;
                for (int r = 0; r < half; r++) {
                    const float l = lower[r], u = upper[r];
                    lower[r] = l * c[r] - u * s[r];
                    upper[r] = u * c[r] + l * s[r];
                }
            }
    });
}

// Put keys and values [T, J, d] at their tokens' places: token t at row positions[t] % PAGE of page table[sequence[t]][positions[t] / PAGE].
// Pages: k [pages, J, d, PAGE], v [pages, J, PAGE, wide], wide = d rounded up to a whole PANEL.
void append(Start start, int threads, const float* k, const float* v, int T, int J, int d, const int32_t* positions, const int32_t* sequence,
            const int32_t* table, int places, float* k_pages, float* v_pages) {
    const int wide = ceil_div(d, PANEL) * PANEL, some = 64;
    share(start, threads, ceil_div(T, some), [&](int i) {
        for (int t = i * some; t < std::min(T, (i + 1) * some); t++) {
            const std::size_t page = table[static_cast<std::size_t>(sequence[t]) * places + positions[t] / PAGE];
            const int at = positions[t] % PAGE;
            for (int j = 0; j < J; j++) {
                const std::size_t from = (static_cast<std::size_t>(t) * J + j) * d;
                float* to = k_pages + (page * J + j) * d * PAGE + at;
                for (int c = 0; c < d; c++) to[c * PAGE] = k[from + c];
                std::memcpy(v_pages + ((page * J + j) * PAGE + at) * wide, v + from, d * sizeof(float));
            }
        }
    });
}

// Attention of T tokens, [T, H, d], each to the tokens of its own sequence up to itself, or to the last `window` of them (0: to all).
// A page's keys are one step of an online softmax. Neighbouring tokens that lie on the same page read it together.
void attend(Start start, int threads, const float* q, int T, int H, int J, int d, float scale, const int32_t* positions,
            const int32_t* sequence, const int32_t* table, int places, int window, const float* k_pages, const float* v_pages, float* out) {
    const int G = H / J, wide = ceil_div(d, PANEL) * PANEL;
    const int some = std::max(1, QUERIES / G), chunks = ceil_div(T, some);
    // the last ones have the most to read, and one taken last would be waited for
    share(start, threads, chunks * J, [&](int i) {
        const int j = i % J, first = (chunks - 1 - i / J) * some, tokens = std::min(some, T - first), rows = tokens * G;
        const int padded = (rows + LANES) / LANES * LANES + LANES;
        std::vector<float> memory(static_cast<std::size_t>(rows) * (d + wide + LANES) + TILE * PAGE + padded);
        float *qs = memory.data(), *sums = qs + rows * d, *totals = sums + rows * wide, *scores = totals + rows * LANES;
        float* most = scores + TILE * PAGE;
        std::fill_n(most, padded, -INFINITY);
        const Ahead nothing{reinterpret_cast<const char*>(qs), 0};
        const auto nothing_more = [](int, int) {};
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < d; c++) qs[r * d + c] = q[(static_cast<std::size_t>(first + r / G) * H + j * G + r % G) * d + c] * scale;
        int begin = places, end = 0;
        for (int t = first; t < first + tokens; t++) {
            begin = std::min(begin, window ? std::max(0, positions[t] + 1 - window) / PAGE : 0);
            end = std::max(end, positions[t] / PAGE + 1);
        }
        for (int at = begin; at < end; at++) {
            // visible keys of this page: from `low` up to, without, `high`
            const auto low = [&](int t) { return window ? std::max(0, positions[t] + 1 - window - at * PAGE) : 0; };
            const auto high = [&](int t) { return std::min(PAGE, positions[t] + 1 - at * PAGE); };
            for (int t = first; t < first + tokens;) {
                if (low(t) >= high(t)) {
                    t++;
                    continue;
                }
                const std::size_t page = table[static_cast<std::size_t>(sequence[t]) * places + at];
                int last = t, keys = 0;
                for (; last < first + tokens && low(last) < high(last) &&
                       static_cast<std::size_t>(table[static_cast<std::size_t>(sequence[last]) * places + at]) == page;
                     last++)
                    keys = std::max(keys, high(last));
                const float *k = k_pages + (page * J + j) * d * PAGE, *v = v_pages + (page * J + j) * PAGE * wide;
                for (int r = (t - first) * G; r < (last - first) * G; r += TILE) {
                    const int n = std::min(TILE, (last - first) * G - r);
                    for (int c = 0; c < keys; c += PANEL) tiles(nothing, n, qs + r * d, d, k + c, PAGE, d, scores + c, PAGE, false, nothing_more);
                    alignas(64) float larger[LANES], before[LANES];
                    store(larger, load(most + r));
                    for (int m = 0; m < n; m++) {
                        float* s = scores + m * PAGE;
                        std::fill(s, s + low(first + (r + m) / G), -INFINITY);
                        std::fill(s + high(first + (r + m) / G), s + PAGE, -INFINITY);
                        vec top = load(s);
                        for (int c = LANES; c < PAGE; c += LANES) top = larger_of(top, load(s + c));
                        larger[m] = std::max(larger[m], largest(top));
                    }
                    store(before, exp(load(most + r) - load(larger)));
                    for (int m = 0; m < n; m++) {
                        most[r + m] = larger[m];
                        vec sum = load(totals + (r + m) * LANES) * before[m];
                        for (int c = 0; c < PAGE; c += LANES) {
                            const vec x = load(scores + m * PAGE + c), weight = x == -INFINITY ? zeros() : exp(x - larger[m]);
                            store(scores + m * PAGE + c, weight);
                            sum += weight;
                        }
                        store(totals + (r + m) * LANES, sum);
                        for (int c = 0; c < wide; c += LANES) store(sums + (r + m) * wide + c, load(sums + (r + m) * wide + c) * before[m]);
                    }
                    for (int c = 0; c < wide; c += PANEL) tiles(nothing, n, scores, PAGE, v + c, wide, keys, sums + r * wide + c, wide, true, nothing_more);
                }
                t = last;
            }
        }
        for (int r = 0; r < rows; r++) {
            const float total = sum_of(load(totals + r * LANES));
            for (int c = 0; c < d; c++)
                out[(static_cast<std::size_t>(first + r / G) * H + j * G + r % G) * d + c] = sums[r * wide + c] / total;
        }
    });
}

// Adds to each token's sum over its K experts, in the order given, those of the rows begin..end, y [end - begin, D]:
// out[t] += weights[t][n] * y[rows[t][n] - begin]
void combine(Start start, int threads, const float* y, const int64_t* rows, const float* weights, int T, int K, int D, int begin, int end, float* out) {
    const int some = 16;
    share(start, threads, ceil_div(T, some), [&](int i) {
        for (int t = i * some; t < std::min(T, (i + 1) * some); t++) {
            float* o = out + static_cast<std::size_t>(t) * D;
            for (int n = 0; n < K; n++) {
                const int64_t row = rows[t * K + n];
                if (row < begin || row >= end) continue;
                const float* from = y + (row - begin) * D;
                const float w = weights[t * K + n];
                for (int c = 0; c < D; c++) o[c] += w * from[c];
            }
        }
    });
}
}
