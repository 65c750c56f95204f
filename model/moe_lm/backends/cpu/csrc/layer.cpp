// A dense layer's kernels in turn: each is the one that launch.py calls alone, and gives the same numbers.

#include <memory>

#include "kernels.h"
#include "norm.h"
#include "parallel.h"

namespace {

constexpr int ROWS = 512;  // of an FFN that are computed together: what lies between its products stays in the cache

std::unique_ptr<float[]> room(int rows, int width) {
    return std::unique_ptr<float[]>(new float[static_cast<std::size_t>(rows) * width]);
}

struct Threads {
    GompParallel gomp;
    int count;

    // out = or += x @ matrix
    int multiply(const Matrix& m, const float* x, int T, float* out, bool accumulate) const {
        const int64_t offsets[] = {0, T};
        return m.parts ? gemm_blocks(gomp, count, x, T, nullptr, offsets, 1, m.parts, m.part_count, m.places, T, m.K,
                                     m.outputs, m.activation, m.bias, accumulate, nullptr, m.int8, out)
                       : gemm(gomp, count, x, T, nullptr, offsets, 1, m.weights, m.bfloat16, T, m.K, m.outputs,
                              m.activation, m.bias, accumulate, nullptr, out);
    }

    std::unique_ptr<float[]> normalised(const Norm& norm, const float* x, int T) const {
        auto out = room(T, norm.size);
        rms_norm(gomp, count, x, norm.weight, T, norm.size, norm.eps, norm.offset, out.get());
        return out;
    }

    // the numbers first .. end - 1 of each row, in place
    void normalise_in(float* rows, int width, int T, const Norm& norm, int first, int end) const {
        if (!norm.weight) return;
        parallel_for_rows(gomp, count, T, [&](int t) {
            float* row = rows + static_cast<std::size_t>(t) * width;
            for (int c = first; c < end; c += norm.size)
                normalise(row + c, norm.weight, norm.size, norm.eps, norm.offset, row + c);
        });
    }

    // x += norm(what `add` adds to zeros); without a norm `add` adds to x
    template <class Add>
    int add_through(const Norm& norm, float* x, int T, int D, const Add& add) const {
        if (!norm.weight) return add(x);
        const auto part = room(T, D);
        std::fill_n(part.get(), static_cast<std::size_t>(T) * D, 0.0f);
        if (const int fault = add(part.get())) return fault;
        normalise_in(part.get(), D, T, norm, 0, D);
        parallel_for_rows(gomp, count, T, [&](int t) {
            for (std::size_t i = static_cast<std::size_t>(t) * D, end = i + D; i < end; i++) x[i] += part[i];
        });
        return NONE;
    }
};

}  // namespace

int attend(GompParallel gomp, int threads, const Layer* layer, const float* x, int T, const float* cos,
           const float* sin, const int32_t* positions, const int32_t* sequences, const int32_t* table, int N,
           int columns, int pages, float* k_pages, float* v_pages, float* out) {
    const Threads all{gomp, threads};
    const int H = layer->H, J = layer->J, d = layer->d, width = (H + 2 * J) * d;
    const auto qkv = room(T, width);
    if (const int fault = all.multiply(layer->qkv, all.normalised(layer->input, x, T).get(), T, qkv.get(), false))
        return fault;
    float *q = qkv.get(), *k = q + H * d, *v = k + J * d;
    all.normalise_in(q, width, T, layer->q, 0, H * d);
    all.normalise_in(q, width, T, layer->k, H * d, (H + J) * d);
    rope(gomp, threads, q, cos, sin, T, H + J, d, width);
    if (const int fault = append_kv(gomp, threads, k, width, v, width, T, J, d, positions, sequences, table, N, columns,
                                    pages, k_pages, v_pages))
        return fault;
    return paged_attention(gomp, threads, q, width, T, H, J, d, layer->scale, positions, sequences, table, N, columns,
                           pages, layer->window, k_pages, v_pages, out);
}

int feed(GompParallel gomp, int threads, const Layer* layer, const float* attended, int T, float* x) {
    const Threads all{gomp, threads};
    const int D = layer->o.outputs, F = layer->gate_up.outputs;
    const auto add_attention = [&](float* onto) { return all.multiply(layer->o, attended, T, onto, true); };
    if (const int fault = all.add_through(layer->attention_post, x, T, D, add_attention)) return fault;
    const auto normed = all.normalised(layer->ffn, x, T), between = room(std::min(T, ROWS), F);
    const auto add_ffn = [&](float* onto) {
        for (int t = 0; t < T; t += ROWS) {
            const int some = std::min(ROWS, T - t);
            const std::size_t at = static_cast<std::size_t>(t) * D;
            if (const int fault = all.multiply(layer->gate_up, normed.get() + at, some, between.get(), false))
                return fault;
            if (const int fault = all.multiply(layer->down, between.get(), some, onto + at, true)) return fault;
        }
        return static_cast<int>(NONE);
    };
    return all.add_through(layer->ffn_post, x, T, D, add_ffn);
}
