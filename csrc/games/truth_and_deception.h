// Truth and deception: two statements, one true. Player 0, the deceiver, knows which; after five messages, the
// deceiver's first, player 1, the guesser, names a fact and wins if it is the true one.
//
// Action 0 talks, actions 1 and 2 name a fact. Under TextArena's rules action 3 names both, which counts as right.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/game.h"
#include "core/resample.h"
#include "games/facts.h"

namespace spf {

struct TruthAndDeception {
    int rules = 0;  // kCorrect or kTextArena

    static constexpr int kCorrect = 0, kTextArena = 1;
    static constexpr std::string_view kName = "truth_and_deception";
    static constexpr int kPlayers = 2, kMaxActions = 4, kMaxChance = kFactPairs, kMessages = 5;
    static constexpr Player kDeceiver = 0, kGuesser = 1;
    static constexpr Action kTalk = 0, kBoth = 3;
    static constexpr bool kZeroSum = true, kPerfectInformation = false, kSpeech = true;
    static constexpr auto options() {
        return std::array{Option<TruthAndDeception>{"rules", &TruthAndDeception::rules, 0, 1,
                                                    "textarena: naming both facts counts as right",
                                                    "correct textarena"}};
    }

    struct State {
        std::int8_t pair = -1, first = -1;  // -1 until drawn; first: which statement of the pair is shown as fact 1
        std::uint8_t turn = 0;              // turns played
        std::uint8_t named = 0;             // the guess, 0 before
        bool operator==(const State&) const = default;
    };
    static_assert(kFactPairs <= 127);

    SPF_HD int num_actions() const { return rules == kTextArena ? 4 : 3; }
    SPF_HD int max_plies() const { return 2 + max_turns(); }
    SPF_HD int max_turns() const { return kMessages + 1; }
    SPF_HD State initial() const { return {}; }

    SPF_HD Player current_player(const State& s) const {
        if (s.first < 0) return kChance;
        return s.turn > kMessages ? kTerminal : s.turn % 2;
    }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const {
        ActionSet<kMaxActions> legal;
        if (current_player(s) < 0) return legal;
        legal.words[0] = is_guess(s) ? (rules == kTextArena ? 0b1110u : 0b0110u) : 1u;
        return legal;
    }
    // First the pair of statements, then which of them is fact 1.
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State& s) const {
        ChanceOutcomes<kMaxChance> outcomes;
        if (current_player(s) != kChance) return outcomes;
        const int n = s.pair < 0 ? kFactPairs : 2;
        for (int i = 0; i < n; ++i) outcomes.push(i, 1.0 / n);
        return outcomes;
    }
    SPF_HD void apply(State& s, Action action) const {
        const auto value = static_cast<std::int8_t>(action);
        if (s.pair < 0) {
            s.pair = value;
        } else if (s.first < 0) {
            s.first = value;
        } else {
            if (is_guess(s)) s.named = static_cast<std::uint8_t>(action);
            ++s.turn;
        }
    }
    SPF_HD float returns(const State& s, Player player) const {
        if (s.named == 0) return 0.0f;
        const bool right = s.named == kBoth || s.named == true_fact(s);
        return right == (player == kGuesser) ? 1.0f : -1.0f;
    }

    // The pair, the order in which its statements are shown, the turn; for the deceiver also the true fact. The order
    // is that of the alphabet (a) or not (b), so that the guesser's key, too, says nothing about the truth.
    std::string information_state(const State& s, Player player) const {
        std::string key;
        if (s.pair >= 0) key += std::to_string(s.pair);
        if (s.first >= 0) key += s.first == 0 ? 'a' : 'b';
        if (s.first >= 0 && player == kDeceiver) key += std::to_string(true_fact(s));
        key += ":" + std::to_string(s.turn);
        if (s.named != 0) key += ":" + std::to_string(s.named);
        return key;
    }

    // Who observes, the turn, the pair, which of its statements is fact 1, and for the deceiver the true fact. What was
    // said is left out.
    std::array<int, 1> tensor_shape() const { return {2 + max_turns() + kFactPairs + 2 + 2}; }
    void observation_tensor(const State& s, Player player, float* out) const {
        for (int i = 0; i < tensor_shape()[0]; ++i) out[i] = 0.0f;
        out[player] = 1.0f;
        out += 2;
        if (s.turn < max_turns()) out[s.turn] = 1.0f;
        out += max_turns();
        if (s.pair >= 0) out[s.pair] = 1.0f;
        out += kFactPairs;
        if (s.first < 0) return;
        out[s.first] = 1.0f;
        if (player == kDeceiver) out[2 + true_fact(s) - 1] = 1.0f;
    }

    // Both see all that nature draws; what the guesser lacks is knowledge, of which no other draw is the equal.
    SPF_HD State resample(const State& s, Player, Rng&) const { return s; }
    void retell(std::span<Action>, const State&, Player) const {}

    SPF_HD static bool is_guess(const State& s) { return s.turn == kMessages; }
    SPF_HD static std::string_view fact(const State& s, int number) {
        return statement(s.pair, number == 1 ? s.first : 1 - s.first);
    }
    SPF_HD static int true_fact(const State& s) { return is_true(s.pair, s.first) ? 1 : 2; }
};
static_assert(TurnGame<TruthAndDeception> && Resamples<TruthAndDeception>);

}  // namespace spf
