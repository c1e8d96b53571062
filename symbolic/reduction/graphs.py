"""Graph algorithms of index reduction, on the incidence of equations and variables alone."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


class StructureError(ValueError):
    """A system that has no unique solution by its structure, or that can't be reduced.

    `equations` lists the numbers of the user's equations concerned, `unknowns` the names of the unknowns; `by_numbers`
    says that it was judged at some values of these.
    """

    def __init__(
        self, message: str, equations: Sequence[int] = (), unknowns: Sequence[str] = (), by_numbers: bool = False
    ):
        super().__init__(message)
        self.equations, self.unknowns, self.by_numbers = tuple(equations), tuple(unknowns), by_numbers


class Matching(NamedTuple):
    """Row i is matched to column `columns[i]` and column j to row `rows[j]`; None where unmatched."""

    columns: list[int | None]
    rows: list[int | None]


class Offsets(NamedTuple):
    """Times that each equation is differentiated, highest derivative of each variable, and a matching of both."""

    differentiations: list[int]
    orders: list[int]
    matching: Matching


def maximum_matching(incidence: Sequence[Collection[int]], n_columns: int) -> Matching:
    """A maximum matching of a bipartite graph by augmenting paths; `incidence` lists the columns of each row."""
    matching = Matching([None] * len(incidence), [None] * n_columns)
    for row in range(len(incidence)):
        _augment(row, incidence.__getitem__, matching)
    return matching


def _augment(start: int, columns_of, matching: Matching) -> tuple[set[int], set[int]] | None:
    """Match row `start` along an augmenting path; None on success, else the rows and columns that were reached."""
    rows, columns = {start}, set()

    def candidates_of(row):  # what is free ends the path: without it, rows of a chain are visited one after the other
        return iter(sorted(columns_of(row), key=lambda j: matching.rows[j] is not None))

    path = [(start, candidates_of(start))]
    chosen: list[int] = []
    while path:
        candidates = path[-1][1]
        column = next((j for j in candidates if j not in columns), None)
        if column is None:
            path.pop()
            if chosen:
                chosen.pop()
            continue
        columns.add(column)
        chosen.append(column)
        owner = matching.rows[column]
        if owner is None:
            for (i, _), j in zip(path, chosen, strict=True):
                matching.columns[i], matching.rows[j] = j, i
            return None
        rows.add(owner)
        path.append((owner, candidates_of(owner)))
    return rows, columns


def pantelides(signature: Sequence[Mapping[int, int]], n_variables: int) -> Offsets:
    """How often each equation must be differentiated: Pantelides' algorithm.

    `signature[i]` maps each variable j in equation i to the order of its highest derivative there. Returned are the
    least offsets c ≥ 0, d ≥ 0 with d_j ≥ c_i + signature[i][j], with equality on a perfect matching (C. C. Pantelides,
    SIAM J. Sci. Stat. Comput. 9 (1988) 213; in this form J. D. Pryce, BIT 41 (2001) 364). Raises StructureError,
    naming rows and columns by number, if the system is structurally singular; callers that know names check
    `unmatched` first.
    """
    over, under = unmatched(signature, n_variables)
    if over or under:
        raise StructureError(f"structurally singular: rows {over}, columns {under}", over, [str(j) for j in under])
    c, d = [0] * len(signature), [0] * n_variables
    for row in signature:
        for j, order in row.items():
            d[j] = max(d[j], order)
    matching = Matching([None] * len(signature), [None] * n_variables)

    def leading(i):
        return [j for j, order in signature[i].items() if order + c[i] == d[j]]

    for i in range(len(signature)):
        while (reached := _augment(i, leading, matching)) is not None:
            for row in reached[0]:
                c[row] += 1
            for column in reached[1]:
                d[column] += 1
    return Offsets(c, d, matching)


def unmatched(incidence: Sequence[Collection[int]], n_columns: int) -> tuple[list[int], list[int]]:
    """The over-determined rows and the under-determined columns (A. L. Dulmage and N. S. Mendelsohn 1958).

    Rows reached by alternating paths from an unmatched row are more than their columns, columns reached from an
    unmatched column are more than their rows. Both lists are empty where a perfect matching exists.
    """
    matching = maximum_matching(incidence, n_columns)
    rows_of: list[list[int]] = [[] for _ in range(n_columns)]
    for i, row in enumerate(incidence):
        for j in row:
            rows_of[j].append(i)
    return _left_over(incidence, matching), _left_over(rows_of, Matching(matching.rows, matching.columns))


def _left_over(incidence: Sequence[Collection[int]], matching: Matching) -> list[int]:
    """Rows that alternating paths from unmatched ones reach: none augments a matching that is maximum."""
    paths = [_augment(i, incidence.__getitem__, matching) for i, j in enumerate(matching.columns) if j is None]
    return sorted(set[int]().union(*(path[0] for path in paths if path is not None)))


def solution_order(incidence: Sequence[Collection[int]], matching: Matching) -> list[list[int]]:
    """Rows in irreducible groups, each solvable for its matched columns once those before are (block lower triangular).

    The strongly connected components of the graph in which a row points to the owners of the columns that it contains.
    The matching must be perfect.
    """
    n = len(incidence)
    # SciPy numbers a component once those that it points to have their numbers, and looks at the last neighbour first.
    owners: list[list[Any]] = [[matching.rows[j] for j in sorted(row, reverse=True)] for row in incidence]
    starts = np.cumsum([0, *map(len, owners)])
    graph = csr_array((np.ones(starts[-1]), np.concatenate([[], *owners]).astype(int), starts), shape=(n, n))
    count, labels = connected_components(graph, connection="strong")
    groups: list[list[int]] = [[] for _ in range(count)]
    for row, label in enumerate(labels):
        groups[label].append(row)
    return groups
