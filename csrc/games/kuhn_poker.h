// Kuhn poker: cards J, Q, K (0, 1, 2; with more cards the lowest is 0), an ante of one chip, one bet of one chip.
// Action 0 passes (check or fold), action 1 puts a chip in (bet or call).
//
// One hand under the correct rules pays chips and is OpenSpiel's game: player 0 begins. A match of several rounds, or
// any match under TextArena's rules, pays +1 / -1 / 0 for the match; player 1 begins its odd rounds.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/game.h"
#include "core/resample.h"

namespace spf {

struct KuhnPoker {
    int rounds = 1;
    int rules = 0;  // kCorrect or kTextArena
    int cards = 3;

    static constexpr int kCorrect = 0;
    static constexpr int kTextArena =
        1;  // as published: bets move no chips, and the last round's winner takes the match
    static constexpr int kMaxRounds = 15;

    static constexpr std::string_view kName = "kuhn_poker";
    static constexpr int kPlayers = 2, kMaxActions = 2, kMaxCards = 5, kMaxChance = kMaxCards;
    static constexpr Action kPass = 0, kBet = 1;
    static constexpr bool kZeroSum = true, kPerfectInformation = false;
    static constexpr auto options() {
        return std::array{
            Option<KuhnPoker>{"rounds", &KuhnPoker::rounds, 1, kMaxRounds, "hands in a match"},
            Option<KuhnPoker>{"rules", &KuhnPoker::rules, 0, 1, "textarena: bets move no chips, the last round decides",
                              "correct textarena"},
            Option<KuhnPoker>{"cards", &KuhnPoker::cards, 3, kMaxCards, "size of the deck"}};
    }

    struct Hand {
        std::int8_t card[2] = {-1, -1};  // -1 until dealt
        std::uint8_t count = 0;          // actions so far
        std::uint8_t bets = 0;           // bit i: action i put a chip in
        bool operator==(const Hand&) const = default;
    };
    struct State {
        std::int8_t to_move = kChance;
        std::uint8_t round = 0;  // rounds completed
        Hand hands[kMaxRounds];
        bool operator==(const State&) const = default;
    };

    SPF_HD int num_actions() const { return 2; }
    SPF_HD int max_plies() const { return 5 * rounds; }
    SPF_HD int max_turns() const { return 3 * rounds; }
    SPF_HD State initial() const { return {}; }

    SPF_HD Player current_player(const State& s) const { return s.to_move; }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const { return {{s.to_move < 0 ? 0u : 3u}}; }
    // First a card for player 0, then one of the others for player 1.
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State& s) const {
        ChanceOutcomes<kMaxChance> outcomes;
        if (s.to_move != kChance) return outcomes;
        const int taken = s.hands[s.round].card[0];
        for (int card = 0; card < cards; ++card) {
            if (card != taken) outcomes.push(card, 1.0 / (taken < 0 ? cards : cards - 1));
        }
        return outcomes;
    }
    SPF_HD Action sample_chance(const State& s, Rng rng) const {
        const int taken = s.hands[s.round].card[0];
        const auto card = static_cast<int>(rng.below(static_cast<std::uint32_t>(taken < 0 ? cards : cards - 1)));
        return taken >= 0 && card >= taken ? card + 1 : card;
    }

    SPF_HD void apply(State& s, Action action) const {
        Hand& hand = s.hands[s.round];
        if (s.to_move == kChance) {
            if (hand.card[0] >= 0) s.to_move = static_cast<std::int8_t>(starter(s.round));
            hand.card[hand.card[0] < 0 ? 0 : 1] = static_cast<std::int8_t>(action);
            return;
        }
        hand.bets = static_cast<std::uint8_t>(hand.bets | (action << hand.count));
        ++hand.count;
        const bool over = is_over(hand);
        s.round = static_cast<std::uint8_t>(s.round + over);
        const Player next = s.round == rounds ? kTerminal : kChance;
        s.to_move = static_cast<std::int8_t>(select(over, next, 1 - s.to_move));
    }
    SPF_HD float returns(const State& s, Player player) const {
        if (s.to_move != kTerminal) return 0.0f;
        if (rules == kTextArena) return winner(s, rounds - 1) == player ? 1.0f : -1.0f;
        if (rounds == 1) return static_cast<float>(round_chips(s, 0, player));
        const int total = chips(s, player);
        return total > 0 ? 1.0f : total < 0 ? -1.0f : 0.0f;
    }

