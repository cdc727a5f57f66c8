"""Every data set by name: a data set is one file and one entry here. Importing this loads no data and no loader."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hetfed.errors import PlanError, among

if TYPE_CHECKING:
    from hetfed_datasets.records import Cohort, Series

GITHUB = "https://raw.githubusercontent.com"
FLAMBY_BRCA = "owkin/FLamby/edacf54d5211520583b0133d55ac39b6fda8324b/flamby/datasets/fed_tcga_brca"


@dataclass(frozen=True)
class File:
    """One file of a data set: its SHA-256, and the publisher's address where one serves exactly these bytes."""

    sha256: str
    url: str | None = None


@dataclass(frozen=True)
class Entry:
    """What is known of a data set. `loader` is `module:function`; `joins` are data sets that it is made of."""

    name: str
    kind: Literal["cohort", "series"]
    title: str
    loader: str
    source: str
    licence: str = "none stated"
    files: Mapping[str, File] = field(default_factory=dict)
    joins: tuple[str, ...] = ()
    generated: bool = False

    def load(self, root: Path, **options: Any) -> Cohort | Series:
        """The record, read from `root/<name>` or generated."""
        # By name, so that to list data sets imports none of the loaders, and no pandas.
        module, _, function = self.loader.partition(":")
        load: Callable[..., Cohort | Series] = getattr(import_module(f"hetfed_datasets.{module}"), function)
        return load(**options) if self.generated else load(root / self.name, **options)

    def way_to(self, file_name: str, root: Path) -> str:
        """What to do about a file that is not there below `root`, as a sentence without its end."""
        file = self.files.get(file_name)
        if file is None or file.url is not None:
            option = "" if root == data_root() else f" --data-dir {shlex.quote(str(root))}"
            return f"Get it with `hetfed datasets fetch {self.name}{option}`"
        return f"No publisher serves it: prepare it from its source ({self.source}) and put it there, as docs/datasets.md says"


