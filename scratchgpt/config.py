"""What a model is and how it is trained: two frozen records, validated at construction, and recipes for them."""

import contextlib
import dataclasses
import functools
import json
import math
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Self

from scratchgpt.errors import UsageError, did_you_mean
from scratchgpt.kinds import decoded

DEFAULT_PRESET = "shakespeare-cpu"

Patterns = tuple[str, ...]
SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
EXAMPLE = '["transformer.h.0.*"]'


def _setting(description: str, default: Any = dataclasses.MISSING, choices: tuple[str, ...] = ()) -> Any:
    """Declare a field together with the sentence that `--help` shows for it, and the only values, if they are few."""
    return dataclasses.field(default=default, metadata={"help": description, "choices": choices})


def _checked(field: dataclasses.Field[Any], value: Any) -> Any:
    """Return a value as the type of its field. Raises UsageError if it is none."""
    if field.type == Patterns:
        if isinstance(value, list | tuple) and all(isinstance(item, str) and item.isprintable() for item in value):
            return tuple(value)
        raise UsageError(f"{field.name} must be a list of patterns, such as {EXAMPLE}, not {value!r}.")
    if field.type is float and type(value) is int:
        value = float(value) if abs(value) < 2**1023 else math.inf
    if type(value) is not field.type:
        expected = getattr(field.type, "__name__", field.type)
        raise UsageError(f"{field.name} must be of type {expected}, not {value!r}.")
    if field.type is float and not math.isfinite(value):
        raise UsageError(f"{field.name} must be a finite number, not {value}.")
    choices = field.metadata["choices"]
    if choices and value not in choices:
        hint = did_you_mean(str(value), choices)
        raise UsageError(f"{field.name} must be {' or '.join(choices)}, not {value!r}{hint}.")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config:
    """What the two records share: their fields' types are checked, unknown names refused."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _checked(field, getattr(self, field.name)))

    def _require(self, name: str, *, at_least: float, below: float = math.inf) -> None:
        value = getattr(self, name)
        if not at_least <= value < below:
            bound = f" and below {below}" if below < math.inf else ""
            raise UsageError(f"{name} must be at least {at_least}{bound}, not {value}.")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any]) -> Self:
        """Build from names and values, as a preset or a file gives them. Raises UsageError."""
        fields = dataclasses.fields(cls)
        known = [field.name for field in fields]
        for name in settings:
            if name not in known:
                raise UsageError(f"There is no setting {name!r}{did_you_mean(name, known)}.")
        for field in fields:
            if field.default is dataclasses.MISSING and field.name not in settings:
                raise UsageError(f"The setting {field.name!r} is missing.")
        return cls(**settings)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig(_Config):
    """The architecture: GPT-2's, with these sizes and choices. The names are nanoGPT's and GPT-2's."""

    vocab_size: int = _setting("Number of different tokens (V).")
    block_size: int = _setting("Longest sequence the model sees, in tokens (T).")
    n_layer: int = _setting("Number of layers (L).")
    n_head: int = _setting("Attention heads in each layer (H); divides n_embd.")
    n_embd: int = _setting("Channels (C).")
    n_inner: int = _setting("Channels inside the MLP (K); 0: four times n_embd.", 0)
    dropout: float = _setting("Fraction of activations dropped while training, to the nearest 1/256.", 0.0)
    bias: bool = _setting("Whether linear maps and norms have biases.", default=True)
    norm: str = _setting(
        "The norm before each branch and the head: layernorm or rmsnorm.", "layernorm", ("layernorm", "rmsnorm")
    )
    norm_epsilon: float = _setting("Added to the variance, or the mean square, by which a norm divides.", 1e-5)
    activation: str = _setting("The MLP's nonlinearity: gelu_new or relu.", "gelu_new", ("gelu_new", "relu"))
    tie_word_embeddings: bool = _setting("Whether the head is the token embedding itself.", default=True)
    head_bias: bool = _setting("Whether the logits have a bias, which GPT-2's format does not know.", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("vocab_size", "block_size", "n_head", "n_embd"):
            self._require(name, at_least=1, below=2**31)
        self._require("n_inner", at_least=0, below=2**31)
        self._require("n_layer", at_least=1, below=1001)
        if self.n_embd % self.n_head:
            raise UsageError(
                f"n_embd must be divisible by n_head, for every head gets an equal share of the channels: "
                f"{self.n_embd} is not divisible by {self.n_head}."
            )
        self._require("dropout", at_least=0, below=0.995)
        if not 0 < self.norm_epsilon <= 1:
            raise UsageError(f"norm_epsilon must be above 0 and at most 1, not {self.norm_epsilon}.")
        if self.n_inner == 4 * self.n_embd:  # the usual width has one form, so that equal models are equal records
            object.__setattr__(self, "n_inner", 0)

    def as_meant(self) -> dict[str, Any]:
        """Return the settings with the widths that they stand for."""
        return vars(self) | {"n_inner": self.inner_size}

    @property
    def head_size(self) -> int:
        """Channels of a head (D)."""
        return self.n_embd // self.n_head

    @property
    def qkv_size(self) -> int:
        """Channels of the queries, keys and values of all heads together (3 H D)."""
        return 3 * self.n_head * self.head_size

    @property
    def inner_size(self) -> int:
        """Channels inside the MLP (K)."""
        return self.n_inner or 4 * self.n_embd


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(_Config):
    """The recipe: how long, how fast, how often to look and to save."""

    steps: int = _setting("Number of optimiser updates.")
    batch_size: int = _setting("Sequences in one step (B).")
    order: str = _setting(
        "Where sequences are taken from: random, anywhere; sequential, one after the other.",
        "random",
        ("random", "sequential"),
    )
    within_documents: bool = _setting("Whether each sequence lies within one document.", default=False)
    micro_batch: int = _setting("Sequences that a lane computes at once; 0: as many as suit its caches.", 0)
    learning_rate: float = _setting("Peak learning rate.")
    min_lr_ratio: float = _setting(
        "The learning rate falls along a cosine to this fraction of its peak; 1: it stays.", 1.0
    )
    warmup_steps: int = _setting("Steps in which the learning rate rises linearly to its peak.", 0)
    optimizer: str = _setting("The rule that moves the parameters: adamw.", "adamw", ("adamw",))
    beta1: float = _setting("AdamW's decay of the mean of gradients.", 0.9)
    beta2: float = _setting("AdamW's decay of the mean of squared gradients.", 0.99)
    adam_epsilon: float = _setting("AdamW's ε, added to the root of the mean of squared gradients.", 1e-8)
    weight_decay: float = _setting("AdamW's pull of the matrices towards zero.", 0.1)
    grad_clip: float = _setting("Largest norm of all gradients together; 0: no limit.", 1.0)
    freeze: tuple[str, ...] = _setting(
        "Tensors that stay as they are, by a pattern of their names such as 'transformer.h.0.*'; may be repeated.", ()
    )
    eval_every: int = _setting("Steps between evaluations; 0: only at the start and at the end.", 250)
    eval_windows: int = _setting("Validation windows of block_size tokens in each evaluation along the way.", 200)
    patience: int = _setting("Evaluations without a better validation loss that end the run; 0: they never do.", 0)
    sample_every: int = _setting("Steps between samples of text; 0: none.", 0)
    save_every: int = _setting("Steps between checkpoints; 0: none but at the end.", 500)
    save_minutes: float = _setting("Minutes after which a checkpoint is written at the latest; 0: none.", 10.0)
    keep: int = _setting("Newest checkpoints to keep besides the best one.", 2)
    keep_every: int = _setting("Steps between checkpoints that are never removed; 0: none are.", 0)
    on_nan: str = _setting(
        "What a loss or gradient that is not finite does: stop the run; skip the update, and lower the rate.",
        "stop",
        ("stop", "skip"),
    )
    seed: int = _setting("All chance in a run follows from this number.", 1337)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "batch_size", "eval_windows", "keep"):
            self._require(name, at_least=1, below=2**31)
        for name in (
            "micro_batch",
            "warmup_steps",
            "eval_every",
            "patience",
            "sample_every",
            "save_every",
            "keep_every",
        ):
            self._require(name, at_least=0, below=2**31)
        for name in ("weight_decay", "grad_clip", "save_minutes"):
            self._require(name, at_least=0)
        if self.patience and not self.eval_every:
            raise UsageError("patience counts evaluations, and with an eval_every of 0 there are none on the way.")
        if self.learning_rate <= 0:
            raise UsageError(f"learning_rate must be greater than 0, not {self.learning_rate}.")
        if not 0 <= self.min_lr_ratio <= 1:
            raise UsageError(f"min_lr_ratio must be between 0 and 1, not {self.min_lr_ratio}.")
        self._require("adam_epsilon", at_least=1e-30)  # smaller ones vanish in float32, and 0 / 0 is not a number
        self._require("beta1", at_least=0, below=1)
        self._require("beta2", at_least=0, below=1)
        self._require("seed", at_least=0, below=2**63)


