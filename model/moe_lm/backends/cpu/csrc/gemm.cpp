#include "gemm.h"

#include <vector>

#include "kernels.h"
#include "product.h"

namespace {

constexpr int ROWS = 64, PANELS = 20;  // of a task, at most: its sums stay in the L2 cache

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
    const Epilogue epilogue{outputs, activation, bias, accumulate, row_scales, out};
    const std::vector<Task> tasks = divide(offsets, matrices, panels, ROWS, PANELS, threads);
    parallel_for(gomp, threads, static_cast<int>(tasks.size()), [&](int i) {
        const auto [e, row, rows, panel, count] = tasks[i];
        alignas(64) float sums[ROWS * PANEL * PANELS], a[ROWS * A_ROW], room[KC * PANEL];
        const auto place = [&, e = e, panel = panel](int p, int k) {
            return ((static_cast<std::size_t>(e) * panels + panel + p) * K + k) * PANEL;
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
                const auto done = [&, row = row](int first_row, int tile_rows) {
                    if (k + kc < K) return;
                    for (int m = first_row; m < first_row + tile_rows; m++) {
                        const float* s = c + m * PANEL;
                        if (activation)
                            epilogue.write<HALF>(s, s + HALF, row + m, first, some);
                        else
                            epilogue.write<PANEL>(s, nullptr, row + m, first, some);
                    }
                };
                multiply_panel<MR, PANEL, true>(a, rows, b, kc, c, PANEL, k > 0, prefetch, done);
            }
        }
    });
    return NONE;
}
