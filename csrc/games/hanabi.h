// Hanabi, numbered as in the Hanabi Learning Environment (Bard et al. 2020). Players see all hands but their own and
// build one firework per color in ascending order; all get the same score.
//
// With H cards in a hand, P players, C colors and R ranks, actions are: discard card 0..H-1, play card 0..H-1, reveal
// colors (C for every other player, the next one first), reveal ranks (R for every other player). Nature deals card
// color * R + rank, first to fill the hands in order, later to whoever has played or discarded.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/game.h"
#include "core/resample.h"

namespace spf {

struct Hanabi {
    int colors = 5, ranks = 5, players = 2;
    int hand = 0;  // cards in a hand; 0: five, with four or more players four
    int info_tokens = 8, life_tokens = 3;
    int rewards = 0;  // kStandard or kMars

    static constexpr std::string_view kName = "hanabi";
    static constexpr int kPlayers = 5, kMaxColors = 5, kMaxRanks = 5, kMaxHand = 5;
    static constexpr int kMaxActions = 2 * kMaxHand + (kPlayers - 1) * (kMaxColors + kMaxRanks);
    static constexpr int kMaxChance = kMaxColors * kMaxRanks;
    static constexpr bool kZeroSum = false, kPerfectInformation = false;
    static constexpr int kStandard = 0, kMars = 1;
    static constexpr auto options() {
        return std::array{
            Option<Hanabi>{"colors", &Hanabi::colors, 1, kMaxColors, "fireworks"},
            Option<Hanabi>{"ranks", &Hanabi::ranks, 1, kMaxRanks, "height of a firework"},
            Option<Hanabi>{"players", &Hanabi::players, 2, kPlayers, "who share the score"},
            Option<Hanabi>{"hand", &Hanabi::hand, 0, kMaxHand, "cards in a hand, 0 for 5 (up to three players) or 4"},
            Option<Hanabi>{"info_tokens", &Hanabi::info_tokens, 0, 8, "at the start and at most"},
            Option<Hanabi>{"life_tokens", &Hanabi::life_tokens, 1, 3, "the last one lost loses all"},
            Option<Hanabi>{.name = "rewards",
                           .member = &Hanabi::rewards,
                           .low = 0,
                           .high = 1,
                           .help = "mars: a last move that changes nothing pays 0.1",
                           .words = "standard mars",
                           .told = false}};
    }
    std::string conflict() const {
        if (players * hand_size() <= deck_cards()) return {};
        return "hands take " + std::to_string(players * hand_size()) + " cards and the deck has " +
               std::to_string(deck_cards());
    }

    // A card is color * 8 + rank, both from 0. What its holder knows of it: bits 0..4 colors it may have, bits 5..9
    // ranks it may have, bits 10 and 11: was told the color, the rank.
    static constexpr unsigned kRankShift = 5, kColorTold = 1u << 10, kRankTold = 1u << 11;
    struct Hand {
        std::uint16_t known[kMaxHand] = {};
        std::uint8_t card[kMaxHand] = {};
        std::uint8_t count = 0;
        bool operator==(const Hand&) const = default;
    };
    struct Move {
        std::uint8_t action = kNone;
        std::uint8_t card = 0;     // played or discarded
        std::uint8_t touched = 0;  // slots a reveal named
        bool scored = false, token = false;
        bool operator==(const Move&) const = default;
        static constexpr std::uint8_t kNone = 255;
    };
    struct State {
        std::uint64_t deck[2] = {0, 0};  // low and high bit of how often each card is left
        Hand hands[kPlayers];
        Move last[kPlayers];  // of each player
        std::uint8_t fireworks[kMaxColors] = {};
        std::uint8_t deck_size = 0, info = 0, life = 0;
        std::uint8_t turns_left = 0;  // counts once the deck is empty
        std::int8_t drawing = 0;      // who gets nature's next card
        std::int8_t turn = 0;         // whose turn comes next
        std::int8_t to_move = kChance;
        bool dealt = false;
        bool operator==(const State&) const = default;
    };

    SPF_HD int num_players() const { return players; }
    SPF_HD int hand_size() const { return hand > 0 ? hand : players < 4 ? 5 : 4; }
    SPF_HD int copies(int rank) const { return rank == 0 ? 3 : rank == ranks - 1 ? 1 : 2; }
    SPF_HD int deck_cards() const { return colors * (ranks == 1 ? 3 : 2 * ranks); }
    SPF_HD int first_color() const { return 2 * hand_size(); }  // the first action that reveals a color, and a rank
    SPF_HD int first_rank() const { return first_color() + (players - 1) * colors; }

    SPF_HD int num_actions() const { return first_rank() + (players - 1) * ranks; }
    SPF_HD int max_plies() const { return deck_cards() + max_turns(); }
    // Every card drawn follows a play or a discard, and brings back at most one token for a reveal.
    SPF_HD int max_turns() const {
        const int draws = deck_cards() - players * hand_size();
        return draws > 0 ? 2 * draws + info_tokens + players : players;
    }

