// A square board in words: every row on a line of its own, marks O and X, free cells as their number.
#pragma once

#include <string>

#include "core/game.h"

namespace spf {

template <class IsMarked>  // (player, cell) -> bool
void append_numbered_board(int size, std::string& out, const IsMarked& is_marked) {
    for (int cell = 0; cell < size * size; ++cell) {
        out += cell % size == 0 ? '\n' : ' ';
        if (is_marked(0, cell)) {
            out += 'O';
        } else if (is_marked(1, cell)) {
            out += 'X';
        } else {
            out += std::to_string(cell);
        }
    }
}

}  // namespace spf
