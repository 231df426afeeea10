"""The paper's numbers (LARES, tables 1, 2 and 4), by data set, experiment and row: test NDCG@10 and Recall@10.

Its figures give no numbers. Its tables 1 and 2 differ for LARES on Industrial_and_Scientific; both stand here.
"""

from __future__ import annotations

__all__ = ["PUBLISHED", "PUBLISHED_COSTS"]

_MUSIC = "amazon-2023:Musical_Instruments"
_SCIENCE = "amazon-2023:Industrial_and_Scientific"
_GAMES = "amazon-2023:Video_Games"
_BABY = "amazon-2023:Baby_Products"

PUBLISHED: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    _MUSIC: {
        "table1": {
            "sasrec": (0.0277, 0.0536),
            "fmlprec": (0.0300, 0.0575),
            "bsarec": (0.0295, 0.0564),
            "LARES": (0.0336, 0.0636),
        },
        "table2": {
            "LARES": (0.0336, 0.0636),
            "without RPT": (0.0326, 0.0624),
            "without RPT, pre-block": (0.0311, 0.0606),
            "without RPT, depth sampling": (0.0319, 0.0603),
            "without RPT, SLA": (0.0312, 0.0596),
            "without RPT, SLA, TLA": (0.0290, 0.0571),
        },
        "table4": {
            "sasrec, 4 layers": (0.0276, 0.0550),
            "sasrec, 6 layers": (0.0278, 0.0546),
            "sasrec, 8 layers": (0.0278, 0.0540),
            "sasrec, 10 layers": (0.0275, 0.0546),
            "LARES, depth 1": (0.0319, 0.0601),
            "LARES, depth 2": (0.0327, 0.0616),
            "LARES, depth 3": (0.0330, 0.0615),
            "LARES, depth 4": (0.0336, 0.0636),
        },
    },
    _SCIENCE: {
        "table1": {
            "sasrec": (0.0194, 0.0385),
            "fmlprec": (0.0206, 0.0404),
            "bsarec": (0.0209, 0.0421),
            "LARES": (0.0245, 0.0464),
        },
        "table2": {
            "LARES": (0.0242, 0.0461),
            "without RPT": (0.0235, 0.0450),
            "without RPT, pre-block": (0.0216, 0.0436),
            "without RPT, depth sampling": (0.0227, 0.0438),
            "without RPT, SLA": (0.0205, 0.0403),
            "without RPT, SLA, TLA": (0.0196, 0.0395),
        },
    },
    _GAMES: {
        "table1": {
            "sasrec": (0.0446, 0.0926),
            "fmlprec": (0.0460, 0.0922),
            "bsarec": (0.0466, 0.0917),
            "LARES": (0.0500, 0.0972),
        },
        "table2": {
            "LARES": (0.0500, 0.0972),
            "without RPT": (0.0491, 0.0961),
            "without RPT, pre-block": (0.0467, 0.0933),
            "without RPT, depth sampling": (0.0482, 0.0947),
            "without RPT, SLA": (0.0488, 0.0943),
            "without RPT, SLA, TLA": (0.0448, 0.0903),
        },
    },
    _BABY: {
        "table1": {
            "sasrec": (0.0186, 0.0371),
            "fmlprec": (0.0192, 0.0378),
            "bsarec": (0.0193, 0.0374),
            "LARES": (0.0208, 0.0401),
        },
    },
}

PUBLISHED_COSTS: dict[str, tuple[float, float, float, float]] = {
    "sasrec, 4 layers": (0.2, 4, 0.57, 1.10),
    "sasrec, 6 layers": (0.3, 6, 0.59, 1.23),
    "sasrec, 8 layers": (0.4, 8, 0.61, 1.40),
    "sasrec, 10 layers": (0.5, 10, 0.63, 1.55),
    "LARES, depth 1": (0.2, 4, 0.55, 1.19),
    "LARES, depth 2": (0.2, 6, 0.57, 1.39),
    "LARES, depth 3": (0.2, 8, 0.59, 1.58),
    "LARES, depth 4": (0.2, 10, 0.61, 1.74),
}
"""Table 4, rows of any data set's shape: parameters without item table (1e6), operations (1e6), GB and seconds.

Its operations fit multiplications with their additions counted once, on 20 positions; the card was an RTX 3090.
"""
