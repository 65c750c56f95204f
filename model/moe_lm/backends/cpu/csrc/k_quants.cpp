// float32 weights -> blocks of Q4_K, Q5_K and Q6_K, by the search of ggml's quantize_row_q?_K_ref. Each lane has a
// group of weights to itself and adds them up in their order, so that the bytes are the reference's.

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "kernels.h"
#include "parallel.h"
#include "simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int BLOCK = 256;          // weights
constexpr int NARROW = 16;          // weights of a group of Q6_K, which has a scale
constexpr int WIDE = 32;            // weights of a group of Q4_K and Q5_K, which has a scale and a minimum
constexpr float TINY = 1e-15f;      // below it, a group of Q6_K is zero
constexpr int LARGEST_FACTOR = 63;  // of the scales and minima of Q4_K and Q5_K

uint16_t to_half(float x) {
#if defined(__x86_64__)
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    const __fp16 half = x;
    uint16_t bits;
    std::memcpy(&bits, &half, sizeof bits);
    return bits;
#endif
}

float from_half(uint16_t bits) {
#if defined(__x86_64__)
    return _cvtsh_ss(bits);
#else
    __fp16 half;
    std::memcpy(&half, &bits, sizeof half);
    return half;
#endif
}

void store_half(uint8_t* out, uint16_t bits) {
    std::memcpy(out, &bits, sizeof bits);
}

// The nearest whole number, ties to even. Adding 1.5 * 2^23 leaves it in a float's last bits; what does not fit there,
// infinities and NaN come out as the reference has them.
INLINE ireg nearest(reg x) {
    return ((ireg)(x + broadcast(12582912.0f)) & 0x007fffff) - 0x00400000;
}

int nearest(float x) {
    return nearest(broadcast(x))[0];
}

INLINE reg limited(ireg x, int low, int high) {
    const ireg lows = ireg{} + low, highs = ireg{} + high;
    x = x < highs ? x : highs;
    x = x > lows ? x : lows;
    return __builtin_convertvector(x, reg);
}

INLINE reg magnitude(reg x) {
    return (reg)((ireg)x & 0x7fffffff);
}

INLINE reg root(reg x) {
    for (int i = 0; i < WIDTH; i++) x[i] = std::sqrt(x[i]);
    return x;
}

// groups of `size` weights -> one lane each: columns[i][lane] is weight i of group `lane`
template <int size>
void spread(const float* x, float (&columns)[size][LANES]) {
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < size; i++) columns[i][lane] = x[lane * size + i];
}

// The step between levels, and how far below zero they begin.
struct Levels {
    reg scale, minimum;
};

