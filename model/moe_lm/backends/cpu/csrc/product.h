// What every product shares, whatever its weights are stored as: its tasks, and what becomes of a row's sums.

#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "gemm.h"
#include "kernels.h"

struct Task {
    int matrix, row, rows, panel, panels;
};

inline Fault check(const int64_t* offsets, int matrices, int M, const int64_t* order, int x_rows) {
    if (offsets[0] != 0 || offsets[matrices] != M) return OFFSETS;
    for (int e = 0; e < matrices; e++)
        if (offsets[e] > offsets[e + 1]) return OFFSETS;
    if (order)
        for (int m = 0; m < M; m++)
            if (order[m] < 0 || order[m] >= x_rows) return ORDER;
    return NONE;
}

// Blocks of at most most_rows rows and most_panels panels, so many that no thread waits long for the others at the end.
inline std::vector<Task> divide(const int64_t* offsets, int matrices, int panels, int most_rows, int most_panels,
                                int threads) {
    int row_blocks = 0;
    for (int e = 0; e < matrices; e++) row_blocks += ceil_div(offsets[e + 1] - offsets[e], most_rows);
    const int most = std::clamp(panels * row_blocks / (8 * threads), 1, most_panels);
    const int step = ceil_div(panels, ceil_div(panels, most));
    std::vector<Task> tasks;
    for (int e = 0; e < matrices; e++)
        for (int row = offsets[e], end = offsets[e + 1]; row < end;) {
            const int even = ceil_div((end - row) / ceil_div(end - row, most_rows), MR) * MR;
            const int rows = std::min({even, most_rows, end - row});
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

// Writes a row's outputs from their sums: act(sums) * ups where there is an activation, the bias, the row's scale.
struct Epilogue {
    int outputs, activation;
    const float* bias;
    int accumulate;
    const float* row_scales;
    float* out;

    static vec activate(int activation, const vec& x) {
        if (activation == SILU) return x / (splat(1.0f) + exp(vec{} - x));
        const vec y = splat(1.5957691216f) * fma(splat(0.044715f) * x * x, x, x);  // x * (1 + tanh(y / 2)) / 2
        return x / (splat(1.0f) + exp(vec{} - y));
    }

    // outputs first .. first + some - 1 of one row, of `width` sums: at least LANES, at most PANEL
    template <int width>
    void write(const float* sums, const float* ups, int row, int first, int some) const {
        alignas(64) float done[width];
        for (int c = 0; c < width; c += LANES) {
            const int at = std::min(c, width - LANES);  // the width need be no multiple of LANES
            store(done + at, activation ? activate(activation, load(sums + at)) * load(ups + at) : load(sums + at));
        }
        float* to = out + static_cast<std::size_t>(row) * outputs + first;
        if (bias)
            for (int c = 0; c < some; c++) done[c] += bias[first + c];
        const float scale = row_scales ? row_scales[row] : 1.0f;
        if (accumulate)
            for (int c = 0; c < some; c++) to[c] = __builtin_fmaf(scale, done[c], to[c]);
        else
            std::copy_n(done, some, to);
    }
};
