"""What a plan may say, and what is said of one that cannot be followed."""

from __future__ import annotations

import inspect
import re
import tomllib
from itertools import permutations

import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from hetfed.aggregation import Aggregation
from hetfed.algorithms import NAMED, fedper, fedprox
from hetfed.composition import Step, compose
from hetfed.compression import Compression
from hetfed.errors import PlanError, among
from hetfed.exchanges import KINDS, LogitDistillation, Prototypes, SharedParameters, TeacherDistillation
from hetfed.plan import FederationTable, Plan, named_algorithm, read_plan, validate
from hetfed.server_optimizer import ServerOptimizer
from hetfed.training import Phase, Training

A = '[[client]]\nname = "a"\n'


def read(text: str) -> Plan:
    return read_plan(text, "toy.toml")


def test_a_client_is_all_that_a_plan_needs() -> None:
    plan = read(A)
    assert (plan.federation.rounds, plan.federation.seed, plan.federation.quorum) == (10, 0, 1)
    assert plan.federation.alone
    assert plan.federation.pooled
    assert plan.client[0].training == Training()
    assert plan.composition().steps == ()


def test_defaults_are_merged_key_by_key_under_what_a_client_says() -> None:
    plan = read("""
        [defaults]
        data = { dataset = "x", split = { train = 0.5, validation = 0.1 } }
        training = { lr = 0.5, epochs = 3 }
        [[client]]
        name = "a"
        [[client]]
        name = "b"
        data = { dataset = "y", split = { train = 0.7 } }
        model = { width = 5 }
        training = { lr = 0.1 }
        """)
    a, b = plan.client
    assert a.data == {"dataset": "x", "split": {"train": 0.5, "validation": 0.1}}
    assert (a.training.lr, a.training.epochs, a.model) == (0.5, 3, {})
    assert b.data == {"dataset": "y", "split": {"train": 0.7, "validation": 0.1}}
    assert (b.training.lr, b.training.epochs, b.model) == (0.1, 3, {"width": 5})


