// The CPU's kernels: matrix products over packed weights, and attention over pages. `launch.py` calls them.
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
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

constexpr int LANES = 16;
constexpr int PANEL = 3 * LANES, HALF = PANEL / 2;  // outputs a panel of packed weights holds, and those of a gated one
constexpr int SPAN = 4 * LANES;                     // keys, or numbers of a value, that attention computes together
#if defined(__AVX512F__)
constexpr int REGISTER = 16, SUMS = 24;             // numbers of a register, and how many vectors of sums stay in registers
#elif defined(__AVX__)
constexpr int REGISTER = 8, SUMS = 6;
#else
constexpr int REGISTER = 4, SUMS = 6;
#endif
constexpr int TILE = SUMS * LANES / PANEL;          // rows whose sums with one panel these are
// inputs of a panel summed in registers before they are added to the output: longer chains round more. All rows of a task take them before the
// next ones: they stay in the L1 cache
constexpr int DEPTH = 128;
constexpr int STRIDE = DEPTH + LANES;               // of attention's rows: a power of two apart they would fall on the same few lines of the L1 cache
constexpr int ROWS = 96, PANELS = 20;               // of a task, at most: its sums stay in the L2 cache
constexpr int PAGE = 128;
constexpr int QUERIES = 48;                         // rows of an attention task
constexpr int AT_ONCE = 4;                          // vectors of scores that become weights together
static_assert(PAGE <= DEPTH && PAGE % (AT_ONCE * LANES) == 0 && ROWS % TILE == 0 && (TILE & (TILE - 1)) == 0);

typedef float vec __attribute__((vector_size(64)));
typedef float reg __attribute__((vector_size(REGISTER * sizeof(float))));
typedef int32_t ivec __attribute__((vector_size(64)));
typedef uint32_t uvec __attribute__((vector_size(64)));
typedef uint16_t half_vec __attribute__((vector_size(32)));
typedef void (*Start)(void (*)(void*), void*, unsigned, unsigned);

