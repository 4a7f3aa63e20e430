"""Model and recipe: every field, checked as it is typed; what it costs; and the start of a training."""

import asyncio
import math
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from nicegui import ui

from scratchgpt.backend.precision import PRECISIONS
from scratchgpt.config import DEFAULT_PRESET, TrainConfig, preset_names
from scratchgpt.data.dataset import require_vocabulary, require_windows, separator
from scratchgpt.engine.plan import default_lanes
from scratchgpt.errors import ScratchGPTError, UsageError, for_page
from scratchgpt.files import safe_name
from scratchgpt.machine import amount
from scratchgpt.model import folder as model_folder
from scratchgpt.training.locate import locate
from scratchgpt.training.places import DATA, RUNS, is_taken, unused_run
from scratchgpt.web import recipe
from scratchgpt.web.desk import Desk, vocabulary
from scratchgpt.web.memory import Memory
from scratchgpt.web.parts import ModelChoice, card, explain, failures_told
from scratchgpt.wording import rough_duration

MODEL = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "activation", "bias", "tie_word_embeddings")
TRAIN = ("steps", "batch_size", "learning_rate", "warmup_steps", "min_lr_ratio", "eval_every", "sample_every", "seed")
TICK = 2.0
NEW_WEIGHTS = "new random weights"


