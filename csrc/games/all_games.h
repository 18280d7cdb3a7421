// The one list of games. The build makes one translation unit per entry; nothing else names them all.
#pragma once

#include "games/connect_four.h"
#include "games/hanabi.h"
#include "games/kuhn_poker.h"
#include "games/leduc_poker.h"
#include "games/liars_dice.h"
#include "games/negotiation.h"
#include "games/nim.h"
#include "games/pig.h"
#include "games/simple_tak.h"
#include "games/snake.h"
#include "games/tic_tac_toe.h"
#include "games/truth_and_deception.h"

#define SPF_FOR_EACH_GAME(DO) \
    DO(ConnectFour)           \
    DO(Hanabi)                \
    DO(KuhnPoker)             \
    DO(LeducPoker)            \
    DO(LiarsDice)             \
    DO(Negotiation)           \
    DO(Nim)                   \
    DO(Pig)                   \
    DO(SimpleTak)             \
    DO(Snake)                 \
    DO(TicTacToe)             \
    DO(TruthAndDeception)
