"""Facts about a model: read from its files, and given by the caller."""

import datetime as dt
import json

import pytest
from ocikit.dialects.classes import classify
from ocikit.dialects.facts import Facts, ModelFile, facts_of, size_label
from ocikit.errors import InvalidArgument

from tests.support.home import write
from tests.support.model_files import gguf, safetensors, write_model


def facts(folder, given=None):
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    kinds = classify((title, path.stat().st_size) for title, path in paths.items())
    files = [ModelFile(title=t, content=p, size=p.stat().st_size, kind=kinds[t]) for t, p in paths.items()]
    return facts_of(files, given)


def test_facts_come_from_card_config_and_header(tmp_path):
    assert facts(write_model(tmp_path)) == Facts(
        family="tiny",
        license=("Apache-2.0",),
        datasets=("org/waves",),
        architecture="TinyForCausalLM",
        format="safetensors",
        parameters="5K",
        precision="float32",
        framework="transformers",
        languages=("en", "fr"),
        context=128,
    )


def test_facts_come_from_gguf_metadata(tmp_path):
    raw = gguf(
        general__architecture="llama",
        general__name="Tiny Llama",
        general__license="mit",
        general__file_type=15,
        llama__context_length=4096,
    )
    assert facts(write(tmp_path, {"model.gguf": raw})) == Facts(
        name="Tiny Llama",
        family="llama",
        license=("MIT",),
        architecture="llama",
        format="gguf",
        parameters="2K",
        quantization="Q4_K_M",
        context=4096,
    )


def test_projector_is_not_taken_for_the_model(tmp_path):
    model, projector = gguf(general__architecture="llama"), gguf(general__architecture="clip")
    found = facts(write(tmp_path, {"a.gguf": model, "Mmproj.gguf": projector}))
    assert (found.architecture, found.parameters) == ("llama", "2K")


def test_given_facts_come_first(tmp_path):
    given = {"name": "mine", "license": "MIT", "parameters": 8_030_000_000, "family": None, "reasoning": False}
    found = facts(write_model(tmp_path), given)
    assert (found.name, found.license, found.parameters, found.family, found.reasoning) == (
        "mine",
        ("MIT",),
        "8B",
        "",
        False,
    )
    assert found.architecture == "TinyForCausalLM"


def test_shards_count_together(tmp_path):
    half = safetensors(weight=("BF16", (1000, 5)))
    found = facts(write(tmp_path, {f"model-0000{n}-of-00002.safetensors": half for n in (1, 2)}))
    assert (found.parameters, found.precision) == ("10K", "bfloat16")


def test_second_copy_of_a_model_is_not_counted(tmp_path):
    whole, half = safetensors(weight=(1000, 10)), safetensors(weight=(1000, 5))
    parts = {f"model-0000{n}-of-00002.safetensors": half for n in (1, 2)}
    assert facts(write(tmp_path, {"consolidated.safetensors": whole} | parts)).parameters == "10K"


def test_several_quantizations_are_not_summed(tmp_path):
    files = {
        f"tiny-{name}.gguf": gguf(general__architecture="llama", general__file_type=n)
        for name, n in (("a", 15), ("b", 7))
    }
    found = facts(write(tmp_path, files))
    assert (found.parameters, found.quantization, found.architecture) == ("2K", "", "llama")


def test_pipeline_states_no_number_of_parameters(tmp_path):
    files = {f"{name}/model.safetensors": safetensors(weight=(1000, 10)) for name in ("unet", "vae")}
    assert facts(write(tmp_path, files)) == Facts(format="safetensors")


def test_packed_weights_state_no_number_of_parameters(tmp_path):
    packed = safetensors(weight=("I64", (1000, 10)), scale=("F16", (1000, 10)))
    config = json.dumps({"quantization_config": {"quant_method": "gptq"}})
    found = facts(write(tmp_path, {"model.safetensors": packed, "config.json": config}))
    assert (found.parameters, found.quantization, found.precision) == ("", "gptq", "int64,float16")


@pytest.mark.parametrize(
    "files",
    [
        {"model.safetensors": b"\xff" * 100},
        {"model.gguf": b"GGUF\x03"},
        {"config.json": "[1]", "model.pt": "x"},
        {"config.json": '{"architectures": 1, "model_type": ["a"], "n_ctx": true, "torch_dtype": "auto"}'},
        {"config.json": "{" * 100},
        {"config.json": r'{"model_type": "\ud800", "architectures": ["\udfff"]}'},
        {"README.md": "---\nlicense: &a [*a]\n---\n"},
        {"README.md": "---\nlicense: !!python/object/apply:os.system [id]\n---\n"},
        {"README.md": b"\xff\xfe---"},
    ],
)
def test_unreadable_file_gives_no_facts(tmp_path, files):
    found = facts(write(tmp_path, files))
    assert found == Facts(format=found.format)


def test_large_card_is_read_in_part(tmp_path):
    write(tmp_path, {"README.md": "---\nlicense: mit\n---\n" + "x" * 3_000_000})
    assert facts(tmp_path).license == ("MIT",)


def test_license_of_a_card_may_have_a_name(tmp_path):
    write(tmp_path, {"README.md": "---\nlicense: other\nlicense_name: tiny-community\n---\n"})
    assert facts(tmp_path).license == ("tiny-community",)


def test_text_model_in_a_config_is_found(tmp_path):
    config = {"text_config": {"max_position_embeddings": 77, "dtype": "bfloat16"}}
    found = facts(write(tmp_path, {"config.json": json.dumps(config)}))
    assert (found.context, found.precision) == (77, "bfloat16")


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"nmae": "x"}, "name"),
        ({"name": 1}, "text"),
        ({"name": "\ud800"}, "text"),
        ({"authors": ["\ud800"]}, "texts"),
        ({"authors": [1]}, "texts"),
        ({"parameters": "many"}, "8B"),
        ({"parameters": True}, "8B"),
        ({"created": "yesterday"}, "2026"),
        ({"created": "2026-01-31"}, "2026"),
        ({"languages": ["english"]}, "en"),
        ({"inputs": ["smell"]}, "audio"),
        ({"reasoning": "yes"}, "True or False"),
        ({"context": -1}, "tokens"),
    ],
)
def test_invalid_fact_is_rejected(given, hint):
    with pytest.raises(InvalidArgument) as caught:
        facts_of((), given)
    assert next(iter(given)) in caught.value.message
    assert hint in caught.value.hint


def test_time_may_be_a_datetime():
    moment = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
    assert facts_of((), {"created": moment}).created == "2026-01-31T12:00:00+00:00"


@pytest.mark.parametrize(
    ("number", "label"), [(999, "1K"), (49, ""), (1_500_000_000, "1.5B"), (405 * 10**9, "405B"), (2 * 10**16, "20Q")]
)
def test_size_label_has_one_digit(number, label):
    assert size_label(number) == label