template <class Vector = vec>
inline Vector load(const float* p) {
    Vector v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

template <class Vector>
inline void store(float* p, Vector v) {
    std::memcpy(p, &v, sizeof v);
}

inline int ceil_div(int a, int b) { return (a + b - 1) / b; }

// rows of each of the fewest tiles of up to `most`
inline int even_tiles(int rows, int most) { return ceil_div(rows, ceil_div(rows, most)); }

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

// e^x to 2 ulp (Cephes' coefficients) up to 88 and down to -87; 0 from -88 down. Some vectors step by step together: one alone waits for itself.
template <int V>
inline void exp(vec (&x)[V]) {
    const auto each = [](const auto& step) {
#pragma GCC unroll 8
        for (int v = 0; v < V; v++) step(v);
    };
    vec shifted[V], p[V];  // x / ln 2 in the last bits of the first
    each([&](int v) { x[v] = x[v] < -88.0f ? zeros() - 88.0f : x[v]; });  // what is not a number stays none
    each([&](int v) { x[v] = x[v] > 88.0f ? zeros() + 88.0f : x[v]; });
    each([&](int v) { shifted[v] = x[v] * 1.44269504f + 12582912.0f; });
    each([&](int v) { x[v] = x[v] - (shifted[v] - 12582912.0f) * 0.693359375f; });
    each([&](int v) { x[v] = x[v] + (shifted[v] - 12582912.0f) * 2.12194440e-4f; });
    each([&](int v) { p[v] = x[v] * 1.9875691500e-4f + 1.3981999507e-3f; });
    for (const float c : {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f}) each([&](int v) { p[v] = p[v] * x[v] + c; });
    each([&](int v) { p[v] = p[v] * (x[v] * x[v]) + (x[v] + 1.0f); });
    each([&](int v) { x[v] = p[v] * (vec)(((ivec)shifted[v] + 127) << 23); });
}

inline vec exp(vec x) {
    vec one[] = {x};
    exp(one);
    return one[0];
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

// run with the number of rows, 1..M, as a constant
template <int M, class Run>
inline void with_rows(int rows, const Run& run) {
    if (rows >= M)
        run(std::integral_constant<int, M>());
    else if constexpr (M > 1)
        with_rows<M - 1>(rows, run);
}

// out[m][0..V * LANES) += or = sum over k of a's number k of row m * b[k][0..V * LANES). The numbers of a row of a lie
// side by side, and rows `stride` apart; or, with no stride, the numbers 0 of TILE rows lie side by side, then their numbers 1, ..
template <int M, int V, int stride>
inline void tile(Ahead ahead, const float* a, const float* b, int depth, float* out, std::ptrdiff_t out_row, bool add) {
    constexpr int N = V * LANES / REGISTER;
    reg sum[M][N];
#pragma GCC unroll 24
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) sum[m][n] = reg{};
    for (int k = 0; k < depth; k++) {
        if (!stride) {  // a product's weights; a page is read often
            const char* line = ahead.from + k * ahead.step;
            __builtin_prefetch(line, 0, 2);
            if (ahead.step > 64) {
                __builtin_prefetch(line + 64, 0, 2);
                __builtin_prefetch(line + 128, 0, 2);
            }
        }
        reg w[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) w[n] = load<reg>(b + k * V * LANES + n * REGISTER);
#pragma GCC unroll 24
        for (int m = 0; m < M; m++) {
            const float s = stride ? a[m * stride + k] : a[k * TILE + m];
#pragma GCC unroll 8
            for (int n = 0; n < N; n++) sum[m][n] += s * w[n];
        }
    }
#pragma GCC unroll 24
    for (int m = 0; m < M; m++)
#pragma GCC unroll 8
        for (int n = 0; n < N; n++) {
            float* o = out + m * out_row + n * REGISTER;
            store(o, add ? load<reg>(o) + sum[m][n] : sum[m][n]);
        }
}

// the same for any number of rows, as even tiles; `then` is told the first row of each and their number
template <int V, int stride, class Then>
inline void tiles(Ahead ahead, int rows, const float* a, const float* b, int depth, float* out, std::ptrdiff_t out_row, bool add,
                  const Then& then) {
    const int even = even_tiles(rows, SUMS / V);
    ahead.step /= ceil_div(rows, even);
    for (int row = 0; row < rows; row += even, ahead.from += depth * ahead.step) {
        const int some = std::min(rows - row, even);
        with_rows<SUMS / V>(some, [&](auto M) {
            tile<M(), V, stride>(ahead, stride ? a + row * stride : a + row / even * TILE * depth, b, depth, out + row * out_row, out_row, add);
        });
        then(row, some);
    }
}

// of a's and b's numbers in turn, a's first, those from the place `from` on
template <int from, int... i>
inline reg riffle(reg a, reg b, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, b, (from + i) / 2 + i % 2 * REGISTER...);
}