def test_every_exchange_table_becomes_a_step() -> None:
    plan = read("""
        [[exchange]]
        kind = "shared-parameters"
        part = "encoder"
        exclude = ["encoder.1"]
        every = 2
        until = 6
        label = "body"
        aggregation = "median"
        server = { kind = "yogi", lr = 0.5 }
        compression = { kind = "top-k", share = 0.5 }
        [[exchange]]
        kind = "prototypes"
        weight = 0.5
        clients = ["a", "b"]
        [[exchange]]
        kind = "logit-distillation"
        mean = "examples"
        [[exchange]]
        kind = "teacher-distillation"
        teachers = ["a"]
        [[client]]
        name = "a"
        """)
    assert plan.composition() == compose(
        Step(
            SharedParameters(
                "encoder",
                exclude=("encoder.1",),
                server=ServerOptimizer("yogi", lr=0.5),
            ),
            2,
            label="body",
            until=6,
            compression=Compression("top-k", share=0.5),
            aggregation=Aggregation("median"),
        ),
        Step(Prototypes(weight=0.5), clients=("a", "b")),
        LogitDistillation(mean="examples"),
        TeacherDistillation(("a",)),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_exchange_can_be_written_in_a_plan(kind: str) -> None:
    (step,) = read(f'[[exchange]]\nkind = "{kind}"\n{A}').composition()
    assert type(step.exchange) is KINDS[kind]
    assert step.label == kind


def test_phases_are_part_of_a_composition() -> None:
    plan = read(f'[[phase]]\nonly = ["head"]\nepochs = 5\nuntil = -2\n[[phase]]\nfrozen = ["head"]\n{A}')
    assert plan.composition().phases == (Phase(only=("head",), epochs=5, until=-2), Phase(frozen=("head",)))


@pytest.mark.parametrize("name", NAMED)
def test_an_algorithm_goes_by_its_name(name: str) -> None:
    composition = read(f'[federation]\nalgorithm = "{name}"\n{A}').composition()
    assert composition.steps == NAMED[name]().steps
    assert composition.name == name


def test_an_algorithm_takes_its_arguments() -> None:
    text = '[federation]\nalgorithm = { name = "fedprox", mu = 0.5 }\n' + A
    assert read(text).composition().steps == fedprox(0.5).steps
    assert named_algorithm("fedper", {"head": "tail"}).steps == fedper("tail").steps


def exchange(kind: str, settings: str = "") -> str:
    return f'[[exchange]]\nkind = "{kind}"\n{settings}\n'


def federation(settings: str) -> str:
    return f"[federation]\n{settings}\n"


def training(settings: str) -> str:
    return f"{A}training = {{ {settings} }}\n"


WRONG = {
    "unknown key at the top": (
        "colour = 1\n" + A,
        "colour: unknown key (value: 1). Known keys here: client, common, defaults,",
    ),
    "unknown key of the federation": (
        federation("round = 3") + A,
        "federation.round: unknown key (value: 3). Did you mean 'rounds'?",
    ),
    "unknown key of a client": (A + 'colour = "red"', "client 'a'.colour: unknown key (value: 'red')."),
    "unknown key of training": (training("rate = 1"), "client 'a'.training.rate: unknown key (value: 1)."),
    "unknown default": ("[defaults.trainig]\nlr = 1\n" + A, "client 'a'.trainig: unknown key"),
    "defaults that are no table": ("defaults = 3\n" + A, "defaults: input should be a valid table (value: 3)."),
    "negative learning rate": (training("lr = -0.1"), "client 'a'.training.lr: input should be greater than 0 (value: -0.1)"),
    "no learning rate": (training("lr = 0"), "client 'a'.training.lr: input should be greater than 0 (value: 0)"),
    "a learning rate as text": (
        training('lr = "0.02"'),
        "client 'a'.training.lr: input should be a valid number (value: '0.02')",
    ),
    "momentum of an optimiser without": (
        training("momentum = 0.9"),
        'client \'a\'.training.momentum: adam and adamw have none of it: set 0, or optimizer = "sgd" or "rmsprop" (value: 0.9)',
    ),
    "true for a number": (federation("rounds = true") + A, "federation.rounds: input should be a valid integer (value: True)"),
    "infinite learning rate": (training("lr = inf"), "client 'a'.training.lr: input should be a finite number (value: inf)"),
    "momentum of one": (
        training('optimizer = "sgd", momentum = 1'),
        "client 'a'.training.momentum: input should be less than 1 (value: 1)",
    ),
    "unknown optimiser": (training('optimizer = "adamm"'), "should be 'adam', 'adamw', 'sgd' or 'rmsprop' (value: 'adamm')"),
    "an empty batch": (training("batch_size = 0"), "client 'a'.training.batch_size: input should be greater than 0 (value: 0)"),
    "no rounds": (federation("rounds = 0") + A, "federation.rounds: input should be greater than 0 (value: 0)"),
    "no quorum": (federation("quorum = 0") + A, "federation.quorum: input should be greater than 0 (value: 0)"),
    "a word for a number": (federation('rounds = "many"') + A, "federation.rounds: input should be a valid integer"),
    "negative seed": (federation("seed = -1") + A, "federation.seed: input should be greater than or equal to 0 (value: -1)"),
    "nothing": ("", "client: the plan has no [[client]]. Add a [[client]] table with a name for each participant;"),
    "no client": ('title = "x"', "client: the plan has no [[client]]."),
    "a client without a name": ("[[client]]", "client[0].name: field required."),
    "one client table": (
        '[client]\nname = "a"',
        "client: input should be a valid list (value: {'name': 'a'}). Write [[client]],",
    ),
    "clients that are no tables": ("client = [3]", "client[0]: input should be a valid table (value: 3)"),
    "no kind": ("[[exchange]]\nevery = 2\n" + A, "exchange[0].kind: field required."),
    "a kind misspelt": (
        '[[exchange]]\nkinds = "prototypes"\n' + A,
        "exchange[0].kind: field required. Is 'kinds' meant to be it?",
    ),
    "no cadence": (exchange("prototypes", "every = 0") + A, "exchange[0].every: input should be greater than 0 (value: 0)"),
    "a label of odd signs": (exchange("prototypes", 'label = "a|b"') + A, "exchange[0].label: a name begins with a letter,"),
    "unknown key of a table of an exchange": (
        exchange("prototypes", 'compression = { kind = "top-k", shar = 0.5 }') + A,
        "exchange[0].compression.shar: unknown key (value: 0.5). Did you mean 'share'? Known keys here: both_ways, energy,",
    ),
    "unknown key of a phase": (
        training("phases = [{ until = 3 }, { onli = ['head'] }]"),
        "client 'a'.training.phases[1].onli: unknown key (value: ['head']). Did you mean 'only'? Known keys here: after,",
    ),
    "unknown key of a variant": (
        "[variant.fedprox]\nseting = {}\n" + A,
        "variant.fedprox.seting: unknown key (value: {}). Did you mean 'settings'? Known keys here: settings, training.",
    ),
    "unknown setting of a variant": (
        "[variant.fedprox.settings]\nmi = 1\n" + A,
        "variant.fedprox.settings.mi: unknown key (value: 1). Known keys here: among, mu.",
    ),
    "a rule of several keys": (
        "[participation]\nasynchronous = true\n" + A,
        "participation: asynchronous rounds last as long as time_limit: it must be set (value: {'asynchronous': True})",
    ),
    "more uploads than clients": (
        federation("quorum = 2") + A,
        "federation.quorum: more clients than the plan has, which is 1 (value: 2). Set it to 1 or less.",
    ),
    "more clients than there are": (
        "[participation]\nminimum = 3\n" + A + A.replace('"a"', '"b"'),
        "participation.minimum: more clients than the plan has, which is 2 (value: 3). Set it to 2 or less.",
    ),
    "the same name twice": (A + A, "client.name: two clients have the same name (value: 'a'). Rename one."),
    "no TOML": ("x = = 3", "not valid TOML: Invalid value (at line 1, column 5). Mend the line that is named."),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_plan_is_one_message_with_file_key_value_and_remedy(text: str, said: str) -> None:
    with pytest.raises(PlanError) as raised:
        read(text)
    assert str(raised.value).startswith("toy.toml: ")
    assert said in str(raised.value)
    assert str(raised.value.file) == "toy.toml"
    assert raised.value.remedy.endswith(".")
    assert "Also:" not in str(raised.value)
    assert "\n" not in str(raised.value)


WRONG_COMPOSITIONS = {
    "unknown exchange": (exchange("gossip"), "exchange[0].kind: unknown exchange (value: 'gossip'). Known: control-variates"),
    "unknown setting": (
        exchange("prototypes", "wieght = 1"),
        "exchange[0].wieght: unknown key (value: 1). Did you mean 'weight'? Known keys here: aggregation, clients,",
    ),
    "misspelt cadence": (
        exchange("prototypes", "evry = 2"),
        "exchange[0].evry: unknown key (value: 2). Did you mean 'every'? Known keys here: aggregation, clients,",
    ),
    "negative weight": (exchange("prototypes", "weight = -1"), "weight: input should be greater than 0 (value: -1)"),
    "a weight as text": (exchange("prototypes", 'weight = "1"'), "weight: input should be a valid number (value: '1')"),
    "infinite weight": (exchange("prototypes", "weight = inf"), "weight: input should be a finite number (value: inf)"),
    "unknown mean": (exchange("prototypes", 'mean = "any"'), "mean: input should be 'counted' or 'equal' (value: 'any')"),
    "the same label twice": (exchange("prototypes", 'label = "x"') * 2, "two exchanges have the same label (value: 'x')"),
    "unknown algorithm": (
        federation('algorithm = "fedavvg"'),
        "unknown algorithm (value: 'fedavvg'). Did you mean 'fedavg'? Known: alone, fed",
    ),
    "unknown argument": (
        federation('algorithm = { name = "fedprox", nu = 1 }'),
        "federation.algorithm.nu: unknown key (value: 1). Known keys here: among, mu.",
    ),
    "an argument of none": (
        federation('algorithm = { name = "alone", mu = 1 }'),
        "federation.algorithm.mu: unknown key (value: 1). Known keys here: none.",
    ),
    "an argument out of range": (
        federation('algorithm = { name = "fedprox", mu = -1 }'),
        "federation.algorithm.mu: input should be greater than or equal to 0",
    ),
    "both": (
        federation('algorithm = "fedavg"') + exchange("prototypes"),
        "a plan has either a named algorithm or [[exchange]] and [[phase]] tables, not both (value: 'fedavg')",
    ),
}


@pytest.mark.parametrize(("text", "said"), WRONG_COMPOSITIONS.values(), ids=WRONG_COMPOSITIONS)
def test_a_wrong_composition_is_one_message_with_key_value_and_remedy(text: str, said: str) -> None:
    plan = read(text + A)
    with pytest.raises(PlanError) as raised:
        plan.composition()
    assert said in str(raised.value)
    assert raised.value.key
    assert raised.value.remedy.endswith(".")


NUMBERS = [
    (name, argument)
    for name in NAMED
    for argument, parameter in inspect.signature(NAMED[name]).parameters.items()
    if re.search("int|float", str(parameter.annotation), flags=re.IGNORECASE)
]


@pytest.mark.parametrize("value", [-1, float("nan"), "1", True])
@pytest.mark.parametrize(("name", "argument"), NUMBERS)
def test_an_argument_at_fault_goes_by_the_name_that_it_has_in_the_plan(name: str, argument: str, value: object) -> None:
    with pytest.raises(PlanError) as raised:
        named_algorithm(name, {argument: value})
    assert raised.value.key == f"federation.algorithm.{argument}"


def test_a_date_of_a_vertical_is_text() -> None:
    assert read(A + "data = { since = 2024-03-01 }").client[0].data == {"since": "2024-03-01"}


def test_of_very_many_words_the_nearest_and_a_few_are_named() -> None:
    many = [f"G{number}_rnaseq" for number in range(1000, 1100)]
    said = among("G1099", ["G1099RK_rnaseq", *many])
    assert said.startswith("Did you mean 'G1099_rnaseq'? Known: G1099RK_rnaseq, G1000_rnaseq, ")
    assert said.endswith("G1010_rnaseq, ... and 89 more.")
    assert "more" not in among("x", many[:40])


def said_of(text: str) -> str:
    with pytest.raises(PlanError) as raised:
        read(text)
    return str(raised.value)


def test_an_unknown_key_is_told_before_the_missing_key_that_it_may_have_been_meant_for() -> None:
    assert said_of('[[client]]\nnam = "a"') == (
        "toy.toml: client[0].nam: unknown key (value: 'a'). Did you mean 'name'? Known keys here: data, model, name, presence, "
        "training. Also: client[0].name: field required."
    )


def test_a_few_further_findings_are_named_and_the_rest_counted() -> None:
    assert said_of(A + "colour = 1\n" + A.replace('"a"', '"b"') + "shape = 2").endswith(" Also: client 'b'.shape: unknown key.")
    also = "Also: client 'a'.two: unknown key; client 'a'.three: unknown key; client 'a'.four: unknown key; and 1 more."
    assert said_of(A + "one = 1\ntwo = 2\nthree = 3\nfour = 4\nfive = 5").endswith(also)


def test_what_is_wrong_with_the_defaults_does_not_hide_what_is_wrong_with_the_last_client() -> None:
    names = [f'[[client]]\nname = "{name}"\n' for name in "abcdef"]
    said = said_of("[defaults]\ntraining = { rate = 1 }\n" + "".join(names) + "presence = { speed = -1 }")
    assert ": client 'a'.training.rate: unknown key (value: 1)." in said
    assert " Also: client 'f'.presence.speed: input should be greater than 0; client 'b'.training.rate: unknown key;" in said
    assert said.endswith("; and 3 more.")


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "a|b", "", " a", "-a", "a\\n", "x\\u0000"])
def test_a_client_s_name_can_be_that_of_a_folder(name: str) -> None:
    with pytest.raises(PlanError, match=r"name: (a name begins with a letter|string should have)"):
        read(f'[[client]]\nname = "{name}"')


