#include "gemm.h"

#include <vector>

#include "kernels.h"

namespace {

constexpr int ROWS = 64, PANELS = 20;  // of a task, at most: its sums stay in the L2 cache

struct Task {
    int matrix, row, rows, panel, panels;
};

vec activate(int activation, const vec& x) {
    if (activation == SILU) return x / (splat(1.0f) + exp(vec{} - x));
    const vec y = splat(1.5957691216f) * fma(splat(0.044715f) * x * x, x, x);  // x * (1 + tanh(y / 2)) / 2
    return x / (splat(1.0f) + exp(vec{} - y));
}

Fault check(const int64_t* offsets, int matrices, int M, const int64_t* order, int x_rows) {
    if (offsets[0] != 0 || offsets[matrices] != M) return OFFSETS;
    for (int e = 0; e < matrices; e++)
        if (offsets[e] > offsets[e + 1]) return OFFSETS;
    if (order)
        for (int m = 0; m < M; m++)
            if (order[m] < 0 || order[m] >= x_rows) return ORDER;
    return NONE;
}

// Blocks of rows and panels, so many that no thread waits long for the others at the end.
std::vector<Task> divide(const int64_t* offsets, int matrices, int panels, int threads) {
    int row_blocks = 0;
    for (int e = 0; e < matrices; e++) row_blocks += ceil_div(offsets[e + 1] - offsets[e], ROWS);
    const int most = std::clamp(panels * row_blocks / (8 * threads), 1, PANELS);
    const int step = ceil_div(panels, ceil_div(panels, most));
    std::vector<Task> tasks;
    for (int e = 0; e < matrices; e++)
        for (int row = offsets[e], end = offsets[e + 1]; row < end;) {
            const int even = ceil_div((end - row) / ceil_div(end - row, ROWS), MR) * MR;
            const int rows = std::min({even, ROWS, end - row});
            for (int panel = 0; panel < panels; panel += step)
                tasks.push_back({e, row, rows, panel, std::min(step, panels - panel)});
            row += rows;
        }
    // the last ones are halved: the last thread then works alone for half a task at most
    for (int last = tasks.size(), i = std::max(0, last - threads); i < last; i++) {
        const auto [matrix, row, rows, panel, count] = tasks[i];
        if (count == 1) continue;
        const int half = ceil_div(count, 2);
        tasks[i].panels = half;
        tasks.push_back({matrix, row, rows, panel + half, count - half});
    }
    return tasks;
}

// kc rows of a packed panel as float32, in `room` where they are not
const float* as_float32(const void* weights, bool bfloat16, std::size_t at, int kc, float* room) {
    if (!bfloat16) return static_cast<const float*>(weights) + at;
    typedef uint16_t narrow __attribute__((vector_size(WIDTH * 2)));
    typedef uint32_t wide __attribute__((vector_size(WIDTH * 4)));
    const uint16_t* from = static_cast<const uint16_t*>(weights) + at;
    for (int i = 0; i < kc * PANEL; i += WIDTH) {
        narrow n;
        std::memcpy(&n, from + i, sizeof n);
        store_reg(room + i, (reg)(__builtin_convertvector(n, wide) << 16));
    }
    return room;
}

}  // namespace

int gemm(GompParallel gomp, int threads, const float* x, int x_rows, const int64_t* order, const int64_t* offsets,
         int matrices, const void* weights, int bfloat16, int M, int K, int outputs, int activation, const float* bias,
         int accumulate, const float* row_scales, float* out) {
    if (const Fault fault = check(offsets, matrices, M, order, x_rows)) return fault;
    const int width = activation ? HALF : PANEL;  // outputs of a panel
    const int panels = ceil_div(outputs, width), size = bfloat16 ? 2 : 4;
    const std::vector<Task> tasks = divide(offsets, matrices, panels, threads);
    parallel_for(gomp, threads, static_cast<int>(tasks.size()), [&](int i) {
        const auto [e, row, rows, panel, count] = tasks[i];
        alignas(64) float sums[ROWS * PANEL * PANELS], a[ROWS * A_ROW], room[KC * PANEL];
        const auto place = [&, e = e, panel = panel](int p, int k) {
            return ((static_cast<std::size_t>(e) * panels + panel + p) * K + k) * PANEL;
        };
        // outputs first .. first + some - 1 of a tile's rows, from their sums
        const auto write = [&, row = row](const float* tile, int first_row, int tile_rows, int first, int some) {
            for (int m = 0; m < tile_rows; m++) {
                const float* s = tile + m * PANEL;
                float* to = out + static_cast<std::size_t>(row + first_row + m) * outputs + first;
                alignas(64) float done[PANEL];
                for (int c = 0; c < width; c += LANES) {
                    const int at = std::min(c, width - LANES);  // HALF is no multiple of LANES
                    store(done + at,
                          activation ? activate(activation, load(s + at)) * load(s + HALF + at) : load(s + at));
                }
                if (bias)
                    for (int c = 0; c < some; c++) done[c] += bias[first + c];
                const float scale = row_scales ? row_scales[row + first_row + m] : 1.0f;
                if (accumulate)
                    for (int c = 0; c < some; c++) to[c] = __builtin_fmaf(scale, done[c], to[c]);
                else
                    std::copy_n(done, some, to);
            }
        };
        for (int k = 0; k < K; k += KC) {
            const int kc = std::min(KC, K - k);
            for (int m = 0; m < rows; m++)
                std::copy_n(x + static_cast<std::size_t>(order ? order[row + m] : row + m) * K + k, kc, a + m * A_ROW);
            for (int p = 0; p < count; p++) {
                const std::size_t next = p + 1 < count ? place(p + 1, k) : place(0, k + kc);
                const Prefetch prefetch{static_cast<const char*>(weights) + next * size, PANEL * size};
                const float* b = as_float32(weights, bfloat16, place(p, k), kc, room);
                const int first = (panel + p) * width, some = std::min(width, outputs - first);
                float* c = sums + p * ROWS * PANEL;
                // each tile's outputs are written at once: they go to memory while the next one is computed
                const auto done = [&](int first_row, int tile_rows) {
                    if (k + kc == K) write(c + first_row * PANEL, first_row, tile_rows, first, some);
                };
                multiply_panel<MR, PANEL, true>(a, rows, b, kc, c, PANEL, k > 0, prefetch, done);
            }
        }
    });
    return NONE;
}