// `depth` numbers of each of some rows, in the tiles that `tiles` will take without a stride; what fills up one of fewer rows is not read
inline void pack(const float* const* from, int rows, int depth, float* to) {
    constexpr auto each = std::make_integer_sequence<int, REGISTER>();
    const int even = even_tiles(rows, TILE);
    for (int row = 0; row < rows; row += even, to += depth * TILE) {
        const float* of[TILE];
        for (int m = 0; m < TILE; m++) of[m] = from[std::min(row + m, rows - 1)];
        int k = 0;
        for (; k + REGISTER <= depth; k += REGISTER) {
            reg v[TILE], next[TILE];
#pragma GCC unroll 8
            for (int m = 0; m < TILE; m++) v[m] = load<reg>(of[m] + k);
            // a number's place, m * REGISTER + k, becomes k * TILE + m: each turn moves its first bit to its end
#pragma GCC unroll 8
            for (int turn = 1; turn < TILE; turn *= 2) {
#pragma GCC unroll 8
                for (int m = 0; m < TILE / 2; m++) {
                    next[2 * m] = riffle<0>(v[m], v[m + TILE / 2], each);
                    next[2 * m + 1] = riffle<REGISTER>(v[m], v[m + TILE / 2], each);
                }
                std::copy_n(next, TILE, v);
            }
#pragma GCC unroll 8
            for (int m = 0; m < TILE; m++) store(to + k * TILE + m * REGISTER, v[m]);
        }
        for (; k < depth; k++)
            for (int m = 0; m < TILE; m++) to[k * TILE + m] = of[m][k];
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

#define API __attribute__((visibility("default")))

extern "C" {

// Products of the rows offsets[e]..offsets[e+1] of x with matrix e, for each of `matrices`: out = x @ w.T + bias, or with an activation
// act(x @ gate.T) * (x @ up.T). x [.., K] and out [M, outputs] float32; row m is x[order[m]] where there is an `order`;
// weights [matrices, panels, K, PANEL], see `PackedMatrix` in pack.py. With `add`, added to out, times the row's factor where there are such.
API void gemm(Start start, int threads, const float* x, const int64_t* order, const int64_t* offsets, int matrices, const void* weights, int bfloat16, int K,
              int outputs, int activation, const float* bias, int add, const float* factors, float* out) {
    const int wide = activation ? HALF : PANEL;  // outputs of one panel
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
    // the last ones are cut in two: who finds none left waits half as long for the others
    for (int last = blocks.size(), i = std::max(0, last - threads); i < last; i++) {
        const auto [matrix, row, rows, panel, count] = blocks[i];
        if (count == 1) continue;
        const int half = ceil_div(count, 2);
        blocks[i].panels = half;
        blocks.push_back({matrix, row, rows, panel + half, count - half});
    }
    share(start, threads, static_cast<int>(blocks.size()), [&](int i) {
        const auto [e, row, rows, panel, count] = blocks[i];
        alignas(64) float sums[ROWS * PANEL * PANELS], copy[ROWS * DEPTH], room[DEPTH * PANEL];
        const auto place = [&, e = e, panel = panel](int p, int k) { return ((static_cast<std::size_t>(e) * panels + panel + p) * K + k) * PANEL; };
        for (int k = 0; k < K; k += DEPTH) {
            const int depth = std::min(DEPTH, K - k);
            const float* from[ROWS];
            for (int m = 0; m < rows; m++) from[m] = x + static_cast<std::size_t>(order ? order[row + m] : row + m) * K + k;
            pack(from, rows, depth, copy);
            for (int p = 0; p < count; p++) {
                const std::size_t next = p + 1 < count ? place(p + 1, k) : place(0, k + depth);
                const Ahead ahead{static_cast<const char*>(weights) + next * size, PANEL * size};
                const float* b = widen(weights, bfloat16, place(p, k), depth, room);
                const int first = (panel + p) * wide, some = std::min(wide, outputs - first);
                // a tile's outputs go to memory while the next one is computed
                const auto write = [&, row = row](int begin, int tile_rows) {
                    if (k + depth < K) return;
                    for (int m = begin; m < begin + tile_rows; m++) {
                        const float* s = sums + (p * ROWS + m) * PANEL;
                        float* o = out + static_cast<std::size_t>(row + m) * outputs + first;
                        alignas(64) float done[PANEL];
                        for (int c = 0; c < wide; c += LANES) {
                            const int at = std::min(c, wide - LANES);  // HALF is no multiple of LANES
                            store(done + at, activation ? activate(activation, load(s + at)) * load(s + HALF + at) : load(s + at));
                        }
                        if (bias)
                            for (int c = 0; c < some; c++) done[c] += bias[first + c];
                        if (add)
                            for (int c = 0; c < some; c++) o[c] += (factors ? factors[row + m] : 1.0f) * done[c];
                        else
                            std::copy_n(done, some, o);
                    }
                };
                tiles<PANEL / LANES, 0>(ahead, rows, copy, b, depth, sums + p * ROWS * PANEL, PANEL, k > 0, write);
            }
        }
    });
}

// RMS norm of T rows of D: x / sqrt(mean(x^2) + eps) * (offset + weight)
API void rms_norm(Start start, int threads, const float* x, const float* weight, int T, int D, float eps, float offset, float* out) {
    const int some = 16, whole = D / LANES * LANES;
    share(start, threads, ceil_div(T, some), [&](int i) {
        for (int t = i * some; t < std::min(T, (i + 1) * some); t++) {
            const float* from = x + static_cast<std::size_t>(t) * D;
            float* to = out + static_cast<std::size_t>(t) * D;
            vec squares = zeros();
            for (int c = 0; c < whole; c += LANES) squares += load(from + c) * load(from + c);
            float sum = sum_of(squares);
            for (int c = whole; c < D; c++) sum = __builtin_fmaf(from[c], from[c], sum);
            const float factor = 1.0f / std::sqrt(sum / D + eps);
            for (int c = 0; c < D; c++) to[c] = from[c] * factor * (offset + weight[c]);
        }
    });
}

// Rotary embedding in place, half-split layout: the first `heads` heads of d in each of T rows of `width`; cos and sin [T, d / 2].
API void rope(Start start, int threads, float* x, const float* cos, const float* sin, int T, int heads, int d, int width) {
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

// Put keys and values [T, J, d], a token's heads side by side and tokens k_row and v_row apart, at their tokens' places: token t at row
// positions[t] % PAGE of page table[sequence[t]][positions[t] / PAGE].
// Pages: k [pages, J, PAGE / SPAN, d, SPAN], v [pages, J, wide / SPAN, PAGE, SPAN], wide = d rounded up to whole SPANs.
API void append_kv(Start start, int threads, const float* k, int k_row, const float* v, int v_row, int T, int J, int d, const int32_t* positions, const int32_t* sequence,
            const int32_t* table, int places, float* k_pages, float* v_pages) {
    const int wide = ceil_div(d, SPAN) * SPAN, some = 64;
    share(start, threads, ceil_div(T, some), [&](int i) {
        for (int t = i * some; t < std::min(T, (i + 1) * some); t++) {
            const std::size_t page = table[static_cast<std::size_t>(sequence[t]) * places + positions[t] / PAGE];
            const int at = positions[t] % PAGE;
            for (int j = 0; j < J; j++) {
                const float *new_key = k + static_cast<std::size_t>(t) * k_row + j * d, *new_value = v + static_cast<std::size_t>(t) * v_row + j * d;
                float *key = k_pages + (page * J + j) * PAGE * d + at / SPAN * SPAN * d + at % SPAN, *value = v_pages + (page * J + j) * PAGE * wide + at * SPAN;
                for (int c = 0; c < d; c++) key[c * SPAN] = new_key[c];
                for (int c = 0; c < d; c += SPAN) std::copy_n(new_value + c, std::min(SPAN, d - c), value + c * PAGE);
            }
        }
    });
}

// Attention of T tokens, q [T, H, d] with tokens q_row apart, each to the tokens of its own sequence up to itself, or to the last `window`
// of them (0: to all).
// A page's keys are one step of an online softmax. Neighbouring tokens that lie on the same page read it together.
API void paged_attention(Start start, int threads, const float* q, int q_row, int T, int H, int J, int d, float scale, const int32_t* positions,
            const int32_t* sequence, const int32_t* table, int places, int window, const float* k_pages, const float* v_pages, float* out) {
    const int G = H / J, wide = ceil_div(d, SPAN) * SPAN;
    const int some = std::max(1, QUERIES / G), chunks = ceil_div(T, some);
    // the last ones have the most to read, and one taken last would be waited for
    share(start, threads, chunks * J, [&](int i) {
        const int j = i % J, first = (chunks - 1 - i / J) * some, tokens = std::min(some, T - first), rows = tokens * G;
        const int wholes = ceil_div(d, DEPTH);
        const std::unique_ptr<float[]> memory(new float[rows * ((wholes + 1) * STRIDE + wide + LANES + 1)]);
        float *qs = memory.get(), *scores = qs + wholes * rows * STRIDE, *sums = scores + rows * STRIDE, *totals = sums + rows * wide;
        float* most = totals + rows * LANES;
        std::fill(sums, most, 0.0f);
        std::fill_n(most, rows, -INFINITY);
        const Ahead nothing{nullptr, 0};
        const auto nothing_more = [](int, int) {};
        for (int t = 0, r = 0; t < tokens; t++)
            for (int g = 0; g < G; g++, r++)
                for (int n = 0; n < d; n += DEPTH) {
                    const float* from = q + static_cast<std::size_t>(first + t) * q_row + (j * G + g) * d + n;
                    float* to = qs + (n / DEPTH * rows + r) * STRIDE;
                    for (int c = 0, end = std::min(DEPTH, d - n); c < end; c++) to[c] = from[c] * scale;
                }
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
                const int from = (t - first) * G, count = (last - t) * G;
                for (int c = 0; c < keys; c += SPAN)
                    for (int n = 0; n < d; n += DEPTH)
                        tiles<SPAN / LANES, STRIDE>(nothing, count, qs + (n / DEPTH * rows + from) * STRIDE, k + c * d + n * SPAN, std::min(DEPTH, d - n),
                                                    scores + c, STRIDE, n > 0, nothing_more);
                float* s = scores;
                for (int u = t, r = from; u < last; u++) {
                    const int lowest = low(u), highest = high(u), whole = ceil_div(highest, AT_ONCE * LANES) * AT_ONCE * LANES;
                    for (int g = 0; g < G; g++, r++, s += STRIDE) {
                        std::fill(s, s + lowest, -INFINITY);
                        std::fill(s + highest, s + whole, -INFINITY);
                        std::fill(s + whole, s + std::max(whole, keys), 0.0f);
                        vec top = load(s);
                        for (int c = LANES; c < whole; c += LANES) top = larger_of(top, load(s + c));
                        vec total = load(totals + r * LANES);
                        if (const float larger = largest(top); larger > most[r]) {
                            const float less = exp(zeros() + (most[r] - larger))[0];
                            most[r] = larger;
                            total *= less;
                            for (int c = 0; c < wide; c += LANES) store(sums + r * wide + c, load(sums + r * wide + c) * less);
                        }
                        for (int c = 0; c < whole; c += AT_ONCE * LANES) {
                            vec weights[AT_ONCE];
                            for (int v = 0; v < AT_ONCE; v++) weights[v] = load(s + c + v * LANES) - most[r];
                            exp(weights);
                            for (int v = 0; v < AT_ONCE; v++) {
                                store(s + c + v * LANES, weights[v]);
                                total += weights[v];
                            }
                        }
                        store(totals + r * LANES, total);
                    }
                }
                for (int c = 0; c < wide; c += SPAN)
                    tiles<SPAN / LANES, STRIDE>(nothing, count, scores, v + c * PAGE, keys, sums + from * wide + c, wide, true, nothing_more);
                t = last;
            }
        }
        for (int t = 0, r = 0; t < tokens; t++)
            for (int g = 0; g < G; g++, r++) {
                const float total = sum_of(load(totals + r * LANES));
                float* to = out + (static_cast<std::size_t>(first + t) * H + j * G + g) * d;
                for (int c = 0; c < d; c++) to[c] = sums[r * wide + c] / total;
            }
    });
}

// Adds to each token's sum over its K experts, in the order given, those of the rows begin..end, y [end - begin, D]:
// out[t] += weights[t][n] * y[rows[t][n] - begin]. The sums begin at 0 with row 0.
API void combine(Start start, int threads, const float* y, const int64_t* rows, const float* weights, int T, int K, int D, int begin, int end, float* out) {
    const int some = 16;
    share(start, threads, ceil_div(T, some), [&](int i) {
        for (int t = i * some; t < std::min(T, (i + 1) * some); t++) {
            float* o = out + static_cast<std::size_t>(t) * D;
            if (!begin) std::fill_n(o, D, 0.0f);
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
