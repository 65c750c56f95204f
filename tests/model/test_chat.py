"""Chat templates: the text that transformers' apply_chat_template gives, and one line for a template that fails."""

import json
import os
import subprocess
import sys

import pytest
import tokenizers
import transformers
from tokenizers import processors

from moe_lm.checkpoint.gguf_file import GGUFFile
from moe_lm.errors import ModelError
from moe_lm.tokenizer.chat import TemplateRefusal, render
from moe_lm.tokenizer.tokenizer import Tokenizer

# written for these tests, in the shapes that the families' templates have
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{% if (loop.last and add_generation_prompt) or not loop.last %}{{ '<|im_end|>' + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- else %}
        {{- message['content'] + eos_token }}
    {%- endif %}
{%- endfor %}
"""
GEMMA = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{'<start_of_turn>model\n'}}
{% endif %}
"""
# what newer templates use: namespaces, macros, break, tojson, generation blocks, tests for what is given
MODERN = """\
{%- macro turn(role, text) -%}<|{{ role }}|>{{ text }}<|end|>{%- endmacro -%}
{%- set ns = namespace(system='none') -%}
{%- for message in messages %}{% if message.role == 'system' %}{% set ns.system = message.content %}{% break %}{% endif %}{% endfor %}
{{- turn('system', ns.system) }}{{ {'tools': tools, 'a<b': 'é & "x"'} | tojson }}{{ messages | tojson(indent=2) }}
{%- if tools is none and documents is not none %} documents{% endif %}{% if pad_token is defined %} pad{% endif %}
{%- if bos_token is not defined %} no bos{% endif %}
{% for message in messages if message.role != 'system' %}
{% if message.role == 'assistant' %}{% generation %}{{ turn('assistant', message.content[::-1]) }}{% endgeneration %}
    {%- else %}{{ turn(message.role, message.content.split()[0].upper()) }}{% endif %}
{% endfor %}
"""
TEMPLATES = {"chatml": CHATML, "mistral": MISTRAL, "gemma": GEMMA, "modern": MODERN}
USER = [{"role": "user", "content": "Give me a short introduction to large language model."}]
TURNS = [*USER, {"role": "assistant", "content": "  A <b> & c. \n"}, {"role": "user", "content": "Größer?\n\n漢字"}]
SYSTEM = [{"role": "system", "content": "Be brief."}, *TURNS]
CHATS = {"user": USER, "turns": TURNS, "system": SYSTEM}


def theirs(messages, template, add_generation_prompt=True, tools=None, **variables):
    """The same by transformers."""
    tokens = {name: variables.pop(name) for name in ("bos_token", "eos_token") if name in variables}
    fast = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **tokens)
    settings = {"chat_template": template, "tokenize": False, "add_generation_prompt": add_generation_prompt, "tools": tools}
    return tokenizer.apply_chat_template(messages, **settings, **variables)


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("tokens", [{"bos_token": "<s>", "eos_token": "</s>"}, {}], ids=["tokens", "no-tokens"])
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_text_is_that_of_transformers(template, chat, tokens, add_generation_prompt):
    text, messages = TEMPLATES[template], CHATS[chat]
    if (template, chat) in (("mistral", "system"), ("gemma", "system")):
        with pytest.raises(ModelError, match=r"template failed: (Conversation roles must alternate|System role not supported)"):
            render(messages, text, **tokens, add_generation_prompt=add_generation_prompt)
        return
    if template == "mistral" and chat == "turns" and not tokens:
        tokens = {"eos_token": "</s>"}  # an undefined one can't be added to a string, there or here
    assert render(messages, text, **tokens, add_generation_prompt=add_generation_prompt) == theirs(
        messages, text, add_generation_prompt, **tokens
    )


@pytest.fixture(scope="module", params=["smollm2_path", pytest.param("qwen_path", marks=pytest.mark.slow)])
def own(request):
    """A model's own tokenizer, with the template of its file."""
    return Tokenizer.from_gguf(GGUFFile(request.getfixturevalue(request.param)).metadata)


@pytest.mark.parametrize("chat", CHATS)
def test_a_models_own_template(own, chat):
    tokens = {"bos_token": own.bos_token, "eos_token": own.eos_token}
    found = render(CHATS[chat], own.chat_template, **tokens)
    assert found == theirs(CHATS[chat], own.chat_template, **tokens)
    assert found.endswith("<|im_start|>assistant\n")
    assert found.count("<|im_start|>system\n") == 1


def test_the_templates_own_system_prompt(smollm2_path):
    tokenizer = Tokenizer.from_gguf(GGUFFile(smollm2_path).metadata)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    assert render(USER, tokenizer.chat_template).startswith(system)
    assert render(SYSTEM, tokenizer.chat_template).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert render(USER, CHATML).startswith("<|im_start|>system\nYou are a helpful assistant<|im_end|>\n")
    assert render([{"role": "system", "content": ""}, *USER], CHATML).startswith("<|im_start|>system\n<|im_end|>\n")


