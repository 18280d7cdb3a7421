// Turns option values given by a user into a configured game object, and describes a game.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/game.h"
#include "core/joint_game.h"

namespace spf {

using OptionValue = std::variant<std::int64_t, std::string>;
using OptionValues = std::vector<std::pair<std::string, OptionValue>>;

struct OptionInfo {
    std::string name, help;
    std::vector<std::string> words;  // empty for a number
    int value = 0;                   // as configured
    int low = 0, high = 0, step = 1;
};

struct GameInfo {
    std::string name;
    int num_players = 0, num_actions = 0, max_turns = 0;
    bool zero_sum = false, perfect_information = false, speech = false;
    std::vector<OptionInfo> options;
    bool simultaneous = false;  // all players move at once
};

inline std::vector<std::string> split_words(std::string_view words) {
    std::vector<std::string> parts;
    while (!words.empty()) {
        const std::size_t cut = words.find(' ');
        parts.emplace_back(words.substr(0, cut));
        words = cut == std::string_view::npos ? std::string_view{} : words.substr(cut + 1);
    }
    return parts;
}

template <class Game>
concept AnyGame = TurnGame<Game> || (JointGame<Game> && ActionRules<Game>);

template <AnyGame Game>
GameInfo describe(const Game& game) {
    GameInfo info{.name = std::string(Game::kName),
                  .num_players = num_players(game),
                  .num_actions = game.num_actions(),
                  .max_turns = 0,
                  .zero_sum = Game::kZeroSum,
                  .perfect_information = Game::kPerfectInformation,
                  .speech = kHasSpeech<Game>,
                  .options = {},
                  .simultaneous = JointGame<Game>};
    if constexpr (JointGame<Game>) {
        info.max_turns = game.max_ticks() * info.num_players;
    } else {
        info.max_turns = game.max_turns();
    }
    if constexpr (requires { game.zero_sum(); }) info.zero_sum = game.zero_sum();  // under some options only
    for (const Option<Game>& option : Game::options()) {
        info.options.push_back({std::string(option.name), std::string(option.help), split_words(option.words),
                                game.*option.member, option.low, option.high, option.step});
    }
    return info;
}

// Game and options in one line: a snapshot fits batches of an equal one.
inline std::string configuration(const GameInfo& info) {
    std::string line = info.name;
    for (const OptionInfo& option : info.options) line += " " + option.name + "=" + std::to_string(option.value);
    return line;
}

// Throws std::invalid_argument naming the game, the option and what is allowed.
template <AnyGame Game>
Game configure(const OptionValues& values) {
    Game game;
    const auto refuse = [](const std::string& what) {
        throw std::invalid_argument(std::string(Game::kName) + ": " + what);
    };
    for (const auto& [name, value] : values) {
        bool known = false;
        for (const Option<Game>& option : Game::options()) {
            if (option.name != name) continue;
            known = true;
            const std::vector<std::string> words = split_words(option.words);
            if (const std::string* word = std::get_if<std::string>(&value)) {
                std::size_t index = 0;
                while (index < words.size() && words[index] != *word) ++index;
                if (words.empty()) refuse("option " + name + " must be a whole number, got '" + *word + "'");
                if (index == words.size()) {
                    refuse("option " + name + " must be one of: " + std::string(option.words) + "; got '" + *word +
                           "'");
                }
                game.*option.member = static_cast<int>(index);
                continue;
            }
            const std::int64_t number = std::get<std::int64_t>(value);
            if (!words.empty()) refuse("option " + name + " must be one of: " + std::string(option.words));
            if (number < option.low || number > option.high || (number - option.low) % option.step != 0) {
                std::string allowed = std::to_string(option.low) + " to " + std::to_string(option.high);
                if (option.step > 1) {
                    allowed = std::to_string(option.low);
                    for (int v = option.low + option.step; v <= option.high; v += option.step) {
                        allowed += " or " + std::to_string(v);
                    }
                }
                refuse("option " + name + " must be " + allowed + ", got " + std::to_string(number));
            }
            game.*option.member = static_cast<int>(number);
        }
        if (!known) refuse("has no option '" + name + "'");
    }
    if constexpr (requires { game.conflict(); }) {  // between options that are each in range
        if (const std::string what = game.conflict(); !what.empty()) refuse(what);
    }
    return game;
}

}  // namespace spf