class Preset(NamedTuple):
    """A named recipe. Where `model` has a vocab_size, it is the one that the recipe was made for; the data's counts."""

    model: dict[str, Any]
    train: dict[str, Any]


@functools.cache
def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    files = (resources.files("scratchgpt") / "presets").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_preset(name: str) -> Preset:
    """Read the preset of this name. Raises UsageError if there is none."""
    if name not in preset_names():
        raise UsageError(
            f"There is no preset {name!r}{did_you_mean(name, preset_names())}; there are {', '.join(preset_names())}."
        )
    text = (resources.files("scratchgpt") / "presets" / f"{name}.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    return Preset(tables["model"], tables["train"])


def load_config(path: Path) -> Preset:
    """Read a file of a preset's form, in which settings and the lines of tables may be missing.

    Raises UsageError naming file and key.
    """
    try:
        text = decoded(path.read_bytes())
        content = tomllib.loads(text.replace("\r\n", "\n").replace("\r", "\n"))
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # no text, or no TOML
        raise UsageError(f"{path} is no TOML: {error}.") from error
    tables = _sorted_into_tables(path, content)
    for name, table in tables.items():
        fields = {field.name: field for field in dataclasses.fields(RECORDS[name])}
        for key, value in table.items():
            if key not in fields:
                other = _table_of(key)
                hint = f": it belongs into [{other}]" if other else did_you_mean(key, fields)
                raise UsageError(f"{path}: there is no setting {key!r} in [{name}]{hint}.")
            try:
                table[key] = _checked(fields[key], value)
            except UsageError as error:
                raise UsageError(f"{path}: {error}") from error
    return Preset(tables.get("model", {}), tables.get("train", {}))


def _sorted_into_tables(path: Path, content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return a file's tables, with the settings that are outside of them. Raises UsageError."""
    tables = {name: value for name, value in content.items() if name in RECORDS}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise UsageError(f"{path}: {name} must be a table, [{name}].")
    for name, value in content.items():
        if name in RECORDS:
            continue
        if isinstance(value, dict):
            raise UsageError(
                f"{path}: there is no table [{name}]{did_you_mean(name, RECORDS)}; use [model] or [train]."
            )
        if not (place := _table_of(name)):
            known = [field for record in RECORDS.values() for field in record.__dataclass_fields__]
            raise UsageError(f"{path}: there is no setting {name!r}{did_you_mean(name, known)}.")
        if name in tables.setdefault(place, {}):
            raise UsageError(f"{path}: {name} is there twice, also in [{place}]; remove one of them.")
        tables[place][name] = value
    return tables


def _table_of(setting: str) -> str | None:
    """Return the table that a setting belongs into, None if there is no such setting."""
    return next((table for table in RECORDS if setting in RECORDS[table].__dataclass_fields__), None)


class Setting(NamedTuple):
    """The value of one field, and where it came from."""

    value: Any
    origin: str

    @property
    def is_asked_for(self) -> bool:
        """Whether somebody wrote it down for this run, rather than for all of a kind."""
        return self.origin != DEFAULT and not self.origin.startswith(PRESET)


RECORDS: dict[str, type[ModelConfig | TrainConfig]] = {"model": ModelConfig, "train": TrainConfig}
DEFAULT, PRESET = "default", "preset "


class Recipe(NamedTuple):
    """The fields of both records, as far as they are known, and where each value came from."""

    name: str  # of the preset or the file
    settings: dict[str, Setting]

    def of(self, record: type[ModelConfig | TrainConfig]) -> dict[str, Any]:
        """Return the names and values of one record."""
        names = [field.name for field in dataclasses.fields(record)]
        return {name: self.settings[name].value for name in names if name in self.settings}

    def changed(self, values: Mapping[str, Any], origin: str) -> "Recipe":
        """Return the recipe with these values, which take precedence."""
        return self.with_settings({name: Setting(value, origin) for name, value in values.items()})

    def with_settings(self, settings: dict[str, Setting]) -> "Recipe":
        """Return the recipe with these settings, which take precedence."""
        return self._replace(settings=self.settings | settings)

    def for_weights(self, model: ModelConfig, origin: str) -> "Recipe":
        """Return the recipe with the sizes of weights that exist, of which the context may become shorter.

        Raises UsageError for other sizes that were asked for.
        """
        sizes = {name: value for name, value in model.as_meant().items() if name not in ("dropout", "vocab_size")}
        for name, value in sizes.items():
            asked = self.settings.get(name)
            if asked is None or not asked.is_asked_for or asked.value in (value, vars(model)[name]):
                continue
            if name != "block_size":
                raise UsageError(
                    f"{name} is {asked.value} by {asked.origin}, but {value} by {origin}; leave the first out."
                )
            if asked.value > value:
                raise UsageError(
                    f"block_size is {asked.value} by {asked.origin}, but {origin} knows only {value} positions; "
                    "ask for less, or leave it out."
                )
        kept = ("block_size",) if "block_size" in self.settings and self.settings["block_size"].is_asked_for else ()
        return self.changed({name: value for name, value in sizes.items() if name not in kept}, origin)

    def to_toml(self) -> str:
        """Return it in the form of a preset, each value with where it came from."""
        lines: list[str] = []
        for table, record in RECORDS.items():
            lines += ["", f"[{table}]"] if lines else [f"[{table}]"]
            assignments = {name: f"{name} = {_toml(value)}" for name, value in self.of(record).items()}
            width = max(map(len, assignments.values()))
            for name, line in assignments.items():
                origin = "".join(c if c.isprintable() else "?" for c in self.settings[name].origin)
                lines.append(f"{line:{width}}  # {origin}")
        return "\n".join(lines) + "\n"


def load_recipe(preset: str | None, config: Path | None) -> Recipe:
    """Return the defaults, changed by a preset, by default DEFAULT_PRESET, and then by a file. Raises UsageError."""
    name = preset or DEFAULT_PRESET
    sources = [(load_preset(name), PRESET + name)]
    if config is not None:
        sources.append((load_config(config), f"--config {config}"))
    defaults = {
        field.name: field.default
        for record in RECORDS.values()
        for field in dataclasses.fields(record)
        if field.default is not dataclasses.MISSING
    }
    recipe = Recipe(config.stem if config else name, {}).changed(defaults, DEFAULT)
    for source, origin in sources:
        recipe = recipe.changed(source.model | source.train, origin)
    return recipe


def read_setting(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, where the value is TOML, or what an option takes. Raises UsageError."""
    name, sign, written = text.partition("=")
    fields = {field.name: field for record in RECORDS.values() for field in dataclasses.fields(record)}
    if not sign:
        raise UsageError(f"--set takes KEY=VALUE, not {text!r}.")
    if name == "vocab_size":
        raise UsageError("vocab_size cannot be set: it is the data's.")
    if name not in fields:
        raise UsageError(f"There is no setting {name!r}{did_you_mean(name, fields)}.")
    try:
        value = tomllib.loads(f"value = {written}")["value"]
    except (ValueError, RecursionError):
        value = _word(written, fields[name].type)
    return name, _checked(fields[name], value)


def _word(written: str, kind: Any) -> Any:
    """Return a value that is no TOML, as an option takes it: .5 and 1. are numbers, yes and no are switches."""
    if kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(written)
    return SWITCHES.get(written.strip().lower(), written) if kind is bool else written


def _toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)  # of finite numbers, booleans, printable strings and lists of them
