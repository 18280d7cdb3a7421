// Snake for two on a grid of width x height cells; both move at once: 0 up, 1 down, 2 left, 3 right. A snake dies where
// it leaves the grid, meets the other's head or enters a cell that stays occupied; the survivor wins, dying together is
// a draw. When all turns are played (a turn is one move of one snake), more apples win.
//
// Cell = y * width + x, with y upwards. Eaten apples come back on free cells when both have moved. TextArena puts the
// first one back before the second snake moves, so that it may appear, and be eaten, under that snake's head.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/game.h"
#include "core/joint_game.h"
#include "core/rng.h"

namespace spf {

struct Snake {
    int width = 5, height = 5, apples = 2, turns = 40;
    int rules = 0;  // kCorrect or kTextArena

    static constexpr int kCorrect = 0, kTextArena = 1;
    static constexpr std::string_view kName = "snake";
    static constexpr int kPlayers = 2, kMaxActions = 4, kMaxCells = 100;
    static constexpr int kUp = 0, kDown = 1, kLeft = 2, kRight = 3;
    static constexpr bool kZeroSum = true, kPerfectInformation = true;
    static constexpr auto options() {
        return std::array{
            Option<Snake>{"width", &Snake::width, 3, 10, "columns of the grid"},
            Option<Snake>{"height", &Snake::height, 3, 10, "rows of the grid"},
            Option<Snake>{"apples", &Snake::apples, 1, 5, "apples on the grid"},
            Option<Snake>{"turns", &Snake::turns, 2, 128, "moves of both snakes together", {}, 2},
            Option<Snake>{"rules", &Snake::rules, 0, 1, "textarena: equally many apples at the end are a win for both",
                          "correct textarena"}};
    }

    using Cells = ActionSet<kMaxCells>;  // a set of cells
    struct Body {
        Cells cells;
        std::uint64_t steps[2] = {0, 0};  // bit t: the low and the high bit of the move in tick t
        std::uint8_t head = 0, tail = 0, length = 1;
        bool alive = true;
        bool operator==(const Body&) const = default;
    };
    struct State {
        Body snakes[2];
        Cells apples;
        std::uint32_t tick = 0;
        bool operator==(const State&) const = default;
    };

    SPF_HD int num_actions() const { return 4; }
    SPF_HD int max_ticks() const { return turns / 2; }
    SPF_HD bool zero_sum() const { return rules == kCorrect; }

    SPF_HD State initial(Rng rng) const {
        State s;
        for (Body& snake : s.snakes) {
            const int cell = free_cell(s, rng);
            snake.head = snake.tail = static_cast<std::uint8_t>(cell);
            snake.cells.insert(cell);
        }
        for (int i = 0; i < apples; ++i) s.apples.insert(free_cell(s, rng));
        return s;
    }
    SPF_HD bool is_over(const State& s) const {
        return !s.snakes[0].alive || !s.snakes[1].alive || static_cast<int>(s.tick) == max_ticks();
    }
    // Every direction, deadly ones too.
    SPF_HD ActionSet<kMaxActions> legal_actions(const State& s, Player) const { return {{is_over(s) ? 0u : 15u}}; }

    SPF_HD void tick(State& s, const Action* moves, Rng rng) const {
        Body &a = s.snakes[0], &b = s.snakes[1];
        int target[2];
        bool grows[2];
        for (Player p = 0; p < 2; ++p) {
            target[p] = neighbour(s.snakes[p].head, static_cast<int>(moves[p]));
            s.snakes[p].alive = target[p] >= 0;
            grows[p] = target[p] >= 0 && s.apples.contains(target[p]);
        }
        if (a.alive && b.alive) {  // head on: in one cell, or exchanging cells
            const bool meet = target[0] == target[1] || (target[0] == b.head && target[1] == a.head);
            a.alive = b.alive = !meet;
        }
        bool hit[2] = {false, false};
        for (Player p = 0; p < 2; ++p) {
            for (Player q = 0; q < 2 && s.snakes[p].alive; ++q) {  // a snake that has died is in nobody's way
                if (s.snakes[q].alive) hit[p] = hit[p] || stays(s.snakes[q], grows[q], target[p]);
            }
        }
        int eaten = 0;
        for (Player p = 0; p < 2; ++p) {
            Body& snake = s.snakes[p];
            snake.alive = snake.alive && !hit[p];
            if (!snake.alive) continue;
            move(snake, static_cast<int>(moves[p]), target[p], grows[p], s.tick);
            if (!grows[p]) continue;
            erase(s.apples, target[p]);
            ++eaten;
        }
        ++s.tick;
        for (; eaten > 0; --eaten) {
            const int cell = free_cell(s, rng);
            if (cell >= 0) s.apples.insert(cell);
        }
    }

    SPF_HD float returns(const State& s, Player player) const {
        if (!is_over(s)) return 0.0f;
        const Body &own = s.snakes[player], &other = s.snakes[1 - player];
        if (own.alive != other.alive) return own.alive ? 1.0f : -1.0f;
        if (!own.alive) return 0.0f;
        if (own.length == other.length) return rules == kTextArena ? 1.0f : 0.0f;
        return own.length > other.length ? 1.0f : -1.0f;
    }

