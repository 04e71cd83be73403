"""T5X's scripts train, infer and eval, as functions, on either engine.

`run("train", ["--gin_file=…", "--gin.MODEL_DIR='…'"])` takes the flags of
`python -m t5x.train` and does what it does, with four things more: our gin files are
found, mistakes become a `UserError`, it shows how far it is, and `--checkpoint` chooses
among a model folder's checkpoints. It may be called any number of times in one process.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import inspect
import itertools
import logging
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from t5patches import _engine
from t5patches.errors import UserError

# Script -> (module of the engine, its function). The function stands in `__main__`.
SCRIPTS = {
    "train": ("t5x.train", "train"),
    "infer": ("t5x.infer", "infer"),
    "eval": ("t5x.eval", "evaluate"),
}
# The macro of our gin files that names the checkpoint a script starts from.
_CHECKPOINT_MACROS = {
    "train": "INITIAL_CHECKPOINT_PATH",
    "infer": "CHECKPOINT_PATH",
    "eval": "CHECKPOINT_PATH",
}


def gin_root() -> str:
    """The folder of our gin files: in a checkout, or in the installed package."""
    package = pathlib.Path(__file__).resolve().parents[1]
    for folder in (package / "gin", package.parent / "gin"):
        if (folder / "models").is_dir():
            return str(folder)
    raise UserError(f"the gin files of t5patches are not beside {package}")


def run(script: str, argv: Sequence[str], description: str | None = None) -> None:
    """Runs a script of T5X's.

    Args:
        script: 'train', 'infer' or 'eval'.
        argv: its arguments; see `flag_help`.
        description: what the progress bar says, the script's name if None.

    Raises:
        UserError: wrong flags, gin files, tasks or checkpoints; a loss that is NaN.
        SystemExit: training was stopped by SIGTERM, its checkpoint is saved; status 0.
    """
    flags = _parse_flags(script, argv)
    from t5patches.run import gin_errors, preflight

    _engine.install()
    _prepare_libraries(flags)
    if os.getcwd() not in sys.path:  # As `python -m` has it, but behind the packages.
        sys.path.append(os.getcwd())
    module_name, function_name = SCRIPTS[script]
    module = importlib.import_module(module_name)
    entry = _entry(getattr(module, function_name))
    entry.watch.description = description or script
    with _as_main(function_name, entry), _fresh_gin() as gin:
        configured = _parse_gin(gin, entry, module, flags)
        entry.watch.chosen = flags.checkpoint is not None
        if flags.checkpoint is not None:
            _choose_checkpoint(gin, _CHECKPOINT_MACROS[script], flags.checkpoint)
        extra = {}
        if getattr(flags, "shard_id", None) is not None:
            extra["shard_id"] = flags.shard_id
        entry.watch.bindings = _bindings(gin)
        preflight.macros(flags.gin_bindings, entry.watch.bindings)
        entry.watch.entered = False
        try:
            configured(**extra)
        except Exception as error:
            known = gin_errors.storage_error(error, entry.watch.bindings)
            if not entry.watch.entered or isinstance(error, UserError):
                known = known or gin_errors.config_error(error)
            if known is None:
                raise
            raise known from error


# ---- Flags ----


def _define_flags(script: str):
    from absl import flags

    values = flags.FlagValues()
    define = functools.partial(_define, flags, values)
    define("multi_string", "gin_file", [], "A gin file; later ones override.")
    define("multi_string", "gin_bindings", [], "A binding; also --gin.NAME=VALUE.")
    define(
        "list",
        "gin_search_paths",
        [],
        "Folders, separated by commas, that gin files are looked up in before '.' and "
        "the gin files of t5patches.",
    )
    define("string", "tfds_data_dir", None, "Folder of TensorFlow Datasets.")
    define("list", "seqio_additional_cache_dirs", [], "Folders of cached tasks.")
    define("boolean", "multiprocess_gpu", False, "Start JAX's distributed system.")
    define("string", "coordinator_address", None, "Its coordinator, as IP:port.")
    define("integer", "process_count", None, "How many processes it has.")
    define("integer", "process_index", None, "Which of them this one is.")
    define("integer", "initialization_timeout", None, "Seconds to wait for it.")
    define(
        "string",
        "checkpoint",
        None,
        f"best, latest or a step: {_CHECKPOINT_MACROS[script]} is a model folder, and "
        "this is its checkpoint to take.",
    )
    if script == "infer":
        define("integer", "shard_id", None, "Overrides --gin.infer.shard_id.")
    return values


def _define(flags, values, kind, name, default, text):
    getattr(flags, f"DEFINE_{kind}")(name, default, text, flag_values=values)


def flag_help(script: str) -> str:
    """The flags of a script, for `--help`."""
    return _define_flags(script).get_help()


def _parse_flags(script: str, argv: Sequence[str]):
    from absl import flags

    def rewrite(arg):
        if not arg.startswith("--gin."):
            return arg
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
    if not values.gin_file:
        raise UserError(f"{script}: no --gin_file is given")
    return values


# ---- The process ----


def _prepare_libraries(flags) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax
    import seqio
    import tensorflow as tf

    if jax.config.jax_compilation_cache_dir is None and not flags.multiprocess_gpu:
        jax.config.update("jax_compilation_cache_dir", _compiled_programs())
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # JAX takes the GPU's memory; TensorFlow, which only reads data, must not.
    with contextlib.suppress(RuntimeError):  # It has been initialised, by us.
        tf.config.set_visible_devices([], "GPU")
    if flags.multiprocess_gpu:
        timeout = {}
        if flags.initialization_timeout:
            timeout["initialization_timeout"] = flags.initialization_timeout
        jax.distributed.initialize(
            flags.coordinator_address, flags.process_count, flags.process_index,
            **timeout,
        )  # fmt: skip
    if flags.tfds_data_dir:
        seqio.set_tfds_data_dir_override(flags.tfds_data_dir)
    seqio.add_global_cache_dirs(flags.seqio_additional_cache_dirs)


@functools.cache
def _compiled_programs() -> str:
    """A folder for this process's compiled programs.

    Each run compiles functions of its own; runs of the same program (generations for
    several splits) find it here. The user's own cache folder goes before.
    """
    folder = tempfile.mkdtemp(prefix="t5patches-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _as_main(name: str, entry: Callable) -> Iterator[None]:
    """Puts a function into `__main__`, where the gin files of T5X look for it."""
    main = sys.modules["__main__"]
    missing = object()
    before = getattr(main, name, missing)
    setattr(main, name, entry)
    try:
        yield
    finally:
        if before is missing:
            delattr(main, name)
        else:
            setattr(main, name, before)


@contextlib.contextmanager
def _fresh_gin() -> Iterator[Any]:
    """Gin without the bindings and search paths of the run before."""
    import gin

    prefixes = gin.config._LOCATION_PREFIXES
    before = list(prefixes)
    gin.clear_config()
    try:
        yield gin
    finally:
        prefixes[:] = before
        gin.clear_config()


def _parse_gin(gin, entry, module, flags) -> Callable[..., Any]:
    """Parses the gin files; returns the entry with its bindings."""
    from t5x import gin_utils

    from t5patches.run import gin_errors

    engine_paths = getattr(module, "_DEFAULT_GIN_SEARCH_PATHS", [])
    try:
        configured = gin.configurable(entry)
        with _without_path_errors():
            gin_utils.parse_gin_flags(
                [*flags.gin_search_paths, ".", gin_root(), *engine_paths],
                flags.gin_file,
                flags.gin_bindings,
            )
    except Exception as error:
        known = gin_errors.parse_error(error)
        if known is None:
            raise
        raise known from error
    return configured


def _choose_checkpoint(gin, macro: str, which: str) -> None:
    """Replaces the model folder that a macro names by one of its checkpoints."""
    from t5patches.checkpoints import finding

    name = f"{macro}/macro.value"
    try:
        folder = gin.query_parameter(name)
    except ValueError:
        folder = None
    if not isinstance(folder, str):
        raise UserError(
            f"--checkpoint={which} chooses among the checkpoints of a model folder: "
            f"name it with --gin.{macro}=\"'FOLDER'\""
        )
    with gin.unlock_config():
        gin.bind_parameter(name, finding.choose_checkpoint(folder, which))


def _bindings(gin) -> dict[str, str]:
    """Gin's bindings: macros by name, arguments as `scope/module.function.argument`."""
    found = {}
    for (scope, selector), arguments in gin.config._CONFIG.items():
        for argument, value in arguments.items():
            name = f"{selector}.{argument}"
            name = f"{scope}/{name}" if scope else name
            found[name.removesuffix("/gin.macro.value")] = repr(value)
    return found