def test_bos_exactly_once(smollm2_path):
    """Whether the template writes it or not, and also where it alone asks for it."""
    metadata = GGUFFile(smollm2_path).metadata | {"tokenizer.ggml.bos_token_id": 3}
    for wanted, template, count in ((True, GEMMA, 1), (True, CHATML, 1), (False, GEMMA, 1), (False, CHATML, 0)):
        tokenizer = Tokenizer.from_gguf(metadata | {"tokenizer.ggml.add_bos_token": wanted})
        assert tokenizer.bos_token == metadata["tokenizer.ggml.tokens"][3]
        ids = tokenizer.encode(render(USER, template, tokenizer.bos_token, tokenizer.eos_token))
        assert ids.count(3) == count
        assert ids[0] == 3 or not count


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no tools\n here') }}", "no tools here"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ messages[0].update(role='x') }}", "unsafe"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{% include 'secret' %}", "TypeError"),
        ("{{ messages[9].content }}", "no element 9"),
    ],
)
def test_a_template_that_fails_is_one_line(template, message):
    with pytest.raises(ModelError, match="the model's chat template failed: ") as caught:
        render(USER, template)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "0.8 s of processor time"),
        ("{{ 'a' * 3000000000 }}", "512 MiB of memory"),
        ("{{ '%1000000000d' % 1 }}", "512 MiB of memory"),
        ("{{ 'a' | center(2000000000) }}", "512 MiB of memory"),
        ("{{ [1] | tojson(indent=1000000000) }}", "512 MiB of memory"),
        ("{% set ns = namespace(s='a') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", "512 MiB of memory"),
        ("{{ 'a' * 3000000 }}", "makes 3000000 characters of a conversation of"),
        # a list of two references to the list before it: as JSON 2 ** 60 elements, in one call that Python cannot interrupt
        (
            "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s == ns.s | list }}"
            "{{ ns.s | tojson | length }}",
            "0.8 s of processor time",
        ),
    ],
)
def test_a_template_has_limits(template, message):
    with pytest.raises(ModelError, match="the model's chat template failed: it ") as caught:
        render(USER, template)
    assert message in str(caught.value)
    assert render(USER, CHATML) == theirs(USER, CHATML)  # the next one is as good as ever


def test_the_process_that_renders_is_replaced_when_it_is_gone_and_ends_with_its_parent():
    program = (
        "import os, signal\n"
        "from moe_lm.tokenizer import chat\n"
        "def ask(): return chat.render([{'role': 'user', 'content': 'hi'}], '{{ messages[0].content }}')\n"
        "assert ask() == 'hi'\n"
        "first = chat._worker._process\n"
        "assert ask() == 'hi' and chat._worker._process is first\n"
        "os.kill(first.pid, signal.SIGKILL); os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)\n"
        "assert ask() == 'hi' and chat._worker._process.pid != first.pid\n"
        "if os.fork() == 0:\n"
        "    os._exit(ask() != 'hi')\n"
        "assert os.wait()[1] == 0 and ask() == 'hi'\n"
        "print(chat._worker._process.pid)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


CALLS = [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
# written for these tests: what templates of models with tools and reasoning read
TOOLED = (
    "{% if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>{% endif %}{% for m in messages %}<{{ m.role }}"
    "{{ ' name=' ~ m.name if m.name is defined }}>{% if m.reasoning_content is string %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content if m.content is not none }}{% for call in m.tool_calls or [] %}<call>{{ call.function.name }} "
    "{{ call.function.arguments | tojson }}</call>{% endfor %}{% if 'tool_call_id' in m %}<answers {{ m['tool_call_id'] }}>{% endif %}"
    "{% endfor %}{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
TOOL_CHAT = [
    {"role": "user", "content": "Weather?", "name": "bob"},
    {"role": "assistant", "content": None, "tool_calls": CALLS, "reasoning": "ask"},
    {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
]


@pytest.mark.parametrize("arguments", [{}, {"enable_thinking": False}, {"enable_thinking": True}])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_tools_fields_and_arguments_reach_the_template(tools, arguments):
    found = render(TOOL_CHAT, TOOLED, add_generation_prompt=False, tools=tools, arguments=arguments)
    assert found == theirs(TOOL_CHAT, TOOLED, False, tools=tools, **arguments)
    for part in ("name=bob", "<think>ask", '<call>weather {"city": "Rome"}', "<answers call_1>"):
        assert part in found


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"messages": [USER[0] | {"name": "bob"}]}, "messages.0.name"),
        ({"messages": [*USER, {"role": "assistant", "content": "", "tool_calls": CALLS}]}, "messages.1.tool_calls"),
        ({"messages": [USER[0] | {"reasoning": "hm"}]}, "messages.0.reasoning"),
        ({"tools": TOOLS}, "tools"),
        ({"documents": [{"title": "a", "text": "b"}]}, "documents"),
        ({"arguments": {"enable_thinkng": False}}, "enable_thinkng"),
        ({"arguments": {"messages": []}}, "messages"),
    ],
)
def test_what_the_template_would_drop_is_refused(given, field):
    with pytest.raises(TemplateRefusal, match=field.rpartition(".")[2]) as caught:
        render(**{"messages": USER, "template": CHATML} | given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "reads_all", ["{{ m | tojson }}", "{{ m }}", "{% for k, v in m.items() %}{{ v }}{% endfor %}", "{{ m | dictsort }}"]
)
def test_a_template_that_reads_whole_messages_reads_every_field(reads_all):
    messages = [USER[0] | {"name": "bob"}]
    template = "{% for m in messages %}" + reads_all + "{% endfor %}"
    assert render(messages, template) == theirs(messages, template)
    assert "bob" in render(messages, template)


