"""A plan: what a run is to do, as TOML, checked before anything starts.

`read_plan` checks what every vertical's plan has. What stands under `data` and `model` is for the vertical to check, when it
makes clients of the plan.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tomli_w
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    validate_call,
)

from hetfed.aggregation import Aggregation
from hetfed.aggregation import Setting as AggregationSetting
from hetfed.algorithms import NAMED, RENAMED
from hetfed.composition import Composition, Step, compose
from hetfed.compression import Setting as CompressionSetting
from hetfed.errors import PlanError, among
from hetfed.exchanges import KINDS
from hetfed.keeping import Keep
from hetfed.participation import Participation, Presence
from hetfed.plan_schema import Count, Name, OpenTable, Table
from hetfed.selection import Select
from hetfed.training import Phase, Training
from hetfed.validation_errors import DOCUMENTED, keys_of, plan_error

Values = dict[str, Any]
AnyModel = TypeVar("AnyModel", bound=BaseModel)
ALGORITHM = "federation.algorithm"
DEEPEST = 50
"""So many tables may lie in each other."""
EXACTLY = ConfigDict(strict=True, allow_inf_nan=False)
"""Neither text nor true stands for a number."""


def _named(value: object) -> object:
    """`algorithm = "fedavg"` is short for `algorithm = { name = "fedavg" }`."""
    # A dictionary or anything else is left to pydantic, which says what is wrong with it.
    return {"name": value} if isinstance(value, str) else value


class AlgorithmTable(OpenTable):
    """A named composition; further keys are its arguments.

    >>> AlgorithmTable(name="fedprox", mu=0.1).model_extra
    {'mu': 0.1}
    """

    name: str


class FederationTable(Table):
    """The `[federation]` table.

    Args:
        rounds: of broadcast, local training and merging.
        seed: from which all chance is derived.
        algorithm: a published one, in place of `[[exchange]]` tables.
        quorum: uploads that an exchange needs before the server merges them.
        checkpoint_every: rounds between checkpoints; the last round always has one.
        select: which model of a client counts, as `hetfed.selection.Select` says.
        finetune: the last rounds, half of all at most, of an arm in which each client trains its federated model by itself; 0
            for no such arm.
        keep: what each client keeps in the end, as `hetfed.keeping.Keep` says.
        alone: whether everybody is trained alone, too.
        pooled: whether each kind of model is trained on everybody's data, too.
        pseudonyms: whether tables of predictions name examples by pseudonyms, under a key that is written nowhere.

    >>> FederationTable(algorithm="fedavg").algorithm.name
    'fedavg'
    """

    rounds: Count = 10
    seed: NonNegativeInt = 0
    algorithm: Annotated[AlgorithmTable | None, BeforeValidator(_named)] = None
    quorum: PositiveInt = 1
    checkpoint_every: PositiveInt = 1
    select: Select = "validation"
    finetune: int = Field(default=3, ge=0, le=10**6)
    keep: Keep = "mean"
    alone: bool = True
    pooled: bool = True
    pseudonyms: bool = False


class ExchangeTable(OpenTable):
    """One `[[exchange]]` table; further keys are the settings of its kind.

    Args:
        kind: one of the registered exchanges.
        every: the cadence: clients upload in each round that it divides.
        until: the last round of it; None for all rounds.
        compression: of what is uploaded.
        aggregation: how uploads become one: their mean by weight, or a robust rule.
        clients: the names of those who take part; None for all who can.
        label: tells two exchanges of one kind apart.
    """

    kind: str
    every: PositiveInt = 1
    until: int | None = None
    compression: CompressionSetting | None = None
    aggregation: AggregationSetting = Aggregation()
    clients: tuple[str, ...] | None = None
    label: Name = ""


class ClientTable(Table):
    """One `[[client]]` table. The vertical knows what may stand under `data` and `model`."""

    name: Name = Field(min_length=1)
    data: Values = Field(default_factory=dict)
    model: Values = Field(default_factory=dict)
    training: Training = Field(default_factory=Training)
    presence: Presence = Field(default_factory=Presence)


class VariantTable(Table):
    """One `[variant.ALGORITHM]` table: how `compare` sets that algorithm, and how clients train under it."""

    settings: Values = Field(default_factory=dict)
    training: Values = Field(default_factory=dict)


class Plan(Table):
    """A whole plan. `defaults` holds `data`, `model`, `training` and `presence` tables that every client starts from.

    `common` is the model table of the common model that exchanges hold beside a client's own; without it, the vertical chooses
    a small one.
    """

    title: str = ""
    description: str = ""
    federation: FederationTable = Field(default_factory=FederationTable)
    participation: Participation = Field(default_factory=Participation)
    public: Values | None = None
    common: Values = Field(default_factory=dict)
    defaults: dict[str, Values] = Field(default_factory=dict)
    exchange: tuple[ExchangeTable, ...] = ()
    phase: tuple[Phase, ...] = ()
    variant: dict[str, VariantTable] = Field(default_factory=dict)
    client: tuple[ClientTable, ...] = Field(min_length=1)

    def under(self, algorithm: str) -> Plan:
        """The plan with a named algorithm instead of its own exchanges, set as its variant says.

        Raises:
            PlanError: there is none of that name, or it does not take these settings.

        >>> plan = read_plan('[[client]]\\nname = "north"', "one.toml")
        >>> plan.under("fedprox").composition().name
        'fedprox'
        """
        variant = self.variant.get(algorithm, VariantTable())
        check_algorithm(algorithm, "variant" if algorithm in self.variant else ALGORITHM)
        named_algorithm(algorithm, variant.settings, key=f"variant.{algorithm}.settings")
        key = f"variant.{algorithm}.training"
        clients = tuple(
            client.model_copy(update={"training": validate(Training, client.training.model_dump() | variant.training, key=key)})
            for client in self.client
        )
        federation = self.federation.model_copy(update={"algorithm": AlgorithmTable(name=algorithm, **variant.settings)})
        # Without the variants, which are settled by now: the resolved plan of a run holds what that run does.
        bare: dict[str, Any] = {"exchange": (), "phase": (), "variant": {}}
        return self.model_copy(update={"federation": federation, "client": clients, **bare})

    def composition(self) -> Composition:
        """The exchanges of the plan, or its named algorithm.

        Raises:
            PlanError: an unknown algorithm or kind, or a setting that it does not take.

        >>> plan = read_plan('[[exchange]]\\nkind = "shared-parameters"\\nevery = 2\\n[[client]]\\nname = "north"', "one.toml")
        >>> [(step.label, step.every) for step in plan.composition()]
        [('shared-parameters', 2)]
        """
        composition = self._composition()
        check_synchronous(self.participation, composition)
        return composition

    def _composition(self) -> Composition:
        algorithm = self.federation.algorithm
        if algorithm is None:
            return compose(*(_step(table, index) for index, table in enumerate(self.exchange)), phases=self.phase)
        if self.exchange or self.phase:
            raise PlanError(
                "a plan has either a named algorithm or [[exchange]] and [[phase]] tables, not both",
                key=ALGORITHM,
                value=algorithm.name,
                remedy="Remove the one or the other.",
            )
        return named_algorithm(algorithm.name, algorithm.model_extra or {})

    def sharing_nothing(self) -> Plan:
        """The same clients, who train alone; there is nobody to be asked or waited for.

        >>> plan = read_plan('federation = { algorithm = "fedprox" }\\n[[client]]\\nname = "north"', "one.toml")
        >>> plan.sharing_nothing() == plan.under("fedavg").sharing_nothing()
        True
        """
        same = self.federation.model_dump(include={"rounds", "seed", "checkpoint_every", "select"})
        algorithm = AlgorithmTable(name="alone")
        federation = FederationTable(algorithm=algorithm, finetune=0, alone=False, pooled=False, **same)
        changes: dict[str, Any] = {
            "federation": federation,
            "participation": Participation(tolerate_failures=self.participation.tolerate_failures),
            "client": tuple(client.model_copy(update={"presence": Presence()}) for client in self.client),
            "exchange": (),
            "phase": (),
            "variant": {},
        }
        return self.model_copy(update=changes)

    def resolved(self) -> str:
        """The plan as TOML with every default written out.

        A run folder keeps it, and a run that is resumed must have the same.

        >>> plan = read_plan('[[client]]\\nname = "north"', "one.toml")
        >>> read_plan(plan.resolved(), "again.toml") == plan
        True
        """
        # Without the defaults: every client has taken them over by now, and would get them a second time.
        return tomli_w.dumps(_without_none(self.model_dump(exclude={"defaults"})))

    def digest(self) -> str:
        """The same for plans that ask for the same run, in whatever words, and in whatever order they list their clients.

        >>> one = read_plan('title = "first"\\n[[client]]\\nname = "a"\\n[[client]]\\nname = "b"', "one.toml")
        >>> two = read_plan('[[client]]\\nname = "b"\\n[[client]]\\nname = "a"', "two.toml")
        >>> one.digest() == two.digest(), one.digest() == one.with_federation(seed=1).digest()
        (True, False)
        """
        # Any order of clients is the same federation: chance is drawn by name.
        ordered = tuple(sorted(self.client, key=lambda client: client.name))
        federation = self.federation.model_copy(update={"checkpoint_every": 1})
        # What a run is called and how often it is saved changes none of its figures.
        idle = {"title": "", "description": "", "variant": {}, "federation": federation}
        return hashlib.sha256(self.model_copy(update={"client": ordered, **idle}).resolved().encode()).hexdigest()

    def with_federation(self, **changes: object) -> Plan:
        """The plan with other federation settings, those that are None left as they are.

        Raises:
            PlanError: there is no such setting, or it does not take that value.

        >>> read_plan('[[client]]\\nname = "north"', "one.toml").with_federation(rounds=3, seed=None).federation.rounds
        3
        """
        update = {key: value for key, value in changes.items() if value is not None}
        # Through validation, since model_copy alone would take whatever it is given.
        table = validate(FederationTable, {**self.federation.model_dump(), **update}, key="federation")
        return self.model_copy(update={"federation": table})


def check_synchronous(participation: Participation, composition: Composition) -> None:
    """Raise `PlanError` where rounds are asynchronous, and something is compressed."""
    if participation.asynchronous and any(step.compression for step in composition):
        raise PlanError(
            "compressed uploads are changes of what was sent in the same round",
            key="participation.asynchronous",
            value=True,
            remedy="Leave out the compression, or let rounds be synchronous.",
        )


def client_table(name: str, **tables: BaseModel | Mapping[str, Any] | None) -> ClientTable:
    """A `[[client]]` table that a script asks for: `data`, `model`, `training` and `presence`, those that are None left out.

    Raises:
        PlanError: what a plan would be told of it.
    """
    given = {key: _plain_table(table) for key, table in tables.items() if table is not None}
    return validate(ClientTable, {"name": name, **given}, key=f"client {name!r}")


def _plain_table(table: BaseModel | Mapping[str, Any]) -> dict[str, Any]:
    return table.model_dump(mode="json") if isinstance(table, BaseModel) else dict(table)


def named_algorithm(name: str, settings: Mapping[str, Any], *, key: str = ALGORITHM) -> Composition:
    """The composition of a published algorithm, whose settings a plan holds under `key`.

    Raises:
        PlanError: unknown name or setting.

    >>> named_algorithm("fedavg", {}).name
    'fedavg'
    >>> named_algorithm("fedavgg", {})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.PlanError: federation.algorithm: unknown algorithm (value: 'fedavgg'). Did you mean 'fedavg'? Known: ...
    """
    check_algorithm(name, key)
    try:
        # Held against the function's own annotations: a named algorithm needs no table of its settings beside them.
        composition: Composition = validate_call(config=EXACTLY)(NAMED[name])(**settings)
    except (ValidationError, PlanError) as error:
        # An exchange that an algorithm makes tells of itself; here the fault goes by the argument's name.
        found = error.__context__ if isinstance(error, PlanError) else error
        if not isinstance(found, ValidationError):
            raise
        raise plan_error(found, key, dict(inspect.signature(NAMED[name]).parameters)) from None
    return replace(composition, name=name)


def check_algorithm(name: str, key: str) -> None:
    """Raise `PlanError` about `key` unless there is an algorithm of that name."""
    if name in RENAMED and name not in NAMED:
        raise PlanError("the algorithm has another name now", key=key, value=name, remedy=f"Write {RENAMED[name]!r}.")
    if name not in NAMED:
        raise PlanError("unknown algorithm", key=key, value=name, remedy=among(name, NAMED))


def _step(table: ExchangeTable, index: int) -> Step:
    """The step that the [[exchange]] table number `index`, from 0, asks for.

    Raises:
        PlanError: an unknown kind, or a setting that it does not take, named as `exchange[index].key`.
    """
    where = f"exchange[{index}]"
    if table.kind not in KINDS:
        raise PlanError("unknown exchange", key=f"{where}.kind", value=table.kind, remedy=among(table.kind, sorted(KINDS)))
    kind, settings = KINDS[table.kind], table.model_extra or {}
    known = {**keys_of(ExchangeTable), **keys_of(kind)}
    # An exchange written elsewhere may not say that it takes no others.
    for name in settings:
        if name not in known:
            remedy = among(name, sorted(known), "Known keys here")
            raise PlanError("unknown key", key=f"{where}.{name}", value=settings[name], remedy=remedy)
    try:
        # An exchange is a dataclass, which has no validation method of its own as models have.
        exchange = TypeAdapter(kind).validate_json(_json(settings), strict=True)
    except ValidationError as error:
        raise plan_error(error, where, known) from None
    return Step(exchange, table.every, table.clients, table.label, table.until, table.compression, table.aggregation)


def validate(table_class: type[AnyModel], table: Mapping[str, Any], *, key: str) -> AnyModel:
    """A table of a plan as `table_class`.

    Raises:
        PlanError: naming `key`, the value and the remedy.

    >>> validate(FederationTable, {"rounds": 5}, key="federation").rounds
    5
    >>> validate(FederationTable, {"rounds": "5"}, key="federation")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.PlanError: federation.rounds: input should be a valid integer (value: '5'). ...
    """
    try:
        return table_class.model_validate_json(_json(table), strict=True)
    except ValidationError as error:
        raise plan_error(error, key, keys_of(table_class)) from None


def _json(table: Mapping[str, Any]) -> str:
    """A table as JSON. Of JSON, strict validation takes lists for tuples, and neither text nor true for a number."""
    # What TOML has and JSON has not, dates and times, is text, which no key takes for anything else.
    return json.dumps(table, default=str)


def read_plan(text: str, file: str | Path) -> Plan:
    """The plan that `text` holds.

    Args:
        text: a plan in TOML.
        file: what messages call it.

    Raises:
        PlanError: not TOML, or not a plan; it names the file, the key and the value.

    >>> plan = read_plan('[federation]\\nrounds = 5\\nalgorithm = "fedavg"\\n[[client]]\\nname = "north"', "one.toml")
    >>> plan.federation.rounds, [client.name for client in plan.client]
    (5, ['north'])
    >>> read_plan('[federation]\\nround = 5', "one.toml")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    hetfed.errors.PlanError: one.toml: federation.round: unknown key (value: 5). Did you mean 'rounds'? Known keys here: ...
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"not valid TOML: {error}", file=file, remedy="Mend the line that is named.") from None
    # A number of thousands of digits is no number to Python.
    except ValueError as error:
        raise PlanError(f"not a plan: {error}", file=file, remedy="Write numbers that a run can count to.") from None
    except RecursionError:
        raise PlanError("nested too deeply", file=file, remedy=DOCUMENTED) from None
    if _depth(table) > DEEPEST:
        raise PlanError("nested too deeply", file=file, remedy=DOCUMENTED)
    # Merged before anything is checked: what is wrong with a default shows under the clients that start from it.
    defaults = table.get("defaults", {})
    clients = table.get("client", [])
    # What has the wrong type stays as it is, for the validation to name it.
    if isinstance(clients, list) and isinstance(defaults, dict):
        table["client"] = [_merged(defaults, client) if isinstance(client, dict) else client for client in clients]
    try:
        plan = Plan.model_validate_json(_json(table), strict=True)
    except ValidationError as error:
        raise plan_error(error, "", keys_of(Plan), file=file, clients=table.get("client", ())) from None
    _check_clients(plan, file)
    # Tried out now: a variant that cannot be is an error while the plan is read, not in the third hour of a comparison.
    for algorithm in plan.variant:
        try:
            plan.under(algorithm)
        except PlanError as error:
            raise error.seen_from(file=file) from error
    return plan


