// The bytes of one fuzz input, read as choices: any bytes mean something, and when they run out all choices are 0.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "../sound.h"
#include "games/all_games.h"

namespace fuzz {

class Input {
  public:
    Input(const std::uint8_t* data, std::size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

    bool empty() const { return rest_.empty(); }
    template <class T>
    T number() {
        T value{};
        const std::size_t n = rest_.size() < sizeof value ? rest_.size() : sizeof value;
        std::memcpy(&value, rest_.data(), n);
        rest_.remove_prefix(n);
        return value;
    }
    // 0 .. n-1; two bytes where one is too few.
    int below(int n) { return (n <= 256 ? number<std::uint8_t>() : number<std::uint16_t>()) % n; }
    bool flag() { return below(2) != 0; }
    std::string_view rest() const { return rest_; }

  private:
    std::string_view rest_;
};

// Calls visit with one of all games under any options.
template <class Visit>
void with_game(Input& in, const Visit& visit) {
    int games = 0;
#define SPF_COUNT(Game) ++games;
    SPF_FOR_EACH_GAME(SPF_COUNT)
#undef SPF_COUNT
    int which = in.below(games);
    const auto pick = [&](int n) { return in.below(n); };
#define SPF_VISIT(Game) \
    if (which-- == 0) return visit(sound::configured<spf::Game>(pick));
    SPF_FOR_EACH_GAME(SPF_VISIT)
#undef SPF_VISIT
}

inline spf::BatchOptions batch_options(Input& in, bool joint) {
    spf::BatchOptions options{.seed = in.number<std::uint8_t>(), .threads = 1};
    options.explicit_chance = in.flag() && !joint;
    options.autoreset = static_cast<spf::Autoreset>(in.below(3));
    return options;
}

}  // namespace fuzz
