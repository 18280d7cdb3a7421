// The games that are built for GPUs: those whose rules are marked SPF_HD throughout and in which nobody talks.
#pragma once

#include "games/connect_four.h"
#include "games/hanabi.h"
#include "games/kuhn_poker.h"
#include "games/leduc_poker.h"
#include "games/liars_dice.h"
#include "games/pig.h"
#include "games/simple_tak.h"
#include "games/tic_tac_toe.h"

#define SPF_FOR_EACH_DEVICE_GAME(DO) \
    DO(ConnectFour)                  \
    DO(Hanabi)                       \
    DO(KuhnPoker)                    \
    DO(LeducPoker)                   \
    DO(LiarsDice)                    \
    DO(Pig)                          \
    DO(SimpleTak)                    \
    DO(TicTacToe)