@contextlib.contextmanager
def _without_path_errors() -> Iterator[None]:
    """Gin logs an error per folder that it looked into; what it raises says it all."""

    def keep(record):
        return not record.getMessage().startswith("Path not found")

    logger = logging.getLogger()
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


# ---- The entry: what gin configures ----


class _Watch:
    """What the entry of a script looks after while it runs."""

    def __init__(self):
        self.description = ""
        self.entered = False  # Whether the configuration has been evaluated.
        self.chosen = False  # Whether --checkpoint named the one to restore.
        self.bindings: dict[str, str] = {}  # Gin's.


@functools.cache  # Gin must see one object, however often a script is run.
def _entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a script's function: checks its arguments first, then shows progress."""
    signature = inspect.signature(function)
    watch = _Watch()

    @functools.wraps(function)
    def entry(**kwargs):
        from t5patches.run import generation, preflight

        watch.entered = True
        missing = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.default is parameter.empty and name not in kwargs
        ]
        if missing:
            name = function.__name__
            raise UserError(
                "not set in the gin files: "
                + ", ".join(f"{name}.{argument}" for argument in missing)
            )
        defaults = {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if parameter.default is not parameter.empty
        }
        arguments = {**defaults, **kwargs}
        if watch.chosen and "restore_checkpoint_cfg" in arguments:
            arguments["restore_checkpoint_cfg"].mode = "specific"
        _make_paths_absolute(arguments)
        _check(function.__name__, arguments)
        if function.__name__ == "infer":
            preflight.inference(arguments, watch.bindings)
            generation.claim_output(arguments, watch.bindings)
        with _showing_progress(watch.description, function.__name__, arguments):
            return function(**arguments)

    entry.__module__ = "__main__"
    entry.__signature__ = signature
    entry.watch = watch
    return entry