@pytest.mark.parametrize("name", ["a", "Los Angeles", "TCGA-DU", "v1.2", "Zürich", "_x", "7"])
def test_a_client_s_name_may_be_that_of_a_place(name: str) -> None:
    assert read(f'[[client]]\nname = "{name}"').client[0].name == name


BLOCKS = [
    '[[client]]\nname = "b"\ndata = { n = 17, parts = [0.5, 0.5] }\n',
    '[[client]]\nname = "a"\ntraining = { optimizer = "sgd", lr = 0.3, clip_norm = 2.0 }\n',
    '[[client]]\nname = "c"\nmodel = { width = 5, names = ["x"] }\n',
]


def test_the_digest_does_not_depend_on_the_order_of_clients_and_on_everything_else() -> None:
    digests = {read(toy.SAMPLE.split("[[client]]")[0] + "".join(blocks)).digest() for blocks in permutations(BLOCKS)}
    assert len(digests) == 1
    others = [BLOCKS[:2], [*BLOCKS[:2], BLOCKS[2].replace("5", "6")], [BLOCKS[0], BLOCKS[1].replace("0.3", "0.4"), BLOCKS[2]]]
    digests |= {read(toy.SAMPLE.split("[[client]]")[0] + "".join(blocks)).digest() for blocks in others}
    plan = read(toy.SAMPLE)
    digests |= {plan.digest(), plan.with_federation(rounds=4).digest(), plan.with_federation(seed=9).digest()}
    assert len(digests) == 7


