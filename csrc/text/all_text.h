// The words of all games; the second list a new game adds a line to.
#pragma once

#include "text/connect_four_text.h"
#include "text/hanabi_text.h"
#include "text/kuhn_poker_text.h"
#include "text/leduc_poker_text.h"
#include "text/liars_dice_text.h"
#include "text/negotiation_text.h"
#include "text/nim_text.h"
#include "text/pig_text.h"
#include "text/simple_tak_text.h"
#include "text/snake_text.h"
#include "text/tic_tac_toe_text.h"
#include "text/truth_and_deception_text.h"
