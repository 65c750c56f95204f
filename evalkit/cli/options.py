"""The options of every command that loads a model: where it runs, in which precision, on which kernels."""

from argparse import ArgumentParser, Namespace

from evalkit.config import DEVICES, DTYPES, KERNELS, ModelSpec


def add_device(command: ArgumentParser, default: str | None = "auto") -> None:
    """`default` is None where a configuration file may say it."""
    command.add_argument("--device", choices=DEVICES, default=default, help="(default: auto, cuda where there is one)")
    command.add_argument("--dtype", choices=DTYPES, default=default, help="(default: auto, float32 on cpu and bfloat16 on cuda)")
    command.add_argument(
        "--kernel", choices=KERNELS, default=default, help="(default: auto, cpu or without a compiler torch on cpu, triton on cuda)"
    )


def model_of(arguments: Namespace) -> ModelSpec:
    """The model that the arguments name. Raises EvalkitError."""
    return ModelSpec(arguments.model, device=arguments.device, dtype=arguments.dtype, kernel=arguments.kernel)
