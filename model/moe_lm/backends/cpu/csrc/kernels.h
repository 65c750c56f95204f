// The functions that launch.py calls. Each starts with how to run in parallel: GOMP_parallel of torch's OpenMP runtime
// (null: one thread) and the number of threads. Each returns Fault::NONE, or which of its index arguments would have
// been read or written out of range; then nothing has been computed. Shapes, types and strides are checked by the
// launchers.
//
// M rows, K inputs; T tokens, H query heads, J key/value heads, G = H / J, d head_dim.

#pragma once

#include <cstdint>

constexpr int PANEL = 48;        // outputs of a panel of packed weights
constexpr int HALF = PANEL / 2;  // those of a gated matrix: half a panel of gates, half a panel of up projections
constexpr int PAGE = 128;        // tokens of a page
constexpr int SPAN = 64;         // keys, or numbers of a value, that lie together on a page

enum Fault : int { NONE, OFFSETS, ORDER, POSITIONS, SEQUENCES, TABLE, PLACES };
enum Activation : int { LINEAR, SILU, GELU_TANH };

typedef void (*GompParallel)(void (*)(void*), void*, unsigned, unsigned);

#define API extern "C" __attribute__((visibility("default")))

// out = x @ w.T + bias for the rows offsets[e] .. offsets[e + 1] - 1 and matrix e, for each of `matrices`; with an
// activation act(x @ gate.T) * (x @ up.T). x [x_rows, K] and out [M, outputs] are float32; row m is x[order[m]] where
// there is an order, else x[m]. weights [matrices, panels, K, PANEL] are float32 or bfloat16. With `accumulate` the
// product is added to out, each row times its scale where there are row_scales.
API int gemm(GompParallel gomp, int threads, const float* x, int x_rows, const int64_t* order, const int64_t* offsets,
             int matrices, const void* weights, int bfloat16, int M, int K, int outputs, int activation,
             const float* bias, int accumulate, const float* row_scales, float* out);

// The same product with quantised weights in packed blocks (blocks.h). Each of the `parts` is an address, a Kind and
// its outputs; it is [matrices, stripes of LANES outputs, K / weights of a block] packed blocks. Their outputs lie side
// by side; with an activation there are two parts, gate and up. Where there are `places` [matrices, K], the blocks have
// the inputs in an order of their own: input k at places[k]. With `int8` the activations are quantised as well, in the
// blocks' order.
API int gemm_blocks(GompParallel gomp, int threads, const float* x, int x_rows, const int64_t* order,
                    const int64_t* offsets, int matrices, const int64_t* parts, int part_count, const int32_t* places,
                    int M, int K, int outputs, int activation, const float* bias, int accumulate,
                    const float* row_scales, int int8, float* out);

// Packs the blocks of one Kind as GGUF stores them, rows [matrices, outputs] of K weights; stripes are filled up with
// 0.
API int pack_blocks(GompParallel gomp, int threads, const uint8_t* rows, int matrices, int outputs, int K, int kind,
                    uint8_t* packed);

// Packs 4-bit codes [matrices, outputs, K / 2], the first of two in the lower half of a byte, with float32 scales and
// zero points [matrices, outputs, groups] of `group_size` inputs, into the largest GROUP_ kind that divides it.
API int pack_groups(GompParallel gomp, int threads, const uint8_t* codes, const float* scales, const uint8_t* zeros,
                    int matrices, int outputs, int K, int group_size, int kind, uint8_t* packed);

// out = the T rows `ids` of a part's first matrix, as float32 [T, K]; 0 <= ids < outputs.
API int block_rows(GompParallel gomp, int threads, const uint8_t* packed, int kind, int K, const int64_t* ids, int T,
                   float* out);

// out = x / sqrt(mean(x^2) + eps) * (offset + weight); x and out [T, D].
API int rms_norm(GompParallel gomp, int threads, const float* x, const float* weight, int T, int D, float eps,
                 float offset, float* out);

// Rotary embedding in place, half-split layout, of the first `heads` heads of d in each of the T rows of `width`; cos
// and sin [T, d / 2].
API int rope(GompParallel gomp, int threads, float* x, const float* cos, const float* sin, int T, int heads, int d,
             int width);

