#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels.h"
#include "parallel.h"
#include "rows.h"
#include "simd.h"

int combine(GompParallel gomp, int threads, const float* y, const int64_t* rows, const float* weights, int T, int K,
            int D, int begin, int end, float* out) {
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

int route(GompParallel gomp, int threads, const float* logits, int T, int E, int K, int normalise, float* weights,
          int64_t* ids) {
    parallel_for_rows(gomp, threads, T, [&](int t) {
        const float* row = logits + static_cast<std::size_t>(t) * E;
        const float top = largest_of(row, E);
        std::vector<float> probs(ceil_div(E, LANES) * LANES);
        vec sums{};
        for (int i = 0; i < E; i += LANES) {
            vec e[1];
            exponentials(row + i, E - i, top, e);
            store(probs.data() + i, e[0]);
            sums = sums + e[0];
        }
        const float total = sum(sums);
        std::vector<bool> taken(E);
        float chosen = 0.0f;
        for (int k = 0; k < K; k++) {
            int best = -1;
            for (int e = 0; e < E; e++)
                if (!taken[e] && (best < 0 || probs[e] > probs[best])) best = e;
            taken[best] = true;
            ids[static_cast<std::size_t>(t) * K + k] = best;
            weights[static_cast<std::size_t>(t) * K + k] = probs[best] / total;
            chosen += probs[best] / total;
        }
        if (normalise)
            for (int k = 0; k < K; k++) weights[static_cast<std::size_t>(t) * K + k] /= chosen;
    });
    return NONE;
}

int sigmoid(GompParallel gomp, int threads, const float* x, int T, float* out) {
    parallel_for(gomp, threads, ceil_div(T, LANES), [&](int i) {
        const int n = std::min(LANES, T - i * LANES);
        alignas(64) float row[LANES] = {};
        std::copy_n(x + i * LANES, n, row);
        store(row, splat(1.0f) / (splat(1.0f) + exp(splat(0.0f) - load(row))));
        std::copy_n(row, n, out + i * LANES);
    });
    return NONE;
}
