"""Every data set by name: a shipped one is one file and one entry here. Importing this loads no data and no loader."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetfed.registry import Registry
from hetfed_datasets.source import File, Source, data_root, fault_of

if TYPE_CHECKING:
    from hetfed_datasets.records import Cohort, Series

LOG = logging.getLogger("hetfed")
OTHER_BYTES = "other bytes than those tested (SHA-256)"
GITHUB = "https://raw.githubusercontent.com"
# Commits are pinned, not branches: a publisher who changes a file changes no published figure.
FLAMBY_BRCA = "owkin/FLamby/edacf54d5211520583b0133d55ac39b6fda8324b/flamby/datasets/fed_tcga_brca"

# A licence is told as the place itself tells it; where a repository says nothing of its data, "none stated" stays.
_SHIPPED = (
    Source(
        "tcga-lgg-mri",
        "cohort",
        "brain MRI slices of 110 glioma patients at 5 hospitals",
        "hetfed_datasets.tcga_lgg_mri:load",
        "derived (64x64 slices) from the Kaggle set of Buda et al. 2019, itself from TCGA-LGG at the Cancer Imaging Archive",
        "none stated here; the Kaggle page lists CC BY-NC-SA 4.0",
        # No address: no publisher serves these 64x64 slices, which are made from the Kaggle set as docs/datasets.md says.
        {"lgg_mri_slices_64.npz": File("93dba6700e2831c87c502f0253b2b9cd771151992e4916ce52058d484640ef44")},
    ),
    Source(
        "tcga-glioma-genomics",
        "cohort",
        "RNA expression and IDH1 status of 569 glioma patients at 35 hospitals",
        "hetfed_datasets.tcga_glioma_genomics:load",
        "github.com/mahmoodlab/PORPOISE, datasets_csv_mutsig",
        "GPL-3.0 (repository)",
        {
            "tcga_gbmlgg_all_clean_mutsig.csv.zip": File(
                "2d07efeaecddd185c41f2186280f5900f69df381efb40efb59016d61a84eb635",
                f"{GITHUB}/mahmoodlab/PORPOISE/3390dc40e15995ba852d7a561faf0e996cf20501/datasets_csv_mutsig/tcga_gbmlgg_all_clean.csv.zip",
            )
        },
    ),
    Source(
        "tcga-glioma",
        "cohort",
        "MRI and RNA expression of the same glioma patients, joined",
        "hetfed_datasets.tcga_glioma:load",
        "tcga-lgg-mri and tcga-glioma-genomics",
        "those of its parts",
        joins=("tcga-lgg-mri", "tcga-glioma-genomics"),
    ),
    Source(
        "pneumoniamnist",
        "cohort",
        "5856 chest X-rays of children, 28x28",
        "hetfed_datasets.medmnist:load_pneumonia",
        "MedMNIST v2; this copy is a union of two repositories' reduced copies, in another order than the publisher's file",
        "CC BY 4.0 (MedMNIST)",
        {"pneumoniamnist_28_reconstructed.npz": File("d0bfa3330f26554c4117328b1117f52bfb3746404b0594c58f37a09b4314d396")},
    ),
    Source(
        "breastmnist",
        "cohort",
        "780 breast ultrasound images, 28x28",
        "hetfed_datasets.medmnist:load_breast",
        "MedMNIST v2; this copy was saved again by github.com/KamalJain777/AMLS_25_26_SN24205421",
        "CC BY 4.0 (MedMNIST)",
        {
            "breastmnist_28.npz": File(
                "5e68d79723fb3a63a399b0a66b66451799fc2eb3651f469cec0b679cfd743b68",
                f"{GITHUB}/KamalJain777/AMLS_25_26_SN24205421/b7f638d33cc9e6dc1a0de213b243598105837d5f/Datasets/BreastMNIST.npz",
            )
        },
    ),
    Source(
        "medmnist-pair",
        "cohort",
        "pneumoniamnist and breastmnist as one question of four classes, to be partitioned",
        "hetfed_datasets.medmnist:load_pair",
        "pneumoniamnist and breastmnist",
        "CC BY 4.0 (MedMNIST)",
        joins=("pneumoniamnist", "breastmnist"),
    ),
    Source(
        "fed-tcga-brca",
        "cohort",
        "survival of 1088 patients with breast cancer in 6 regions, 39 clinical columns",
        "hetfed_datasets.fed_tcga_brca:load",
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
    Source(
        "uci-heart-4hospitals",
        "cohort",
        "13 clinical columns of 920 patients at 4 hospitals, with missing values",
        "hetfed_datasets.uci_heart:load",
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
    Source(
        "la-los-loop",
        "series",
        "Los Angeles loop detectors: speed, 207 sensors, 5 min, one week",
        "hetfed_datasets.la_los_loop:load",
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
    Source(
        "shenzhen-sz-taxi",
        "series",
        "Shenzhen taxi probes: speed, 40 roads, 15 min, one month, zeros missing",
        "hetfed_datasets.shenzhen_sz_taxi:load",
        "github.com/ye11qing/Seg-TGCN (speed); adjacency cut from github.com/lehaifeng/T-GCN",
        files={
            "sz_speed_40roads.csv": File(
                "f86c13bd390aa43d360b8c471ca48708627f89bc45109bdb10523faea0a616d6",
                f"{GITHUB}/ye11qing/Seg-TGCN/092b3946a4a1843e072d64f6c216903a1b64fb49/dataset/sz_speed.csv",
            ),
            # The speed file is of another repository than the adjacency, which was cut to its 40 roads by hand.
            "sz_adj_40.csv": File("9fe6e5ff04d541f5026318c58520af475094161d977b7aabc652ebb7fc262bab"),
        },
    ),
    Source(
        "melbourne-scats",
        "series",
        "Melbourne signal loops: vehicles, 105 approaches, 15 min, October 2006",
        "hetfed_datasets.melbourne_scats:load",
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
    Source(
        "camera-counts",
        "series",
        "one traffic camera: cars, bikes, buses, trucks per 15 min, one month, with congestion level",
        "hetfed_datasets.camera_counts:load",
        "github.com/Harsh-150/Traffic-Levels-Prediction (a Kaggle set; city not stated)",
        files={
            "Traffic.csv": File(
                "9db347c79beb3546242eabdc244a8df0c828825e58fd499c666b3f3445a7761b",
                f"{GITHUB}/Harsh-150/Traffic-Levels-Prediction/8b30a7fd4484cb3690af4b619cef2ebad7a71667/Traffic.csv",
            )
        },
    ),
    Source(
        "sample-hospitals",
        "cohort",
        "synthetic: lesion images and gene modules of four hospitals",
        "hetfed_datasets.sample_hospitals:generate",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
    ),
    Source(
        "sample-cities",
        "series",
        "synthetic: four cities with loops, probes, signal counts and a camera",
        "hetfed_datasets.sample_cities:generate",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
        options=("city",),
    ),
    Source(
        "random-table",
        "cohort",
        "random: a table of noise and a coin toss, the article's input",
        "hetfed_datasets.random_input:table",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
    ),
    Source(
        "random-images",
        "cohort",
        "random: grey images of noise and a coin toss, the article's input",
        "hetfed_datasets.random_input:images",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
    ),
    Source(
        "random-readings",
        "series",
        "random: white noise for speeds of three cities, the article's input",
        "hetfed_datasets.random_input:readings",
        "generated, see docs/datasets.md",
        "Apache-2.0",
        generated=True,
        options=("city",),
    ),
)

SOURCES: Registry[Source] = Registry(
    "data set", {source.name: source for source in _SHIPPED}, group="hetfed.sources", fault=fault_of
)
"""What a plan may name as its `dataset`. An installed package adds a `Source` through the group `hetfed.sources`, a script with
`SOURCES.add(source.name, source)`."""


def load(name: str, root: Path | None = None, **options: Any) -> Cohort | Series:
    """The record of a data set, checked.

    Args:
        name: one of `SOURCES`.
        root: the folder that holds a folder for each data set; without it HETFED_DATA, else the user's cache folder.
        options: go on to the loader, as `city` of a data set of several cities, or `seed` of generated data.

    A file of a shipped data set that has other bytes than those tested is told of, as a warning of the log `hetfed`.

    Raises:
        PlanError: there is no such data set. DataError: a file is missing, or not what it should be, or the record is not.

    >>> load("sample-cities", city="camera").channels
    ('car', 'bike', 'bus', 'truck')
    >>> load("sample-citys")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.PlanError: dataset: unknown data set (value: 'sample-citys'). Did you mean 'sample-cities'? Known: ...
    """
    source, home = SOURCES.find(name, key="dataset"), data_root(root)
    record = source.load(home, **options)
    for part in (source, *(SOURCES[joined] for joined in source.joins)):
        for file in part.altered(home):
            # Logged, which shows on a terminal and in a notebook alike, and ends nothing: own data may bear a shipped name.
            LOG.warning(
                "%s: %s. Figures may differ from published ones; `hetfed datasets check %s` says more.",
                file,
                OTHER_BYTES,
                part.name,
            )
    return record
