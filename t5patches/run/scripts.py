"""T5X's scripts train, infer and eval, as functions, on either engine.

`run("train", ["--gin_file=…", "--gin.MODEL_DIR='…'"])` takes the flags of
`python -m t5x.train` and does what it does, with five things more: our gin files are
found, paths may be relative, mistakes become a `UserError`, it shows how far it is, and
`--checkpoint` chooses among a model folder's checkpoints. It may be called any number
of times in one process.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from t5patches import _engine
from t5patches.errors import UserError

if TYPE_CHECKING:
    from t5patches.run import gin_config


class Script(NamedTuple):
    """One of T5X's scripts."""

    module: str
    function: str
    checkpoint: str  # The macro of our gin files that names the one it starts from.


SCRIPTS = {
    "train": Script("t5x.train", "train", "INITIAL_CHECKPOINT_PATH"),
    "infer": Script("t5x.infer", "infer", "CHECKPOINT_PATH"),
    "eval": Script("t5x.eval", "evaluate", "CHECKPOINT_PATH"),
    # The command of an update, up to where training begins.
    "cache": Script("t5x.train", "train", "INITIAL_CHECKPOINT_PATH"),
}

# kind, name, default, help
_FLAGS = (
    ("multi_string", "gin_file", [], "A gin file; later ones override."),
    ("multi_string", "gin_bindings", [], "A binding; also --gin.NAME=VALUE."),
    (
        "list",
        "gin_search_paths",
        [],
        "Where gin files are looked up, after ours; commas.",
    ),
    ("string", "tfds_data_dir", None, "Folder of TensorFlow Datasets."),
    ("list", "seqio_additional_cache_dirs", [], "Folders of cached tasks."),
    (
        "boolean",
        "multiprocess_gpu",
        False,
        "Start JAX's distributed system: every process of several, on TPUs too.",
    ),
    (
        "string",
        "coordinator_address",
        None,
        "Its coordinator, as IP:port. TPUs find it, and the next two, themselves.",
    ),
    ("integer", "process_count", None, "How many processes it has."),
    ("integer", "process_index", None, "Which of them this one is."),
    ("integer", "initialization_timeout", 300, "Seconds to wait for it."),
    ("string", "checkpoint", None, "best, latest or a step, of the folder {macro}."),
)
_BRANCH = "Go on from MODEL_DIR's checkpoint with other settings than it was made with."
_STOPPED = "Exit status of a run that SIGTERM stopped, its checkpoint saved."
_MORE_FLAGS = {
    "infer": [
        ("integer", "shard_id", None, "Overrides --gin.infer.shard_id."),
        ("string", "forbid", None, "Phrases not to be said, a file: the macro FORBID."),
        ("string", "word_end", None, "Where a phrase ends: the macro WORD_END."),
    ],
    "train": [
        ("boolean", "branch", False, _BRANCH),
        ("integer", "stopped_status", 0, _STOPPED),
    ],
    "cache": [
        ("integer", "shard_id", 0, "Which part of the examples this command does."),
        ("integer", "num_shards", 1, "Of so many, done by as many commands."),
    ],
}
# Flags that are macros, too.
_MACRO_FLAGS = ("forbid", "word_end")


def gin_root() -> str:
    """Returns the folder of our gin files: in a checkout, or the installed package."""
    package = pathlib.Path(__file__).resolve().parents[1]
    for folder in (package / "gin", package.parent / "gin"):
        if (folder / "models").is_dir():
            return str(folder)
    raise UserError(f"the gin files of t5patches are not beside {package}")


def gin_folders(search_paths: Sequence[str] = ()) -> list[str]:
    """Returns where gin files are looked up: ours, those given, ".", the engine's.

    Ours are first, so that a name of ours means our file wherever a command is typed.
    """
    spec = importlib.util.find_spec("t5x") if _engine.name() == "t5x" else None
    engine = spec.submodule_search_locations if spec else None
    return [gin_root(), *search_paths, "", *map(os.path.dirname, engine or ())]


