"""Properties of the prefix tree on random sequences that share prefixes of all lengths."""

import random

import pytest

from moe_lm.prefix_tree import BLOCK, build, levels


def random_sequences(seed):
    """Distinct sequences: each new one begins with a random cut of an earlier one, at block bounds more often than not."""
    rng = random.Random(seed)
    found = {(0,): None}
    for _ in range(rng.randint(1, 40)):
        base = rng.choice(list(found))
        cut = rng.choice([len(base), rng.randint(0, len(base)), len(base) // BLOCK * BLOCK])
        rest = [rng.randint(0, 2) for _ in range(rng.choice([0, 1, 5, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK]))]
        if sequence := (*base[:cut], *rest):
            found[sequence] = None
    sequences = list(found)
    rng.shuffle(sequences)
    return sequences


def walk(roots):
    """All nodes, parents first."""
    return [node for level in levels(roots) for node in level]


@pytest.fixture(params=range(25))
def tree(request):
    sequences = random_sequences(request.param)
    return sequences, build(sequences)


def test_every_position_in_exactly_one_node(tree):
    sequences, roots = tree
    spelled = {i: [] for i in range(len(sequences))}
    for node in walk(roots):
        for i in node.members:
            assert len(spelled[i]) == node.start  # parents come first, and leave neither gap nor overlap
            spelled[i] += node.tokens
    assert [tuple(spelled[i]) for i in range(len(sequences))] == sequences


def test_inner_nodes_are_whole_blocks(tree):
    for node in walk(tree[1]):
        assert node.tokens
        assert node.start % BLOCK == 0
        if node.is_leaf:
            assert len(node.members) == 1
        else:
            assert node.end % BLOCK == 0
            assert len(node.members) > 1


def test_parents_and_children_agree(tree):
    for node in walk(tree[1]):
        for child in node.children:
            assert child.parent is node
            assert child.start == node.end
            assert set(child.members) <= set(node.members)
    assert all(root.parent is None and root.start == 0 for root in tree[1])


def test_no_block_is_computed_twice(tree):
    """Any two sequences that share whole blocks meet in one node for each of them."""
    sequences, roots = tree
    blocks = [(i, tuple(node.tokens[b : b + BLOCK])) for i, node in enumerate(walk(roots)) for b in range(0, len(node.tokens), BLOCK)]
    whole = sum(len(block) == BLOCK for _, block in blocks)
    distinct = {s[: b + BLOCK] for s in sequences for b in range(0, len(s) - BLOCK + 1, BLOCK)}
    assert whole == len(distinct)


def test_sequences_do_not_move_each_others_bounds(tree):
    """A node of a subset's tree may be cut further by the others, but at block bounds only."""
    sequences, roots = tree
    half = sequences[::2]
    for node in walk(build(half)):
        for i in node.members:
            starts = {n.start for n in walk(roots) if 2 * i in n.members}
            assert all(start % BLOCK == 0 for start in starts)
            assert node.start in starts


def test_order_of_first_appearance():
    a, b, c = (1,) * 40, (2,) * 40, (1,) * 32 + (3,)
    roots = build([b, a, c])
    assert [root.members for root in roots] == [[0], [1, 2]]
    assert [child.members for child in roots[1].children] == [[1], [2]]


def test_nothing_short_of_a_block_is_shared():
    assert [root.is_leaf for root in build([(1,) * 31 + (2,), (1,) * 31 + (3,)])] == [True, True]


def test_a_prefix_of_others_ends_at_their_node():
    short, long, longer = (1,) * 64, (1,) * 70, (1,) * 64 + (2,)
    (root,) = build([short, long, longer])
    assert (root.start, root.end, sorted(root.members)) == (0, 64, [0, 1, 2])
    assert [child.members for child in root.children] == [[1], [2]]


def test_no_sequences():
    assert build([]) == []
