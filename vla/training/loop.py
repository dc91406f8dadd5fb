"""The training loop, on accelerate: one process or many, CPU or GPU, whole or half precision."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, set_seed

from calvin_eval.errors import CalvinEvalError
from calvin_eval.vla.training.cotrain import make_training_loader
from calvin_eval.vla.training.data import Share, make_loader
from calvin_eval.vla.training.forward import Trainee
from calvin_eval.vla.training.logs import Logs, Means, open_logs
from calvin_eval.vla.training.losses import LossWeights
from calvin_eval.vla.training.machine import (
    agreed,
    described_device,
    make_accelerator,
    random_numbers_kept,
    stopping,
)
from calvin_eval.vla.training.progress import Clock, Facts, TrainingOutcome, TrainingWatcher
from calvin_eval.vla.training.project import build_model, start_run
from calvin_eval.vla.training.saving import (
    RESUME,
    VLM,
    Position,
    prune,
    read_position,
    save_adapter,
    save_checkpoint,
    save_resume,
)
from calvin_eval.vla.training.schedule import Schedule, build_optimizer
from calvin_eval.vla.training.setup import TrainSetup, parameter_report, prepare
from calvin_eval.vla.training.validation import validate


def train(
    config: Mapping[str, Any],
    folder: Path,
    watcher: TrainingWatcher,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainingOutcome:
    """Train a model, or go on where an earlier training of the folder stopped.

    Stopped by Ctrl-C or SIGTERM it saves first. A training that fails before its first step
    leaves no folder behind.

    Args:
        config: the project configuration.
        folder: of the run.
        watcher: receives what happens.
        resume: whether to go on with the folder's training.
        overwrite: whether an older run in the folder is moved aside.

    Raises:
        RunFolderError: a folder that exists, or one without a state to go on from.
        CalvinEvalError: something else that the caller can fix.
    """
    accelerator = make_accelerator(config)
    try:
        config = start_run(config, folder, accelerator, resume=resume, overwrite=overwrite)
        training = _Training(config, folder, accelerator, watcher)
        try:
            training.prepare(resume=resume)
        except BaseException:
            if accelerator.is_main_process and not resume:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        with stopping() as training.stop:
            return training.run()
    finally:
        if accelerator.num_processes == 1:  # the next training may want another precision
            AcceleratorState._reset_state(reset_partial_state=True)


@dataclass
class _Training:
    """One training; `prepare` it, then `run` it."""

    config: Mapping[str, Any]
    folder: Path
    accelerator: Accelerator
    watcher: TrainingWatcher
    stop: threading.Event = field(default_factory=threading.Event)
    position: Position = field(default_factory=Position)
    logs: Logs = field(default_factory=Logs)
    means: Means = field(default_factory=Means)
    clock: Clock = field(default_factory=Clock)
    recent: Clock = field(default_factory=Clock)
    checkpoint: Path = Path()

    def prepare(self, *, resume: bool) -> None:
        """Build the model and the loaders, and take up an earlier state."""
        config, accelerator = self.config, self.accelerator
        seed = int(config.get("seed", 0))
        set_seed(seed)
        model = build_model(config, self.folder / VLM, fresh=not resume)
        prepare(model, TrainSetup.from_config(config))
        self.model, self.report = model, tuple(parameter_report(model))
        share = Share(accelerator.process_index, accelerator.num_processes)
        self.loader = self._loader("train", share)
        has_val = bool(config["val_dataset"].get("data_dir"))
        self.val_loader = self._loader("val", share) if has_val else None
        self.accumulate = max(1, int(self._get("trainer", "accumulate_grad_batches", 1)))
        self.batches = len(self.loader.batch_sampler)
        self.schedule = Schedule.from_config(config, math.ceil(self.batches / self.accumulate))
        trainee = Trainee(model, LossWeights.from_config(config))
        self.trainee = accelerator.prepare(trainee)
        self.optimizer = accelerator.prepare(build_optimizer(self.trainee, config))
        self.scheduler = self.schedule.attach(self.optimizer.optimizer)
        accelerator.register_for_checkpointing(self.scheduler)
        set_seed(seed + accelerator.process_index)
        if resume:
            self.position = read_position(self.folder, accelerator.num_processes)
            accelerator.load_state(str(self.folder / RESUME))
        if self._main:
            self.logs = Logs(open_logs(config, self.folder, self.position.step))

    def _loader(self, split: str, share: Share) -> Any:
        def watch(done: int, total: int) -> None:
            if self._main:
                self.watcher.reading(split, done, total)

        parts = self.config, self.model.preprocess
        if split == "train":
            return make_training_loader(*parts, share=share, watch=watch)
        return make_loader(*parts, split, share=share, watch=watch)

    def _get(self, section: str, key: str, default: Any = None) -> Any:
        value = (self.config.get(section) or {}).get(key)
        return default if value is None else value

    @property
    def _main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def _over(self) -> bool:
        return self.position.step >= self.schedule.total

    def run(self) -> TrainingOutcome:
        """Train to the end, or until somebody stops it."""
        began = perf_counter()
        if self._main:
            self.watcher.begin(self._facts())
        try:
            while not self._done():
                self._epoch()
            self._save()
            if self._get("evaluate", "at_end") and self._over:
                self._evaluate()
        finally:
            self.logs.close()
        return TrainingOutcome(
            folder=self.folder,
            position=self.position,
            checkpoint=self.checkpoint,
            interrupted=not self._over,
            values=self.logs.values,
            samples_per_second=self.clock.rate,
            seconds=perf_counter() - began,
            main=self._main,
        )

    def _facts(self) -> Facts:
        accelerator = self.accelerator
        return Facts(
            parameters=self.report,
            samples=len(self.loader.dataset),
            total=math.ceil(self.schedule.total),
            start=self.position.step,
            device=described_device(accelerator),
            precision=str(accelerator.mixed_precision),
            processes=accelerator.num_processes,
        )

    def _done(self) -> bool:
        return self._over or agreed(self.accelerator, self.stop.is_set())

    def _epoch(self) -> None:
        """The rest of an epoch."""
        if hasattr(self.loader.dataset, "set_epoch"):
            self.loader.dataset.set_epoch(self.position.epoch)
        self.loader.batch_sampler.start(self.position.epoch, self.position.batch)
        self.trainee.train()
        batches = iter(self.loader)
        while not self._done():
            began = perf_counter()
            group = list(islice(batches, self.accumulate))
            if not group:
                break
            norm = self._step(group)
            samples = sum(len(batch["rgb"]) for batch in group) * self.accelerator.num_processes
            self._advance(len(group), samples, perf_counter() - began)
            self._after_step(norm)

    def _step(self, group: list[Any]) -> float | None:
        """One step of the optimizer; returns the norm that the gradient had before clipping."""
        accelerator = self.accelerator
        for index, batch in enumerate(group):
            last = index == len(group) - 1
            with nullcontext() if last else accelerator.no_sync(self.trainee):
                losses = self.trainee(batch)
                accelerator.backward(losses["loss"] / len(group))
            self.means.add(losses)
        clip = self.config.get("gradient_clip_val")
        clip = float(self._get("trainer", "gradient_clip_val", 1.0) if clip is None else clip)
        norm = accelerator.clip_grad_norm_(self.trainee.parameters(), clip) if clip else None
        self.optimizer.step()
        if not accelerator.optimizer_step_was_skipped:
            self.scheduler.step()
        self.optimizer.zero_grad()
        return norm

    def _advance(self, batches: int, samples: int, seconds: float) -> None:
        self.clock.add(samples, seconds)
        self.recent.add(samples, seconds)
        now = self.position
        batch = now.batch + batches
        over = batch >= self.batches
        self.position = Position(
            step=now.step + 1,
            epoch=now.epoch + over,
            batch=0 if over else batch,
            samples=now.samples + samples,
        )

    def _after_step(self, norm: Any) -> None:
        """Log, validate, save and evaluate, as far as it is time for each."""
        step, epoch_over = self.position.step, self.position.batch == 0
        values: dict[str, float] = {}
        if step % int(self._get("trainer", "log_every_n_steps", 10)) == 0 or self._over:
            values = self._measured(norm)
        if self.val_loader and self._due(self._get("trainer", "val_check_interval"), epoch_over):
            most = self._get("trainer", "limit_val_batches")
            values |= validate(self.trainee, self.val_loader, most, self.accelerator)
        self.logs.write(self.position.step, values)
        if self._main:
            self.watcher.stepped(self.position, values)
        every = self._get("evaluate", "every")
        evaluates = bool(every) and step % int(every) == 0 and not self._over
        if (self._due(self._get("save", "every"), epoch_over) or evaluates) and not self._over:
            self._save()
        if evaluates:
            self._evaluate()

    def _due(self, every: Any, epoch_over: bool) -> bool:
        if every:
            return self.position.step % int(every) == 0
        return epoch_over

    def _measured(self, norm: Any) -> dict[str, float]:
        values = self.means.take(self.accelerator, "train_")
        if not math.isfinite(values.get("train_loss", 0.0)):
            raise CalvinEvalError(
                f"step {self.position.step}: the loss is {values['train_loss']}. Expected a finite "
                "number: lower learning_rate, warm up longer, or use trainer.precision=32."
            )
        values["lr"] = float(self.scheduler.get_last_lr()[0])
        if norm is not None:
            values["grad_norm"] = float(norm)
        values["samples_per_second"] = self.recent.rate
        values["epoch"] = self.position.epoch + self.position.batch / self.batches
        self.recent = Clock()
        return values

    def _save(self) -> None:
        """A checkpoint that evaluates, and the state to go on from."""
        state = self.accelerator.get_state_dict(self.trainee)
        if self._main:
            both = self._get("save", "safetensors") is not False
            self.checkpoint = save_checkpoint(self.folder, state, self.position, both)
            if self.accelerator.distributed_type != DistributedType.FSDP:  # which splits weights
                save_adapter(self.folder, self.model, self.config, self.checkpoint.stem)
            prune(self.folder, self._get("save", "keep"))
        save_resume(self.folder, self.accelerator, self.position)
        if self._main:
            self.watcher.saved(self.checkpoint)

    def _evaluate(self) -> None:
        """Scores of the newest checkpoint by the benchmark."""
        if self._main:
            with random_numbers_kept():
                scores = self.watcher.evaluate(self.folder, self.position)
            self.logs.write(self.position.step, scores)
        self.accelerator.wait_for_everyone()