VALUES = st.one_of(st.integers(-9, 9), st.booleans(), st.floats(allow_nan=False), st.text(max_size=5))
FEDERATIONS = st.builds(
    "rounds = {}\nseed = {}\n{}".format,
    st.integers(1, 99),
    st.integers(0, 2**40),
    st.sampled_from(["pooled = false", 'algorithm = "fedavg"', 'algorithm = { name = "fedprox", mu = 0.25 }']),
)


@given(FEDERATIONS, st.floats(1e-9, 1e3), st.dictionaries(st.text(max_size=8), VALUES, max_size=3))
def test_a_resolved_plan_reads_as_the_same_plan(settings: str, lr: float, data: dict[str, object]) -> None:
    plan = read(federation(settings) + f"[defaults]\ntraining = {{ lr = {lr!r} }}\n" + "".join(BLOCKS))
    first = plan.client[0].model_copy(update={"data": data})
    plan = plan.model_copy(update={"client": (first, *plan.client[1:])})
    again = read(plan.resolved())
    assert again == plan.model_copy(update={"defaults": {}})
    assert again.resolved() == plan.resolved()
    assert again.digest() == plan.digest()
    assert again.composition() == plan.composition()


MEAN = {"kind": "mean", "share": 0.2, "outliers": "refuse"}


