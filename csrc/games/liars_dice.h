// Liar's dice: both players roll in secret and bid on how many dice of all show a face, or call the last bid.
//
// Bid b says that at least b / faces + 1 dice show face b % faces (0 is a one); the highest number is the call. Bids
// rise, so a set of bids tells their order. Under the rules of OpenSpiel one call decides the game. Under those of
// TextArena its loser loses a die, all dice are rolled again and the loser begins; who has no dice left has lost.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/game.h"
#include "core/resample.h"

namespace spf {

struct LiarsDice {
    int dice = 0;  // of each player; 0: one (openspiel) or five (textarena)
    int faces = 6;
    int wild = 0;   // kAuto: in openspiel only
    int rules = 0;  // kOpenSpiel or kTextArena

    static constexpr int kOpenSpiel = 0, kTextArena = 1;
    static constexpr int kAuto = 0, kYes = 1;
    static constexpr int kMaxDice = 5, kMaxFaces = 6, kMaxRounds = 2 * kMaxDice - 1;

    static constexpr std::string_view kName = "liars_dice";
    static constexpr int kPlayers = 2, kMaxActions = 2 * kMaxDice * kMaxFaces + 1, kMaxChance = kMaxFaces;
    static constexpr bool kZeroSum = true, kPerfectInformation = false;
    static constexpr auto options() {
        return std::array{
            Option<LiarsDice>{"dice", &LiarsDice::dice, 0, kMaxDice,
                              "of each player at the start, 0 for 1 (openspiel) or 5 (textarena)"},
            Option<LiarsDice>{"faces", &LiarsDice::faces, 2, kMaxFaces, "of a die"},
            Option<LiarsDice>{"wild", &LiarsDice::wild, 0, 2,
                              "does the highest face count as every face? auto: in openspiel", "auto yes no"},
            Option<LiarsDice>{"rules", &LiarsDice::rules, 0, 1,
                              "openspiel: one call decides; textarena: it costs a die", "openspiel textarena"}};
    }

    struct Round {
        std::uint64_t bids = 0;          // one bit each
        std::uint16_t dice[2] = {0, 0};  // three bits each, in the order rolled
        std::uint8_t count[2] = {0, 0};  // dice of each player
        std::int8_t starter = 0;
        std::int8_t loser = -1;  // of the call
        bool operator==(const Round&) const = default;
    };
    struct State {
        Round rounds[kMaxRounds];
        std::uint8_t round = 0;
        std::uint8_t rolled = 0;  // dice rolled in this round
        std::int8_t to_move = kChance;
        bool operator==(const State&) const = default;
    };

    SPF_HD int num_dice() const { return dice > 0 ? dice : rules == kTextArena ? kMaxDice : 1; }
    SPF_HD int num_bids() const { return 2 * num_dice() * faces; }
    SPF_HD bool is_wild() const { return wild == kAuto ? rules == kOpenSpiel : wild == kYes; }
    SPF_HD Action call() const { return num_bids(); }

    SPF_HD int num_actions() const { return num_bids() + 1; }
    SPF_HD int max_plies() const { return max_turns() + most_rolls(); }
    SPF_HD int max_turns() const { return most_rolls() * faces + (rules == kTextArena ? 2 * num_dice() - 1 : 1); }
    SPF_HD State initial() const {
        State s;
        s.rounds[0].count[0] = s.rounds[0].count[1] = static_cast<std::uint8_t>(num_dice());
        return s;
    }

