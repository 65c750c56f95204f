"""What a run sets of lm-eval's tasks and of the prompts of evalkit's own, by the names of lm-eval's options."""

from dataclasses import dataclass

from evalkit.errors import EvalkitError
from evalkit.tasks.own import OwnSpec
from evalkit.tasks.prompt_form import Form

PREFIX = "lm_eval:"  # what comes after it is a name of the installed lm-eval's
STABLE = "stable"  # the protocol under which a document has the same shots in any subset


@dataclass(frozen=True, slots=True)
class LmEvalOptions:
    """`include_path`: a folder of one's own task files. `allow_task_code`: a task's Python may run, and its metrics be downloaded.

    `fewshot_as_multiturn`: under the chat template, shots are turns of the conversation, as lm-eval has them unless told otherwise.
    """

    num_fewshot: int | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    system_instruction: str | None = None
    include_path: str | None = None
    allow_task_code: bool = False
    protocol_file: str | None = None  # for tasks of evalkit's own

    def __post_init__(self) -> None:
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise EvalkitError(f"num_fewshot is {self.num_fewshot}; give 0 or more")
        if self.system_instruction == "":
            raise EvalkitError("system_instruction is ''; give a text, or leave it out")

    @property
    def suffix(self) -> str:
        """What a protocol's name ends with where the task is not run as its file has it."""
        parts = [f"{self.num_fewshot}shot"] if self.num_fewshot is not None else []
        parts += ["chat"] if self.apply_chat_template else []
        parts += ["singleturn"] if self.apply_chat_template and not self.fewshot_as_multiturn else []
        parts += ["system"] if self.system_instruction is not None else []
        return "".join(f"-{part}" for part in parts)

    @property
    def form(self) -> Form:
        """The same for tasks of evalkit's own."""
        return Form(self.num_fewshot, self.apply_chat_template, self.fewshot_as_multiturn, self.system_instruction)

    def require_for_lm_eval(self, task: str) -> None:
        """Raises EvalkitError where anything is set for a task of evalkit's own that only lm-eval's have."""
        own = OwnSpec.parse(task)
        code = self.allow_task_code and not (own and own.is_python)
        for option, value in (("--include-path", self.include_path is not None), ("--allow-task-code", code)):
            if value:
                raise EvalkitError(
                    f"{option} is for lm-eval's tasks (lm_eval:NAME), and {task} is none; leave it out, or run the two by two commands"
                )


AS_THEY_ARE = LmEvalOptions()