// Writes keys and values [T, J, d] (a token's heads side by side, tokens k_row and v_row apart) to their pages: token t
// becomes row positions[t] % PAGE of page table[sequences[t]][positions[t] / PAGE]. The table is [N, columns]. k_pages
// [pages, J, PAGE / SPAN, d, SPAN], v_pages [pages, J, spans, PAGE, SPAN] with as many spans as d needs.
API int append_kv(GompParallel gomp, int threads, const float* k, int k_row, const float* v, int v_row, int T, int J,
                  int d, const int32_t* positions, const int32_t* sequences, const int32_t* table, int N, int columns,
                  int pages, float* k_pages, float* v_pages);

// Attention of T tokens, q [T, H, d] with tokens q_row apart, each to the tokens of its own sequence up to itself, or
// to the last `window` of them (0: to all). out [T, H, d].
API int paged_attention(GompParallel gomp, int threads, const float* q, int q_row, int T, int H, int J, int d,
                        float scale, const int32_t* positions, const int32_t* sequences, const int32_t* table, int N,
                        int columns, int pages, int window, const float* k_pages, const float* v_pages, float* out);

// A matrix with its bias, as `gemm` takes it, or where it has parts as `gemm_blocks` does.
struct Matrix {
    const void* weights;
    const int64_t* parts;
    const int32_t* places;
    const float* bias;
    int32_t bfloat16, part_count, K, outputs, activation, int8;
};

// An RMS norm of vectors of `size` numbers; without a weight there is none.
struct Norm {
    const float* weight;
    int32_t size;
    float eps, offset;
};

// A layer of a decoder in float32. D = qkv.K; the outputs of qkv are queries, keys and values; a q or k norm is of each
// head, or of all at once. An FFN that is a mixture of experts is not in it.
struct Layer {
    Norm input, q, k, attention_post, ffn, ffn_post;
    Matrix qkv, o, gate_up, down;
    int32_t H, J, d, window;
    float scale;
};

// What T tokens read: out = attention(rope(norm(x) @ qkv)), their keys and values appended first; x [T, D], out
// [T, H * d]. The rest is as in rope, append_kv and paged_attention, whose numbers these are.
API int attend(GompParallel gomp, int threads, const Layer* layer, const float* x, int T, const float* cos,
               const float* sin, const int32_t* positions, const int32_t* sequences, const int32_t* table, int N,
               int columns, int pages, float* k_pages, float* v_pages, float* out);

// The rest of the layer: x += attended @ o, then x += ffn(norm(x)); attended [T, H * d], x [T, D]. After a fault x is
// of no use.
API int feed(GompParallel gomp, int threads, const Layer* layer, const float* attended, int T, float* x);

// Adds to each token's sum over its K experts those of the rows begin .. end - 1, in the order given: out[t] +=
// weights[t][n] * y[rows[t][n] - begin]; y [end - begin, D], out [T, D]. The sums begin at zero where `begin` is 0.
API int combine(GompParallel gomp, int threads, const float* y, const int64_t* rows, const float* weights, int T, int K,
                int D, int begin, int end, float* out);

// Softmax of the router's logits [T, E] in float32, then the K most probable experts, ties to the lowest: weights and
// ids [T, K], the weights divided by their sum where they are to be normalised. 1 <= K <= E.
API int route(GompParallel gomp, int threads, const float* logits, int T, int E, int K, int normalise, float* weights,
              int64_t* ids);

// out = 1 / (1 + e^-x) of T numbers.
API int sigmoid(GompParallel gomp, int threads, const float* x, int T, float* out);

// Cosines and sines [T, half] of positions[t] * inv_freq[r], an angle in float32; each is computed in float64 and
// rounded once.
API int rotation(GompParallel gomp, int threads, const int32_t* positions, const float* inv_freq, int T, int half,
                 float* cos, float* sin);

// out = log(sum(e^x)) of each of P rows of V numbers.
API int logsumexp(GompParallel gomp, int threads, const float* x, int P, int V, float* out);

// Weights x [blocks, 256] -> blocks of Q4_K, Q5_K or Q6_K (`bits` 4, 5, 6), one after another, with the bytes of ggml's
// reference.
API int k_quants(GompParallel gomp, int threads, const float* x, int blocks, int bits, uint8_t* out);
