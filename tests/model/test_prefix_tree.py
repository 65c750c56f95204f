"""Properties of the prefix tree on random sequences that share prefixes of all lengths."""

import random

import pytest

from moe_lm.engine.prefix_tree import MIN_SHARED, build


def random_sequences(seed):
    """Distinct sequences: each new one begins with a random cut of an earlier one, at multiples of MIN_SHARED more often than not."""
    rng = random.Random(seed)
    found = {(0,): None}
    for _ in range(rng.randint(1, 40)):
        base = rng.choice(list(found))
        cut = rng.choice([len(base), rng.randint(0, len(base)), len(base) // MIN_SHARED * MIN_SHARED])
        rest = [rng.randint(0, 2) for _ in range(rng.choice([0, 1, 5, MIN_SHARED - 1, MIN_SHARED, MIN_SHARED + 1, 3 * MIN_SHARED]))]
        if sequence := (*base[:cut], *rest):
            found[sequence] = None
    sequences = list(found)
    rng.shuffle(sequences)
    return sequences


def walk(roots):
    """All nodes, parents first."""
    return [found for node in roots for found in (node, *walk(node.children))]


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


def test_leaves_are_one_sequence_and_inner_nodes_long_enough_to_share(tree):
    for node in walk(tree[1]):
        assert node.tokens
        if node.is_leaf:
            assert len(node.members) == 1
        else:
            assert len(node.members) > 1
            assert len(node.tokens) >= MIN_SHARED


def test_parents_and_children_agree(tree):
    for node in walk(tree[1]):
        for child in node.children:
            assert child.parent is node
            assert child.start == node.end
            assert set(child.members) <= set(node.members)
    assert all(root.parent is None and root.start == 0 for root in tree[1])


def test_siblings_share_less_than_is_worth_a_node(tree):
    roots = tree[1]
    for siblings in [roots, *(node.children for node in walk(roots))]:
        begins = [node.tokens[:MIN_SHARED] for node in siblings if len(node.tokens) >= MIN_SHARED]
        assert len(begins) == len(set(begins))


def test_a_shared_run_goes_on_to_where_its_members_part(tree):
    sequences, roots = tree
    for node in walk(roots):
        if not node.is_leaf:
            assert len({sequences[i][node.end : node.end + 1] for i in node.members}) > 1


def test_order_of_first_appearance():
    a, b, c = (1,) * 40, (2,) * 40, (1,) * 32 + (3,)
    roots = build([b, a, c])
    assert [root.members for root in roots] == [[0], [1, 2]]
    assert [child.members for child in roots[1].children] == [[1], [2]]


def test_shorter_runs_are_not_shared():
    assert [root.is_leaf for root in build([(1,) * (MIN_SHARED - 1) + (end,) for end in (2, 3)])] == [True, True]


def test_a_prefix_of_others_ends_at_their_node():
    short, long, longer = (1,) * 64, (1,) * 70, (1,) * 64 + (2,)
    (root,) = build([short, long, longer])
    assert (root.start, root.end, sorted(root.members)) == (0, 64, [0, 1, 2])
    assert [child.members for child in root.children] == [[1], [2]]


def test_no_sequences():
    assert build([]) == []
