#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "parallel.h"

int combine(GompParallel gomp, int threads, const float* y, const int64_t* rows, const float* weights, int T, int K, int D, int begin,
            int end, float* out) {
    parallel_for_rows(gomp, threads, T, [&](int t) {
        float* to = out + static_cast<std::size_t>(t) * D;
        if (begin == 0) std::fill_n(to, D, 0.0f);
        for (int n = 0; n < K; n++) {
            const int64_t row = rows[static_cast<std::size_t>(t) * K + n];
            if (row < begin || row >= end) continue;
            const float* from = y + (row - begin) * D;
            const float weight = weights[static_cast<std::size_t>(t) * K + n];
            for (int c = 0; c < D; c++) to[c] = std::fma(weight, from[c], to[c]);
        }
    });
    return NONE;
}
