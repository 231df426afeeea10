"""`latentloop train`: from a file of interactions to a trained, tested model in a run directory."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from latentloop.commands.model_options import ModelOptions
from latentloop.commands.options import DataOptions, RPTOptions, SPTOptions, TrainingOptions
from latentloop.commands.places import Device, choose_device, spare_runs
from latentloop.commands.text_options import TextOptions
from latentloop.errors import InputError

if TYPE_CHECKING:
    from latentloop.data.interactions import Interactions
    from latentloop.data.splits import Split
    from latentloop.items.text_features import TextFeatures
    from latentloop.recommender import Recommender
    from latentloop.runs.directory import RunDirectory
    from latentloop.two_stage import TwoStage

__all__ = ["Train"]

logger = logging.getLogger(__name__)

_FEW = 0.01
"""Share of repeats below which it is worth a word that they are ranked."""


@dataclass(frozen=True)
class Train:
    """Train on interactions in two stages, test once, and keep everything in a run directory.

    Writes config.json, metrics.jsonl (a line an epoch), data/ (what was trained on), spt/ and rpt/ (models to load
    anywhere), state/ (to continue from) and report.md. Ctrl-C leaves a usable run; `latentloop resume`
    continues it, or --resume and the same options, and one that was killed, to the same bits. torchrun and `accelerate
    launch` run it in several processes.
    """

    source: tyro.conf.Positional[str]
    """A CSV, TSV, Parquet, JSON Lines, .inter or `user item item ...` text file, gzipped or not; a folder or a
    pattern of Parquet parts; a folder made by `latentloop prepare`; or amazon-2023:<Category>."""
    out: Annotated[Path, tyro.conf.arg(metavar="RUN")]
    """The run directory to make."""
    seed: int = 0
    """Of everything random."""
    with_base: bool = False
    """Also train the plain backbone (pre and core layers stacked once, no loop) on the same budget."""
    exclude_history: bool = False
    """Leave items of a user's past out of the ranking, in validation and test; the target always stays in."""
    resume: bool = False
    """Continue a run from the last epoch that it finished; one that finished none, or does not exist, starts over.
    Give the same options again. Only --epochs, --rpt-epochs and --patience may grow: a stage that stopped at the old
    limit goes on, as if it had been started with the new one, and post-training starts over where pre-training came to
    better weights by that. With --schedule cosine only --patience may."""
    overwrite: bool = False
    """Replace a run that is there."""
    device: Device | None = None
    """Where to train; the best there is when not given."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the blocks in bfloat16; scores stay float32."""
    tracker: Literal["tensorboard"] | None = None
    """Also log each epoch's numbers to RUN/tensorboard."""
    data: tyro.conf.OmitArgPrefixes[DataOptions] = field(default_factory=DataOptions)
    model: tyro.conf.OmitArgPrefixes[ModelOptions] = field(default_factory=ModelOptions)
    text: tyro.conf.OmitArgPrefixes[TextOptions] = field(default_factory=TextOptions)
    training: tyro.conf.OmitArgPrefixes[TrainingOptions] = field(default_factory=TrainingOptions)
    spt: tyro.conf.OmitArgPrefixes[SPTOptions] = field(default_factory=SPTOptions)
    rpt: tyro.conf.OmitArgPrefixes[RPTOptions] = field(default_factory=RPTOptions)

    def run(self) -> None:
        """Carry it out."""
        from latentloop import launch
        from latentloop.data.store import load_saved_interactions
        from latentloop.runs.directory import RunDirectory
        from latentloop.runs.lock import held

        choose_device(self.device)
        if launch.rank() > 0:
            self.follow()
            return
        spare_runs(self.out)
        options = {"resume": self.resume, "overwrite": self.overwrite}
        RunDirectory.check(self.out, self.config(), defaults=self.defaults(), **options)
        self._spare_what_is_read(RunDirectory(self.out))
        self.check()
        prepared = RunDirectory(self.out).data_path
        # a run that is resumed needs its source no more
        kept = self.resume and prepared.is_dir()
        with held(self.out):
            self.fit(load_saved_interactions(prepared) if kept else self.data.load(self.source))

    def check(self) -> None:
        """Refuse what no data would mend, before any are read; the rest is refused by `fit`.

        The model that is asked for is built around a single item, which takes a moment.

        Raises:
            InputError: for an option out of range or of another backbone, blocks of one's own or texts that are not
                there or do not work, or a package that is missing.
        """
        import torch

        from latentloop import launch
        from latentloop.checks import at_least
        from latentloop.commands.own_blocks import try_blocks
        from latentloop.fitting.accelerator import check_tracker
        from latentloop.fitting.settings import check_settings
        from latentloop.items.text_features import TextFeatures
        from latentloop.thinking.everywhere import check_everywhere

        if self.text.given and not self.model.reads_texts:
            raise InputError("item texts are read by --backbone tedrec only: leave them out, or choose it")
        if self.model.reads_texts and self._kept_texts() is None:
            self.text.check()
        model, _ = self._models(1, TextFeatures.of(torch.ones(1, 1)) if self.model.reads_texts else None)
        if self.model.encoder is not None:
            try_blocks(self.model.encoder, model)
        if self.spt.positions == "all":
            check_everywhere(model.encoder)
        self.spt.build(), self.rpt.build()  # refuse what is out of range
        check_tracker(self.tracker, self.out)
        check_settings(**dataclasses.asdict(self.training), cut=self.rpt.cut, trials=self.rpt.trials)
        for name in ("batch_size", "rpt_batch_size"):  # before pre-training, whose run could not be given another
            at_least(name, getattr(self.training, name), launch.world())

    def fit(self, interactions: Interactions) -> TwoStage:
        """Train on interactions that are read already, with options that `check` found right; the run directory is made
        once nothing can be refused.

        Of several processes the first does all this; the others `follow` once the run directory is there.
        """
        from latentloop.data.card import DataCard
        from latentloop.data.store import save_interactions
        from latentloop.data.text_store import save_text_features
        from latentloop.fitting.accelerator import make_accelerator
        from latentloop.runs.continuation import check_states
        from latentloop.runs.directory import RunDirectory
        from latentloop.runs.report import print_report, write_report

        card = DataCard.of(interactions)
        logger.info("data: %s", card.text())
        if card.repeats < _FEW and not self.exclude_history:
            logger.info(
                "hardly an item comes twice to its user, yet validation and test rank what users have had: "
                "--exclude-history leaves that out, as `recommend` does"
            )
        split = self.data.divide(interactions)
        sizes = (len(split.train), len(split.validation), len(split.test))
        logger.info("split: %s, %d training, %d validation, %d test samples", split.protocol, *sizes)
        if not len(split.train):
            raise InputError(
                f"no training sample is left of {len(interactions)} actions: a user gives one from 4 items on (or of 2)"
            )
        num_items = interactions.num_items
        text = self.item_texts(interactions)
        model, base = self._models(num_items, text)
        accelerator = make_accelerator(device=self.device, precision=self.precision)
        options = {"resume": self.resume, "overwrite": self.overwrite}
        if self.resume:
            models = ({} if base is None else {"base": base}) | {"spt": model, "rpt": model}
            check_states(RunDirectory(self.out), models, split.train, split.validation)
        run = RunDirectory.create(self.out, self.config(), defaults=self.defaults(), **options)
        if not run.data_path.is_dir():
            save_interactions(interactions, run.data_path)
        if text is not None and not run.text_path.is_file():
            save_text_features(text, run.text_path)
        begun = {line["stage"] for line in run.lines.read()}
        if run.report_path.is_file() and all(run.state_path(stage).is_file() for stage in begun):
            logger.info("%s is done; nothing is left to train", run.path)
        accelerator.wait_for_everyone()
        result = self._train(model, base, split, run)
        write_report(result, run, card, seed=self.seed)
        print_report(result)
        return result

    def follow(self) -> TwoStage:
        """Train beside the first process, with what it has checked and written by then; writes and prints nothing."""
        from latentloop.data.store import load_saved_interactions
        from latentloop.data.text_store import load_saved_text_features
        from latentloop.fitting.accelerator import make_accelerator
        from latentloop.runs.directory import RunDirectory

        make_accelerator(device=self.device, precision=self.precision).wait_for_everyone()
        run = RunDirectory(self.out)
        interactions = load_saved_interactions(run.data_path)
        text = load_saved_text_features(run.text_path) if self.model.reads_texts else None
        model, base = self._models(interactions.num_items, text)
        return self._train(model, base, self.data.divide(interactions), run)

    def _spare_what_is_read(self, run: RunDirectory) -> None:
        """Refuse to replace a run by what is read from it: nothing of either would be left where training is killed."""
        for source in (self.source, self.text.item_text, self.text.item_embeddings):
            if self.overwrite and source is not None and run.owns(Path(source)):
                raise InputError(f"--overwrite would remove {source}, which is read: choose another --out")

    def _models(self, num_items: int, text: TextFeatures | None) -> tuple[Recommender, Recommender | None]:
        """The model, and the plain one beside it."""
        build = partial(self.model.build, num_items, self.data.max_length, seed=self.seed, text=text)
        return build(), build(loop=False) if self.with_base else None

    def _train(self, model: Recommender, base: Recommender | None, split: Split, run: RunDirectory) -> TwoStage:
        """Both stages, by all processes together."""
        from latentloop.two_stage import two_stage

        return two_stage(
            model,
            split,
            spt=self.spt.build(split.item_counts),
            rpt=self.rpt.build(),
            base=base,
            **dataclasses.asdict(self.training),
            exclude_history=self.exclude_history,
            cut=self.rpt.cut,
            trials=self.rpt.trials,
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            tracker=self.tracker,
            run=run,
        )

    def item_texts(self, interactions: Interactions) -> TextFeatures | None:
        """What the run kept of the items' texts, or what the options name; None where the backbone reads none."""
        from latentloop.data.text_store import load_saved_text_features

        kept = self._kept_texts()
        if kept is not None:
            text = load_saved_text_features(kept)
            if text.num_items != interactions.num_items:
                raise InputError(f"{kept} is of {text.num_items} items, the run's data of {interactions.num_items}")
            return text
        return self.text.load(interactions.item_ids) if self.model.reads_texts else None

    def _kept_texts(self) -> Path | None:
        """What a run that is continued kept of the items' texts, which it then needs no more."""
        from latentloop.runs.directory import RunDirectory

        kept = RunDirectory(self.out).text_path
        return kept if self.resume and kept.is_file() else None

    def kept(self) -> bool:
        """Whether the run holds all that it was asked to read: it can go on without its sources."""
        from latentloop.runs.directory import RunDirectory

        run = RunDirectory(self.out)
        return run.data_path.is_dir() and (run.text_path.is_file() or not self.model.reads_texts)

    def continued(self) -> str | None:
        """The command that goes on with this run; None where nothing of it is kept yet."""
        from latentloop.commands.resume import resume_command
        from latentloop.runs.directory import RunDirectory

        if not self.kept() or not RunDirectory(self.out).is_of(self.config()):
            return None
        return resume_command(self.out, encoder=self.model.encoder, device=self.device, tracker=self.tracker)

    def defaults(self) -> dict[str, Any]:
        """`config` with every option at its default, which is how runs were trained before an option was there."""
        return type(self)(self.source, self.out).config()

    def config(self) -> dict[str, Any]:
        """What was asked for, as plain values; how it is carried out (device, tracker, resume) is left out."""
        config = dataclasses.asdict(self)
        paths = {name: str(value) for name, value in config["text"].items() if isinstance(value, Path)}
        config["text"] |= paths
        for name in ("out", "resume", "overwrite", "device", "tracker"):
            del config[name]
        return config