def _make_paths_absolute(arguments: dict[str, Any]) -> None:
    """Lets paths be relative to the working folder, which orbax does not."""
    from t5patches.checkpoints import finding

    def absolute(value):
        if not value:
            return value
        if isinstance(value, str):
            return os.fspath(finding.absolute(value))
        return [os.fspath(finding.absolute(path)) for path in value]

    for name in ("model_dir", "output_dir"):
        if name in arguments:
            arguments[name] = absolute(arguments[name])
    train_cfg = arguments.get("checkpoint_cfg")
    restore = (
        train_cfg.restore if train_cfg else arguments.get("restore_checkpoint_cfg")
    )
    if restore is not None:
        restore.path = absolute(restore.path)


def _check(name: str, arguments: dict[str, Any]) -> None:
    """Looks at tasks and checkpoints before anything is loaded or compiled.

    Replaces `train_state_initializer_cls`: only when the engine has made it are the
    model's shapes known, and nothing has been restored yet.
    """
    from t5patches.checkpoints import contents
    from t5patches.run import preflight

    for argument in ("train_dataset_cfg", "dataset_cfg"):
        cfg = arguments.get(argument)
        if cfg is not None:
            preflight.module(cfg.module)
            preflight.task(cfg.mixture_or_task_name, cfg.split)
    for argument in ("train_eval_dataset_cfg", "infer_eval_dataset_cfg"):
        if arguments.get(argument) is not None:
            preflight.task(arguments[argument].mixture_or_task_name)

    path, transformed = _starting_checkpoint(name, arguments)
    if path is None:
        return
    contents.check_whole(path)
    if name == "train":
        preflight.total_steps(arguments)
    initializer_cls = arguments["train_state_initializer_cls"]

    def initializer(*args, **kwargs):
        made = initializer_cls(*args, **kwargs)
        if not transformed:
            contents.check_architecture(path, made.global_train_state_shape.params)
        return made

    arguments["train_state_initializer_cls"] = initializer