    SPF_HD State initial() const {
        State s;
        for (int color = 0; color < colors; ++color) {
            for (int rank = 0; rank < ranks; ++rank) {
                const auto bit = std::uint64_t{1} << (8 * color + rank);
                if ((copies(rank) & 1) != 0) s.deck[0] |= bit;
                if (copies(rank) >= 2) s.deck[1] |= bit;
            }
        }
        s.deck_size = static_cast<std::uint8_t>(deck_cards());
        s.info = static_cast<std::uint8_t>(info_tokens);
        s.life = static_cast<std::uint8_t>(life_tokens);
        s.turns_left = static_cast<std::uint8_t>(players);
        return s;
    }

    SPF_HD Player current_player(const State& s) const { return s.to_move; }
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s) const {
        if (s.to_move < 0) return {};
        const std::uint64_t slots = (std::uint64_t{1} << s.hands[s.to_move].count) - 1;
        std::uint64_t legal = slots << hand_size();
        if (s.info < info_tokens) legal |= slots;
        if (s.info == 0) return {{legal}};
        for (int ahead = 1; ahead < players; ++ahead) {
            const Hand& other = s.hands[seat(s.to_move + ahead)];
            std::uint64_t held_colors = 0, held_ranks = 0;
            for (int slot = 0; slot < other.count; ++slot) {
                held_colors |= std::uint64_t{1} << color_of(other.card[slot]);
                held_ranks |= std::uint64_t{1} << rank_of(other.card[slot]);
            }
            legal |= held_colors << (first_color() + (ahead - 1) * colors);
            legal |= held_ranks << (first_rank() + (ahead - 1) * ranks);
        }
        return {{legal}};
    }

    SPF_HD ChanceOutcomes<kMaxChance> chance_outcomes(const State& s) const {
        ChanceOutcomes<kMaxChance> outcomes;
        if (s.to_move != kChance) return outcomes;
        for (int card = 0; card < 8 * colors; ++card) {
            const int left = left_in_deck(s, card);
            if (left > 0) outcomes.push(number_of(card), double(left) / s.deck_size);
        }
        return outcomes;
    }
    SPF_HD Action sample_chance(const State& s, Rng rng) const {  // every single card left is as likely
        const int n = static_cast<int>(rng.below(s.deck_size)), ones = count_bits(s.deck[0]);
        const ActionSet<64> pick{{n < ones ? s.deck[0] : s.deck[1]}};
        return number_of(static_cast<int>(pick.nth(n < ones ? n : (n - ones) / 2)));
    }

    SPF_HD void apply(State& s, Action action) const {
        if (s.to_move == kChance) {
            deal(s, card_of(static_cast<int>(action)));
            return;
        }
        const Player player = s.to_move;
        if (s.deck_size == 0) --s.turns_left;
        Move& move = s.last[player] = Move{static_cast<std::uint8_t>(action)};
        const bool reveals = action >= first_color();
        if (reveals) {
            reveal(s, move);
        } else {
            const int slot = static_cast<int>(action) % hand_size();
            move.card = take(s.hands[player], slot);
            move.token = action < hand_size() || play(s, move);
            if (move.token && s.info < info_tokens) {
                ++s.info;
            } else {
                move.token = false;
            }
        }
        s.turn = static_cast<std::int8_t>(seat(player + 1));
        s.to_move = s.turn;
        if (s.life == 0 || s.turns_left == 0 || score(s) == colors * ranks) {
            s.to_move = kTerminal;
        } else if (!reveals && s.deck_size > 0) {
            s.drawing = static_cast<std::int8_t>(player);
            s.to_move = kChance;
        }
    }
    SPF_HD float returns(const State& s, Player) const {
        if (s.to_move != kTerminal) return 0.0f;
        const int points = score(s);
        const bool scored = s.last[(s.turn + players - 1) % players].scored, lost = s.life == 0;
        const bool idle = rewards == kMars && (lost ? points == 0 : !scored);
        return (lost ? 0.0f : static_cast<float>(points)) + (idle ? 0.1f : 0.0f);
    }

    std::string information_state(const State& s, Player player) const;

    // The canonical encoding of the Hanabi Learning Environment, for the player to move.
    std::array<int, 1> tensor_shape() const;
    void observation_tensor(const State& s, Player player, float* out) const;

    SPF_HD State resample(const State& s, Player observer, Rng& rng) const;
    void retell(std::span<Action> history, const State& world, Player observer) const;

