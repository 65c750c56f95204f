// The stripes of LANES outputs that a product's weights consist of, whatever the kinds of their blocks.

#pragma once

#include <vector>

#include "blocks.h"
#include "parallel.h"

struct Stripe {
    const uint8_t* packed;
    int kind, first, outputs;  // the first output, and how many
};

// Those of some parts, one after the other.
class Stripes {
  public:
    // each part is an address, a kind and its outputs
    Stripes(const int64_t* parts, int count, int K) {
        for (int i = 0, first = 0; i < count; i++, parts += 3) {
            const int kind = parts[1], outputs = parts[2], stripes = ceil_div(outputs, LANES);
            parts_.push_back(
                {{reinterpret_cast<const uint8_t*>(parts[0]), kind, first, outputs}, stripes, stripe_bytes(kind, K)});
            first += outputs;
            count_ += stripes;
        }
    }

    int count() const { return count_; }

    bool has(bool super) const {
        for (const Part& part : parts_)
            if (with_kind(part.all.kind, [](auto b) { return b.SUPER; }) == super) return true;
        return false;
    }

    Stripe get(int matrix, int i) const {
        const Part* part = parts_.data();
        for (; i >= part->stripes; part++) i -= part->stripes;
        const auto& [packed, kind, first, outputs] = part->all;
        return {packed + (static_cast<std::size_t>(matrix) * part->stripes + i) * part->bytes, kind, first + i * LANES,
                std::min(LANES, outputs - i * LANES)};
    }

  private:
    struct Part {
        Stripe all;
        int stripes;
        std::size_t bytes;  // of a stripe
    };
    std::vector<Part> parts_;
    int count_ = 0;
};