PARTS = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
GOES_THROUGH = [
    "{% for m in messages %}{% for part in m.content %}[{{ part.text | trim }}]{% endfor %}{% endfor %}",
    "{% for m in messages %}{% set c = m['content'] %}{% if c is string %}{{ c }}{% else %}{% for p in c %}[{{ p['text'] }}]{% endfor %}"
    "{% endif %}{% endfor %}",
    "{% macro show(content) %}{% for part in content %}[{{ part.text }}]{% endfor %}{% endmacro %}"
    "{% for m in messages %}{{ show(m.content) }}{% endfor %}",
]


@pytest.mark.parametrize("template", GOES_THROUGH)
def test_text_parts_go_to_a_template_that_goes_through_them(template):
    assert render(PARTS, template) == theirs(PARTS, template) == "[one][two]"


def test_text_parts_are_lines_for_other_templates():
    assert render(PARTS, CHATML) == render([{"role": "user", "content": "one\ntwo"}], CHATML)


def test_without_a_template():
    for template in (None, ""):
        with pytest.raises(ModelError, match="the model has no chat template; leave out --chat"):
            render(USER, template)


def test_messages_are_not_changed():
    messages = [dict(message) for message in SYSTEM]
    render(messages, "{% set messages = messages[1:] %}{{ messages | length }}")
    assert messages == SYSTEM


@pytest.fixture
def folder(smollm2_path, tmp_path):
    Tokenizer.from_gguf(GGUFFile(smollm2_path).metadata).save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "template", "bos_token", "bos_id"),
    [
        ({"chat_template": "one", "bos_token": "<|endoftext|>"}, "one", "<|endoftext|>", None),
        ({"chat_template": [{"name": "rag", "template": "a"}, {"name": "default", "template": "b"}]}, "b", "", None),
        ({"chat_template": [{"name": "rag", "template": "a"}]}, None, "", None),
        ({"bos_token": {"__type": "AddedToken", "content": "<|endoftext|>"}, "eos_token": None}, None, "<|endoftext|>", None),
        ({"bos_token": "<|endoftext|>", "add_bos_token": True}, None, "<|endoftext|>", None),
        ({"bos_token": None, "add_bos_token": True, "tokenizer_class": "LlamaTokenizerFast"}, None, "", None),
    ],
)
def test_tokenizer_config(folder, settings, template, bos_token, bos_id):
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kind | settings))
    found = Tokenizer.from_folder(folder)
    assert (found.chat_template, found.bos_token, found.bos_id) == (template, bos_token, bos_id)
    expected = transformers.AutoTokenizer.from_pretrained(folder)
    assert found.encode("Hello") == expected("Hello")["input_ids"]


@pytest.mark.parametrize(
    ("kind", "asked", "puts_bos"),
    [
        ("LlamaTokenizerFast", True, False),
        ("LlamaTokenizer", None, False),
        ("PreTrainedTokenizerFast", True, False),
        ("LlamaTokenizer", True, True),
        ("LlamaTokenizerFast", False, True),
    ],
)
def test_tokenizer_json_alone_decides_about_bos(folder, kind, asked, puts_bos):
    """As in transformers 5, which drops add_bos_token; where that leaves out a BOS that transformers 4 put, it is said."""
    fast = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    front = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    fast.post_processor = front if puts_bos else None
    fast.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": kind, "bos_token": "<|endoftext|>", "add_bos_token": asked}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    found = Tokenizer.from_folder(folder)
    expected = transformers.AutoTokenizer.from_pretrained(folder)("Hello")["input_ids"]
    assert found.encode("Hello") == expected
    assert (expected[0] == 0) == puts_bos
    if asked and not puts_bos and kind != "PreTrainedTokenizerFast":
        assert found.notices == (
            "add_bos_token of tokenizer_config.json has no effect, as in transformers 5: tokenizer.json puts no <|endoftext|> in front"
            " (transformers 4 put it there)",
        )
    else:
        assert not found.notices


def test_a_saved_folder_chats_the_same(smollm2_path, tmp_path):
    tokenizer = Tokenizer.from_gguf(GGUFFile(smollm2_path).metadata)
    tokenizer.save(tmp_path)
    again = Tokenizer.from_folder(tmp_path)
    assert (again.bos_token, again.eos_token, again.bos_id) == (tokenizer.bos_token, tokenizer.eos_token, None)
    expected = transformers.AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(USER, tokenize=False, add_generation_prompt=True)
    assert render(USER, again.chat_template, again.bos_token, again.eos_token) == expected
