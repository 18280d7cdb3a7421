// Pig: roll a die as often as you dare, or hold and bank what the turn brought; a one loses it. Action 0 rolls, 1
// holds.
//
// Rules openspiel: the first to bank the target wins; `horizon` rolls and holds without a winner are a draw. Rules
// textarena: the game also ends after `horizon` turns of both together, when the higher score wins. A turn there may
// take any number of rolls; ten per turn of the horizon, which play does not reach, bound the game.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/game.h"
#include "core/rng.h"

namespace spf {

struct Pig {
    int target = 0;   // 0: 100 (openspiel) or 50 (textarena)
    int horizon = 0;  // 0: 1000 or 50
    int rules = 0;    // kOpenSpiel or kTextArena

    static constexpr int kOpenSpiel = 0, kTextArena = 1;
    static constexpr int kFaces = 6, kMovesPerTurn = 10;

    static constexpr std::string_view kName = "pig";
    static constexpr int kPlayers = 2, kMaxActions = 2, kMaxChance = kFaces;
    static constexpr Action kRoll = 0, kHold = 1;
    static constexpr bool kZeroSum = true, kPerfectInformation = true;
    static constexpr auto options() {
        return std::array{
            Option<Pig>{"target", &Pig::target, 0, 500, "score that wins, 0 for 100 (openspiel) or 50 (textarena)"},
            Option<Pig>{"horizon", &Pig::horizon, 0, 1000,
                        "openspiel: rolls and holds, 0 for 1000; textarena: turns, 0 for 50"},
            Option<Pig>{"rules", &Pig::rules, 0, 1, "textarena: at the horizon the higher score wins",
                        "openspiel textarena"}};
    }

    struct State {
        std::uint16_t score[2] = {0, 0};
        std::uint16_t turn_total = 0;
        std::uint16_t moves = 0, turns = 0;  // completed
        std::int8_t player = 0;              // whose turn it is
        std::int8_t to_move = 0;             // the same, kChance while the die rolls, or kTerminal
        bool operator==(const State&) const = default;
    };

    SPF_HD int goal() const { return target > 0 ? target : rules == kTextArena ? 50 : 100; }
    SPF_HD int limit() const { return horizon > 0 ? horizon : rules == kTextArena ? 50 : 1000; }

    SPF_HD int num_actions() const { return 2; }
    SPF_HD int max_plies() const { return 2 * max_turns(); }
    SPF_HD int max_turns() const { return rules == kTextArena ? kMovesPerTurn * limit() : limit(); }
    SPF_HD State initial() const { return {}; }

    SPF_HD Player current_player(const State& s) const { return s.to_move; }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const {
        if (s.to_move < 0) return {};
        const bool won = rules == kOpenSpiel && s.score[s.player] + s.turn_total >= goal();  // if it holds, as it must
        return {{won ? 2u : 3u}};
    }
    // Action a is a roll of a + 1.
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State& s) const {
        ChanceOutcomes<kMaxChance> outcomes;
        if (s.to_move != kChance) return outcomes;
        for (int face = 0; face < kFaces; ++face) outcomes.push(face, 1.0 / kFaces);
        return outcomes;
    }
    SPF_HD Action sample_chance(const State&, Rng rng) const { return rng.below(kFaces); }

    SPF_HD void apply(State& s, Action action) const {
        if (s.to_move == kChance) {
            s.to_move = s.player;
            s.turn_total = static_cast<std::uint16_t>(s.turn_total + action + 1);
            if (action == 0) end_turn(s);
            return;
        }
        bool over = ++s.moves == max_turns();
        if (action == kRoll) {
            s.to_move = kChance;
        } else {
            s.score[s.player] = static_cast<std::uint16_t>(s.score[s.player] + s.turn_total);
            over = over || s.score[s.player] >= goal();
            end_turn(s);
        }
        if (over) s.to_move = kTerminal;
    }
    SPF_HD float returns(const State& s, Player player) const {
        if (s.to_move != kTerminal) return 0.0f;
        if (rules == kOpenSpiel && s.score[0] < goal() && s.score[1] < goal()) return 0.0f;
        const int lead = s.score[player] - s.score[1 - player];
        return lead > 0 ? 1.0f : lead < 0 ? -1.0f : 0.0f;
    }

    // Whose turn, both scores, points of the turn, and how much of the horizon is used up.
    std::string information_state(const State& s, Player) const {
        std::string key = std::to_string(s.player) + ": " + std::to_string(s.score[0]) + " " +
                          std::to_string(s.score[1]) + " +" + std::to_string(s.turn_total) + " " +
                          std::to_string(s.moves);
        if (rules == kTextArena) key += "/" + std::to_string(s.turns);
        return key;
    }

    // OpenSpiel's rows, each with a one at a number of points: of the turn, of player 0, of player 1.
    std::array<int, 2> tensor_shape() const { return {3, goal() + 1}; }
    void observation_tensor(const State& s, Player, float* out) const {
        const int width = goal() + 1;
        for (int i = 0; i < 3 * width; ++i) out[i] = 0.0f;
        const int points[3] = {s.turn_total, s.score[0], s.score[1]};
        for (int row = 0; row < 3; ++row) out[row * width + (points[row] < width ? points[row] : width - 1)] = 1.0f;
    }

  private:
    SPF_HD void end_turn(State& s) const {
        s.turn_total = 0;
        ++s.turns;
        s.player = static_cast<std::int8_t>(1 - s.player);
        s.to_move = s.player;
        if (rules == kTextArena && s.turns == limit()) s.to_move = kTerminal;
    }
};
static_assert(TurnGame<Pig>);

}  // namespace spf