    SPF_HD Player current_player(const State& s) const { return s.to_move; }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const {
        if (s.to_move < 0) return {};
        const Round& now = s.rounds[s.round];
        const std::uint64_t bids = (std::uint64_t{1} << ((now.count[0] + now.count[1]) * faces)) - 1;
        if (now.bids == 0) return {{bids}};
        const std::uint64_t up_to_last = (std::uint64_t{2} << highest_bit(now.bids)) - 1;
        return {{(bids & ~up_to_last) | (std::uint64_t{1} << call())}};
    }
    // The dice of player 0, then those of player 1.
    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State& s) const {
        ChanceOutcomes<kMaxChance> outcomes;
        if (s.to_move != kChance) return outcomes;
        for (int face = 0; face < faces; ++face) outcomes.push(face, 1.0 / faces);
        return outcomes;
    }
    SPF_HD Action sample_chance(const State&, Rng rng) const { return rng.below(static_cast<std::uint32_t>(faces)); }

    SPF_HD void apply(State& s, Action action) const {
        Round& now = s.rounds[s.round];
        if (s.to_move == kChance) {
            const Player player = s.rolled < now.count[0] ? 0 : 1;
            set_die(now, player, s.rolled - player * now.count[0], static_cast<int>(action));
            if (++s.rolled == now.count[0] + now.count[1]) s.to_move = now.starter;
        } else if (action < call()) {
            now.bids |= std::uint64_t{1} << action;
            s.to_move = static_cast<std::int8_t>(1 - s.to_move);
        } else {
            const int bid = highest_bit(now.bids);
            now.loser = static_cast<std::int8_t>(showing(now, bid) <= bid / faces ? 1 - s.to_move : s.to_move);
            end_round(s);
        }
    }
    SPF_HD float returns(const State& s, Player player) const {
        if (s.to_move != kTerminal) return 0.0f;
        return s.rounds[s.round].loser == player ? -1.0f : 1.0f;
    }

    // OpenSpiel's string for one round: the own dice in order, then the bids. Earlier rounds come before it, each with
    // how many dice showed what was called.
    std::string information_state(const State& s, Player player) const {
        std::string key;
        for (int r = 0; r <= s.round; ++r) {
            const Round& round = s.rounds[r];
            if (r > 0) key += '/';
            for (const char face : sorted_dice(s, r, player)) key += static_cast<char>('1' + face);
            for (const Action bid : bids(round)) {
                key += ' ' + std::to_string(bid / faces + 1) + '-' + std::to_string(bid % faces + 1);
            }
            if (round.loser >= 0) key += " Liar=" + std::to_string(showing(round, highest_bit(round.bids)));
        }
        return key;
    }

    // OpenSpiel's observation of the round: player, own dice in order, the last two bids and the call. Under
    // textarena's rules also the number of dice of the player and of the other.
    std::array<int, 1> tensor_shape() const {
        return {2 + num_dice() * faces + num_actions() + (rules == kTextArena ? 2 : 0)};
    }
    void observation_tensor(const State& s, Player player, float* out) const {
        const Round& now = s.rounds[s.round];
        const int width = tensor_shape()[0];
        for (int i = 0; i < width; ++i) out[i] = 0.0f;
        out[player] = 1.0f;
        float* place = out + 2;
        for (const char face : sorted_dice(s, s.round, player)) {
            place[static_cast<int>(face)] = 1.0f;
            place += faces;
        }
        place = out + 2 + num_dice() * faces;
        std::uint64_t rest = now.bids;
        const bool called = now.loser >= 0;
        for (int i = 0; i < (called ? 1 : 2) && rest != 0; ++i) {  // the last two moves
            place[highest_bit(rest)] = 1.0f;
            rest ^= std::uint64_t{1} << highest_bit(rest);
        }
        if (called) place[call()] = 1.0f;
        if (rules != kTextArena) return;
        for (Player p = 0; p < 2; ++p) out[width - 2 + p] = now.count[p == 0 ? player : 1 - player];
    }