_ENTRIES = (
    Entry(
        "tcga-lgg-mri",
        "cohort",
        "brain MRI slices of 110 glioma patients at 5 hospitals",
        "tcga_lgg_mri:load",
        "derived (64x64 slices) from the Kaggle set of Buda et al. 2019, itself from TCGA-LGG at the Cancer Imaging Archive",
        "none stated here; the Kaggle page lists CC BY-NC-SA 4.0",
        {"lgg_mri_slices_64.npz": File("93dba6700e2831c87c502f0253b2b9cd771151992e4916ce52058d484640ef44")},
    ),
    Entry(
        "tcga-glioma-genomics",
        "cohort",
        "RNA expression and IDH1 status of 569 glioma patients at 35 hospitals",
        "tcga_glioma_genomics:load",
        "github.com/mahmoodlab/PORPOISE, datasets_csv_mutsig",
        "GPL-3.0 (repository)",
        {
            "tcga_gbmlgg_all_clean_mutsig.csv.zip": File(
                "2d07efeaecddd185c41f2186280f5900f69df381efb40efb59016d61a84eb635",
                f"{GITHUB}/mahmoodlab/PORPOISE/3390dc40e15995ba852d7a561faf0e996cf20501/datasets_csv_mutsig/tcga_gbmlgg_all_clean.csv.zip",
            )
        },
    ),
    Entry(
        "tcga-glioma",
        "cohort",
        "MRI and RNA expression of the same glioma patients, joined",
        "tcga_glioma:load",
        "tcga-lgg-mri and tcga-glioma-genomics",
        "those of its parts",
        joins=("tcga-lgg-mri", "tcga-glioma-genomics"),
    ),
    Entry(
        "pneumoniamnist",
        "cohort",
        "5856 chest X-rays of children, 28x28",
        "medmnist:load_pneumonia",
        "MedMNIST v2; this copy is a union of two repositories' reduced copies, in another order than the publisher's file",
        "CC BY 4.0 (MedMNIST)",
        {"pneumoniamnist_28_reconstructed.npz": File("d0bfa3330f26554c4117328b1117f52bfb3746404b0594c58f37a09b4314d396")},
    ),
    Entry(
        "breastmnist",
        "cohort",
        "780 breast ultrasound images, 28x28",
        "medmnist:load_breast",
        "MedMNIST v2; this copy was saved again by github.com/KamalJain777/AMLS_25_26_SN24205421",
        "CC BY 4.0 (MedMNIST)",
        {
            "breastmnist_28.npz": File(
                "5e68d79723fb3a63a399b0a66b66451799fc2eb3651f469cec0b679cfd743b68",
                f"{GITHUB}/KamalJain777/AMLS_25_26_SN24205421/b7f638d33cc9e6dc1a0de213b243598105837d5f/Datasets/BreastMNIST.npz",
            )
        },
    ),
    Entry(
        "medmnist-pair",
        "cohort",
        "pneumoniamnist and breastmnist as one question of four classes, to be partitioned",
        "medmnist:load_pair",
        "pneumoniamnist and breastmnist",
        "CC BY 4.0 (MedMNIST)",
        joins=("pneumoniamnist", "breastmnist"),
    ),
    Entry(
        "fed-tcga-brca",
        "cohort",
        "survival of 1088 patients with breast cancer in 6 regions, 39 clinical columns",
        "fed_tcga_brca:load",
        "github.com/owkin/FLamby (The Cancer Genome Atlas)",
        "MIT (repository)",
        {
            "brca.csv": File(
                "07cb53423f7d579d33cfdbf2cba57b2aee75318b85866c68ce39a75b1f1ba020",
                f"{GITHUB}/{FLAMBY_BRCA}/brca.csv",
            ),
            "train_test_split.csv": File(
                "1249c6543a4060ff0fdaf8510fc37017755836db6c9fc5e6af96057c36510990",
                f"{GITHUB}/{FLAMBY_BRCA}/dataset_creation_scripts/train_test_split.csv",
            ),
        },
    ),
    Entry(
        "uci-heart-4hospitals",
        "cohort",
        "13 clinical columns of 920 patients at 4 hospitals, with missing values",
        "uci_heart:load",
        "UCI Machine Learning Repository, Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano)",
        "none stated here; UCI lists CC BY 4.0",
        {
            "processed.cleveland.data": File("a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8"),
            **{
                f"processed.{hospital}.data": File(
                    digest,
                    f"{GITHUB}/vipull2010/heart-disease-xai/6a36dced3571af2daff4c7f4f944fe591ba83b19/processed.{hospital}.data",
                )
                for hospital, digest in (
                    ("hungarian", "31134d83efc3266e486acece5e259585d7a52f16afa5567f195e70a993327afe"),
                    ("switzerland", "422aa0182e5b95ff4ef2d95512caf3335e114fc1816db477a5a30286b267c2d7"),
                    ("va", "1a12cdc1aa204bc5506aa22f04b6c45224b23f36adbd1c62039f65f370e334ea"),
                )
            },
        },
    ),
    Entry(
        "la-los-loop",
        "series",
        "Los Angeles loop detectors: speed, 207 sensors, 5 min, one week",
        "la_los_loop:load",
        "github.com/lehaifeng/T-GCN, data/los_*.csv",
        files={
            "los_speed.csv": File(
                "7b732d86ae32b2930595becba28aff39dacbfb2197e250fc0332e1744ce2cbf4",
                f"{GITHUB}/lehaifeng/T-GCN/219a2346f5bf68d54d91a948e7a41a08f9edc46b/data/los_speed.csv",
            ),
            "los_adj.csv": File(
                "7a6eb41e10677992b5af50f5ab187c6c05c5c3a92cb973950cfddbf857361e76",
                f"{GITHUB}/lehaifeng/T-GCN/219a2346f5bf68d54d91a948e7a41a08f9edc46b/data/los_adj.csv",
            ),
        },
    ),
    Entry(
        "shenzhen-sz-taxi",
        "series",
        "Shenzhen taxi probes: speed, 40 roads, 15 min, one month, zeros missing",
        "shenzhen_sz_taxi:load",
        "github.com/ye11qing/Seg-TGCN (speed); adjacency cut from github.com/lehaifeng/T-GCN",
        files={
            "sz_speed_40roads.csv": File(
                "f86c13bd390aa43d360b8c471ca48708627f89bc45109bdb10523faea0a616d6",
                f"{GITHUB}/ye11qing/Seg-TGCN/092b3946a4a1843e072d64f6c216903a1b64fb49/dataset/sz_speed.csv",
            ),
            "sz_adj_40.csv": File("9fe6e5ff04d541f5026318c58520af475094161d977b7aabc652ebb7fc262bab"),
        },
    ),
    Entry(
        "melbourne-scats",
        "series",
        "Melbourne signal loops: vehicles, 105 approaches, 15 min, October 2006",
        "melbourne_scats:load",
        "VicRoads SCATS, through github.com/mattcoulter7/Traffic-Flow-Prediction-System",
        "MIT (repository); the data's own terms are not stated",
        {
            "scats_october_2006.csv": File(
                "57dd9befb0a8be9aeb3a3159dd1d17cbdb5a7dcecc89fe5385d1f262d746d9f7",
                f"{GITHUB}/mattcoulter7/Traffic-Flow-Prediction-System/c185c4bcfc81b168670e2ba4989f4e5d978b1c69"
                "/TrafficData/ModelPerScats/data/OriginalDataset.csv",
            )
        },
    ),
    Entry(
        "camera-counts",
        "series",
        "one traffic camera: cars, bikes, buses, trucks per 15 min, one month, with congestion level",
        "camera_counts:load",
        "github.com/Harsh-150/Traffic-Levels-Prediction (a Kaggle set; city not stated)",
        files={
            "Traffic.csv": File(
                "9db347c79beb3546242eabdc244a8df0c828825e58fd499c666b3f3445a7761b",
                f"{GITHUB}/Harsh-150/Traffic-Levels-Prediction/8b30a7fd4484cb3690af4b619cef2ebad7a71667/Traffic.csv",
            )
        },
    ),
    Entry(
        "sample-hospitals",
        "cohort",
        "synthetic: lesion images and gene modules of four hospitals",
        "sample_hospitals:generate",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
    ),
    Entry(
        "sample-cities",
        "series",
        "synthetic: four cities with loops, probes, signal counts and a camera",
        "sample_cities:generate",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
    ),
    Entry(
        "random-table",
        "cohort",
        "random: a table of noise and a coin toss, the article's input",
        "random_input:table",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
    ),
    Entry(
        "random-images",
        "cohort",
        "random: grey images of noise and a coin toss, the article's input",
        "random_input:images",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
    ),
    Entry(
        "random-readings",
        "series",
        "random: white noise for speeds of three cities, the article's input",
        "random_input:readings",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
    ),
)

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


def entry_of(name: str) -> Entry:
    """The entry of a data set.

    Raises:
        PlanError: there is none of that name.
    """
    if name not in ENTRIES:
        raise PlanError("unknown data set", key="dataset", value=name, remedy=among(name, sorted(ENTRIES)))
    return ENTRIES[name]


def data_root(explicit: Path | None = None) -> Path:
    """Where data sets lie: the folder given, else HETFED_DATA, else the user's cache folder."""
    if explicit is not None:
        return explicit
    if os.environ.get("HETFED_DATA"):
        return Path(os.environ["HETFED_DATA"])
    import pooch

    return Path(pooch.os_cache("hetfed"))


def load(name: str, root: Path | None = None, **options: Any) -> Cohort | Series:
    """The record of a data set.

    Raises:
        PlanError: there is no such data set. DataError: a file is missing, or not what it should be.
    """
    return entry_of(name).load(data_root(root), **options)
