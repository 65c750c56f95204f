"""The task adapters. They import evalkit's task API and nothing else of it; the harness finds them through `TASKS`."""

from evalkit.tasks import Task
from evalkit_tasks.gsm8k import GSM8K
from evalkit_tasks.humaneval import HumanEval
from evalkit_tasks.mmlu import MMLU
from evalkit_tasks.mt_bench import MTBench
from evalkit_tasks.multilingual import suite

TASKS: dict[str, type[Task]] = {task.name: task for task in (MMLU, GSM8K, HumanEval, MTBench)} | suite.TASKS
