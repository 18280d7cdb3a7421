// The words of all games; the second list a new game adds a line to.
#pragma once

#include "text/hanabi_text.h"
#include "text/kuhn_poker_text.h"
#include "text/leduc_poker_text.h"
#include "text/liars_dice_text.h"
#include "text/negotiation_text.h"
#include "text/pig_text.h"
#include "text/tic_tac_toe_text.h"