    // ---- cards ----
    SPF_HD static int color_of(int card) { return card >> 3; }
    SPF_HD static int rank_of(int card) { return card & 7; }
    SPF_HD Action number_of(int card) const { return color_of(card) * ranks + rank_of(card); }
    SPF_HD int card_of(int number) const { return (number / ranks) * 8 + number % ranks; }
    SPF_HD int seat(int n) const { return n < players ? n : n - players; }
    SPF_HD static int left_in_deck(const State& s, int card) {
        return static_cast<int>(((s.deck[0] >> card) & 1) + 2 * ((s.deck[1] >> card) & 1));
    }
    SPF_HD static bool may_be(unsigned known, int card) {
        return ((known >> color_of(card)) & (known >> (kRankShift + static_cast<unsigned>(rank_of(card)))) & 1u) != 0;
    }
    SPF_HD int score(const State& s) const {
        int total = 0;
        for (int color = 0; color < colors; ++color) total += s.fireworks[color];
        return total;
    }
    // How many of a card are neither in the deck, nor in a hand, nor on a firework.
    SPF_HD int discarded(const State& s, int card) const {
        int count =
            copies(rank_of(card)) - left_in_deck(s, card) - (s.fireworks[color_of(card)] > rank_of(card) ? 1 : 0);
        for (const Hand& other : s.hands) {
            for (int slot = 0; slot < other.count; ++slot) count -= other.card[slot] == card ? 1 : 0;
        }
        return count;
    }
    // What an action reveals: to the player so many seats ahead, a color or a rank.
    struct Hint {
        int ahead, value;
        bool is_color;
    };
    SPF_HD Hint hint(Action action) const {
        const int from_color = static_cast<int>(action) - first_color(),
                  from_rank = static_cast<int>(action) - first_rank();
        if (from_rank < 0) return {1 + from_color / colors, from_color % colors, true};
        return {1 + from_rank / ranks, from_rank % ranks, false};
    }

  private:
    // The set of cards that fit what is known, as a word.
    SPF_HD static std::uint64_t cards_within(unsigned known) {
        std::uint64_t colors_known = 0;
        for (int color = 0; color < kMaxColors; ++color) {
            colors_known |= static_cast<std::uint64_t>((known >> color) & 1u) << (8 * color);
        }
        return colors_known * ((known >> kRankShift) & ((1u << kMaxRanks) - 1));
    }
    SPF_HD static void remove_from_deck(std::uint64_t (&deck)[2], int card) {
        const auto bit = std::uint64_t{1} << card;
        deck[1] ^= bit & ~deck[0];  // 3 -> 2, 2 -> 1, 1 -> 0
        deck[0] ^= bit;
    }
    SPF_HD void deal(State& s, int card) const {
        remove_from_deck(s.deck, card);
        --s.deck_size;
        Hand& hand_of = s.hands[s.drawing];
        hand_of.known[hand_of.count] =
            static_cast<std::uint16_t>(((1u << colors) - 1) | (((1u << ranks) - 1) << kRankShift));
        hand_of.card[hand_of.count++] = static_cast<std::uint8_t>(card);
        if (!s.dealt && hand_of.count == hand_size()) s.dealt = ++s.drawing == players;
        if (s.dealt) s.to_move = s.turn;
    }
    SPF_HD static std::uint8_t take(Hand& from, int slot) {
        const std::uint8_t card = from.card[slot];
        --from.count;
        for (int i = slot; i < from.count; ++i) {
            from.card[i] = from.card[i + 1];
            from.known[i] = from.known[i + 1];
        }
        from.card[from.count] = 0;
        from.known[from.count] = 0;
        return card;
    }
    // True if it completes a firework.
    SPF_HD bool play(State& s, Move& move) const {
        std::uint8_t& height = s.fireworks[color_of(move.card)];
        move.scored = height == rank_of(move.card);
        if (move.scored) return ++height == ranks;
        --s.life;
        return false;
    }
    SPF_HD void reveal(State& s, Move& move) const {
        --s.info;
        const Hint told = hint(move.action);
        Hand& target = s.hands[seat(s.to_move + told.ahead)];
        const unsigned all = told.is_color ? (1u << kRankShift) - 1 : ((1u << kRankShift) - 1) << kRankShift;
        const unsigned value =
            told.is_color ? 1u << told.value : 1u << (kRankShift + static_cast<unsigned>(told.value));
        const unsigned flag = told.is_color ? kColorTold : kRankTold;
        for (int slot = 0; slot < target.count; ++slot) {
            const int card = target.card[slot];
            const bool hit = (told.is_color ? color_of(card) : rank_of(card)) == told.value;
            const unsigned known = target.known[slot];
            target.known[slot] = static_cast<std::uint16_t>(hit ? ((known & ~all) | value | flag) : (known & ~value));
            if (hit) move.touched = static_cast<std::uint8_t>(move.touched | (1u << slot));
        }
    }
};

}  // namespace spf

#include "games/hanabi_views.h"
