// Blocks as GGUF stores them, output after output, into packed ones and back.

#include <algorithm>

#include "exact.h"
#include "kernels.h"
#include "parallel.h"

namespace {

template <class Use>
auto with_gguf_kind(int kind, const Use& use) {
    return with_kind(kind, [&](auto b) {
        if constexpr (b.ZERO_POINTS)
            return use(SixBits());  // never: kind is GGUF's
        else
            return use(b);
    });
}

// Where a block in the file has what a packed one has: its float16 numbers, its words.
struct FileBlock {
    int weights, bytes, halves_at, words_at;
};

FileBlock file_block(int kind) {
    return with_gguf_kind(kind, [=](auto b) {
        const int bytes = b.HALF_NUMBERS * 2 + b.WORD_NUMBERS * 4;
        return kind == Q6_K ? FileBlock{b.WEIGHTS, bytes, bytes - 2, 0}
                            : FileBlock{b.WEIGHTS, bytes, 0, b.HALF_NUMBERS * 2};
    });
}

// The bits at even places into the lower half, those at odd places into the upper half.
INLINE ureg unshuffle(ureg r) {
    const auto swap = [&](uint32_t mask, int distance) {
        const ureg differ = (r ^ (r >> distance)) & mask;
        r ^= differ ^ (differ << distance);
    };
    swap(0x22222222, 1), swap(0x0c0c0c0c, 2), swap(0x00f000f0, 4), swap(0x0000ff00, 8);
    return r;
}

// The file's bit 4 g + j, of weight 4 g + j, becomes bit g of byte j: the fifth bits of word g lie under each other.
void sort_fifth_bits(uint8_t* word) {
    for (int part = 0; part < PARTS; part++)
        store_words(word + part * WIDTH * 4, unshuffle(unshuffle(load_words(word + part * WIDTH * 4))));
}

// four numbers of 4 bits into the lower halves of four bytes
uint32_t a_byte_each(uint32_t four) {
    return (four & 0xf) | (four & 0xf0) << 4 | (four & 0xf00) << 8 | (four & 0xf000) << 12;
}

}  // namespace

int pack_blocks(GompParallel gomp, int threads, const uint8_t* rows, int matrices, int outputs, int K, int kind,
                uint8_t* packed) {
    const FileBlock file = file_block(kind);
    const int stripes = ceil_div(outputs, LANES), blocks = K / file.weights;
    const std::size_t row_bytes = static_cast<std::size_t>(blocks) * file.bytes;
    parallel_for(gomp, threads, matrices * stripes, [&](int i) {
        const int first = i % stripes * LANES, some = std::min(LANES, outputs - first);
        const uint8_t* from = rows + (static_cast<std::size_t>(i / stripes) * outputs + first) * row_bytes;
        with_gguf_kind(kind, [&](auto b) {
            uint8_t* to = packed + i * (blocks * static_cast<std::size_t>(b.BYTES));
            for (int block = 0; block < blocks; block++, from += file.bytes, to += b.BYTES) {
                if (some < LANES) std::fill_n(to, b.BYTES, 0);
                for (int o = 0; o < some; o++) {
                    const uint8_t* own = from + o * row_bytes;
                    for (int h = 0; h < b.HALF_NUMBERS; h++)
                        std::memcpy(to + h * HALVES + o * 2, own + file.halves_at + h * 2, 2);
                    for (int w = 0; w < b.WORD_NUMBERS; w++)
                        std::memcpy(to + b.HALF_NUMBERS * HALVES + w * WORDS + o * 4,
                                    own + file.words_at + b.file_word(w) * 4, 4);
                }
                if (kind == Q5_0 || kind == Q5_1) sort_fifth_bits(to + b.HALF_NUMBERS * HALVES);
            }
        });
    });
    return NONE;
}

int pack_groups(GompParallel gomp, int threads, const uint8_t* codes, const float* scales, const uint8_t* zeros,
                int matrices, int outputs, int K, int group_size, int kind, uint8_t* packed) {
    const int stripes = ceil_div(outputs, LANES), groups = ceil_div(K, group_size), weights = 32 << (kind - GROUP_32);
    const int bytes = stripe_bytes(kind, weights), words_at = Grouped<32>::WORDS_AT;
    parallel_for(gomp, threads, matrices * stripes, [&](int i) {
        const int first = i % stripes * LANES, some = std::min(LANES, outputs - first);
        const std::size_t row = static_cast<std::size_t>(i / stripes) * outputs + first;
        uint8_t* to = packed + i * stripe_bytes(kind, K);
        for (int k = 0; k < K; k += weights, to += bytes) {
            if (some < LANES) std::fill_n(to, bytes, 0);
            for (int o = 0; o < some; o++) {
                const std::size_t group = (row + o) * groups + k / group_size;
                std::memcpy(to + o * 4, scales + group, 4);
                to[Grouped<32>::ZEROS_AT + o] = zeros[group];
                for (int at = 0; at < weights; at += SUB) {
                    uint16_t fours[8];  // codes 4 h .. 4 h + 3 of the sub-block
                    std::memcpy(fours, codes + ((row + o) * K + k + at) / 2, sizeof fours);
                    for (int g = 0; g < 4; g++) {
                        const uint32_t word = a_byte_each(fours[g]) | a_byte_each(fours[g + 4]) << 4;
                        std::memcpy(to + words_at + (at / 8 + g) * WORDS + o * 4, &word, 4);
                    }
                }
            }
        }
    });
    return NONE;
}

int block_rows(GompParallel gomp, int threads, const uint8_t* packed, int kind, int K, const int64_t* ids, int T,
               float* out) {
    parallel_for(gomp, threads, T, [&](int t) {
        with_kind(kind, [&](auto b) {
            const uint8_t* stripe = packed + ids[t] / LANES * stripe_bytes(kind, K);
            for (int k = 0; k < K; k += SUB) {
                alignas(64) float room[SUB * LANES];
                expand<decltype(b)>(stripe, stripe, k, SUB, room, LANES);
                for (int j = 0; j < SUB; j++)
                    out[static_cast<std::size_t>(t) * K + k + j] = room[j * LANES + ids[t] % LANES];
            }
        });
    });
    return NONE;
}
