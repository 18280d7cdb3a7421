// Discounted sums from the right, row by row: returns and generalised advantages (Schulman et al. 2016).
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/workers.h"

namespace spf {

// delta[t] = values[t] + discount[t] baseline[n] - baseline[t] and sums[t] = delta[t] + discount[t] lambda sums[n],
// where n is the next token of the same segment that counts; a token that does not count has the sum of the next one.
template <class Real>
struct Scan {
    std::int64_t rows, length;
    Real discount, lambda;
    const Real* values;                      // all [rows, length]; those that may be null are not there
    const Real* baseline = nullptr;          // 0
    const std::uint8_t* mask = nullptr;      // all tokens count
    const std::int64_t* segments = nullptr;  // neighbours with equal numbers belong together; a row is one
    const Real* discounts = nullptr;         // per token, instead of `discount`
    const Real* bootstrap = nullptr;         // [rows]: the baseline after the last token
    Real* sums;
    Real* returns = nullptr;  // sums + baseline
};

// A token after another, from right to left: what the next ones hand on.
template <class Real>
struct Carry {
    Real after, total;
};

template <class Real>
void scan_row(const Scan<Real>& scan, std::int64_t row, std::int64_t from, Carry<Real>& next) {
    const std::int64_t begin = row * scan.length;
    for (std::int64_t t = scan.length; t-- > from;) {
        const auto i = static_cast<std::size_t>(begin + t);
        if (scan.segments && t + 1 < scan.length && scan.segments[i] != scan.segments[i + 1]) next = {0, 0};
        const Real critic = scan.baseline ? scan.baseline[i] : Real{0};
        if (!scan.mask || scan.mask[i]) {
            const Real discount = scan.discounts ? scan.discounts[i] : scan.discount;
            next.total = scan.values[i] + discount * next.after - critic + discount * scan.lambda * next.total;
            next.after = critic;
        }
        scan.sums[i] = next.total;
    }
}

// The returns of some rows: after the scan, which has as many rows open as caches bear.
template <class Real>
void add_baseline(const Scan<Real>& s, std::int64_t row, std::int64_t last) {
    if (!s.returns) return;
    for (std::int64_t i = row * s.length; i < last * s.length; ++i)
        s.returns[i] = s.sums[i] + (s.baseline ? s.baseline[i] : Real{0});
}

// As many rows as a vector of 16 bytes has lanes. Rows often lie a power of two apart, and caches bear only a few such.
template <class Real>
struct Lanes {
    static constexpr std::int64_t kCount = 16 / sizeof(Real);
    using Word = std::conditional_t<sizeof(Real) == 4, std::int32_t, std::int64_t>;
    using Vector [[gnu::vector_size(16)]] = Real;
    using Flags [[gnu::vector_size(16)]] = Word;
    struct Square {  // std::array would lose the attribute
        Vector of[kCount];
    };

    static void transpose(Square& x) {
        if constexpr (kCount == 2) {
            const Vector a = x.of[0], b = x.of[1];
            x.of[0] = __builtin_shufflevector(a, b, 0, 2);
            x.of[1] = __builtin_shufflevector(a, b, 1, 3);
        } else {
            const Vector ab = __builtin_shufflevector(x.of[0], x.of[1], 0, 4, 1, 5);
            const Vector ab2 = __builtin_shufflevector(x.of[0], x.of[1], 2, 6, 3, 7);
            const Vector cd = __builtin_shufflevector(x.of[2], x.of[3], 0, 4, 1, 5);
            const Vector cd2 = __builtin_shufflevector(x.of[2], x.of[3], 2, 6, 3, 7);
            x.of[0] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
            x.of[1] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
            x.of[2] = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
            x.of[3] = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
        }
    }
    // kCount tokens of each row, by token.
    static Square load(const Real* at, std::int64_t stride) {
        Square x;
        for (std::int64_t row = 0; row < kCount; ++row) std::memcpy(&x.of[row], at + row * stride, sizeof(Vector));
        transpose(x);
        return x;
    }
    static void store(Square x, Real* at, std::int64_t stride) {
        transpose(x);
        for (std::int64_t row = 0; row < kCount; ++row) std::memcpy(at + row * stride, &x.of[row], sizeof(Vector));
    }
    // Byte k of a lane is token k of its row.
    static Flags load(const std::uint8_t* at, std::int64_t stride) {
        Flags bytes;
        for (std::int64_t row = 0; row < kCount; ++row) {
            std::uint8_t of_row[sizeof(Word)] = {};
            std::memcpy(of_row, at + row * stride, kCount);
            Word word;
            std::memcpy(&word, of_row, sizeof word);
            bytes[row] = word;
        }
        return bytes;
    }

    template <bool kMask, bool kBaseline>
    static void scan(const Scan<Real>& s, std::int64_t row) {
        static_assert(std::endian::native == std::endian::little);
        Vector after{}, total{};
        const std::int64_t length = s.length, whole = length / kCount * kCount;
        for (std::int64_t lane = 0; lane < kCount; ++lane) {
            Carry<Real> next{s.bootstrap ? s.bootstrap[row + lane] : Real{0}, 0};
            scan_row(s, row + lane, whole, next);
            after[lane] = next.after;
            total[lane] = next.total;
        }
        const Vector discount = Vector{} + s.discount, factor = discount * s.lambda, one = Vector{} + Real{1};
        for (std::int64_t t = whole - kCount; t >= 0; t -= kCount) {
            const std::int64_t at = row * length + t;
            Square sums = load(s.values + at, length), critic{};
            Flags bytes{};
            if constexpr (kBaseline) critic = load(s.baseline + at, length);
            if constexpr (kMask) bytes = load(s.mask + at, length);
            for (std::int64_t k = kCount; k-- > 0;) {
                Vector delta = sums.of[k] + discount * after - critic.of[k], keep = factor;
                if constexpr (kMask) {
                    const Flags counts = (bytes >> (8 * k) & 255) != 0;
                    delta = counts ? delta : Vector{};
                    keep = counts ? factor : one;
                    after = counts ? critic.of[k] : after;
                } else {
                    after = critic.of[k];
                }
                total = delta + keep * total;
                sums.of[k] = total;
            }
            store(sums, s.sums + at, length);
        }
    }
};

template <class Real>
void discounted_sums(const Scan<Real>& s, int threads) {
    using L = Lanes<Real>;
    const bool plain = !s.segments && !s.discounts;
    const auto scan = s.baseline ? s.mask ? L::template scan<true, true> : L::template scan<false, true>
                      : s.mask   ? L::template scan<true, false>
                                 : L::template scan<false, false>;
    parallel_rows((s.rows + L::kCount - 1) / L::kCount, threads, s.length * 4,
                  [&](std::int64_t begin, std::int64_t end) {
                      const std::int64_t last = std::min(end * L::kCount, s.rows);
                      std::int64_t row = begin * L::kCount;
                      for (; plain && row + L::kCount <= last; row += L::kCount) {
                          scan(s, row);
                          add_baseline(s, row, row + L::kCount);
                      }
                      for (; row < last; ++row) {
                          Carry<Real> next{s.bootstrap ? s.bootstrap[row] : Real{0}, 0};
                          scan_row(s, row, 0, next);
                          add_baseline(s, row, row + 1);
                      }
                  });
}

}  // namespace spf