// The levels 0 .. top of a group with the least weighted error, of those that `steps` + 1 tries at a step come to; the
// weights' levels go to `chosen`. `first`: how much more than top the range is divided by at the first try.
Levels search_with_minimum(const reg (&x)[WIDE], int top, float first, int steps, reg (&chosen)[WIDE]) {
    const reg zero{}, tops = broadcast(top);
    reg squares{}, importance[WIDE];
    for (const reg& each : x) squares = squares + each * each;
    const reg size = root(squares / broadcast(WIDE));
    for (int i = 0; i < WIDE; i++) importance[i] = size + magnitude(x[i]);
    reg low = x[0], high = x[0], sum_w = importance[0], sum_x = sum_w * x[0];
    for (int i = 1; i < WIDE; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sum_w = sum_w + importance[i];
        sum_x = sum_x + importance[i] * x[i];
    }
    low = low > zero ? zero : low;
    const reg lowest = low;
    const auto is_flat = high == low;
    reg inverse = tops / (high - low), scale = broadcast(1.0f) / inverse, error{};
    reg chosen_inverse = inverse, chosen_low = low;
    for (int i = 0; i < WIDE; i++) {
        const reg level = limited(nearest(inverse * (x[i] - low)), 0, top);
        const reg difference = scale * level + low - x[i];
        error = error + importance[i] * (difference * difference);
    }
    for (int step = 0; step <= steps; step++) {
        reg level[WIDE], sum_l{}, sum_ll{}, sum_xl{}, tried{};
        inverse = broadcast(first + 0.1f * step + top) / (high - low);
        for (int i = 0; i < WIDE; i++) {
            level[i] = limited(nearest(inverse * (x[i] - low)), 0, top);
            const reg weighted = importance[i] * level[i];
            sum_l = sum_l + weighted;
            sum_ll = sum_ll + weighted * level[i];
            sum_xl = sum_xl + weighted * x[i];
        }
        const reg determinant = sum_w * sum_ll - sum_l * sum_l;
        reg new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        reg new_low = (sum_ll * sum_x - sum_l * sum_xl) / determinant;
        new_scale = new_low > zero ? sum_xl / sum_ll : new_scale;
        new_low = new_low > zero ? zero : new_low;
        for (int i = 0; i < WIDE; i++) {
            const reg difference = new_scale * level[i] + new_low - x[i];
            tried = tried + importance[i] * (difference * difference);
        }
        const auto is_better = (determinant > zero) & (tried < error);
        chosen_inverse = is_better ? inverse : chosen_inverse;
        chosen_low = is_better ? low : chosen_low;
        error = is_better ? tried : error;
        scale = is_better ? new_scale : scale;
        low = is_better ? new_low : low;
    }
    for (int i = 0; i < WIDE; i++) {
        chosen[i] = limited(nearest(chosen_inverse * (x[i] - chosen_low)), 0, top);
        chosen[i] = is_flat ? zero : chosen[i];
    }
    return {is_flat ? zero : scale, zero - (is_flat ? lowest : low)};
}

// The step between the levels -32 .. 31 of a group, of 19 tries; the weights' levels, from 0 on, go to `chosen`.
reg search_symmetric(const reg (&x)[NARROW], reg (&chosen)[NARROW]) {
    const reg zero{};
    reg largest{}, peak{};
    for (const reg& each : x) {
        const auto is_larger = magnitude(each) > largest;
        largest = is_larger ? magnitude(each) : largest;
        peak = is_larger ? each : peak;
    }
    const auto sums = [&](reg inverse, reg& sum_xl, reg& sum_ll) {
        sum_xl = sum_ll = zero;
        for (const reg& each : x) {
            const reg level = limited(nearest(inverse * each), -32, 31), importance = each * each;
            sum_xl = sum_xl + importance * each * level;
            sum_ll = sum_ll + importance * level * level;
        }
    };
    reg inverse = broadcast(-32.0f) / peak, sum_xl, sum_ll;
    sums(inverse, sum_xl, sum_ll);
    reg scale = sum_ll != zero ? sum_xl / sum_ll : zero, best = scale * sum_xl, chosen_inverse = inverse;
    for (int step = -9; step <= 9; step++) {
        if (step == 0) continue;
        inverse = broadcast(-(32 + 0.1f * step)) / peak;
        sums(inverse, sum_xl, sum_ll);
        const auto is_better = (sum_ll > zero) & (sum_xl * sum_xl > best * sum_ll);
        chosen_inverse = is_better ? inverse : chosen_inverse;
        scale = is_better ? sum_xl / sum_ll : scale;
        best = is_better ? scale * sum_xl : best;
    }
    const auto is_zero = largest < broadcast(TINY);
    for (int i = 0; i < NARROW; i++) {
        chosen[i] = limited(nearest(chosen_inverse * x[i]), -32, 31) + broadcast(32);
        chosen[i] = is_zero ? zero : chosen[i];
    }
    return is_zero ? zero : scale;
}

