"""The numbers of the paper's tables."""

from collections.abc import Mapping, Sequence

from ndae.experiments.variants import Variant


def _of_the_paper(columns: Mapping[tuple[int, int], Sequence[float]]) -> dict[tuple[int, int], dict[Variant, float]]:
    variants = (
        Variant("none"),
        Variant("auxiliary", eta=10),
        Variant("penalty", gamma=10),
        Variant("end", 10, 10),
        Variant("smooth", 10, 10),
    )
    return {key: dict(zip(variants, column, strict=True)) for key, column in columns.items()}


# Table 1 of the paper: mean absolute error in cm over 1,000 test samples, keyed by (horizon k, n_t).
PAPER_TABLE_1 = _of_the_paper({
    (20, 100): (35.0, 35.1, 32.6, 29.8, 27.9),
    (20, 1000): (6.40, 8.52, 5.72, 6.89, 7.35),
    (20, 10000): (2.39, 2.94, 2.32, 2.93, 2.85),
    (50, 100): (67.6, 78.0, 66.3, 68.8, 73.2),
    (50, 1000): (10.7, 31.8, 13.1, 40.9, 40.3),
    (50, 10000): (3.98, 27.4, 5.43, 48.8, 52.7),
})  # fmt: skip


# Table 2 of the paper, of water: in pm.
PAPER_TABLE_2 = _of_the_paper({
    (50, 100): (6.80, 6.82, 4.59, 3.63, 3.55),
    (50, 1000): (6.67, 6.70, 4.05, 3.62, 3.50),
    (50, 10000): (3.79, 3.28, 1.52, 3.13, 3.18),
})  # fmt: skip