def run(
    script: str,
    argv: Sequence[str],
    description: str | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> None:
    """Runs a script of T5X's.

    Args:
      script: 'train', 'infer' or 'eval'.
      argv: its arguments; see `flag_help`.
      description: what the progress bar of an inference says; None for 'infer'.
      prepare: called when gin files and macros have been looked at, before anything
        heavy is imported.

    Raises:
      UserError: wrong flags, gin files, tasks or checkpoints; a loss that is NaN.
      SystemExit: training was stopped by SIGTERM, its checkpoint is saved; status 0,
        or that of --stopped_status.
    """
    from t5patches.run import gin_errors, gin_files, macros

    flags = _parse_flags(script, argv)
    _engine.install()
    folders = gin_folders(flags.gin_search_paths)
    shard = flags.shard_id if script == "infer" else None
    typed = [*flags.gin_bindings, *([] if shard is None else [f"SHARD_ID = {shard}"])]
    found = gin_files.read(flags.gin_file, typed, folders)
    macros.check(found, gin_root(), folders[len(flags.gin_search_paths) + 2 :])
    prepare()
    _prepare_libraries(flags)
    from t5patches import watch
    from t5patches.run import preflight

    if os.getcwd() not in sys.path:  # As `python -m` has it, but behind the packages.
        sys.path.append(os.getcwd())
    given = {}
    if script == "infer" and flags.shard_id is not None:
        given["shard_id"] = flags.shard_id
    with configuration(
        script, flags.gin_file, flags.gin_bindings, flags.gin_search_paths
    ) as config:
        if flags.checkpoint is not None:
            _choose_checkpoint(config, SCRIPTS[script].checkpoint, flags.checkpoint)
        preflight.check_devices(config.macro("NUM_PARTITIONS"))
        with gin_errors.in_our_words(
            functools.partial(gin_errors.run_error, bindings=config.bindings)
        ):
            arguments = config.arguments(**given)
            if flags.checkpoint is not None and "restore_checkpoint_cfg" in arguments:
                arguments["restore_checkpoint_cfg"].mode = "specific"
            if script == "cache":
                _make_paths_absolute(arguments)
                preflight.check("train", arguments)
                _fill_cache(config, arguments, flags.shard_id, flags.num_shards)
                return
            branch = script == "train" and flags.branch
            try:
                _run(script, config, arguments, description or script, branch)
            except watch.Preempted as stop:
                stop.code = flags.stopped_status
                raise


def configuration(
    script: str,
    files: Sequence[str],
    bindings: Sequence[str],
    search_paths: Sequence[str] = (),
) -> contextlib.AbstractContextManager[gin_config.Config]:
    """Parses gin files and bindings for a script, as `gin_config.parsed` does.

    Files are looked up in `gin_folders`.
    """
    from t5patches.run import gin_config

    module = importlib.import_module(SCRIPTS[script].module)
    function = getattr(module, SCRIPTS[script].function)
    return gin_config.parsed(function, files, bindings, gin_folders(search_paths))


def _run(
    script: str,
    config: gin_config.Config,
    arguments: dict[str, Any],
    description: str,
    branch: bool,
) -> None:
    """Calls a script's function with what gin has evaluated, after checking it."""
    from t5patches.run import generation, preflight, training_claim

    _make_paths_absolute(arguments)
    if script == "train":
        training_claim.check_place(arguments)
    else:
        generation.check_place(arguments["output_dir"])
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lock(script, arguments))
        preflight.check(script, arguments)
        if script == "infer":
            generation.claim_output(arguments, config.bindings)
        if script == "train":
            if getattr(arguments["model"], "frozen_cache", None):
                _fill_cache(config, arguments)
            # T5X closes its trainer only at a run's own end.
            claim = training_claim.check(arguments, config.bindings, branch)
            trainer_cls = arguments["trainer_cls"]

            def make_trainer(*args, **kwargs):
                trainer = trainer_cls(*args, **kwargs)
                stack.enter_context(contextlib.closing(trainer))
                claim()
                return trainer

            arguments["trainer_cls"] = make_trainer
        elif script == "infer":
            _show_progress(stack, arguments, description)
        config.function(**arguments)


def _fill_cache(
    config: gin_config.Config,
    arguments: dict[str, Any],
    shard_id: int = 0,
    num_shards: int = 1,
) -> None:
    """Runs the frozen model over what an update's FROZEN_CACHE does not have yet."""
    from t5patches.run import frozen_cache

    if not getattr(arguments["model"], "frozen_cache", None):
        raise UserError(
            "FROZEN_CACHE is not set: it is the folder to fill; and METHOD must have a "
            "frozen model"
        )
    if not 0 <= shard_id < num_shards:
        raise UserError(f"--shard_id={shard_id}: it must be below --num_shards")
    cfgs = (arguments[f"{name}_dataset_cfg"] for name in ("train", "train_eval"))
    frozen_cache.fill(
        arguments["model"],
        [cfg for cfg in cfgs if cfg],
        arguments["partitioner"],
        config.evaluated("FROZEN_CHECKPOINT_PATH"),
        config.evaluated("FROZEN_CACHE_DTYPE"),
        shard_id,
        num_shards,
    )


# ---- Flags ----


def _define_flags(script: str):
    from absl import flags

    values, macro = flags.FlagValues(), SCRIPTS[script].checkpoint
    for kind, name, default, text in (*_FLAGS, *_MORE_FLAGS.get(script, [])):
        define = getattr(flags, f"DEFINE_{kind}")
        define(name, default, text.format(macro=macro), flag_values=values)
    return values


def flag_help(script: str) -> str:
    """Returns the flags of a script, for `--help`."""
    return _define_flags(script).get_help()