// What a block of Q4_K or Q5_K begins with: two factors, by which the 8 scales and minima of 6 bits each are
// multiplied. Returns the scales and minima that they stand for.
void store_scales(const float* scales, const float* minima, uint8_t* out, float* stored_scales, float* stored_minima) {
    float largest_scale = 0, largest_minimum = 0;
    for (int g = 0; g < 8; g++) {
        largest_scale = std::max(largest_scale, scales[g]);
        largest_minimum = std::max(largest_minimum, minima[g]);
    }
    const float inverse_scale = largest_scale > 0 ? LARGEST_FACTOR / largest_scale : 0;
    const float inverse_minimum = largest_minimum > 0 ? LARGEST_FACTOR / largest_minimum : 0;
    const uint16_t d = to_half(largest_scale / LARGEST_FACTOR), dmin = to_half(largest_minimum / LARGEST_FACTOR);
    store_half(out, d);
    store_half(out + 2, dmin);
    uint8_t* packed = out + 4;
    std::fill_n(packed, 12, uint8_t{0});
    for (int g = 0; g < 8; g++) {
        const auto factor = [](float x) {
            return std::min(LARGEST_FACTOR, static_cast<int>(static_cast<uint8_t>(nearest(x))));
        };
        const int s = factor(inverse_scale * scales[g]), m = factor(inverse_minimum * minima[g]);
        if (g < 4) {
            packed[g] |= s;
            packed[g + 4] |= m;
        } else {  // four bits together, the other two above the first four's
            packed[g + 4] |= (s & 15) | (m & 15) << 4;
            packed[g - 4] |= s >> 4 << 6;
            packed[g] |= m >> 4 << 6;
        }
        stored_scales[g] = from_half(d) * s;
        stored_minima[g] = from_half(dmin) * m;
    }
}

constexpr int GROUPS = BLOCK / WIDE;            // of a block of Q4_K or Q5_K
constexpr int AT_ONCE = LANES / GROUPS;         // blocks whose groups fill the lanes
constexpr int HEADER = 4 + 12;                  // bytes of the factors, scales and minima
constexpr int Q4_K_BYTES = HEADER + BLOCK / 2;  // of a block
constexpr int Q5_K_BYTES = Q4_K_BYTES + BLOCK / 8;
constexpr int Q6_K_BYTES = BLOCK / 2 + BLOCK / 4 + BLOCK / NARROW + 2;

void with_minimum(const float* x, int blocks, int bits, uint8_t* out) {
    const int top = (1 << bits) - 1, bytes = bits == 4 ? Q4_K_BYTES : Q5_K_BYTES;
    alignas(64) float columns[WIDE][LANES], scales[LANES], minima[LANES];
    spread(x, columns);
    reg column[PARTS][WIDE], level[PARTS][WIDE];
    for (int part = 0; part < PARTS; part++) {
        for (int i = 0; i < WIDE; i++) column[part][i] = load_reg(columns[i] + part * WIDTH);
        const Levels found = bits == 4 ? search_with_minimum(column[part], top, -1.0f, 20, level[part])
                                       : search_with_minimum(column[part], top, -0.5f, 15, level[part]);
        store_reg(scales + part * WIDTH, found.scale);
        store_reg(minima + part * WIDTH, found.minimum);
    }
    alignas(64) float stored_scales[LANES]{}, stored_minima[LANES]{};
    for (int b = 0; b < blocks; b++)
        store_scales(scales + b * GROUPS, minima + b * GROUPS, out + static_cast<std::size_t>(b) * bytes,
                     stored_scales + b * GROUPS, stored_minima + b * GROUPS);
    for (int part = 0; part < PARTS; part++) {
        const reg scale = load_reg(stored_scales + part * WIDTH), minimum = load_reg(stored_minima + part * WIDTH);
        for (int i = 0; i < WIDE; i++) {
            const reg rounded = limited(nearest((column[part][i] + minimum) / scale), 0, top);
            store_reg(columns[i] + part * WIDTH, scale == reg{} ? level[part][i] : rounded);
        }
    }
    for (int b = 0; b < blocks; b++) {
        uint8_t* high = out + static_cast<std::size_t>(b) * bytes + HEADER;
        uint8_t* low = high + (bits == 5 ? BLOCK / 8 : 0);
        if (bits == 5) std::fill_n(high, BLOCK / 8, uint8_t{0});
        for (int g = 0; g < GROUPS; g += 2) {
            for (int i = 0; i < WIDE; i++) {
                const int one = static_cast<int>(columns[i][b * GROUPS + g]);
                const int other = static_cast<int>(columns[i][b * GROUPS + g + 1]);
                low[g / 2 * WIDE + i] = (one & 15) | (other & 15) << 4;
                if (bits == 5) high[i] |= (one >> 4) << g | (other >> 4) << (g + 1);
            }
        }
    }
}

