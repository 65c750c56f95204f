#include <algorithm>
#include <cmath>

#include "kernels.h"
#include "parallel.h"
#include "rows.h"

namespace {

constexpr int AT_ONCE = 4;                   // vectors whose exponentials are computed together
constexpr int BLOCK = 64 * AT_ONCE * LANES;  // numbers summed in float32 before they are added up in float64

}  // namespace

int logsumexp(GompParallel gomp, int threads, const float* x, int P, int V, float* out) {
    parallel_for(gomp, threads, P, [&](int p) {
        const float* row = x + static_cast<std::size_t>(p) * V;
        const float top = largest_of(row, V);
        double total = 0.0;
        for (int block = 0; block < V; block += BLOCK) {
            vec sums{};
            for (int i = block; i < std::min(V, block + BLOCK); i += AT_ONCE * LANES) {
                vec e[AT_ONCE];
                exponentials(row + i, V - i, top, e);
                for (int v = 0; v < AT_ONCE; v++) sums = sums + e[v];
            }
            total += sum(sums);
        }
        out[p] = static_cast<float>(top + std::log(total));
    });
    return NONE;
}