def test_a_resolved_plan_writes_every_default_out() -> None:
    resolved = tomllib.loads(read(toy.SAMPLE).resolved())
    assert "defaults" not in resolved
    assert resolved["federation"]["quorum"] == 1
    assert resolved["client"][0]["training"]["batch_size"] == 32
    assert resolved["exchange"] == [
        {"kind": "shared-parameters", "every": 1, "label": "", "part": "head", "aggregation": MEAN},
        {"kind": "prototypes", "every": 2, "label": "", "aggregation": MEAN},
    ]


def test_options_of_the_command_line_go_over_the_plan() -> None:
    plan = read(toy.SAMPLE)
    assert plan.with_federation(rounds=None, seed=None) == plan
    changed = plan.with_federation(rounds=7, alone=False, algorithm="fedavg")
    assert (changed.federation.rounds, changed.federation.alone, changed.federation.seed) == (7, False, 0)
    assert changed.federation.algorithm.name == "fedavg"
    assert changed.client == plan.client
    with pytest.raises(PlanError, match=r"federation.rounds: input should be greater than 0 \(value: -3\)"):
        plan.with_federation(rounds=-3)


def test_a_table_of_a_vertical_is_checked_the_same_way() -> None:
    assert validate(FederationTable, {"rounds": 3}, key="x").rounds == 3
    with pytest.raises(PlanError, match=r"client 'a'.data.round: unknown key \(value: 1\). Did you mean 'rounds'\?"):
        validate(FederationTable, {"round": 1}, key="client 'a'.data")


def test_an_algorithm_of_another_name_is_refused_with_the_new_one() -> None:
    plan = read_plan('[federation]\nalgorithm = "peers"\n[[client]]\nname = "a"\n', "plan.toml")
    with pytest.raises(PlanError, match=r"another name now \(value: 'peers'\)\. Write 'codistillation'"):
        plan.composition()


def test_a_key_of_another_name_is_refused_with_the_new_one() -> None:
    text = '[participation]\nasynchronous = true\ntime_limit = 1.0\nstaleness = 0.5\n[[client]]\nname = "a"\n'
    with pytest.raises(PlanError, match=r"unknown key .*Did you mean 'staleness_exponent'"):
        read_plan(text, "plan.toml")