void symmetric(const float* x, uint8_t* out) {
    constexpr int groups = BLOCK / NARROW;
    static_assert(groups == LANES, "a block's groups fill the lanes");
    alignas(64) float columns[NARROW][LANES], scales[LANES], stored[LANES];
    spread(x, columns);
    reg column[PARTS][NARROW], level[PARTS][NARROW];
    for (int part = 0; part < PARTS; part++) {
        for (int i = 0; i < NARROW; i++) column[part][i] = load_reg(columns[i] + part * WIDTH);
        store_reg(scales + part * WIDTH, search_symmetric(column[part], level[part]));
    }
    const float widest = *std::max_element(scales, scales + groups,
                                           [](float one, float other) { return std::fabs(one) < std::fabs(other); });
    uint8_t *low = out, *high = low + BLOCK / 2, *factors = high + BLOCK / 4;
    if (std::fabs(widest) < TINY) {
        std::fill_n(out, Q6_K_BYTES, uint8_t{0});
        return;
    }
    const float inverse = -128.0f / widest;
    const uint16_t d = to_half(1 / inverse);
    store_half(factors + groups, d);
    for (int g = 0; g < groups; g++) {
        const int factor = static_cast<int8_t>(std::min(127, nearest(inverse * scales[g])));
        factors[g] = static_cast<uint8_t>(factor);
        stored[g] = from_half(d) * factor;
    }
    for (int part = 0; part < PARTS; part++) {
        const reg scale = load_reg(stored + part * WIDTH);
        for (int i = 0; i < NARROW; i++) {
            const reg rounded = limited(nearest(column[part][i] / scale), -32, 31) + broadcast(32);
            store_reg(columns[i] + part * WIDTH, scale == reg{} ? level[part][i] : rounded);
        }
    }
    const auto at = [&](int weight) { return static_cast<int>(columns[weight % NARROW][weight / NARROW]); };
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 32; i++) {
            int quarter[4];
            for (int q = 0; q < 4; q++) quarter[q] = at(half * 128 + q * 32 + i);
            low[half * 64 + i] = (quarter[0] & 15) | (quarter[2] & 15) << 4;
            low[half * 64 + 32 + i] = (quarter[1] & 15) | (quarter[3] & 15) << 4;
            high[half * 32 + i] = quarter[0] >> 4 | quarter[1] >> 4 << 2 | quarter[2] >> 4 << 4 | quarter[3] >> 4 << 6;
        }
    }
}

}  // namespace

int k_quants(GompParallel gomp, int threads, const float* x, int blocks, int bits, uint8_t* out) {
    if (bits == 6) {
        parallel_for_rows(gomp, threads, blocks, [&](int b) {
            symmetric(x + static_cast<std::size_t>(b) * BLOCK, out + static_cast<std::size_t>(b) * Q6_K_BYTES);
        });
        return NONE;
    }
    const int bytes = bits == 4 ? Q4_K_BYTES : Q5_K_BYTES;
    parallel_for_rows(gomp, threads, ceil_div(blocks, AT_ONCE), [&](int i) {
        const int begin = i * AT_ONCE, count = std::min(AT_ONCE, blocks - begin);
        const float* from = x + static_cast<std::size_t>(begin) * BLOCK;
        alignas(64) float padded[AT_ONCE * BLOCK]{};
        if (count < AT_ONCE) {
            std::copy_n(from, count * BLOCK, padded);
            from = padded;
        }
        with_minimum(from, count, bits, out + static_cast<std::size_t>(begin) * bytes);
    });
    return NONE;
}