def _starting_checkpoint(name, arguments) -> tuple[str | None, bool]:
    """(the checkpoint that will be restored, whether its names are changed)"""
    from t5patches.checkpoints import finding

    if name == "train":
        steps = finding.steps(arguments["model_dir"])
        if steps:
            return os.path.join(
                arguments["model_dir"], f"checkpoint_{steps[-1]}"
            ), False
        cfg = arguments["checkpoint_cfg"].restore
    else:
        cfg = arguments["restore_checkpoint_cfg"]
    if cfg is None or not cfg.path:
        return None, False
    transformed = bool(cfg.state_transformation_fns)
    if cfg.mode == "specific" or name == "infer":
        return cfg.path, transformed
    folders = [cfg.path] if isinstance(cfg.path, str) else cfg.path
    for folder in folders:
        if not os.path.isdir(folder) and "://" not in folder:
            raise UserError(f"there is no folder {folder} to restore a checkpoint from")
    steps = finding.steps(folders[0])
    if not steps:
        return None, transformed
    return os.path.join(folders[0], f"checkpoint_{steps[-1]}"), transformed


# ---- Progress ----


class _Ticker:
    """A progress bar that is pushed."""

    def __init__(self, what: str, total: int | None, since: float | None = None):
        from t5patches import progress

        items = itertools.count() if total is None else range(total)
        self._items = progress.track(items, what, total, since=since)

    def tick(self, count: int = 1) -> None:
        for _ in range(count):
            next(self._items, None)

    def close(self) -> None:
        self.tick()  # What was asked for last is counted now.
        self._items.close()


@contextlib.contextmanager
def _showing_progress(what: str, name: str, arguments: dict[str, Any]):
    """Counts train steps, or inferred examples, on process 0.

    The engines offer no hook, so the functions that they are given are wrapped:
    `trainer_cls`, whose `train` takes the batches, and `write_fn`.
    """
    import jax

    tickers: list[_Ticker] = []
    trainers: list[Any] = []
    if jax.process_index() == 0 and name == "train":
        arguments["trainer_cls"] = _counting_trainer(
            arguments["trainer_cls"], what, arguments, tickers, trainers
        )
    elif jax.process_index() == 0 and name == "infer":
        arguments["write_fn"] = _counting_write_fn(
            arguments["write_fn"], what, arguments, tickers
        )
    try:
        yield
    finally:
        for ticker in tickers:
            ticker.close()
        # T5X closes a trainer at the end of a run, not of one that stopped.
        for trainer in trainers:
            trainer.close()


def _counting_trainer(trainer_cls, what, arguments, tickers, trainers):
    def make(*args, **kwargs):
        trainer = trainer_cls(*args, **kwargs)
        trainers.append(trainer)
        train = trainer.train

        def counting(batches):
            for batch in batches:
                tickers[0].tick()
                yield batch

        def counted_train(batch_iter, num_steps, start_step=None):
            if not tickers:
                first = int(
                    trainer.train_state.step if start_step is None else start_step
                )
                relative = arguments.get("relative_steps")
                total = relative or max(0, arguments["total_steps"] - first)
                tickers.append(_Ticker(what, total))
            return train(counting(batch_iter), num_steps, start_step)

        trainer.train = counted_train
        return trainer

    return make


def _counting_write_fn(write_fn, what, arguments, tickers):
    def count_examples() -> int | None:
        import seqio

        cfg = arguments["dataset_cfg"]
        with contextlib.suppress(Exception):  # Not every source knows.
            provider = seqio.maybe_get_mixture_or_task(cfg.mixture_or_task_name)
            rows = provider.num_input_examples(cfg.split)
            return rows // arguments["num_shards"] if rows else None
        return None

    start = time.monotonic()

    def write(path, inferences, *args, **kwargs):
        write_fn(path, inferences, *args, **kwargs)
        if not tickers:
            tickers.append(_Ticker(what, count_examples(), start))
        tickers[0].tick(len(inferences[0]))

    return write
