// The largest number of a row, and a row's exponentials: what a softmax takes.

#pragma once

#include <algorithm>
#include <cmath>

#include "simd.h"

inline float largest_of(const float* x, int n) {
    float top = x[0];
    vec tops = splat(top);
    int i = 0;
    for (; i + LANES <= n; i += LANES) tops = larger(tops, load(x + i));
    top = largest(tops);
    for (; i < n; i++) top = std::max(top, x[i]);
    return top;
}

// e^(x[i] - top) for `count` vectors; past the end of x they are e^-infinity, 0
template <int count>
INLINE void exponentials(const float* x, int n, float top, vec (&e)[count]) {
    alignas(64) float padded[count * LANES];
    if (n < count * LANES) {
        std::fill(std::copy_n(x, n, padded), padded + count * LANES, -INFINITY);
        x = padded;
    }
    for (int v = 0; v < count; v++) e[v] = load(x + v * LANES) - splat(top);
    exp(e);
}
