#include <cmath>

#include "kernels.h"
#include "norm.h"
#include "parallel.h"

int rms_norm(GompParallel gomp, int threads, const float* x, const float* weight, int T, int D, float eps, float offset,
             float* out) {
    parallel_for_rows(gomp, threads, T, [&](int t) {
        const std::size_t at = static_cast<std::size_t>(t) * D;
        normalise(x + at, weight, D, eps, offset, out + at);
    });
    return NONE;
}

int rope(GompParallel gomp, int threads, float* x, const float* cos, const float* sin, int T, int heads, int d,
         int width) {
    const int half = d / 2;
    parallel_for_rows(gomp, threads, T, [&](int t) {
        const float *c = cos + static_cast<std::size_t>(t) * half, *s = sin + static_cast<std::size_t>(t) * half;
        for (int h = 0; h < heads; h++) {
            float *lower = x + static_cast<std::size_t>(t) * width + h * d, *upper = lower + half;
            for (int r = 0; r < half; r++) {
                const float l = lower[r], u = upper[r];
                lower[r] = std::fma(l, c[r], -(u * s[r]));
                upper[r] = std::fma(u, c[r], l * s[r]);
            }
        }
    });
    return NONE;
}

int rotation(GompParallel gomp, int threads, const int32_t* positions, const float* inv_freq, int T, int half,
             float* cos, float* sin) {
    parallel_for_rows(gomp, threads, T, [&](int t) {
        for (int r = 0; r < half; r++) {
            const float angle = static_cast<float>(positions[t]) * inv_freq[r];
            cos[static_cast<std::size_t>(t) * half + r] = static_cast<float>(std::cos(static_cast<double>(angle)));
            sin[static_cast<std::size_t>(t) * half + r] = static_cast<float>(std::sin(static_cast<double>(angle)));
        }
    });
    return NONE;
}