    // Calls have told how many dice showed a face, and nothing else of the other's dice.
    SPF_HD State resample(const State& s, Player observer, Rng& rng) const {
        State world = s;
        const Player other = 1 - observer;
        for (int r = 0; r <= s.round; ++r) {
            Round& round = world.rounds[r];
            const int hidden = rolled_dice(s, r, other);
            round.dice[other] = 0;
            if (round.loser < 0) {
                for (int i = 0; i < hidden; ++i) set_die(round, other, i, draw(rng, faces));
                continue;
            }
            const int bid = highest_bit(round.bids), face = bid % faces;
            const bool joker = is_wild() && face != faces - 1;
            int matches = showing(s.rounds[r], bid) - showing_of(s.rounds[r], observer, face);
            for (int i = 0; i < hidden; ++i) {
                if (draw(rng, hidden - i) < matches) {
                    set_die(round, other, i, joker && draw(rng, 2) == 0 ? faces - 1 : face);
                    --matches;
                    continue;
                }
                const int miss = draw(rng, faces - (joker ? 2 : 1));
                set_die(round, other, i, miss < face ? miss : miss + 1);
            }
        }
        return world;
    }
    void retell(std::span<Action> history, const State& world, Player) const {
        replace_chance(*this, history, [&](const State& s, std::size_t) -> Action {
            const Round& round = s.rounds[s.round];
            const Player player = s.rolled < round.count[0] ? 0 : 1;
            return die(world.rounds[s.round], player, s.rolled - player * round.count[0]);
        });
    }

    // ---- one round ----
    SPF_HD static int die(const Round& round, Player player, int i) { return (round.dice[player] >> (3 * i)) & 7; }
    SPF_HD static ActionSet<kMaxActions> bids(const Round& round) { return {{round.bids}}; }
    // How many dice count for the bid's face.
    SPF_HD int showing(const Round& round, int bid) const {
        return showing_of(round, 0, bid % faces) + showing_of(round, 1, bid % faces);
    }
    SPF_HD static int rolled_dice(const State& s, int r, Player player) {
        const int count = s.rounds[r].count[player];
        if (r < s.round) return count;
        const int rolled = player == 0 ? s.rolled : s.rolled - s.rounds[r].count[0];
        return rolled < 0 ? 0 : rolled < count ? rolled : count;
    }
    // Faces from 0, ascending.
    std::string sorted_dice(const State& s, int r, Player player) const {
        std::string dice;
        const int rolled = rolled_dice(s, r, player);
        for (int face = 0; face < faces; ++face) {
            for (int i = 0; i < rolled; ++i) {
                if (die(s.rounds[r], player, i) == face) dice += static_cast<char>(face);
            }
        }
        return dice;
    }

  private:
    SPF_HD int most_rolls() const {  // in rounds of 2n, 2n - 1, ..., 2 dice
        const int n = num_dice();
        return rules == kTextArena ? n * (2 * n + 1) - 1 : 2 * n;
    }
    SPF_HD void end_round(State& s) const {
        const Round& now = s.rounds[s.round];
        if (rules == kOpenSpiel || now.count[now.loser] == 1) {
            s.to_move = kTerminal;
            return;
        }
        Round& next = s.rounds[++s.round];
        for (Player p = 0; p < 2; ++p)
            next.count[p] = static_cast<std::uint8_t>(now.count[p] - (p == now.loser ? 1 : 0));
        next.starter = now.loser;
        s.rolled = 0;
        s.to_move = kChance;
    }
    SPF_HD int showing_of(const Round& round, Player player, int face) const {
        int total = 0;
        for (int i = 0; i < round.count[player]; ++i) {
            const int shown = die(round, player, i);
            total += shown == face || (is_wild() && shown == faces - 1) ? 1 : 0;
        }
        return total;
    }
    SPF_HD static void set_die(Round& round, Player player, int i, int face) {
        round.dice[player] = static_cast<std::uint16_t>(round.dice[player] | (face << (3 * i)));
    }
    SPF_HD static int draw(Rng& rng, int bound) {
        return static_cast<int>(rng.below(static_cast<std::uint32_t>(bound)));
    }
};
static_assert(TurnGame<LiarsDice> && Resamples<LiarsDice>);

}  // namespace spf
