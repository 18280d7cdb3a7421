// The one list of games. The build makes one translation unit per entry; nothing else names them all.
#pragma once

#include "games/hanabi.h"
#include "games/kuhn_poker.h"
#include "games/leduc_poker.h"
#include "games/liars_dice.h"
#include "games/negotiation.h"
#include "games/pig.h"
#include "games/tic_tac_toe.h"

#define SPF_FOR_EACH_GAME(DO) \
    DO(Hanabi)                \
    DO(KuhnPoker)             \
    DO(LeducPoker)            \
    DO(LiarsDice)             \
    DO(Negotiation)           \
    DO(Pig)                   \
    DO(TicTacToe)
