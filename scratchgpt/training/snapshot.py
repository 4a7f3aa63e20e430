"""All that a run is at one moment, and what it is before its first step."""

from collections.abc import Mapping
from typing import NamedTuple

from scratchgpt.config import ModelConfig, TrainConfig
from scratchgpt.data.dataset import Dataset
from scratchgpt.engine.loss_scale import LossScale
from scratchgpt.engine.plan import Plan, default_plan, require_memory
from scratchgpt.model.groups import new_slots
from scratchgpt.model.params import Layout
from scratchgpt.ops.array import Array
from scratchgpt.training.backoff import Backoff


class Snapshot(NamedTuple):
    """All that a run is at one moment; the arrays are NumPy's."""

    model: ModelConfig
    train: TrainConfig
    params: Array  # (P,)
    slots: Mapping[str, Array]  # (P,) each: what the optimiser's rules keep
    step: int  # updates made
    best_loss: float | None  # lowest on the validation windows so far
    data_folder: str
    data_digest: str
    plan: Plan  # part of the arithmetic: another one sums in another order
    loss_scale: LossScale = LossScale()  # in half precision, for the next step
    best_step: int | None = None  # when the loss was lowest
    n_worse: int = 0  # evaluations since then
    last_evaluation: int | None = None  # the step of the last one
    backoff: Backoff = Backoff()
    ends: tuple[int, ...] = ()  # ids that end a text; they change no training

    @property
    def is_finished(self) -> bool:
        """Whether all steps are made, or the validation loss has not become better for too long."""
        return self.step >= self.train.steps or self.is_stale

    @property
    def is_stale(self) -> bool:
        """Whether `patience` evaluations have come to nothing better."""
        return 0 < self.train.patience <= self.n_worse


def fresh(
    model: ModelConfig,
    train: TrainConfig,
    dataset: Dataset,
    plan: Plan | None = None,
    *,
    params: Array | None = None,
    ends: tuple[int, ...] = (),
) -> Snapshot:
    """Return the state of a run before its first step.

    The plan is the default one and the parameters (P,) are drawn, unless they are given. The ids that end a text are
    those of the data; if these have none, `ends`. Raises MemoryError, and DataError.
    """
    plan = plan or default_plan(model, train)
    require_memory(model, train, plan)
    layout = Layout(model)
    params = layout.initial(train.seed) if params is None else params
    return Snapshot(
        model=model,
        train=train,
        params=params,
        slots=new_slots(layout, train),
        step=0,
        best_loss=None,
        data_folder=dataset.folder.as_posix(),
        data_digest=dataset.digest,
        plan=plan,
        ends=dataset.ends() or ends,
    )