def _parse_flags(script: str, argv: Sequence[str]):
    from absl import flags

    def rewrite(arg):
        if not arg.startswith("--gin."):  # `annotate` has it with a hyphen.
            return re.sub("^--word-end", "--word_end", arg)
        name, equals, value = arg.removeprefix("--gin.").partition("=")
        if not equals:
            raise UserError(f"{arg}: a gin binding is --gin.NAME=VALUE")
        return f"--gin_bindings={name} = {value}"

    values = _define_flags(script)
    try:
        rest = values([script, *map(rewrite, argv)])[1:]
    except flags.Error as error:
        raise UserError(str(error)) from error
    if rest:
        raise UserError(f"{script}: unexpected argument {rest[0]!r}")
    for name in _MACRO_FLAGS if script == "infer" else ():
        if values[name].present > 1:
            raise UserError(f"--{name} is given twice")
        if values[name].present:
            values.gin_bindings += [f"{name.upper()} = {values[name].value!r}"]
    if not values.gin_file:
        raise UserError(f"{script}: no --gin_file is given")
    for folder in values.gin_search_paths:
        if not os.path.isdir(folder):
            raise UserError(f"--gin_search_paths: there is no folder {folder!r}")
    values.gin_file = [  # A name of ours means our file, a path this one.
        os.path.abspath(file) if file.startswith((".", os.sep)) else file
        for file in values.gin_file
    ]
    return values


# ---- What a script finds when it starts ----


def _prepare_libraries(flags) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax
    import seqio
    import tensorflow as tf

    from t5patches.run import compiled

    # Processes on GPUs tune kernels together: one that found a program where the others
    # have to compile it would not take part.
    if not flags.multiprocess_gpu:
        compiled.keep()
    # JAX takes the GPU's memory; TensorFlow, which only reads data, must not.
    with contextlib.suppress(RuntimeError):  # It has been initialised, by us.
        tf.config.set_visible_devices([], "GPU")
    if flags.multiprocess_gpu:
        jax.distributed.initialize(
            flags.coordinator_address,
            flags.process_count,
            flags.process_index,
            initialization_timeout=flags.initialization_timeout,
        )
    if flags.tfds_data_dir:
        seqio.set_tfds_data_dir_override(flags.tfds_data_dir)
    seqio.add_global_cache_dirs(flags.seqio_additional_cache_dirs)


def _choose_checkpoint(config: gin_config.Config, macro: str, which: str) -> None:
    """Replaces the model folder that a macro names by one of its checkpoints."""
    from t5patches.checkpoints import finding

    folder = config.macro(macro)
    if not isinstance(folder, str):
        raise UserError(
            f"--checkpoint={which} chooses among the checkpoints of a model folder: "
            f"name it with --gin.{macro}=\"'FOLDER'\""
        )
    config.set_macro(macro, finding.choose_checkpoint(folder, which))


def _make_paths_absolute(arguments: dict[str, Any]) -> None:
    """Lets paths be relative to the working folder, which Orbax does not."""
    import jax

    from t5patches.checkpoints import finding
    from t5patches.run import preflight

    def absolute(paths):  # One, several or None.
        return jax.tree.map(
            lambda path: path and os.fspath(finding.absolute(path)), paths
        )

    for name in arguments.keys() & {"model_dir", "output_dir"}:
        arguments[name] = absolute(arguments[name])
    restore = preflight.restore_config(arguments)
    if restore is not None:
        restore.path = absolute(restore.path)


def _lock(
    script: str, arguments: dict[str, Any]
) -> contextlib.AbstractContextManager[None]:
    """Keeps a second command of its kind from a script's output.

    Process 0 does so for all; the shards of an inference are commands of their own.
    """
    import jax

    from t5patches.interchange import claims

    if jax.process_index() != 0:
        return contextlib.nullcontext()
    unit = script
    if script == "infer":
        task = arguments["dataset_cfg"].mixture_or_task_name
        task = re.sub(r"\W", "_", getattr(task, "name", task))
        unit = f"{task}-{arguments['shard_id']}-of-{arguments['num_shards']}"
    folder = arguments["model_dir" if script == "train" else "output_dir"]
    return claims.lock(os.path.join(folder, unit))


def _show_progress(
    stack: contextlib.ExitStack, arguments: dict[str, Any], description: str
) -> None:
    """Counts the examples that an inference writes, on process 0."""
    import jax
    import seqio

    from t5patches import progress

    if jax.process_index() != 0:
        return
    cfg, total = arguments["dataset_cfg"], None
    with contextlib.suppress(Exception):  # Not every source knows.
        provider = seqio.maybe_get_mixture_or_task(cfg.mixture_or_task_name)
        rows = provider.num_input_examples(cfg.split)
        total = rows // arguments["num_shards"] if rows else None
    bar = stack.enter_context(contextlib.closing(progress.Bar(description, total)))
    write_fn = arguments["write_fn"]

    def write(path, inferences, *args, **kwargs):
        write_fn(path, inferences, *args, **kwargs)
        bar.add(len(inferences[0]))

    arguments["write_fn"] = write
