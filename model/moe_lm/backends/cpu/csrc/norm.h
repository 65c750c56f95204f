// The RMS norm of one row.

#pragma once

#include <cmath>

#include "simd.h"

// to = from / sqrt(mean(from^2) + eps) * (offset + weight), D numbers; `to` may be `from`
inline void normalise(const float* from, const float* weight, int D, float eps, float offset, float* to) {
    const int whole = D / LANES * LANES;
    vec squares{};
    for (int c = 0; c < whole; c += LANES) squares = fma(load(from + c), load(from + c), squares);
    float total = sum(squares);
    for (int c = whole; c < D; c++) total = std::fma(from[c], from[c], total);
    const float factor = 1.0f / std::sqrt(total / D + eps);
    for (int c = 0; c < D; c++) to[c] = from[c] * factor * (offset + weight[c]);
}