class ModelTab:
    """The tab."""

    def __init__(self, desk: Desk, memory: Memory, show_training: Callable[[], None]) -> None:
        """Lay out; `show_training` goes to the tab where a training is watched."""
        self._desk, self._memory, self._show_training = desk, memory, show_training
        self._fields: dict[str, Any] = {}
        self._found: dict[str, str] = {}
        self._rate = 0.0
        self._is_filling, self._is_laid_out = True, False
        with card("Start from"), ui.element("div").classes("fields roomy"):
            self._data = ui.select([], label="Data", on_change=self._changed)
            self._preset = ui.select(preset_names(), label="Preset", value=DEFAULT_PRESET, on_change=self._take_preset)
            weights = "model.weights"
            self._weights = ModelChoice(desk, memory, weights, self._take_weights, label="Weights", none=NEW_WEIGHTS)
            self._name = ui.input("Name of the run", on_change=self._changed).props('hint="left empty: one is found"')
            self._device = ui.select(["cpu"], label="Device", value="cpu", on_change=self._device_changed)
            lanes = {0: "as many as suit"} | {number: str(number) for number in range(1, default_lanes() + 1)}
            self._lanes = ui.select(lanes, label="Lanes (processes)", value=0, on_change=self._changed)
            self._precision = ui.select(list(PRECISIONS), label="Precision", value="fp32", on_change=self._changed)
            self._precision.visible = False
        rest = [name for name in recipe.FIELDS if name not in MODEL + TRAIN]
        with ui.element("div").classes("columns"):
            with card("Model"):
                self._lay_out_fields(MODEL)
            with card("Recipe"):
                self._lay_out_fields(TRAIN)
                with ui.expansion("More settings").classes("wide"):
                    self._lay_out_fields(rest)
        with card("What it takes"):
            self._figures = ui.element("div").classes("figures")
            ui.label("The same in a terminal:").classes("soft")
            with ui.row().classes("line"):
                self._command = ui.label().classes("command")
                copy = ui.button(icon="content_copy").props('flat round dense aria-label="Copy the command"')
                copy.on("click", js_handler=f"() => copyText(getHtmlElement({self._command.id}).innerText)")
        with ui.element("div").classes("start-bar"):
            self._start = ui.button("Start training", icon="play_arrow", on_click=self._train)
            self._problem = ui.label().classes("bad").props('role="status"')
        self._take_preset()
        for name, field in {
            "data": self._data,
            "preset": self._preset,
            "name": self._name,
            "device": self._device,
            "lanes": self._lanes,
            "precision": self._precision,
            **self._fields,
        }.items():
            memory.keep(f"model.{name}", field)
        self._is_laid_out = True
        self._look_at_data()
        ui.timer(TICK, self._look_at_data)
        ui.timer(0.1, self._look_at_machine, once=True)

    def _lay_out_fields(self, names: tuple[str, ...] | list[str]) -> None:
        with ui.element("div").classes("fields"):
            for name in names:
                field = recipe.FIELDS[name]
                choices = ["true", "false"] if field.type is bool else list(field.metadata["choices"])
                how: Any = {"on_change": self._changed, "validation": partial(self._problem_of, name)}
                if choices:
                    element: Any = ui.select(choices, label=name, **how)
                else:
                    element = ui.input(name, **how).props("spellcheck=false autocapitalize=off")
                explain(element, field.metadata["help"])
                self._fields[name] = element

    @property
    def _texts(self) -> dict[str, str]:
        return {name: str(self._fields[name].value or "") for name in recipe.FIELDS}

    def _problem_of(self, name: str, _: Any) -> str | None:
        """Return what is wrong with a field; it may be about another one, too."""
        return self._found.get(name)

    def _take_preset(self) -> None:
        """Put a preset's values into the fields."""
        self._fill(recipe.preset_texts(self._preset.value))

    def _take_weights(self) -> None:
        """Put the sizes of the weights into the fields, and the preset's in the place of those of other weights."""
        texts = recipe.preset_texts(self._preset.value)
        self._fill({name: texts[name] for name in recipe.FIELDS if not self._fields[name].enabled})

    def _fill(self, texts: dict[str, str]) -> None:
        """Put these into the fields, but for the sizes of the weights, which stay."""
        self._is_filling = True
        sizes = self._sizes()
        texts = texts | sizes
        if self._is_laid_out:
            self._memory.set({f"model.{name}": text for name, text in texts.items()})
        else:  # these follow from no choice of a person
            for name, text in texts.items():
                self._fields[name].value = text
        for name in texts:
            self._fields[name].set_enabled(name not in sizes)
        self._is_filling = False
        self._changed()

    def _sizes(self) -> dict[str, str]:
        """Return the fields that the weights decide, nothing if these are new."""
        with failures_told():
            if self._weights.value:
                folder = locate(self._desk.inside(self._weights.value))
                return recipe.size_texts(model_folder.load_config(folder / "config.json"))
        return {}

    def _device_changed(self) -> None:
        self._lanes.visible = self._device.value == "cpu"
        self._precision.visible = not self._lanes.visible
        if self._lanes.visible:
            self._precision.value = "fp32"
        self._changed()

    def _look_at_data(self) -> None:
        """Offer the data that there is."""
        names = self._desk.data()
        if names != self._data.options:
            new = [name for name in names if self._data.options and name not in self._data.options]
            self._memory.offer("model.data", names)
            if new:
                self._memory.set({"model.data": new[0]})

    async def _look_at_machine(self) -> None:
        """Find out what can compute here, and how fast."""
        self._memory.offer("model.device", await asyncio.to_thread(recipe.devices))
        self._rate = await asyncio.to_thread(recipe.matrix_rate)
        self._changed()

    def _changed(self) -> None:
        """Check all fields, and say what the training will take."""
        if self._is_filling:
            return
        found = self._found = recipe.problems(self._texts)
        for element in self._fields.values():
            element.validate()
        self._problem.text = ""
        self._figures.clear()
        self._start.set_enabled(not found and bool(self._data.value))
        if found:
            self._problem.text = "Something is wrong: see the fields that are marked."
        elif not self._data.value:
            self._problem.text = "There is no prepared data yet: prepare a text in the tab Data."
        else:
            try:
                self._show_cost()
            except (ScratchGPTError, KeyError, TypeError) as error:
                self._problem.text = for_page(error)
            self._start.set_enabled(not self._problem.text)

    def _show_cost(self) -> None:
        meta = self._desk.meta(self._data.value)
        model, train = recipe.configs(self._texts, meta["vocab_size"])
        cost = recipe.cost(
            model,
            train,
            device=self._device.value,
            precision=self._precision.value,
            lanes=self._lanes.value or None,
            rate=self._rate or math.inf,
        )
        figures = {
            "parameters": f"{cost.n_parameters:,}",
            "memory": amount(cost.n_bytes),
            "tokens": f"{cost.n_tokens:,}",
            "passes over the data": passes(cost.n_tokens / meta["train_tokens"]),
        }
        if cost.seconds is not None:
            figures["time, roughly"] = rough_duration(cost.seconds) if self._rate else "..."
        with self._figures:
            for name, value in figures.items():
                with ui.element("div").classes("figure"):
                    ui.label(value).classes("number bad" if name == "memory" and cost.shortage else "number")
                    ui.label(name).classes("soft")
        self._command.text = shlex.join(["scratchgpt", "train", *self._arguments(str(self._run_folder()))])
        self._problem.text = cost.shortage
        require_windows(DATA / self._data.value, meta["train_tokens"], meta["val_tokens"], model.block_size)
        self._require_vocabulary(train)

    def _require_vocabulary(self, train: TrainConfig) -> None:
        """Raise ScratchGPTError if the data's vocabulary is not what the weights and the recipe need."""
        data = DATA / self._data.value
        if train.within_documents:
            separator(data, vocabulary(data))
        if self._weights.value:
            folder = locate(self._desk.inside(self._weights.value))
            require_vocabulary(folder, vocabulary(folder), data, vocabulary(data))

    def _arguments(self, run_folder: str) -> list[str]:
        """Return the options of `scratchgpt train`. Raises UsageError."""
        options = ["--data", str(DATA / self._data.value), "--run", run_folder, "--preset", self._preset.value]
        if self._weights.value:
            options += ["--init", str(self._desk.inside(self._weights.value))]
        options += recipe.changes(self._preset.value, self._texts)
        if len(self._device.options) > 1:
            options += ["--device", self._device.value]
        if self._lanes.visible and self._lanes.value:
            options += ["--lanes", str(self._lanes.value)]
        if self._precision.visible:
            options += ["--precision", self._precision.value]
        return options

    def _train(self) -> None:
        with failures_told():
            self._desk.train(*self._arguments(str(self._new_run())))
            self._show_training()

    def _new_run(self) -> Path:
        """Return a folder for the run. Raises UsageError if there is one of this name."""
        folder = self._run_folder()
        if is_taken(folder):
            raise UsageError(f"{folder} is there already; choose another name, or go on with it in the next tab.")
        return folder

    def _run_folder(self) -> Path:
        """Return the folder that is named, or the first one that is free."""
        if self._name.value:
            return RUNS / safe_name(self._name.value)
        return unused_run(safe_name(f"{self._data.value}-{self._preset.value}"))


def passes(n: float) -> str:
    """Return how often something is gone through, to two digits or three."""
    return f"{n:.2g}" if n < 10 else f"{round(n, 2 - math.floor(math.log10(n))):,.0f}"