def _depth(value: object) -> int:
    """How many tables and lists lie in each other, as far as it matters."""
    deep, level = 0, [value]
    while level and deep <= DEEPEST:
        # Level by level, and not by recursion, which too deep a table ends.
        inner = [list(each.values()) if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        deep, level = deep + 1, [one for each in inner for one in each]
    return deep


def _check_clients(plan: Plan, file: str | Path) -> None:
    """Names are unique, and the server waits for no more clients than there are."""
    names = [client.name for client in plan.client]
    for name in names:
        if names.count(name) > 1:
            raise PlanError("two clients have the same name", file=file, key="client.name", value=name, remedy="Rename one.")
    same = {name.casefold(): name for name in names}
    for name in names:
        if (other := same[name.casefold()]) != name:
            problem = f"two clients whose names differ in capitals alone ({other!r}): a disk may take their files for the same"
            raise PlanError(problem, file=file, key="client.name", value=name, remedy="Rename one.")
    wanted = {"federation.quorum": plan.federation.quorum, "participation.minimum": plan.participation.minimum}
    for key, count in wanted.items():
        if count > len(names):
            problem = f"more clients than the plan has, which is {len(names)}"
            raise PlanError(problem, file=file, key=key, value=count, remedy=f"Set it to {len(names)} or less.")


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> Values:
    """`over` on top of `under`, table by table."""
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _without_none(value: Any) -> Any:
    """TOML has no null: a key without a value is left out."""
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return [_without_none(item) for item in value] if isinstance(value, list | tuple) else value