    // The tick, every snake's cells from head to tail, the apples: all there is to know.
    std::string information_state(const State& s, Player) const {
        std::string key = std::to_string(s.tick);
        for (const Body& snake : s.snakes) {
            key += ';';
            int cell = snake.head;
            for (int i = 0; i < snake.length; ++i) {
                if (i > 0) key += ',';
                key += std::to_string(cell);
                if (i + 1 < snake.length) cell = neighbour(cell, backwards(s, snake, i));
            }
            if (!snake.alive) key += 'x';
        }
        for (const Action apple : s.apples) key += (apple == *s.apples.begin() ? ";" : ",") + std::to_string(apple);
        return key;
    }

    // Planes, top row first: own head, own body, the other's head and body (a body rises evenly to 1 at the head),
    // apples, and everywhere the share of the turns played.
    std::array<int, 3> tensor_shape() const { return {6, height, width}; }
    void observation_tensor(const State& s, Player player, float* out) const {
        const int cells = width * height;
        for (int i = 0; i < 6 * cells; ++i) out[i] = 0.0f;
        const auto place = [&](int cell) { return (height - 1 - cell / width) * width + cell % width; };
        for (int k = 0; k < 2; ++k, out += 2 * cells) {
            const Body& snake = s.snakes[k == 0 ? player : 1 - player];
            int cell = snake.head;
            out[place(cell)] = 1.0f;
            for (int i = 0; i < snake.length; ++i) {
                out[cells + place(cell)] = static_cast<float>(snake.length - i) / static_cast<float>(snake.length);
                if (i + 1 < snake.length) cell = neighbour(cell, backwards(s, snake, i));
            }
        }
        for (const Action apple : s.apples) out[place(static_cast<int>(apple))] = 1.0f;
        const float share = static_cast<float>(s.tick) / static_cast<float>(max_ticks());
        for (int i = 0; i < cells; ++i) out[cells + i] = share;
    }

    // The direction from the i-th cell of a snake, counted from the head, to the next one towards the tail.
    SPF_HD static int backwards(const State& s, const Body& snake, int i) {
        const std::uint32_t last =
            s.tick - (snake.alive ? 1u : 2u);  // the dead did not move in the tick of their death
        return step_of(snake, last - static_cast<std::uint32_t>(i)) ^ 1;
    }

  private:
    // The cell in that direction, or -1 outside the grid.
    SPF_HD int neighbour(int cell, int direction) const {
        const int x = cell % width, y = cell / width;
        switch (direction) {
            case kUp:
                return y + 1 < height ? cell + width : -1;
            case kDown:
                return y > 0 ? cell - width : -1;
            case kLeft:
                return x > 0 ? cell - 1 : -1;
            default:
                return x + 1 < width ? cell + 1 : -1;
        }
    }
    SPF_HD static int step_of(const Body& snake, std::uint32_t tick) {
        return static_cast<int>(((snake.steps[0] >> tick) & 1u) | (((snake.steps[1] >> tick) & 1u) << 1));
    }
    SPF_HD static void erase(Cells& cells, int cell) { cells.words[cell >> 6] &= ~(std::uint64_t{1} << (cell & 63)); }
    // Will the snake still be there when all have moved? Its tail leaves unless it grows.
    SPF_HD static bool stays(const Body& snake, bool grows, int cell) {
        return snake.cells.contains(cell) && (grows || cell != snake.tail);
    }
    SPF_HD void move(Body& snake, int direction, int target, bool grows, std::uint32_t tick) const {
        snake.steps[0] |= static_cast<std::uint64_t>(direction & 1) << tick;
        snake.steps[1] |= static_cast<std::uint64_t>(direction >> 1) << tick;
        if (grows) {
            ++snake.length;
        } else {
            erase(snake.cells, snake.tail);
            snake.tail = static_cast<std::uint8_t>(neighbour(snake.tail, step_of(snake, tick + 1u - snake.length)));
        }
        snake.head = static_cast<std::uint8_t>(target);
        snake.cells.insert(target);
    }
    // A uniform cell without a living snake or an apple, or -1.
    SPF_HD int free_cell(const State& s, Rng& rng) const {
        Cells free;
        for (int w = 0; w < Cells::kWords; ++w) {
            const int cells = width * height - 64 * w;
            const std::uint64_t grid = cells >= 64 ? ~std::uint64_t{0}
                                       : cells > 0 ? (std::uint64_t{1} << cells) - 1
                                                   : 0;
            free.words[w] = grid & ~(s.snakes[0].cells.words[w] | s.snakes[1].cells.words[w] | s.apples.words[w]);
        }
        const int count = free.size();
        return count == 0 ? -1
                          : static_cast<int>(free.nth(static_cast<int>(rng.below(static_cast<std::uint32_t>(count)))));
    }
};
static_assert(JointGame<Snake>);

}  // namespace spf
