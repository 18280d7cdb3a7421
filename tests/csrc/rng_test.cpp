// Oracle: the known answers published with Random123 for Philox 4x32-10, and simple statistics.
#include "core/rng.h"

#include "check.h"

namespace {

bool same(const spf::PhiloxBlock& block, std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    return block.x[0] == a && block.x[1] == b && block.x[2] == c && block.x[3] == d;
}

void known_answers() {
    CHECK(same(spf::philox4x32({{0, 0, 0, 0}}, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
    const std::uint32_t ones = 0xffffffff;
    CHECK(
        same(spf::philox4x32({{ones, ones, ones, ones}}, ones, ones), 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
    CHECK(same(spf::philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, 0xa4093822, 0x299f31d0), 0xd16cfe09,
               0x94fdcceb, 0x5001e420, 0x24126ea1));
}

void bounded_numbers_are_uniform() {
    int counts[7] = {};
    spf::Rng rng(1, 2);
    for (int i = 0; i < 70'000; ++i) ++counts[rng.below(7)];
    for (const int count : counts) CHECK(count > 9'500 && count < 10'500);
    double sum = 0;
    for (int i = 0; i < 10'000; ++i) {
        const double u = rng.uniform();
        CHECK(u >= 0 && u < 1);
        sum += u;
    }
    CHECK(sum > 4'800 && sum < 5'200);
}

// Pairs of consecutive small draws in changing bases, over many fractions: chi-square of every pair.
void small_draws_are_uniform_and_independent() {
    spf::SmallDraws draws(3);
    int counts[5][9] = {};
    constexpr int kDraws = 450'000;
    for (int i = 0; i < kDraws; ++i) {
        const std::uint32_t first = draws.below(5), second = draws.below(9);
        CHECK(draws.below(1) == 0);
        CHECK(first < 5 && second < 9);
        ++counts[first][second];
    }
    double chi_square = 0;
    for (const auto& row : counts) {
        for (const int count : row) chi_square += (count - kDraws / 45.0) * (count - kDraws / 45.0) / (kDraws / 45.0);
    }
    CHECK(chi_square > 16 && chi_square < 86);  // 44 degrees of freedom: all but about 1e-4 on either side
    CHECK(draws.below(1u << 24) < 1u << 24);
}

void nth_bit_is_the_nth() {
    spf::Rng rng(8, 0);
    for (int i = 0; i < 20'000; ++i) {
        const std::uint64_t word = rng.next() >> (i % 64);
        int n = 0;
        for (int bit = 0; bit < 64; ++bit) {
            if (((word >> bit) & 1u) != 0) CHECK(spf::nth_bit(word, n++) == bit);
        }
        CHECK(spf::count_bits(word) == n);
    }
}

void streams_are_functions_of_their_keys() {
    spf::Rng a(5, 6), b(5, 6), c(5, 7), d(6, 6);
    const std::uint64_t first = a.next();
    CHECK(first == b.next());
    CHECK(first != c.next() && first != d.next() && first != a.next());
}

}  // namespace

int main() {
    known_answers();
    bounded_numbers_are_uniform();
    small_draws_are_uniform_and_independent();
    nth_bit_is_the_nth();
    streams_are_functions_of_their_keys();
}
