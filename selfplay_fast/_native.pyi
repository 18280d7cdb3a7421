"""
C++ engines, search, solvers, token trees and scans of selfplay_fast
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
import typing_extensions
__all__: list[str] = ['Cfr', 'CudaBatch', 'GameBatch', 'GameInfo', 'GameTooLargeError', 'GameTree', 'InformationState', 'MonteCarloCfr', 'Observers', 'OptionInfo', 'Positions', 'RefineCost', 'RefineNode', 'RefineOptions', 'RefineOrder', 'RefineTree', 'RefineVote', 'RefineWant', 'Rule', 'Search', 'SearchOptions', 'TokenTree', 'completed_values', 'considered_visits', 'cuda_devices', 'describe_game', 'discounted_sums', 'game_names', 'moving_advantages', 'search_rows', 'segment_normalise', 'solver_form', 'tree_mask']
class OptionInfo:
    """
    One option of a game, as configured
    """
    @property
    def help(self) -> str:
        ...
    @property
    def high(self) -> int:
        ...
    @property
    def low(self) -> int:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def step(self) -> int:
        ...
    @property
    def value(self) -> int:
        ...
    @property
    def words(self) -> list[str]:
        ...
class GameInfo:
    """
    What a configured game is
    """
    @property
    def max_turns(self) -> int:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def num_actions(self) -> int:
        ...
    @property
    def num_players(self) -> int:
        ...
    @property
    def options(self) -> list[OptionInfo]:
        ...
    @property
    def perfect_information(self) -> bool:
        ...
    @property
    def simultaneous(self) -> bool:
        ...
    @property
    def speech(self) -> bool:
        ...
    @property
    def zero_sum(self) -> bool:
        ...
class GameBatch:
    """
    Many games of one kind, side by side
    """
    def __init__(self, name: str, options: collections.abc.Sequence[tuple[str, typing.SupportsInt | typing.SupportsIndex | str]], batch_size: typing.SupportsInt | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex, style: str, legal_list: bool | None, speech_characters: typing.SupportsInt | typing.SupportsIndex, chance: str, autoreset: str) -> None:
        ...
    def action_text(self, row: typing.SupportsInt | typing.SupportsIndex, action: typing.SupportsInt | typing.SupportsIndex, player: typing.SupportsInt | typing.SupportsIndex | None = None) -> str:
        ...
    def chance_outcomes(self, row: typing.SupportsInt | typing.SupportsIndex) -> list[tuple[int, float]]:
        ...
    def copy(self) -> GameBatch:
        ...
    def history(self, row: typing.SupportsInt | typing.SupportsIndex) -> list[int]:
        ...
    def information_state(self, row: typing.SupportsInt | typing.SupportsIndex, player: typing.SupportsInt | typing.SupportsIndex) -> str:
        ...
    def messages_since(self, row: typing.SupportsInt | typing.SupportsIndex, player: typing.SupportsInt | typing.SupportsIndex) -> list:
        ...
    def observation(self, rows: typing.Any = None, player: typing.SupportsInt | typing.SupportsIndex | None = None) -> list:
        ...
    def observation_bytes(self, rows: typing.Any = None, player: typing.SupportsInt | typing.SupportsIndex | None = None) -> tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.int64]]:
        """
        (uint8[N], int64[K + 1]): all texts in one buffer, and where each begins and the last one ends
        """
    def observation_tensor(self, rows: typing.Any = None, player: typing.SupportsInt | typing.SupportsIndex | None = None) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def parse(self, replies: collections.abc.Sequence, rows: typing.Any = None, mode: str = 'lenient', player: typing.SupportsInt | typing.SupportsIndex | None = None) -> tuple:
        ...
    def random_playouts(self, seed: typing.SupportsInt | typing.SupportsIndex | None = None) -> int:
        ...
    def reply_text(self, row: typing.SupportsInt | typing.SupportsIndex, action: typing.SupportsInt | typing.SupportsIndex, player: typing.SupportsInt | typing.SupportsIndex | None = None) -> str:
        ...
    def resample(self, rows: typing.Any, player: typing.SupportsInt | typing.SupportsIndex | None, seed: typing.SupportsInt | typing.SupportsIndex) -> GameBatch:
        ...
    def reset(self, rows: typing.Any = None, seeds: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64] | None = None, repeat: typing.SupportsInt | typing.SupportsIndex = 1) -> None:
        ...
    def sample_actions(self, seed: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.int64]:
        ...
    def set_state(self, state: bytes) -> None:
        ...
    def state(self) -> bytes:
        ...
    def step(self, actions: typing.Any, rows: typing.Any = None, texts: collections.abc.Sequence | None = None) -> None:
        ...
    @property
    def current_player(self) -> numpy.ndarray:
        """
        int32[B]: player to move, -1 chance, -2 all at once, -4 over; a read-only view
        """
    @property
    def info(self) -> GameInfo:
        ...
    @property
    def legal_actions(self) -> numpy.ndarray:
        """
        bool[B, A], or bool[B, P, A] where all players move at once: brought up to date by this access; a read-only view
        """
    @property
    def legal_bits(self) -> numpy.ndarray:
        """
        uint64[B, W], or uint64[B, P, W]: bit a % 64 of word a / 64 is action a; brought up to date by this access; a read-only view
        """
    @property
    def returns(self) -> numpy.ndarray:
        """
        float32[B, P]: 0 until a game is over; a read-only view
        """
    @property
    def terminated(self) -> numpy.ndarray:
        """
        bool[B]; a read-only view
        """
class CudaBatch:
    """
    Games in the memory of a GPU; calls are queued on a stream
    """
    def __init__(self, name: str, options: collections.abc.Sequence[tuple[str, typing.SupportsInt | typing.SupportsIndex | str]], batch_size: typing.SupportsInt | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex, chance: str, autoreset: str, device: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __len__(self) -> int:
        ...
    def copy(self, stream: typing.SupportsInt | typing.SupportsIndex) -> CudaBatch:
        ...
    def current_player(self) -> typing_extensions.CapsuleType:
        ...
    def history(self, row: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> list[int]:
        ...
    def join(self, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def legal_actions(self) -> typing_extensions.CapsuleType:
        ...
    def random_playouts(self, seed: typing.SupportsInt | typing.SupportsIndex | None, stream: typing.SupportsInt | typing.SupportsIndex) -> int:
        ...
    def reset(self, rows: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, bool] | None, seeds: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, bool] | None, repeat: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def returns(self) -> typing_extensions.CapsuleType:
        ...
    def sample_actions(self, seed: typing.SupportsInt | typing.SupportsIndex, out: typing.SupportsInt | typing.SupportsIndex, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Writes int64[B] to the address out.
        """
    def state(self, stream: typing.SupportsInt | typing.SupportsIndex) -> bytes:
        """
        What GameBatch.set_state reads.
        """
    def step(self, actions: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, bool], rows: tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, bool] | None, check: bool, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def terminated(self) -> typing_extensions.CapsuleType:
        ...
    def update_legal_actions(self, stream: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class RefineOrder:
    """
    Members:
    
      breadth
    
      depth
    """
    __members__: typing.ClassVar[dict[str, RefineOrder]]
    breadth: typing.ClassVar[RefineOrder]
    depth: typing.ClassVar[RefineOrder]
    @typing.overload
    def __eq__(self, other: RefineOrder) -> bool:
        ...
    @typing.overload
    def __eq__(self, other: typing.Any) -> bool:
        ...
    def __getstate__(self) -> int:
        ...
    def __hash__(self) -> int:
        ...
    def __index__(self) -> int:
        ...
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __int__(self) -> int:
        ...
    @typing.overload
    def __ne__(self, other: RefineOrder) -> bool:
        ...
    @typing.overload
    def __ne__(self, other: typing.Any) -> bool:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, state: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __str__(self) -> str:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def value(self) -> int:
        ...
class RefineOptions:
    """
    How a tree is searched; refine_search.py says what each option means
    """
    order: RefineOrder
    def __init__(self) -> None:
        ...
    @property
    def accept(self) -> float:
        ...
    @accept.setter
    def accept(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def branch(self) -> int:
        ...
    @branch.setter
    def branch(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def depth(self) -> int:
        ...
    @depth.setter
    def depth(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def judge_attempts(self) -> int:
        ...
    @judge_attempts.setter
    def judge_attempts(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def judgements(self) -> int:
        ...
    @judgements.setter
    def judgements(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def keep(self) -> int:
        ...
    @keep.setter
    def keep(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def refine_attempts(self) -> int:
        ...
    @refine_attempts.setter
    def refine_attempts(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class RefineWant:
    """
    What a tree waits for: refinements of a node, or verdicts on a text
    """
    @property
    def attempt(self) -> int:
        ...
    @property
    def branch(self) -> int:
        """
        the first of the branches that are wanted
        """
    @property
    def count(self) -> int:
        ...
    @property
    def is_judgement(self) -> bool:
        ...
    @property
    def node(self) -> int:
        """
        -1 where verdicts are wanted
        """
    @property
    def number(self) -> int:
        """
        names the draws of refinements, with the attempt
        """
    @property
    def text(self) -> int:
        """
        of the node, or what is judged
        """
class RefineNode:
    """
    A response in a tree; parents come before their children
    """
    @property
    def branch(self) -> int:
        ...
    @property
    def depth(self) -> int:
        ...
    @property
    def parent(self) -> int:
        """
        -1 of the root
        """
    @property
    def text(self) -> int:
        ...
    @property
    def value(self) -> float:
        ...
class RefineVote:
    """
    The vote on one text
    """
    @property
    def decided(self) -> bool:
        ...
    @property
    def kept(self) -> int:
        """
        the first verdict of the majority
        """
    @property
    def no(self) -> int:
        ...
    @property
    def yes(self) -> int:
        ...
class RefineCost:
    """
    What a tree has asked for
    """
    @property
    def requests(self) -> int:
        ...
    @property
    def rounds(self) -> int:
        ...
    @property
    def samples(self) -> int:
        ...
class RefineTree:
    """
    A tree that searches by refinement
    """
    def __init__(self, options: RefineOptions, judged: bool) -> None:
        """
        judged: is the critique of the first response known? Raises ValueError on a wrong option.
        """
    def answer(self, answers: typing.Annotated[numpy.typing.ArrayLike, numpy.int64]) -> bool:
        """
        The answers to all that is `wanted`, in order; is the search over now?
        
        answers int64[sum of counts]: of a refinement the number of its text (equal texts have equal numbers, the first response
        has 0), of a verdict 1 for yes and 0 for no; -1 for what cannot be read. Raises ValueError for another length or range,
        and nothing changes.
        """
    def vote(self, text: typing.SupportsInt | typing.SupportsIndex) -> RefineVote:
        ...
    def wanted(self) -> list[RefineWant]:
        """
        What it waits for now, empty when it is over.
        """
    @property
    def accepted(self) -> bool:
        ...
    @property
    def cost(self) -> RefineCost:
        ...
    @property
    def final_node(self) -> int:
        """
        -1 where there is none
        """
    @property
    def nodes(self) -> list[RefineNode]:
        ...
class TokenTree:
    """
    Token sequences packed into prefix trees.
    
    A model that runs over `shared` once and over every block, each node attending to `shared` and to its
    ancestors-or-self (j <= i < node_exit[j]), has computed every scored token of every sequence.
    
    Legend: N sequences, P shared tokens, M nodes, R blocks, S scored tokens, U distinct (node, target) pairs.
    The arrays are views of the tree.
    """
    def __init__(self, tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], offsets: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], first_scored: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], max_nodes: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Pack N sequences.
        
        tokens int64[total]: all sequences one after another, values >= 0; offsets int64[N + 1];
        first_scored int64[N]: index inside the sequence of the first token whose log-probability is needed (the length
        of the prompt), from 1 to length - 1; max_nodes: capacity of a block (a longer sequence gets a block alone).
        Raises ValueError on malformed input, TypeError on arrays that are not integers.
        """
    @property
    def block_offsets(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[R + 1]: block r is nodes [r] to [r + 1]
        """
    @property
    def node_exit(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32[M]: inside a block, j is an ancestor of i or i itself iff j <= i < node_exit[j]
        """
    @property
    def node_position(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[M]: position of the token in its sequences
        """
    @property
    def node_tokens(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[M]: depth-first inside a block
        """
    @property
    def num_computed_tokens(self) -> int:
        """
        P + M: tokens the model runs over (the last token of a sequence is only predicted)
        """
    @property
    def num_distinct_tokens(self) -> int:
        """
        nodes of one trie of all sequences, last tokens included
        """
    @property
    def num_input_tokens(self) -> int:
        """
        tokens given
        """
    @property
    def pair_node(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[U]: distinct (node, target) pairs, sorted
        """
    @property
    def pair_of_scored(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[S]: which pair each scored token is
        """
    @property
    def pair_target(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[U]
        """
    @property
    def scored_node(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[S]: the node whose output predicts each scored token, in input order
        """
    @property
    def scored_offsets(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[N + 1]: scored tokens of sequence n
        """
    @property
    def scored_targets(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[S]: the scored tokens, in input order
        """
    @property
    def shared(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64[P]: prefix of all sequences, ending before the first token that predicts a scored one
        """
class Rule:
    """
    Members:
    
      uct
    
      puct
    
      gumbel
    """
    __members__: typing.ClassVar[dict[str, Rule]]
    gumbel: typing.ClassVar[Rule]
    puct: typing.ClassVar[Rule]
    uct: typing.ClassVar[Rule]
    @typing.overload
    def __eq__(self, other: Rule) -> bool:
        ...
    @typing.overload
    def __eq__(self, other: typing.Any) -> bool:
        ...
    def __getstate__(self) -> int:
        ...
    def __hash__(self) -> int:
        ...
    def __index__(self) -> int:
        ...
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __int__(self) -> int:
        ...
    @typing.overload
    def __ne__(self, other: Rule) -> bool:
        ...
    @typing.overload
    def __ne__(self, other: typing.Any) -> bool:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, state: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __str__(self) -> str:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def value(self) -> int:
        ...
class Observers:
    """
    Members:
    
      all
    
      single
    
      multiple
    """
    __members__: typing.ClassVar[dict[str, Observers]]
    all: typing.ClassVar[Observers]
    multiple: typing.ClassVar[Observers]
    single: typing.ClassVar[Observers]
    @typing.overload
    def __eq__(self, other: Observers) -> bool:
        ...
    @typing.overload
    def __eq__(self, other: typing.Any) -> bool:
        ...
    def __getstate__(self) -> int:
        ...
    def __hash__(self) -> int:
        ...
    def __index__(self) -> int:
        ...
    def __init__(self, value: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __int__(self) -> int:
        ...
    @typing.overload
    def __ne__(self, other: Observers) -> bool:
        ...
    @typing.overload
    def __ne__(self, other: typing.Any) -> bool:
        ...
    def __repr__(self) -> str:
        ...
    def __setstate__(self, state: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def __str__(self) -> str:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def value(self) -> int:
        ...
class SearchOptions:
    """
    How a tree is searched; search.py says what each option means
    """
    insist: bool
    rule: Rule
    solve: bool
    transpositions: bool
    def __init__(self) -> None:
        ...
    @property
    def alpha(self) -> float:
        ...
    @alpha.setter
    def alpha(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def c(self) -> float:
        ...
    @c.setter
    def c(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def considered(self) -> int:
        ...
    @considered.setter
    def considered(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def max_bytes(self) -> int:
        ...
    @max_bytes.setter
    def max_bytes(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def noise(self) -> float:
        ...
    @noise.setter
    def noise(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def rollouts(self) -> int:
        ...
    @rollouts.setter
    def rollouts(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def simulations(self) -> int:
        ...
    @simulations.setter
    def simulations(self, arg0: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def temperature(self) -> float:
        ...
    @temperature.setter
    def temperature(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
    @property
    def virtual_loss(self) -> float:
        ...
    @virtual_loss.setter
    def virtual_loss(self, arg0: typing.SupportsFloat | typing.SupportsIndex) -> None:
        ...
class Search:
    """
    Trees over the rows of a copy of a batch, kept from call to call
    """
    def __init__(self, batch: GameBatch, options: SearchOptions, seeds: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64], threads: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def advance(self, actions: typing.Annotated[numpy.typing.ArrayLike, numpy.int64]) -> None:
        ...
    def expand(self, weights: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], returns: typing.Annotated[numpy.typing.ArrayLike, numpy.float32]) -> None:
        ...
    def policy(self) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def results(self) -> tuple:
        ...
    def run(self) -> None:
        ...
    def select(self, most: typing.SupportsInt | typing.SupportsIndex) -> GameBatch:
        """
        The leaves to evaluate as games, or None.
        """
    @property
    def leaf_rows(self) -> numpy.typing.NDArray[numpy.int64]:
        ...
class GameTooLargeError(ValueError):
    pass
class InformationState:
    """
    Where one player has to decide, as far as it can tell.
    """
    @property
    def history(self) -> list[int]:
        """
        one way to get there, nature's moves included
        """
    @property
    def key(self) -> str:
        ...
    @property
    def legal_actions(self) -> list[int]:
        ...
    @property
    def player(self) -> int:
        ...
class GameTree:
    """
    A game with hidden information, in sequence form.
    """
    def best_response(self, policy: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], player: typing.SupportsInt | typing.SupportsIndex) -> tuple[numpy.typing.NDArray[numpy.float64], float]:
        """
        (policy with the player's rows replaced by a best response to the others, the player's value).
        """
    def nash_conv(self, policies: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> numpy.typing.NDArray[numpy.float64]:
        """
        NashConv float64[K] of policies float64[K, I, A].
        """
    def policy_value(self, policy: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> list[float]:
        """
        Expected return of every player; policy float64[I, A].
        """
    @property
    def information_states(self) -> list[InformationState]:
        """
        list[InformationState], the rows I of policy tables
        """
    @property
    def num_actions(self) -> int:
        ...
    @property
    def num_players(self) -> int:
        ...
class Positions:
    """
    A game of perfect information, as its distinct positions.
    """
    def best_response(self, policy: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], player: typing.SupportsInt | typing.SupportsIndex) -> tuple[numpy.typing.NDArray[numpy.float64], float]:
        """
        (policy with the player's rows replaced by a best response to the others, the player's value).
        """
    def minimax(self) -> tuple[numpy.typing.NDArray[numpy.float64], numpy.typing.NDArray[numpy.bool]]:
        """
        Perfect play of a two-player zero-sum game: value float64[I] for whoever moves, optimal bool[I, A].
        """
    def nash_conv(self, policies: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> numpy.typing.NDArray[numpy.float64]:
        """
        NashConv float64[K] of policies float64[K, I, A].
        """
    def outcomes(self, policy: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> numpy.typing.NDArray[numpy.float64]:
        """
        Probabilities float64[P, 3] that a player wins, draws and loses; policy float64[I, A].
        """
    def policy_value(self, policy: typing.Annotated[numpy.typing.ArrayLike, numpy.float64]) -> list[float]:
        """
        Expected return of every player; policy float64[I, A].
        """
    @property
    def information_states(self) -> list[InformationState]:
        """
        list[InformationState], the rows I of policy tables
        """
    @property
    def num_actions(self) -> int:
        ...
    @property
    def num_players(self) -> int:
        ...
    @property
    def num_positions(self) -> int:
        """
        terminal ones included
        """
class Cfr:
    """
    Counterfactual regret minimisation with alternating updates.
    """
    def __init__(self, tree: GameTree, alpha: typing.SupportsFloat | typing.SupportsIndex, beta: typing.SupportsFloat | typing.SupportsIndex, gamma: typing.SupportsFloat | typing.SupportsIndex) -> None:
        """
        After iteration t positive regrets are multiplied by t^alpha / (t^alpha + 1), negative ones by t^beta / (t^beta + 1), and the average weighs it by t^gamma.
        """
    def average_policy(self) -> numpy.typing.NDArray[numpy.float64]:
        """
        float64[I, A]; uniform where no iteration went.
        """
    def run(self, iterations: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
class MonteCarloCfr:
    """
    Counterfactual regret minimisation on sampled histories.
    """
    def __init__(self, tree: GameTree, sampling: str, exploration: typing.SupportsFloat | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    def average_policy(self) -> numpy.typing.NDArray[numpy.float64]:
        """
        float64[I, A]; uniform where no iteration went.
        """
    def run(self, iterations: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
def completed_values(priors: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], visits: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], values: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], own_value: typing.SupportsFloat | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float32]:
    """
    Completed action values, transformed for the improved policy softmax(log prior + completed).
    """
def considered_visits(actions: typing.SupportsInt | typing.SupportsIndex, simulations: typing.SupportsInt | typing.SupportsIndex) -> list[int]:
    """
    Sequential halving: the visits an action must have to be considered, for every simulation.
    """
def cuda_devices() -> int:
    """
    The number of GPUs; RuntimeError where there are none or the build is without CUDA
    """
def describe_game(name: str, options: collections.abc.Sequence[tuple[str, typing.SupportsInt | typing.SupportsIndex | str]]) -> GameInfo:
    ...
@typing.overload
def discounted_sums(values: numpy.typing.NDArray[numpy.float32], *, segments: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None = None, discount: typing.SupportsFloat | typing.SupportsIndex = 1.0, lambda_: typing.SupportsFloat | typing.SupportsIndex = 1.0, baseline: numpy.typing.NDArray[numpy.float32] | None = None, mask: numpy.typing.NDArray[numpy.bool] | None = None, discounts: numpy.typing.NDArray[numpy.float32] | None = None, bootstrap: numpy.typing.NDArray[numpy.float32] | None = None, with_returns: bool = False, threads: typing.SupportsInt | typing.SupportsIndex = 1) -> typing.Any:
    """
    Discounted sums from the right of values [B, T]; with_returns adds sums + baseline. See learn.discounted_sums.
    """
@typing.overload
def discounted_sums(values: numpy.typing.NDArray[numpy.float64], *, segments: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None = None, discount: typing.SupportsFloat | typing.SupportsIndex = 1.0, lambda_: typing.SupportsFloat | typing.SupportsIndex = 1.0, baseline: numpy.typing.NDArray[numpy.float64] | None = None, mask: numpy.typing.NDArray[numpy.bool] | None = None, discounts: numpy.typing.NDArray[numpy.float64] | None = None, bootstrap: numpy.typing.NDArray[numpy.float64] | None = None, with_returns: bool = False, threads: typing.SupportsInt | typing.SupportsIndex = 1) -> typing.Any:
    """
    Discounted sums from the right of values [B, T]; with_returns adds sums + baseline. See learn.discounted_sums.
    """
def game_names() -> list[str]:
    ...
def moving_advantages(returns: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], slots: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], baselines: typing.Annotated[numpy.typing.ArrayLike, numpy.float64], *, decay: typing.SupportsFloat | typing.SupportsIndex, order: str) -> tuple:
    """
    Advantages [N] over moving averages [S], one per slot, and the new averages. See learn.moving_advantages.
    """
def search_rows(batch: GameBatch, rows: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None, options: SearchOptions, seeds: typing.Annotated[numpy.typing.ArrayLike, numpy.uint64], threads: typing.SupportsInt | typing.SupportsIndex, observers: Observers) -> tuple:
    """
    (visits int64[K, A], mean returns float32[K, A], actions int64[K]) of searches from the rows.
    """
@typing.overload
def segment_normalise(values: numpy.typing.NDArray[numpy.float32], *, segments: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None = None, weights: numpy.typing.NDArray[numpy.float32] | None = None, scale: str | None = 'unbiased', eps: typing.SupportsFloat | typing.SupportsIndex = 1e-06, eps_inside: bool = False, leave_one_out: bool = False, keep_singletons: bool = False) -> numpy.ndarray:
    """
    Values [N] relative to their segment. See learn.segment_normalise.
    """
@typing.overload
def segment_normalise(values: numpy.typing.NDArray[numpy.float64], *, segments: typing.Annotated[numpy.typing.ArrayLike, numpy.int64] | None = None, weights: numpy.typing.NDArray[numpy.float64] | None = None, scale: str | None = 'unbiased', eps: typing.SupportsFloat | typing.SupportsIndex = 1e-06, eps_inside: bool = False, leave_one_out: bool = False, keep_singletons: bool = False) -> numpy.ndarray:
    """
    Values [N] relative to their segment. See learn.segment_normalise.
    """
def solver_form(name: str, options: collections.abc.Mapping[str, typing.SupportsInt | typing.SupportsIndex | str], max_nodes: typing.SupportsInt | typing.SupportsIndex) -> GameTree | Positions:
    """
    The whole game: Positions if information is perfect, else GameTree.
    
    Raises ValueError on an unknown game or option, beyond max_nodes positions or histories, or without perfect recall.
    """
def tree_mask(node_exit: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], block_offsets: typing.Annotated[numpy.typing.ArrayLike, numpy.int64], shared_length: typing.SupportsInt | typing.SupportsIndex, width: typing.SupportsInt | typing.SupportsIndex | None = None) -> numpy.typing.NDArray[numpy.bool]:
    """
    Attention mask of a run of R blocks: bool[R, C, P + C].
    
    node_exit int32[M] of the whole tree; block_offsets int64[R + 1], a slice of the tree's (R consecutive blocks);
    shared_length P; width C, by default the largest of these blocks. True where a node may attend: the shared
    positions, its ancestors, itself. Padded rows see themselves alone. Raises ValueError on malformed input.
    """