    // OpenSpiel's string for one hand: the own card, then p or b per action. Earlier rounds come before it, each with
    // the other card where it was shown, and end with '/'.
    std::string information_state(const State& s, Player player) const {
        std::string key;
        const int last = s.round < rounds ? s.round : rounds - 1;
        for (int r = 0; r <= last; ++r) {
            const Hand& hand = s.hands[r];
            if (hand.card[player] >= 0) key += static_cast<char>('0' + hand.card[player]);
            for (int i = 0; i < hand.count; ++i) key += is_bet(hand, i) ? 'b' : 'p';
            if (r == last) break;
            if (!is_fold(hand)) key += static_cast<char>('0' + hand.card[1 - player]);
            key += '/';
        }
        return key;
    }

    // OpenSpiel's observation of one hand: player, own card, chips put in by each. Of several: also which round it is
    // and by how many chips the player leads.
    std::array<int, 1> tensor_shape() const { return {4 + cards + (rounds > 1 ? rounds + 1 : 0)}; }
    void observation_tensor(const State& s, Player player, float* out) const {
        for (int i = 0; i < tensor_shape()[0]; ++i) out[i] = 0.0f;
        const int r = s.round < rounds ? s.round : rounds - 1;
        const Hand& hand = s.hands[r];
        out[player] = 1.0f;
        if (hand.card[player] >= 0) out[2 + hand.card[player]] = 1.0f;
        for (Player p = 0; p < 2; ++p) out[2 + cards + p] = static_cast<float>(contribution(r, hand, p));
        if (rounds == 1) return;
        out[4 + cards + r] = 1.0f;
        out[4 + cards + rounds] = static_cast<float>(chips(s, player));
    }

    // Folded hands of earlier rounds stay unseen too.
    SPF_HD State resample(const State& s, Player observer, Rng& rng) const {
        State world = s;
        for (int r = 0; r <= s.round && r < rounds; ++r) {
            Hand& hand = world.hands[r];
            const int own = hand.card[observer];
            if (hand.card[1 - observer] < 0 || (is_over(hand) && !is_fold(hand))) continue;  // not dealt yet, or shown
            int card = static_cast<int>(rng.below(static_cast<std::uint32_t>(own < 0 ? cards : cards - 1)));
            if (own >= 0 && card >= own) ++card;
            hand.card[1 - observer] = static_cast<std::int8_t>(card);
        }
        return world;
    }
    void retell(std::span<Action> history, const State& world, Player) const {
        replace_chance(*this, history, [&](const State& s, std::size_t) -> Action {
            return world.hands[s.round].card[s.hands[s.round].card[0] < 0 ? 0 : 1];
        });
    }

    // ---- one hand; without branches, since what is played at random cannot be predicted ----
    SPF_HD static int select(bool condition, int yes, int no) {
        return no ^ ((no ^ yes) & -static_cast<int>(condition));
    }
    SPF_HD static bool is_bet(const Hand& hand, int i) { return ((hand.bets >> i) & 1u) != 0; }
    SPF_HD static bool faces_bet(const Hand& hand) { return hand.bets != 0; }  // of a hand that goes on
    SPF_HD static bool is_over(const Hand& hand) {
        return hand.count + (hand.bets != 2) >= 3;  // all but check-bet end after two actions
    }
    SPF_HD static bool is_fold(const Hand& hand) {  // of a hand that is over
        return (hand.bets != 0) & (hand.bets >> (hand.count - 1) == 0);
    }
    SPF_HD Player starter(int round) const { return rounds == 1 && rules == kCorrect ? 0 : (round + 1) & 1; }
    SPF_HD Player actor(int round, int i) const { return (starter(round) + i) & 1; }
    SPF_HD int contribution(int round, const Hand& hand, Player player) const {
        int chips = 1;
        for (int i = 0; i < hand.count; ++i) chips += actor(round, i) == player && is_bet(hand, i) ? 1 : 0;
        return chips;
    }
    SPF_HD Player winner(const State& s, int round) const {
        const Hand& hand = s.hands[round];
        const Player high = hand.card[1] > hand.card[0], stayed = actor(round, hand.count);
        return select(is_fold(hand), stayed, high);
    }
    // Chips won (or lost) by the player in a completed round, and in all completed rounds.
    SPF_HD int round_chips(const State& s, int round, Player player) const {
        const unsigned bets = s.hands[round].bets;
        const int stake = 1 + ((rules == kCorrect) & ((bets & (bets - 1u)) != 0));  // two bets: one was called
        return select(winner(s, round) == player, stake, -stake);
    }
    SPF_HD int chips(const State& s, Player player) const {
        int total = 0;
        for (int r = 0; r < s.round; ++r) total += round_chips(s, r, player);
        return total;
    }
};
static_assert(TurnGame<KuhnPoker> && Resamples<KuhnPoker>);

}  // namespace spf
